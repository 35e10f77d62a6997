"""What tests of snapshots need: a volume in memory that can be frozen, and an upload in one call."""

import threading
from collections.abc import Sequence, Set
from pathlib import Path

from holdfast.base.extents import covering, runs
from holdfast.base.limits import EXTENT_BYTES, MIB
from holdfast.snapshotter.base import Base
from holdfast.snapshotter.blob import ZERO_EXTENT
from holdfast.snapshotter.cipher import DataKey
from holdfast.snapshotter.fetch import Fetcher
from holdfast.snapshotter.frozen import ALLOCATION, FLAG_CHANGED, FLAG_ZERO
from holdfast.snapshotter.index import Index, new_shard_cache, open_index
from holdfast.snapshotter.manifest import Manifest
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.patient import PatientStore
from holdfast.snapshotter.reader import SnapshotReader
from holdfast.snapshotter.ring import WrappedKey
from holdfast.snapshotter.upload import Encryption, Job, Reports, Result, Settings, Upload

SMALL = Settings(pack_bytes=MIB, index_bytes=300_000, batch_extents=3, checkpoint_every_s=0.0)
"""Many packs, index objects and checkpoints from little data."""
VOLUME_UID = "a" * 24


class ModelVolume:
    """A volume as a dictionary of extents, and what was written since the last freeze."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.extents: dict[int, bytes] = {}
        self.changed: set[int] = set()
        self.allocated: set[int] = set()

    def write(self, offset: int, data: bytes) -> None:
        for extent in covering(offset, len(data), EXTENT_BYTES):
            start = extent * EXTENT_BYTES
            before = bytearray(self.extents.get(extent, ZERO_EXTENT))
            first, end = max(offset, start), min(offset + len(data), start + EXTENT_BYTES)
            before[first - start : end - start] = data[first - offset : end - offset]
            self.extents[extent] = bytes(before)
            self.changed.add(extent)
            self.allocated.add(extent)

    def discard(self, first: int, end: int) -> None:
        """The extents [first, end) become holes."""
        for extent in [one for one in self.extents if first <= one < end]:
            del self.extents[extent]
        self.allocated -= set(range(first, end))
        self.changed |= set(range(first, end))

    def freeze(self, over_report: frozenset[int] = frozenset()) -> "ModelView":
        """A view of now, whose `changed` map also names `over_report`; the next one's starts empty."""
        view = ModelView(self.size_bytes, dict(self.extents), self.changed | over_report, set(self.allocated))
        self.changed = set()
        return view


class ModelView:
    """A FrozenView in memory. `reads` are the extents that were read, in order."""

    def __init__(
        self, size_bytes: int, extents: dict[int, bytes], changed: set[int], allocated: set[int]
    ) -> None:
        self.size_bytes = size_bytes
        self.extents = extents
        self.changed = changed
        self.allocated = allocated
        self.reads: list[int] = []

    def read(self, offset: int, length: int) -> bytes:
        wanted = covering(offset, length, EXTENT_BYTES)
        data = b"".join(self.extents.get(extent, ZERO_EXTENT) for extent in wanted)
        start = offset - wanted.start * EXTENT_BYTES
        return data[start : start + length]

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        for offset, length in ranges:
            self.reads += covering(offset, length, EXTENT_BYTES)
        return [self.read(offset, length) for offset, length in ranges]

    def block_status(self, context: str, offset: int, length: int) -> list[tuple[int, int, int]]:
        marked = self.allocated if context == ALLOCATION else self.changed
        inside, outside = (0, FLAG_ZERO | 1) if context == ALLOCATION else (FLAG_CHANGED, 0)
        end = offset + length
        answer, at = [], offset
        wanted = covering(offset, length, EXTENT_BYTES)
        for first, stop in runs(sorted(one for one in marked if one in wanted)):
            start, stop_byte = max(offset, first * EXTENT_BYTES), min(end, stop * EXTENT_BYTES)
            answer += [(at, start - at, outside)] if start > at else []
            answer.append((start, stop_byte - start, inside))
            at = stop_byte
        return answer + ([(at, end - at, outside)] if at < end else [])

    def close(self) -> None:
        """Nothing is held."""


def index_of(store: ObjectStore, manifest: str, sha256: str = "", key: DataKey | None = None) -> Index:
    """`key`: of the snapshot, if it is encrypted."""

    def unlock(made: Manifest) -> DataKey:
        assert key is not None, f"{manifest} is encrypted"
        return key

    return open_index(store, manifest, sha256, new_shard_cache(64 * MIB), unlock)


def new_upload(
    store: ObjectStore,
    uid: str,
    size_bytes: int,
    base_manifest: str = "",
    settings: Settings = SMALL,
    reports: Reports | None = None,
    stop: threading.Event | None = None,
    key: DataKey | None = None,
    base_key: DataKey | None = None,
    lost: Set[str] = frozenset(),
) -> Upload:
    """An upload of the snapshot `uid`, which is incremental if `base_manifest` names one.

    Args:
        key, base_key: its data key and the base's, if they are encrypted.
        lost: objects of the base that must not be used.
    """
    stop = stop or threading.Event()
    base = Base(index_of(store, base_manifest, key=base_key), lost) if base_manifest else None
    encryption = Encryption(key, WrappedKey("u", "k", key.secret[::-1])) if key else None
    job = Job(uid, VOLUME_UID, size_bytes, 1_700_000_000_000, base, base_manifest, encryption)
    return Upload(job, PatientStore(store, stop, lambda _: None), stop, settings, reports)


def upload(
    store: ObjectStore,
    uid: str,
    view: ModelView,
    base_manifest: str = "",
    settings: Settings = SMALL,
    key: DataKey | None = None,
    base_key: DataKey | None = None,
) -> Result:
    made = new_upload(store, uid, view.size_bytes, base_manifest, settings, key=key, base_key=base_key)
    return made.run(view)


def differing_extents(
    store: ObjectStore, manifest: str, view: ModelView, key: DataKey | None = None
) -> list[int]:
    """The extents that a reader of `manifest` sees other than they are in `view`, holes included."""
    index = index_of(store, manifest, key=key)
    fetcher = Fetcher(store)
    try:
        reader = SnapshotReader(index, fetcher)
        present = {extent for ref in index.manifest.shards for extent in index.load(ref).extents()}
        around = {extent + step for extent in view.allocated for step in (-1, 0, 1)}
        last = (view.size_bytes - 1) // EXTENT_BYTES
        differing = []
        for extent in sorted(present | {one for one in around | {0, last} if 0 <= one <= last}):
            offset = extent * EXTENT_BYTES
            length = min(EXTENT_BYTES, view.size_bytes - offset)
            if reader.read(offset, length) != view.read(offset, length):
                differing.append(extent)
        return differing
    finally:
        fetcher.close()


def directory_names(root: Path) -> set[str]:
    """The objects of a DirectoryStore, without asking it."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
