"""The upload of one snapshot: from a frozen view to a manifest in the object store.

    plan a window → read batches (some threads) → zeros? as in the base? else compress (some threads)
    → fill a pack → put packs (some threads) → commit in order → checkpoint now and then
    → index objects → confirm all that was put; upload again what is lost → manifest, last

Order of writes: a pack is acknowledged before an index or a checkpoint names it, an index object before a
manifest or a checkpoint names it; all of them are confirmed to be there before the manifest is put, that
before the caller records COMPLETED. A breach would make a snapshot that says COMPLETED and cannot be read;
the other way round costs only garbage.

Memory: `batches_ahead` batches, a few shards, and 64 bytes a shard of the volume; and packs: `uploads` + 1,
and of all uploads of a process as many as there are `buffers`.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from holdfast.base.errors import DataLoss, Unavailable
from holdfast.base.limits import EXTENT_BYTES, MIB
from holdfast.snapshotter import checkpoint, manifest, ring
from holdfast.snapshotter.base import Base
from holdfast.snapshotter.buffers import PackBuffers
from holdfast.snapshotter.checkpoint import Counters
from holdfast.snapshotter.cipher import DataKey
from holdfast.snapshotter.confirm import lost_objects
from holdfast.snapshotter.draft import Draft
from holdfast.snapshotter.envelope import StoredObject
from holdfast.snapshotter.frozen import FrozenView, ViewLost
from holdfast.snapshotter.index import Index, get, new_shard_cache
from holdfast.snapshotter.manifest import Manifest, ShardRef
from holdfast.snapshotter.names import Namer
from holdfast.snapshotter.packing import Committed, Packing
from holdfast.snapshotter.patient import CONFIRM_ATTEMPTS, PatientStore
from holdfast.snapshotter.pipeline import Pipeline
from holdfast.snapshotter.ring import KeyMaterial, Ring, WrappedKey
from holdfast.snapshotter.shard import Shard

_LOG = logging.getLogger(__name__)
_SHARDS_CACHE_BYTES = 8 * MIB
SHARDS_KNOWN_MAX = 4096
"""Of so many shards that were put, 2 TiB, it is remembered which packs they lead to: some 16 MB of names.
Others are read again when all is confirmed."""


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
    base: Base | None = None
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
        buffers: PackBuffers | None = None,
    ) -> None:
        self._job = job
        self._store = store
        self._stop = stop
        self._settings = settings or Settings()
        self._reports = reports or Reports()
        self._namer = namer or Namer(job.snapshot_uid)
        self._buffers = buffers or PackBuffers(self._settings.uploads + 1)
        self._names = threading.Lock()
        self._base = job.base
        self._draft = new_draft(job.base)
        self._counters = Counters()
        self._before_bytes = 0
        """Dealt with in rounds before this one."""
        self._total_bytes = 0
        self._written: dict[ShardRef, list[StoredObject]] = {}
        """Shards that this process has put, and the packs that they name."""
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
        """Upload what is left to do. Raises Stopped, ViewLost, DataLoss of the base, or Unavailable
        OBJECT_STORE_FORGETS.
        """
        if view.size_bytes != self._job.size_bytes:
            raise AssertionError(f"the view has {view.size_bytes} bytes, the snapshot {self._job.size_bytes}")
        lost: set[str] = set()
        for _ in range(CONFIRM_ATTEMPTS):
            self._pump(view)
            lost = self._lost()
            if not lost:
                return self._finish()
            _LOG.warning(
                "snapshot %s: put and not there: %s", self._job.snapshot_uid, ", ".join(sorted(lost))
            )
            self._start_again_for(lost)
        raise Unavailable(
            "OBJECT_STORE_FORGETS",
            f"The object store loses what it took, {CONFIRM_ATTEMPTS} times over, e.g. object {min(lost)}.",
        )

    def _pump(self, view: FrozenView) -> None:
        """Everything that is left to do, up to the index."""
        settings, job = self._settings, self._job
        puts = ThreadPoolExecutor(settings.uploads, "put")
        pipeline = Pipeline(
            view,
            self._base,
            self._stop,
            settings.workers,
            settings.batch_extents,
            settings.batches_ahead,
            job.key,
        )
        packing = Packing(
            self._put_pack,
            self._commit,
            puts,
            settings.pack_bytes,
            settings.uploads,
            self._buffers,
            self._stop,
        )
        try:
            self._total_bytes = self._before_bytes + pipeline.total_bytes()
            self._progress()
            pipeline.pump(self._draft.position, packing)
            packing.flush()
        except ViewLost:
            # The view is lost. What is on its way to the store need not be sent again by the next run.
            packing.drain()
            raise
        finally:
            pipeline.close()
            puts.shutdown(wait=True)  # What was sent: it has a buffer. A stop ends it soon.
            packing.close()
        self._draft.finish()
        if self._draft.waiting_bytes:
            self._store_waiting()

    def _lost(self) -> set[str]:
        """What this snapshot has put, now or by another process, and is not there."""
        with ThreadPoolExecutor(self._settings.uploads, "confirm") as threads:
            uid, refs = self._job.snapshot_uid, self._draft.refs()
            return lost_objects(self._store, uid, refs, threads, self._written)

    def _start_again_for(self, lost: set[str]) -> None:
        """Begin another round: what was made so far is its base, without what is lost."""
        job = self._job
        keys = dict(job.base.keys.keys) if job.base else {}
        if job.key:
            keys[job.snapshot_uid] = job.key
        made = Index(
            self._store,
            _manifest(job, self._draft.refs()),
            new_shard_cache(_SHARDS_CACHE_BYTES),
            Ring(keys),
        )
        self._base = Base(made, lost, fixed=True)
        self._draft = new_draft(self._base)
        self._before_bytes = self._counters.done_bytes

    def _put_pack(self, data: bytearray) -> StoredObject:
        with self._names:
            name = self._namer.pack()
        self._store.put(name, data)  # Confirmed in the end, with all others.
        return StoredObject(name, len(data))

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
        self._store.put(name, data)
        self._draft.stored(StoredObject(name, len(data)))
        self._written.update(self._draft.take_packs(SHARDS_KNOWN_MAX - len(self._written)))
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
        where, digest = write_manifest(self._job, self._draft.refs(), self._store, self._namer.manifest())
        self._counters = replace(self._counters, stored_bytes=self._counters.stored_bytes + where.size_bytes)
        return Result(where.name, digest, self._counters)


def new_draft(base: Base | None) -> Draft:
    """An index that starts as the base's."""
    if base is None:
        return Draft((), _no_base)
    return Draft(base.refs, base.load)


def write_manifest(
    job: Job, shards: tuple[ShardRef, ...], store: PatientStore, name: str
) -> tuple[StoredObject, str]:
    """Store the manifest, when everything that it names is there; where it is, and its SHA-256."""
    data = manifest.encode(_manifest(job, shards), job.key)
    return store.put_confirmed(name, data), hashlib.sha256(data).hexdigest()


def _manifest(job: Job, shards: tuple[ShardRef, ...]) -> Manifest:
    return Manifest(
        snapshot_uid=job.snapshot_uid,
        volume_uid=job.volume_uid,
        base_snapshot_uid=job.base.manifest.snapshot_uid if job.base else "",
        size_bytes=job.size_bytes,
        freeze_time_ms=job.freeze_time_ms,
        shards=shards,
        keys=_key_material(job),
    )


def _key_material(job: Job) -> KeyMaterial | None:
    if job.encryption is None:
        return None
    others = job.base.keys.keys if job.base else {}
    return KeyMaterial(job.encryption.wrapped, ring.seal_ring(job.snapshot_uid, job.encryption.key, others))


def _no_base(_: ShardRef) -> Shard:
    raise AssertionError("a full upload has no base to load from")
