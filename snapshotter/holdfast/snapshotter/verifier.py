"""One snapshot verified, or repaired, from its claim to what is recorded of it."""

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import DataLoss, HoldfastError, Unavailable
from holdfast.base.limits import EXTENT_BYTES, MIB
from holdfast.metadata import collection_changes, verify_changes
from holdfast.metadata.cas import Draft, run
from holdfast.metadata.collection_changes import Moment
from holdfast.metadata.snapshot_changes import Claimant
from holdfast.metadata.snapshotter_actions import SnapshotterActions
from holdfast.metadata.verify_changes import Found
from holdfast.snapshotter import collect_clock, keys
from holdfast.snapshotter.check import word_for
from holdfast.snapshotter.cipher import DataKey
from holdfast.snapshotter.damage import Damage
from holdfast.snapshotter.index import Index, new_shard_cache, open_index
from holdfast.snapshotter.key_errors import KeyUnavailable
from holdfast.snapshotter.keys import KeyService
from holdfast.snapshotter.manifest import Manifest, extents_of
from holdfast.snapshotter.mend import Mend, Own
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.pace import Pace
from holdfast.snapshotter.patient import PatientStore, Stopped
from holdfast.snapshotter.scrub import GoodLately, Scrub
from holdfast.snapshotter.upload import Settings

_LOG = logging.getLogger(__name__)
T = TypeVar("T")
PROGRESS_EVERY_S = 5.0
RETRY_S = 1.0
SHARDS_CACHE_BYTES = 8 * MIB


