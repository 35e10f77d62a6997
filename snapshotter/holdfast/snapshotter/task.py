"""One claimed snapshot, from its record to COMPLETED, through whatever can come back.

What stops it for good: the claim is lost, the snapshot is deleted or has ended. What only holds it up: an
object store or etcd out of reach, a host lost (the next one of `frozen_on` is tried, and the record read
again, since hosts are struck off). A base that cannot be used makes the upload a full one.
"""

import contextlib
import logging
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import DataLoss, HoldfastError, NotFound, Precondition, Unavailable
from holdfast.base.limits import MIB
from holdfast.base.tls import PeerIdentity
from holdfast.metadata.snapshot_changes import Claimant, Uploaded
from holdfast.metadata.snapshotter_actions import SnapshotterActions
from holdfast.snapshotter import keys
from holdfast.snapshotter.assemble import Assembly, NotWhatWasSaid
from holdfast.snapshotter.base import Base, writers_of
from holdfast.snapshotter.buffers import PackBuffers
from holdfast.snapshotter.cipher import DataKey
from holdfast.snapshotter.frozen import FrozenView, ViewLost
from holdfast.snapshotter.frozen_nbd import NbdView, export_name
from holdfast.snapshotter.index import new_shard_cache, open_index
from holdfast.snapshotter.key_errors import KeyUnavailable
from holdfast.snapshotter.keys import NO_KEYS, KeyService
from holdfast.snapshotter.manifest import Manifest
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.patient import PatientStore, Stopped
from holdfast.snapshotter.reporter import Reporter
from holdfast.snapshotter.upload import Encryption, Job, Reports, Result, Settings, Upload

_LOG = logging.getLogger(__name__)
HOSTS_RETRY_FIRST_S = 0.5
HOSTS_RETRY_MAX_S = 15.0
COMPLETE_RETRY_S = 1.0
SHARDS_CACHE_BYTES = 8 * MIB
"""Of the base, for one upload: they are used one after another."""
OpenView = Callable[[r.SnapshotRecord, r.FrozenOn], FrozenView]


def nbd_views(tls: ssl.SSLContext) -> OpenView:
    """Opens frozen views over NBD with TLS; the host must prove that it is the one recorded."""

    def open_view(snapshot: r.SnapshotRecord, host: r.FrozenOn) -> FrozenView:
        return NbdView(
            (host.nbd_address, host.nbd_port),
            export_name(snapshot.volume_uid, snapshot.uid),
            tls,
            PeerIdentity(host.host_id, "host"),
            incremental=bool(snapshot.base_manifest),
        )

    return open_view


class BaseUnusable(Exception):
    """Objects of the base are lost, or may be at any moment."""


