"""What an upload must read, decided from maps and nothing else.

A *window* is a range of whole shards whose maps are asked for and planned at a time, so that memory does
not grow with the volume. A *stride* is some windows, of which it is asked first whether there is anything
to do: of a sparse volume most have nothing, and are looked at once. Three facts decide about an extent:

    may differ from the base   may hold data   →
    no                         –                  the base's entry stays
    yes                        no                 it reads as zeros: absent
    yes                        yes                read it; then zeros, the same, or stored

A full snapshot has no base: everything may differ. Maps may over-report, never under-report; so an upload
reads what it is not sure of, and compares digests.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from holdfast.base.limits import EXTENT_BYTES
from holdfast.snapshotter.manifest import extents_of
from holdfast.snapshotter.shard import SHARD_EXTENTS

WINDOW_SHARDS = 4
"""2 GiB: 7680 windows in 15 TiB, and at most 16384 runs in one."""
STRIDE_WINDOWS = 8
"""16 GiB: 960 in 15 TiB, and at most 65,536 runs in one, for a moment."""
Runs = list[tuple[int, int]]
"""Half-open runs of extents, ascending, not touching each other."""


@dataclass(frozen=True)
class WindowPlan:
    """What to do with the extents [first, end)."""

    first: int
    end: int
    read: Runs
    zero: Runs
    """May differ from the base, and read as zeros: absent from now on."""

    @property
    def read_extents(self) -> int:
        return sum(end - first for first, end in self.read)


@dataclass(frozen=True)
class Batch:
    """A part of a window's plan, up to the extent `end`, that is read and worked on at a time."""

    read: Runs
    zero: Runs
    end: int

    @property
    def read_extents(self) -> int:
        return sum(end - first for first, end in self.read)


def strides(size_bytes: int) -> Iterator[tuple[int, int]]:
    """Half-open ranges of whole windows that cover a volume."""
    total = extents_of(size_bytes)
    step = STRIDE_WINDOWS * WINDOW_SHARDS * SHARD_EXTENTS
    for first in range(0, total, step):
        yield first, min(total, first + step)


def windows_of(first: int, end: int) -> Iterator[tuple[int, int]]:
    """The windows of a stride."""
    step = WINDOW_SHARDS * SHARD_EXTENTS
    for at in range(first, end, step):
        yield at, min(end, at + step)


def plan_window(first: int, end: int, changed: Runs | None, data: Runs) -> WindowPlan:
    """The plan for the extents [first, end).

    Args:
        changed: what may differ from the base; None if there is no base.
        data: what may hold anything but zeros.
    """
    candidates = [(first, end)] if changed is None else clip(changed, first, end)
    zero = [] if changed is None else subtract(candidates, data)
    return WindowPlan(first, end, intersect(candidates, data), zero)


def touched(byte_runs: Iterable[tuple[int, int]]) -> Runs:
    """The extents that byte runs (offset, length), ascending, touch at all."""
    runs: Runs = []
    for offset, length in byte_runs:
        if length:
            _append(runs, offset // EXTENT_BYTES, (offset + length - 1) // EXTENT_BYTES + 1)
    return runs


def clip(runs: Runs, first: int, end: int) -> Runs:
    return [(max(a, first), min(b, end)) for a, b in runs if a < end and b > first]


def intersect(left: Runs, right: Runs) -> Runs:
    found: Runs = []
    i = j = 0
    while i < len(left) and j < len(right):
        first, end = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if first < end:
            _append(found, first, end)
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return found


def union(left: Runs, right: Runs) -> Runs:
    """What is in either."""
    if not right:
        return left
    found: Runs = []
    for first, end in sorted([*left, *right]):
        _append(found, first, end)
    return found


def subtract(runs: Runs, holes: Runs) -> Runs:
    """What is in `runs` and not in `holes`."""
    found: Runs = []
    j = 0
    for first, end in runs:
        at = first
        while j < len(holes) and holes[j][1] <= at:
            j += 1
        k = j
        while k < len(holes) and holes[k][0] < end:
            if holes[k][0] > at:
                _append(found, at, holes[k][0])
            at = max(at, holes[k][1])
            k += 1
        if at < end:
            _append(found, at, end)
    return found


def batches(window: WindowPlan, most: int) -> Iterator[Batch]:
    """A window's plan in pieces of at most `most` extents to read, ascending, covering all of it."""
    read: Runs = []
    room = most
    zero = deque(window.zero)
    for first, end in window.read:
        at = first
        while at < end:
            stop = min(end, at + room)
            read.append((at, stop))
            room -= stop - at
            at = stop
            if room == 0:
                yield Batch(read, _before(zero, stop), stop)
                read, room = [], most
    if read or zero or not window.read or window.read[-1][1] < window.end:
        yield Batch(read, list(zero), window.end)


def _before(zero: deque[tuple[int, int]], end: int) -> Runs:
    """Take the runs below `end` from the front of `zero`: none straddles it, since `end` ends a read."""
    taken: Runs = []
    while zero and zero[0][0] < end:
        taken.append(zero.popleft())
    return taken


def _append(runs: Runs, first: int, end: int) -> None:
    if runs and first <= runs[-1][1]:
        runs[-1] = (runs[-1][0], max(runs[-1][1], end))
    else:
        runs.append((first, end))