class Verifier:
    """For one thread.

    Args:
        stop: ends what is under way: the claim is given back, and another goes on.
        lately: see scrub.GoodLately; not for what was asked for.
    """

    def __init__(
        self,
        actions: SnapshotterActions,
        store: ObjectStore,
        key_service: KeyService,
        settings: Settings,
        stop: threading.Event,
        pace: Pace,
        lately: GoodLately | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._actions = actions
        self._key_service = key_service
        self._settings = settings
        self._stop = stop
        self._pace = pace
        self._lately = lately
        self._clock = clock
        self._store = PatientStore(store, stop, self._waits)

    def verify(self, snapshot_uid: str) -> bool:
        """Whether it is DONE by this; False if another has it. Raises Stopped, Precondition (it is no longer
        to be done), KeyUnavailable, Unavailable (etcd)."""
        by = self._actions.claimant()
        snapshot = self._do(lambda draft: verify_changes.claim(draft, snapshot_uid, by))
        if snapshot is None:
            return False
        try:
            self._verify(snapshot, by)
        except (HoldfastError, AssertionError):
            self._give_back(snapshot_uid, by)
            raise
        return True

    def repair(self, snapshot_uid: str, source_uid: str) -> bool:
        """Whether it has been tried with that source; False if another has the snapshot, or one is gone."""
        by = self._actions.claimant()
        snapshot = self._do(lambda draft: verify_changes.claim(draft, snapshot_uid, by))
        if snapshot is None:
            return False
        try:
            return self._repair(snapshot, source_uid, by)
        except (HoldfastError, AssertionError):
            self._give_back(snapshot_uid, by)
            raise

    def _verify(self, snapshot: r.SnapshotRecord, by: Claimant) -> None:
        uid = snapshot.uid
        try:
            index = self._open(snapshot)
        except DataLoss as error:
            _LOG.error("snapshot %s: %s", uid, error.message)
            verify = self._begin(uid, by, 0)
            damage = Damage()
            damage.add(snapshot.manifest, word_for(error), [(0, extents_of(snapshot.size_bytes))])
            self._end(snapshot, by, verify.request, damage.found(0, 0, 0))
            return
        except KeyUnavailable as error:
            if not snapshot.verify.asked:
                raise
            request, why = self._begin(uid, by, 0).request, error.message
            self._do(lambda draft: verify_changes.fail(draft, uid, by, request, why, self._clock()))
            return
        verify = self._begin(uid, by, index.manifest.extents * EXTENT_BYTES)
        scrub = Scrub(
            index,
            self._store,
            self._stop,
            verify.sample_percent,
            self._pace.take,
            self._reporter(uid, by, verify.request),
            Damage(verify),
            verify.next_shard,
            verify.read_bytes,
            self._lately if not verify.asked else None,
        )
        self._end(snapshot, by, verify.request, scrub.run())

    def _begin(self, uid: str, by: Claimant, total_bytes: int) -> r.SnapshotVerify:
        return self._do(lambda draft: verify_changes.begin(draft, uid, by, total_bytes, self._clock()))

    def _end(self, snapshot: r.SnapshotRecord, by: Claimant, request: int, found: Found) -> None:
        uid = snapshot.uid
        for one in found.damaged:
            _LOG.error("snapshot %s: object %s is %s (%d extents)", uid, one.name, one.problem, one.extents)
        self._do(lambda draft: verify_changes.end(draft, uid, by, request, found, self._clock()))
        _LOG.info(
            "snapshot %s: verified %.0f MiB, of which %d extents cannot be read",
            uid,
            found.done_bytes / MIB,
            found.damaged_extents,
        )

    def _reporter(self, uid: str, by: Claimant, request: int) -> Callable[[Found], None]:
        """Records progress now and then; what could not be recorded is said with the next."""
        next_s = time.monotonic() + PROGRESS_EVERY_S
        untold: list[tuple[str, str]] = []

        def report(found: Found) -> None:
            nonlocal next_s
            untold.extend(found.lost)
            if time.monotonic() < next_s and not untold:
                return
            told = dataclasses.replace(found, lost=list(untold))
            self._do(lambda draft: verify_changes.progress(draft, uid, by, request, told))
            untold.clear()
            next_s = time.monotonic() + PROGRESS_EVERY_S

        return report

    def _repair(self, snapshot: r.SnapshotRecord, source_uid: str, by: Claimant) -> bool:
        source = self._actions.snapshot(source_uid)
        if source is None or source.state not in verify_changes.STORED:
            self._give_back(snapshot.uid, by)
            return False
        names, more = self._actions.damaged()
        names |= {one.name for one in snapshot.verify.damaged}
        # Where not everything that is lost is known by name, everything is looked at.
        whole = snapshot.verify.sample_percent >= 100 and not more
        own = None
        if snapshot.HasField("data_key"):
            own = Own(self._key(snapshot), keys.from_record(snapshot.data_key))
        try:
            mend = Mend(
                self._open(snapshot),
                self._open(source),
                names if whole else None,
                self._store,
                self._stop,
                self._settings,
                self._pace.take,
                own,
                self._index_of,
            )
        except DataLoss as error:
            # A manifest is lost: the damaged one's, or that of the source.
            _LOG.error("snapshot %s cannot be repaired from %s: %s", snapshot.uid, source_uid, error.message)
            self._do(lambda draft: verify_changes.not_repairable(draft, snapshot.uid, by, source_uid))
            return True
        # From here on what it writes is no garbage.
        self._do(lambda draft: collection_changes.begin_rewrite(draft, mend.writer, by))
        try:
            done = mend.run(snapshot.manifest, snapshot.manifest_sha256, source_uid)
            now = Moment(self._clock(), collect_clock.read(self._store) if done.extents else 0.0)
            self._do(lambda draft: verify_changes.repaired(draft, snapshot.uid, by, done, now))
        finally:
            with contextlib.suppress(HoldfastError):
                run(self._actions.etcd, lambda draft: collection_changes.end_rewrite(draft, mend.writer))
        _LOG.warning(
            "snapshot %s: %d extents repaired from snapshot %s, %d are lost",
            snapshot.uid,
            done.extents,
            source_uid,
            done.left.damaged_extents,
        )
        return True

    def _index_of(self, snapshot_uid: str) -> Index | None:
        """Of any snapshot, if it can be had."""
        snapshot = self._actions.snapshot(snapshot_uid)
        if snapshot is None or snapshot.state not in verify_changes.STORED:
            return None
        try:
            return self._open(snapshot)
        except (DataLoss, KeyUnavailable):
            return None

    def _open(self, snapshot: r.SnapshotRecord) -> Index:
        """Raises DataLoss, KeyUnavailable, Stopped."""

        def unlock(_: Manifest) -> DataKey:
            return self._key(snapshot)

        cache = new_shard_cache(SHARDS_CACHE_BYTES)
        return open_index(self._store, snapshot.manifest, snapshot.manifest_sha256, cache, unlock)

    def _key(self, snapshot: r.SnapshotRecord) -> DataKey:
        wrapped = keys.from_record(snapshot.data_key)
        return keys.open_data_key(self._key_service, snapshot.uid, wrapped)

    def _do(self, decide: Callable[[Draft], T]) -> T:
        """Carry out a decision, however long etcd is away. Doing it twice is doing it once."""
        while True:
            try:
                return run(self._actions.etcd, decide)
            except Unavailable as error:
                _LOG.warning("a verification waits: %s", error.message)
                if self._stop.wait(RETRY_S):
                    raise Stopped from error

    def _give_back(self, uid: str, by: Claimant) -> None:
        try:
            run(self._actions.etcd, lambda draft: verify_changes.release(draft, uid, by))
        except HoldfastError as error:
            _LOG.warning("snapshot %s: the claim is left to the lease: %s", uid, error.message)

    @staticmethod
    def _waits(why: str) -> None:
        if why:
            _LOG.warning("a verification waits: %s", why)