@dataclass
class Task:
    """The upload of one snapshot that `by` has claimed. `run` it in a thread; set `stop` to end it."""

    actions: SnapshotterActions
    store: ObjectStore
    open_view: OpenView
    settings: Settings
    snapshot_uid: str
    by: Claimant
    stop: threading.Event
    key_service: KeyService = NO_KEYS
    on_lost: Callable[[str], None] = lambda snapshot_uid: None
    """Told of a base of which something cannot be read."""
    buffers: PackBuffers | None = None
    """Those of the process."""

    def run(self) -> bool:
        """Whether the snapshot is COMPLETED by this. Raises Stopped, Precondition or NotFound (nothing is
        left to do here), or what it did not expect."""
        reporter = Reporter(self.actions, self.snapshot_uid, self.by)
        store = PatientStore(self.store, self.stop, reporter.waits)
        record = self._record()
        if record.HasField("direct"):
            return self._assemble(record, store, reporter)
        full = not record.base_manifest
        while True:
            try:
                return self._upload(record, store, reporter, full)
            except BaseUnusable as error:
                if full:
                    raise
                _LOG.warning("snapshot %s is uploaded in full: %s", self.snapshot_uid, error)
                self.on_lost(record.base_snapshot_uid)
                full = True

    def _assemble(self, record: r.SnapshotRecord, store: PatientStore, reporter: Reporter) -> bool:
        """One that was made from outside: what it consists of is in the store. There is no other try."""
        try:
            assembly = Assembly(
                self._job(record, store, full=not record.base_manifest),
                record.direct,
                self.actions.staged(self.snapshot_uid),
                store,
                self.stop,
                self.settings,
                reporter.progress,
            )
            return self._complete(assembly.run())
        except (DataLoss, NotWhatWasSaid) as error:
            reason = error.message
        except BaseUnusable as error:
            reason = str(error)
        self.actions.fail(self.snapshot_uid, reason)
        raise Precondition("FAILED", reason)

    def _upload(self, record: r.SnapshotRecord, store: PatientStore, reporter: Reporter, full: bool) -> bool:
        try:
            job = self._job(record, store, full)
            upload = Upload(
                job,
                store,
                self.stop,
                self.settings,
                Reports(reporter.progress, reporter.checkpoint, time.monotonic),
                buffers=self.buffers,
            )
            for name in reversed(record.checkpoints):
                if upload.resume(name):
                    _LOG.info("snapshot %s goes on from %s", self.snapshot_uid, name)
                    break
            result = self._from_any_host(upload, reporter)
            completed = self._complete(result)
        except DataLoss as error:
            raise BaseUnusable(error.message) from error
        if upload.last_checkpoint:
            with contextlib.suppress(HoldfastError):  # Garbage, for collection if not for us.
                self.store.delete(upload.last_checkpoint)
        return completed

    def _job(self, record: r.SnapshotRecord, store: PatientStore, full: bool) -> Job:
        encryption = self._encryption(record) if record.encryption_key else None
        base = None if full else self._base(record, store)
        return Job(
            record.uid,
            record.volume_uid,
            record.size_bytes,
            record.freeze_time.ToMilliseconds(),
            base,
            "" if full else record.base_manifest,
            encryption,
        )

    def _encryption(self, record: r.SnapshotRecord) -> Encryption:
        """The snapshot's data key as it is recorded, made now if there is none. Raises KeyUnavailable."""
        if not record.HasField("data_key"):
            made = keys.new_data_key(self.key_service, record.uid, record.owner, record.encryption_key)
            recorded = self.actions.set_data_key(record.uid, self.by, keys.to_record(made))
            record.data_key.CopyFrom(recorded)
        # A new one too: that it opens is seen before anything is under it.
        wrapped = keys.from_record(record.data_key)
        return Encryption(keys.open_data_key(self.key_service, record.uid, wrapped), wrapped)

    def _base(self, record: r.SnapshotRecord, store: PatientStore) -> Base:
        """Raises BaseUnusable, DataLoss; KeyUnavailable if it is a matter of waiting."""

        def unlock(manifest: Manifest) -> DataKey:
            wrapped = self.actions.base_key(record)
            if wrapped is None or not record.encryption_key:
                raise BaseUnusable(f"Base {manifest.snapshot_uid} is encrypted, and not for this snapshot.")
            try:
                return keys.open_data_key(self.key_service, manifest.snapshot_uid, keys.from_record(wrapped))
            except KeyUnavailable as error:
                if error.lost:
                    raise BaseUnusable(error.message) from error
                raise

        lost, more = self.actions.damaged()
        base = open_index(store, record.base_manifest, "", new_shard_cache(SHARDS_CACHE_BYTES), unlock)
        if record.encryption_key and base.manifest.keys is None:
            raise BaseUnusable(f"Base {base.manifest.snapshot_uid} is not encrypted.")
        if more and writers_of(base) & more:
            raise BaseUnusable(f"Base {record.base_snapshot_uid} uses lost objects that are not all known.")
        if lost:
            _LOG.info("snapshot %s: lost objects are not used again", self.snapshot_uid)
        return Base(base, lost)

    def _record(self) -> r.SnapshotRecord:
        """The record now. Raises Precondition NOT_FROZEN, or Stopped."""
        while True:
            try:
                record = self.actions.snapshot(self.snapshot_uid)
            except Unavailable as error:
                self._pause(COMPLETE_RETRY_S, error)
                continue
            if record is None or record.state != r.SNAPSHOT_STATE_FROZEN:
                raise Precondition("NOT_FROZEN", f"Snapshot {self.snapshot_uid} is no longer to be uploaded.")
            return record

    def _from_any_host(self, upload: Upload, reporter: Reporter) -> Result:
        wait_s = HOSTS_RETRY_FIRST_S
        while True:
            record = self._record()
            before = upload.position
            reason = "No host holds the frozen view any more: the snapshot waits for one, or to be failed."
            for host in record.frozen_on:
                try:
                    return self._from(upload, self.open_view(record, host))
                except ViewLost as error:
                    _LOG.warning("snapshot %s: host %s: %s", self.snapshot_uid, host.host_id, error.message)
                    reason = error.message
            reporter.waits(reason)
            wait_s = HOSTS_RETRY_FIRST_S if upload.position > before else min(2 * wait_s, HOSTS_RETRY_MAX_S)
            if self.stop.wait(wait_s):
                raise Stopped

    @staticmethod
    def _from(upload: Upload, view: FrozenView) -> Result:
        try:
            return upload.run(view)
        finally:
            view.close()

    def _complete(self, result: Result) -> bool:
        counters = result.counters
        uploaded = Uploaded(
            result.manifest, result.manifest_sha256, counters.stored_bytes, counters.uploaded_bytes
        )
        while not self.stop.is_set():
            try:
                return self.actions.complete(self.snapshot_uid, self.by, uploaded)
            except Unavailable as error:  # OutcomeUnknown too: completing twice is completing once.
                self._pause(COMPLETE_RETRY_S, error)
            except Precondition as error:
                if error.reason == "BASE_CONDEMNED":
                    raise BaseUnusable(error.message) from error
                raise
        raise Stopped

    def _pause(self, wait_s: float, error: HoldfastError) -> None:
        _LOG.warning("snapshot %s waits: %s", self.snapshot_uid, error.message)
        if self.stop.wait(wait_s):
            raise Stopped


ENDED = (Stopped, Precondition, NotFound)
"""What `Task.run` raises when there is nothing left to do here."""
