"""Copying one snapshot to another store, object by object, and reading it back there.

docs/copies.md has the order of the writes. Names and bytes stay what they are, so the copy's manifest is
the snapshot's own. Memory: `THREADS` packs, a shard, and the names of the packs seen last.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from holdfast.base.errors import DataLoss, NotFound
from holdfast.base.limits import EXTENT_BYTES
from holdfast.metadata.copy_changes import Progress
from holdfast.metadata.verify_changes import Found
from holdfast.snapshotter.damage import Damage
from holdfast.snapshotter.envelope import StoredObject
from holdfast.snapshotter.index import Index, get
from holdfast.snapshotter.manifest import ShardRef
from holdfast.snapshotter.objects import truncated
from holdfast.snapshotter.patient import PatientStore, Stopped
from holdfast.snapshotter.scrub import Scrub

THREADS = 4
KNOWN_MAX = 65_536
DESCRIPTOR = "copy"
"""The name, in a copy's own store, of the object that says that it is whole."""
Report = Callable[[Progress], None]


def prefix(copy_uid: str) -> str:
    """Where a copy's own store begins in its target."""
    return f"copies/{copy_uid}/"


class Copying:
    """Of one snapshot.

    Args:
        index: of the snapshot, in `source`.
        manifest: its name.
        stored_bytes: put by those who died.
        before: called, by several threads, before so many bytes are read; may wait, or raise.
    """

    def __init__(
        self,
        index: Index,
        manifest: str,
        source: PatientStore,
        target: PatientStore,
        stop: threading.Event,
        report: Report,
        stored_bytes: int = 0,
        before: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._index = index
        self._manifest = manifest
        self._source = source
        self._target = target
        self._stop = stop
        self._report = report
        self._stored_bytes = stored_bytes
        self._before = before
        self._lock = threading.Lock()
        self._total_bytes = 2 * index.manifest.extents * EXTENT_BYTES

    def copy(self, first_shard: int) -> Progress:
        """Everything but the descriptor. Raises DataLoss of the source, Stopped."""
        known: set[StoredObject] = set()
        done_extents = 0
        far = self._progress(0, first_shard)
        with ThreadPoolExecutor(THREADS, "copy") as threads:
            for ref in self._index.manifest.shards:
                if self._stop.is_set():
                    raise Stopped
                if ref.shard >= first_shard:
                    fresh = [one for one in self._named_by(ref) if one not in known]
                    if len(known) > KNOWN_MAX:
                        known.clear()
                    known.update(fresh)
                    list(threads.map(self._copy_one, fresh))
                done_extents += ref.entries
                if ref.shard >= first_shard:
                    far = self._progress(done_extents * EXTENT_BYTES, ref.shard + 1)
                    self._report(far)
        data = get(self._source, self._manifest)
        self._put(StoredObject(self._manifest, len(data)), data)
        return self._progress(self._total_bytes // 2, far.next_shard)

    def read_back(self, at_target: Index, first_shard: int) -> Found:
        """What of the copy cannot be read, after what could not was copied once more.

        Args:
            at_target: the index of the copy, opened there.
        """
        half = self._total_bytes // 2

        def report(found: Found) -> None:
            self._report(self._progress(half + found.done_bytes, found.next_shard))

        def scrub(index: Index, first: int) -> Found:
            return Scrub(index, self._target, self._stop, 100, self._before, report, Damage(), first).run()

        found = scrub(at_target, first_shard)
        if not found.damaged_objects:
            return found
        # Others than those that are described are copied again if they are not there, or not whole.
        for one in found.damaged:
            self._target.delete(one.name)
        self.copy(0)
        return scrub(at_target, 0)

    def _named_by(self, ref: ShardRef) -> Iterator[StoredObject]:
        """The packs, then the index object: what names comes after what is named."""
        yield from self._index.load(ref).packs
        yield ref.where

    def _copy_one(self, one: StoredObject) -> None:
        if self._stop.is_set():
            raise Stopped
        try:
            if self._target.size(one.name) == one.size_bytes:
                return
        except NotFound:
            pass
        self._before(one.size_bytes)
        data = get(self._source, one.name)
        if len(data) != one.size_bytes:
            raise truncated(one.name, 0, one.size_bytes, len(data))
        self._put(one, data)

    def _put(self, one: StoredObject, data: bytes) -> None:
        self._target.put_confirmed(one.name, data)
        with self._lock:
            self._stored_bytes += one.size_bytes

    def _progress(self, done_bytes: int, next_shard: int) -> Progress:
        return Progress(done_bytes, self._total_bytes, next_shard, self._stored_bytes)


def check_whole(found: Found) -> None:
    """Raises DataLoss, naming an object of a copy that cannot be read back."""
    if found.damaged_objects:
        first = found.damaged[0] if found.damaged else None
        example = f", e.g. object {first.name} is {first.problem}" if first else ""
        raise DataLoss(
            "COPY_DAMAGED",
            f"{found.damaged_extents} extents cannot be read from the copy{example}: verify the snapshot.",
        )
