"""The upload of one snapshot: from a frozen view to a manifest in the object store.

    plan a window → read batches (one thread) → zeros? as in the base? else compress (some threads)
    → fill a pack → put and confirm packs (some threads) → commit in order → checkpoint now and then
    → index objects → manifest, last

Order of writes: a pack is confirmed to be there before an index or a checkpoint names it, an index object
before a manifest or a checkpoint names it, the manifest before the caller records COMPLETED. A breach
would make a snapshot that says COMPLETED and cannot be read; the other way round costs only garbage.

Memory: `batches_ahead` batches, `uploads` + 1 packs, a few shards, and 64 bytes a shard of the volume.
"""

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from holdfast.base.errors import DataLoss
from holdfast.base.limits import EXTENT_BYTES, MIB
from holdfast.snapshotter import checkpoint, manifest, ring
from holdfast.snapshotter.checkpoint import Counters
from holdfast.snapshotter.cipher import DataKey
from holdfast.snapshotter.draft import Draft
from holdfast.snapshotter.envelope import StoredObject
from holdfast.snapshotter.frozen import FrozenView, ViewLost
from holdfast.snapshotter.index import Index, get
from holdfast.snapshotter.manifest import Manifest, ShardRef
from holdfast.snapshotter.names import Namer
from holdfast.snapshotter.packing import Committed, Packing
from holdfast.snapshotter.patient import PatientStore
from holdfast.snapshotter.pipeline import Pipeline
from holdfast.snapshotter.ring import KeyMaterial, WrappedKey
from holdfast.snapshotter.shard import Shard


@dataclass(frozen=True)
class Settings:
    pack_bytes: int = 32 * MIB
    """A pack is sent when it has reached this; it may be longer by one batch."""
    index_bytes: int = 4 * MIB
    """Shards that wait are stored together when there is so much of them."""
    uploads: int = 4
    """Packs on their way at once."""
    workers: int = 2
    """Threads that hash and compress."""
    batch_extents: int = 32
    """Extents that are read and worked on at a time: 4 MiB."""
    batches_ahead: int = 6
    checkpoint_every_s: float = 5.0


class Encryption(NamedTuple):
    """The data key of the snapshot that is uploaded, and as it is wrapped in its record."""

    key: DataKey
    wrapped: WrappedKey


@dataclass(frozen=True)
class Job:
    """What to upload."""

    snapshot_uid: str
    volume_uid: str
    size_bytes: int
    freeze_time_ms: int
    base: Index | None = None
    """The snapshot that the frozen view's `changed` map refers to; None for a full upload."""
    base_manifest: str = ""
    """The object name of the base's manifest."""
    encryption: Encryption | None = None
    """If there is one, a base is encrypted too."""

    @property
    def key(self) -> DataKey | None:
        return self.encryption.key if self.encryption else None


@dataclass(frozen=True)
class Reports:
    """Whom an upload tells what. Each may raise, which ends the upload."""

    progress: Callable[[int, int], None] = lambda done_bytes, total_bytes: None
    checkpoint: Callable[[str], bool] = lambda name: True
    """A checkpoint object of this name is there: record it. If it returns that it has been recorded, the
    one before is deleted."""
    clock: Callable[[], float] = field(default=time.monotonic)


class Result(NamedTuple):
    """What was written: to be recorded with COMPLETED."""

    manifest: str
    manifest_sha256: str
    counters: Counters


