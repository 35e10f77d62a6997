"""From a frozen view to blobs, in the order of the volume: read, compare, compress.

Some threads read, others hash and compress (both leave the interpreter lock), and the caller's
thread puts the results in order into packs. At most `batches_ahead` batches are between the two ends.
"""

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from holdfast.base.limits import EXTENT_BYTES
from holdfast.snapshotter import blob, frozen, plan
from holdfast.snapshotter.base import Base
from holdfast.snapshotter.blob import Blob, Plain, is_zero
from holdfast.snapshotter.cipher import DataKey
from holdfast.snapshotter.frozen import READ_MAX_BYTES, READERS, FrozenView
from holdfast.snapshotter.manifest import extents_of
from holdfast.snapshotter.packing import Packing
from holdfast.snapshotter.patient import Stopped
from holdfast.snapshotter.plan import Batch, Runs, WindowPlan

_AS_IN_BASE = Blob(b"", -1, b"")
_READ_EXTENTS = READ_MAX_BYTES // EXTENT_BYTES


class _Worked(NamedTuple):
    batch: Batch
    verdicts: list[tuple[int, Blob | None]]
    """Extents to be stored, or None for zeros; those that are as in the base are left out."""


class Pipeline:
    """Of one upload from one view.

    Args:
        base: the snapshot that the view's `changed` map refers to; None if everything is to be uploaded.
        stop: when set, `pump` raises Stopped soon.
        key: what extents are sealed with, if the snapshot is encrypted.
    """

    def __init__(
        self,
        view: FrozenView,
        base: Base | None,
        stop: threading.Event,
        workers: int,
        batch_extents: int,
        batches_ahead: int,
        key: DataKey | None = None,
    ) -> None:
        self._view = view
        self._base = base
        self._key = key
        self._stop = stop
        self._batch_extents = batch_extents
        self._batches_ahead = batches_ahead
        self._busy: list[tuple[int, int]] | None = None
        self._reader = ThreadPoolExecutor(READERS, "read")
        self._workers = ThreadPoolExecutor(workers, "work")

    def total_bytes(self) -> int:
        """What the plan of the whole view reads."""
        return sum(self._plan(first, end).read_extents for first, end in self._windows()) * EXTENT_BYTES

    def _windows(self) -> list[tuple[int, int]]:
        """Those with anything to do. A view does not change, so the others are not looked at again."""
        if self._busy is None:
            self._busy = []
            for first, end in plan.strides(self._view.size_bytes):
                if self._stop.is_set():
                    raise Stopped
                if self._may_matter(first, end):
                    self._busy += [one for one in plan.windows_of(first, end) if self._may_matter(*one)]
        return self._busy

    def _may_matter(self, first: int, end: int) -> bool:
        if self._base:
            return bool(self._changed(first, end))
        return bool(frozen.data_runs(self._view, first, end))

    def pump(self, position: int, packing: Packing) -> None:
        """Put everything from the extent `position` on into `packing`."""
        ahead: deque[Future[_Worked]] = deque()
        for batch in self._batches(position):
            if self._stop.is_set():
                raise Stopped
            if len(ahead) >= self._batches_ahead:
                _pack(ahead.popleft().result(), packing)
            ahead.append(self._workers.submit(self._work, batch, self._reader.submit(self._read, batch)))
        while ahead:
            _pack(ahead.popleft().result(), packing)

    def close(self) -> None:
        """End the threads; what is under way ends first."""
        for pool in (self._reader, self._workers):
            pool.shutdown(wait=True, cancel_futures=True)

    def _plan(self, first: int, end: int) -> WindowPlan:
        changed = self._changed(first, end) if self._base else None
        if changed == []:
            return WindowPlan(first, end, [], [])
        return plan.plan_window(first, end, changed, frozen.data_runs(self._view, first, end))

    def _changed(self, first: int, end: int) -> Runs:
        """What may differ from the base, or is lost there."""
        assert self._base is not None
        since = [] if self._base.fixed else frozen.changed_runs(self._view, first, end)
        return plan.union(since, self._base.lost_runs(first, end))

    def _batches(self, position: int) -> Iterator[Batch]:
        for first, end in self._windows():
            if end > position:
                yield from plan.batches(self._plan(max(first, position), end), self._batch_extents)
        total = extents_of(self._view.size_bytes)
        yield Batch([], [], total)

    def _read(self, batch: Batch) -> list[tuple[int, Plain]]:
        """What is to be read, in pieces of whole extents: the first extent of each, and its bytes."""
        if self._stop.is_set():
            raise Stopped
        pieces = [
            (at, min(at + _READ_EXTENTS, end))
            for first, end in batch.read
            for at in range(first, end, _READ_EXTENTS)
        ]
        ranges = [self._byte_range(first, end) for first, end in pieces]
        return [(first, data) for (first, _), data in zip(pieces, self._view.read_many(ranges), strict=True)]

    def _byte_range(self, first: int, end: int) -> tuple[int, int]:
        offset = first * EXTENT_BYTES
        return offset, min(end * EXTENT_BYTES, self._view.size_bytes) - offset

    def _work(self, batch: Batch, data: "Future[list[tuple[int, Plain]]]") -> _Worked:
        verdicts: list[tuple[int, Blob | None]] = []
        for first, piece in data.result():
            for extent, plain in enumerate(cut(piece), first):
                verdict = self._compare(extent, plain)
                if verdict is not _AS_IN_BASE:
                    verdicts.append((extent, verdict))
        return _Worked(batch, verdicts)

    def _compare(self, extent: int, plain: Plain) -> Blob | None:
        before = self._base.get(extent) if self._base else None
        if is_zero(plain):
            return None if before else _AS_IN_BASE
        digest = blob.digest_of(plain)
        if self._base and before and not self._base.is_lost(before):
            # Under the key of whoever wrote it.
            before_key = self._base.keys.of(before.pack.name)
            if before.digest == blob.keyed(digest, before_key):
                return _AS_IN_BASE
        return blob.encode(plain, blob.keyed(digest, self._key), self._key)


def _pack(worked: _Worked, packing: Packing) -> None:
    for first, end in worked.batch.zero:
        packing.zeros(first, end)
    for extent, verdict in worked.verdicts:
        if verdict is None:
            packing.zeros(extent, extent + 1)
        else:
            packing.blob(extent, verdict)
    packing.reached(worked.batch.end, worked.batch.read_extents)


def cut(data: Plain) -> Iterator[Plain]:
    """`data` in extents, not copied; the last one filled up with zeros: an extent always is EXTENT_BYTES."""
    view = memoryview(data)
    for at in range(0, len(view), EXTENT_BYTES):
        piece = view[at : at + EXTENT_BYTES]
        yield piece if len(piece) == EXTENT_BYTES else bytes(piece).ljust(EXTENT_BYTES, b"\0")
