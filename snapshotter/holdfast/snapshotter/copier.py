"""Copies of snapshots as they are asked for: from a claim in etcd to COMPLETED, or gone.

One thread, one copy at a time; several snapshotters share the work by claims. What stops a copy for good is
told in its record; an object store, an etcd or a key out of reach only holds it up.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import DataLoss, HoldfastError, Precondition, Unavailable
from holdfast.base.limits import MIB
from holdfast.metadata import copy_changes
from holdfast.metadata import keys as etcd_keys
from holdfast.metadata.cas import Draft, run
from holdfast.metadata.copy_changes import Progress
from holdfast.metadata.follow import follow
from holdfast.metadata.records import decode, encode
from holdfast.metadata.snapshot_changes import Claimant
from holdfast.metadata.snapshotter_actions import SnapshotterActions
from holdfast.snapshotter import keys
from holdfast.snapshotter.cipher import DataKey
from holdfast.snapshotter.copying import DESCRIPTOR, Copying, check_whole, prefix
from holdfast.snapshotter.index import Index, new_shard_cache, open_index
from holdfast.snapshotter.keys import KeyService
from holdfast.snapshotter.manifest import Manifest
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.objects_prefixed import PrefixedStore
from holdfast.snapshotter.pace import Pace
from holdfast.snapshotter.patient import PatientStore, Stopped

_LOG = logging.getLogger(__name__)
T = TypeVar("T")
LOOK_EVERY_S = 1.0
PROGRESS_EVERY_S = 5.0
RETRY_S = 1.0
AGAIN_S = 15.0
"""For what another has, or what could not be done now."""
SHARDS_CACHE_BYTES = 8 * MIB
COPY_BYTES_S = 128 * MIB
"""Uploads and volumes that copy from snapshots use the same network and object store."""


class Copier:
    """Works from `start` to `stop`; `actions` are another's to start and stop.

    Args:
        targets: stores by their names; they belong to whoever made them.
        on_lost: told of each snapshot of which something cannot be read.
        bytes_s: how fast what is copied is read, and read back; infinity: as fast as can be.
    """

    def __init__(
        self,
        actions: SnapshotterActions,
        store: ObjectStore,
        targets: Mapping[str, ObjectStore],
        key_service: KeyService,
        on_lost: Callable[[str], None] = lambda snapshot_uid: None,
        clock: Callable[[], float] = time.time,
        bytes_s: float = COPY_BYTES_S,
    ) -> None:
        self._actions = actions
        self._store = store
        self.on_lost = on_lost
        self._targets = targets
        self._key_service = key_service
        self._clock = clock
        self._stop = threading.Event()
        self.pace = Pace(bytes_s, self._stop)
        self._changed = threading.Condition()
        self._todo: dict[str, r.CopyRecord] = {}
        self._again: dict[str, float] = {}
        self._threads = [
            threading.Thread(target=loop, name="copies", daemon=True) for loop in (self._follow, self._work)
        ]

    def start(self) -> None:
        if self._targets:
            for thread in self._threads:
                thread.start()

    def stop(self) -> None:
        """End what is under way, and give it back."""
        self._stop.set()
        if self._targets:
            self._threads[1].join()

    def _follow(self) -> None:
        """What there is to do, kept up to date."""
        for events in follow(self._actions.etcd, etcd_keys.COPIES, self._stop):
            with self._changed:
                for event in events:
                    self._todo.pop(event.key, None)
                    copy = decode(r.CopyRecord, event.entry.value) if event.entry else None
                    if copy is not None and copy.state in copy_changes.WORK and copy.target in self._targets:
                        self._todo[event.key] = copy
                self._changed.notify_all()

    def _work(self) -> None:
        while not self._stop.is_set():
            if not self._actions.keeper.wait_attached(LOOK_EVERY_S):
                continue
            with self._changed:
                now_s = time.monotonic()
                free = [key for key in sorted(self._todo) if self._again.get(key, 0.0) <= now_s]
                if not free:
                    self._changed.wait(LOOK_EVERY_S)
                    continue
                copy = self._todo[free[0]]
            self._try(free[0], copy)

    def _try(self, key: str, copy: r.CopyRecord) -> None:
        wait_s = LOOK_EVERY_S  # What is done is seen to be so a moment later.
        try:
            by = self._actions.claimant()
            claimed = self._do(lambda draft: copy_changes.claim(draft, copy.owner, copy.uid, by))
            if claimed is None:
                wait_s = AGAIN_S
            else:
                self._serve(claimed, by)
        except Stopped:
            return
        except HoldfastError as error:
            _LOG.warning("copy %s is not made now: %s", copy.uid, error.message)
            wait_s = AGAIN_S
        except Exception:
            _LOG.exception("copy %s could not be made", copy.uid)
            wait_s = AGAIN_S
        self._again[key] = time.monotonic() + wait_s

    def _serve(self, copy: r.CopyRecord, by: Claimant) -> None:
        one = _One(self, copy, by)
        try:
            one.delete() if copy.state == r.COPY_STATE_DELETING else one.make()
        except (HoldfastError, AssertionError) as error:
            with contextlib.suppress(HoldfastError):
                if not isinstance(error, (Stopped, Precondition)) and copy.state != r.COPY_STATE_DELETING:
                    one.waits(str(error))
                run(self._actions.etcd, lambda draft: copy_changes.release(draft, copy.uid, by))
            raise

    def _do(self, decide: Callable[[Draft], T]) -> T:
        """Carry out a decision, however long etcd is away. Doing it twice is doing it once."""
        while True:
            try:
                return run(self._actions.etcd, decide)
            except Unavailable as error:
                _LOG.warning("a copy waits: %s", error.message)
                if self._stop.wait(RETRY_S):
                    raise Stopped from error


class _One:
    """One copy that is claimed."""

    def __init__(self, copier: Copier, copy: r.CopyRecord, by: Claimant) -> None:
        self._copier = copier
        self._copy = copy
        self._by = by
        self._do = copier._do
        self._stop = copier._stop
        self._next_s = 0.0
        self._held_up_by = ""
        target = PrefixedStore(copier._targets[copy.target], prefix(copy.uid))
        self._source = PatientStore(copier._store, self._stop, self._held_up)
        self._target = PatientStore(target, self._stop, self._held_up)

    def make(self) -> None:
        """Until it is COMPLETED or FAILED. Raises Stopped, KeyUnavailable, Precondition CLAIM_LOST."""
        owner, uid, by = self._copy.owner, self._copy.uid, self._by
        try:
            while True:
                self._copy = self._do(lambda draft: copy_changes.begin(draft, owner, uid, by))
                try:
                    self._make()
                    return
                except DataLoss as error:
                    # What was begun with may have been replaced, and be gone.
                    if not self._do(lambda draft: copy_changes.start_over(draft, owner, uid, by)):
                        raise
                    _LOG.info("copy %s begins anew: %s", uid, error.message)
        except DataLoss as error:
            self._copier.on_lost(self._copy.snapshot_uid)
            self._fail(error.message)
        except Precondition as error:
            if error.reason != "SNAPSHOT_GONE":
                raise
            self._fail(error.message)

    def delete(self) -> None:
        owner, uid, by = self._copy.owner, self._copy.uid, self._by
        self._target.delete(DESCRIPTOR)
        for one in list(self._target.list("")):
            self._target.delete(one.name)
        self._do(lambda draft: copy_changes.gone(draft, owner, uid, by))
        _LOG.info("copy %s is gone", uid)

    def waits(self, reason: str) -> None:
        owner, uid, by = self._copy.owner, self._copy.uid, self._by
        run(self._copier._actions.etcd, lambda draft: copy_changes.waits(draft, owner, uid, by, reason))

    def _make(self) -> None:
        copy, by = self._copy, self._by
        index = self._open(self._source)
        copying = Copying(
            index,
            copy.manifest,
            self._source,
            self._target,
            self._stop,
            self._report,
            copy.stored_bytes,
            self._copier.pace.take,
        )
        first_shard = copy.next_shard
        if copy.state == r.COPY_STATE_COPYING:
            far = copying.copy(first_shard)
            self._do(lambda draft: copy_changes.copied(draft, copy.owner, copy.uid, by, far))
            first_shard = 0
        try:
            at_target = self._open(self._target)
        except DataLoss:
            copying.copy(0)
            at_target = self._open(self._target)
        check_whole(copying.read_back(at_target, first_shard))
        self._target.put_confirmed(DESCRIPTOR, self._descriptor())
        self._do(lambda draft: copy_changes.complete(draft, copy.owner, copy.uid, by, self._copier._clock()))
        _LOG.info("copy %s of snapshot %s to %s: COMPLETED", copy.uid, copy.snapshot_uid, copy.target)

    def _descriptor(self) -> bytes:
        """The same for every process that writes it."""
        told = r.CopyRecord()
        told.CopyFrom(self._copy)
        told.state = r.COPY_STATE_COMPLETED
        for name in ("reason", "done_bytes", "total_bytes", "next_shard", "stored_bytes"):
            told.ClearField(name)
        return encode(told)

    def _open(self, store: PatientStore) -> Index:
        copy = self._copy

        def unlock(_: Manifest) -> DataKey:
            wrapped = keys.from_record(copy.data_key)
            return keys.open_data_key(self._copier._key_service, copy.snapshot_uid, wrapped)

        cache = new_shard_cache(SHARDS_CACHE_BYTES)
        return open_index(store, copy.manifest, copy.manifest_sha256, cache, unlock)

    def _report(self, far: Progress) -> None:
        if time.monotonic() < self._next_s:
            return
        copy, by = self._copy, self._by
        self._do(lambda draft: copy_changes.progress(draft, copy.owner, copy.uid, by, far))
        self._next_s = time.monotonic() + PROGRESS_EVERY_S

    def _fail(self, reason: str) -> None:
        copy, by = self._copy, self._by
        _LOG.error("copy %s of snapshot %s: FAILED: %s", copy.uid, copy.snapshot_uid, reason)
        self._do(lambda draft: copy_changes.fail(draft, copy.owner, copy.uid, by, reason))

    def _held_up(self, why: str) -> None:
        if why and why != self._held_up_by:
            self._held_up_by = why
            _LOG.warning("copy %s waits: %s", self._copy.uid, why)
            with contextlib.suppress(HoldfastError):
                self.waits(why)