class Upload:
    """One upload, by one process. `run` may be called again, with another view, when one is lost."""

    def __init__(
        self,
        job: Job,
        store: PatientStore,
        stop: threading.Event,
        settings: Settings | None = None,
        reports: Reports | None = None,
        namer: Namer | None = None,
    ) -> None:
        self._job = job
        self._store = store
        self._stop = stop
        self._settings = settings or Settings()
        self._reports = reports or Reports()
        self._namer = namer or Namer(job.snapshot_uid)
        self._names = threading.Lock()
        self._draft = new_draft(job.base)
        self._counters = Counters()
        self._total_bytes = 0
        self._checkpoint = ""
        self._checkpoint_at_s = self._reports.clock()
        self._checkpoint_bytes = 0

    @property
    def position(self) -> int:
        """Every extent below it is dealt with."""
        return self._draft.position

    @property
    def last_checkpoint(self) -> str:
        """The name of the checkpoint object that is there now: garbage once the snapshot has ended."""
        return self._checkpoint

    def resume(self, name: str) -> bool:
        """Go on from a checkpoint object. False, and from the start, if it is of no use."""
        try:
            found = checkpoint.decode(get(self._store, name), name, self._job.key)
            if (found.snapshot_uid, found.base_manifest, found.size_bytes) != (
                self._job.snapshot_uid, self._job.base_manifest, self._job.size_bytes,
            ):  # fmt: skip
                return False
            self._draft.resume(found, name)
        except DataLoss:
            self._draft = new_draft(self._job.base)
            return False
        self._counters = found.counters
        self._checkpoint = name
        self._checkpoint_bytes = found.counters.stored_bytes
        return True

    def run(self, view: FrozenView) -> Result:
        """Upload what is left to do. Raises Stopped, ViewLost, or DataLoss of the base."""
        if view.size_bytes != self._job.size_bytes:
            raise AssertionError(f"the view has {view.size_bytes} bytes, the snapshot {self._job.size_bytes}")
        settings, job = self._settings, self._job
        puts = ThreadPoolExecutor(settings.uploads, "put")
        pipeline = Pipeline(
            view,
            job.base,
            self._stop,
            settings.workers,
            settings.batch_extents,
            settings.batches_ahead,
            job.key,
        )
        packing = Packing(self._put_pack, self._commit, puts, settings.pack_bytes, settings.uploads)
        try:
            self._total_bytes = pipeline.total_bytes()
            self._progress()
            pipeline.pump(self._draft.position, packing)
            packing.flush()
        except ViewLost:
            # The view is lost. What is on its way to the store need not be sent again by the next run.
            packing.drain()
            raise
        finally:
            pipeline.close()
            puts.shutdown(wait=True, cancel_futures=True)
        return self._finish()

    def _put_pack(self, data: bytearray) -> StoredObject:
        with self._names:
            name = self._namer.pack()
        return self._store.put_confirmed(name, data)

    def _commit(self, done: Committed) -> None:
        self._draft.apply(done.segment)
        self._counters = Counters(
            self._counters.done_bytes + done.dealt_extents * EXTENT_BYTES,
            self._counters.uploaded_bytes + done.uploaded_extents * EXTENT_BYTES,
            self._counters.stored_bytes + done.pack_bytes,
        )
        if self._draft.waiting_bytes >= self._settings.index_bytes:
            self._store_waiting()
        self._progress()
        due_s = self._checkpoint_at_s + self._settings.checkpoint_every_s
        if self._reports.clock() >= due_s and self._counters.stored_bytes > self._checkpoint_bytes:
            self._write_checkpoint()

    def _progress(self) -> None:
        self._reports.progress(min(self._counters.done_bytes, self._total_bytes), self._total_bytes)

    def _store_waiting(self) -> None:
        data = self._draft.waiting_object()
        with self._names:
            name = self._namer.index()
        self._draft.stored(self._store.put_confirmed(name, data))
        self._counters = replace(self._counters, stored_bytes=self._counters.stored_bytes + len(data))

    def _write_checkpoint(self) -> None:
        job = self._job
        made = self._draft.checkpoint(job.snapshot_uid, job.base_manifest, job.size_bytes, self._counters)
        with self._names:
            name = self._namer.checkpoint()
        self._store.put_confirmed(name, checkpoint.encode(made, job.key))
        self._checkpoint_bytes, self._checkpoint_at_s = self._counters.stored_bytes, self._reports.clock()
        if not self._reports.checkpoint(name):
            return  # Perhaps it is recorded after all: neither of the two may go.
        before, self._checkpoint = self._checkpoint, name
        if before:
            self._store.delete(before)

    def _finish(self) -> Result:
        self._draft.finish()
        if self._draft.waiting_bytes:
            self._store_waiting()
        where, digest = write_manifest(self._job, self._draft.refs(), self._store, self._namer.manifest())
        self._counters = replace(self._counters, stored_bytes=self._counters.stored_bytes + where.size_bytes)
        return Result(where.name, digest, self._counters)


def new_draft(base: Index | None) -> Draft:
    """An index that starts as the base's."""
    if base is None:
        return Draft((), _no_base)
    return Draft(base.manifest.shards, base.load)


def write_manifest(
    job: Job, shards: tuple[ShardRef, ...], store: PatientStore, name: str
) -> tuple[StoredObject, str]:
    """Store the manifest, when everything that it names is there; where it is, and its SHA-256."""
    data = manifest.encode(
        Manifest(
            snapshot_uid=job.snapshot_uid,
            volume_uid=job.volume_uid,
            base_snapshot_uid=job.base.manifest.snapshot_uid if job.base else "",
            size_bytes=job.size_bytes,
            freeze_time_ms=job.freeze_time_ms,
            shards=shards,
            keys=_key_material(job),
        ),
        job.key,
    )
    return store.put_confirmed(name, data), hashlib.sha256(data).hexdigest()


def _key_material(job: Job) -> KeyMaterial | None:
    if job.encryption is None:
        return None
    others = job.base.keys.keys if job.base else {}
    return KeyMaterial(job.encryption.wrapped, ring.seal_ring(job.snapshot_uid, job.encryption.key, others))


def _no_base(_: ShardRef) -> Shard:
    raise AssertionError("a full upload has no base to load from")
