"""The frozen view of a volume, as an upload reads it, and what NBD's maps mean.

The export `frozen:<volume uid>:<snapshot uid>` of a storage host, with two metadata contexts:
`base:allocation` (bit 0 hole, bit 1 reads as zeros; only the second counts here) and `holdfast:changed`
(bit 0 may differ from the snapshot's base).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from holdfast.base.errors import HoldfastError
from holdfast.base.limits import EXTENT_BYTES, KIB
from holdfast.snapshotter.plan import Runs, touched

ALLOCATION = "base:allocation"
CHANGED = "holdfast:changed"
READ_MAX_BYTES = 512 * KIB
"""One read's data: small enough that several are under way, large enough that their number is no cost."""
READERS = 2
"""So many threads read one view."""
FLAG_ZERO = 2
FLAG_CHANGED = 1


class ViewLost(HoldfastError):
    """The host that serves the view is lost, or cannot read it: another may have a good one."""


class FrozenView(Protocol):
    """A view that does not change; for several threads. Everything raises ViewLost."""

    @property
    def size_bytes(self) -> int: ...

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes | bytearray]:
        """The bytes of each (offset, length), at most READ_MAX_BYTES long, in that order."""
        ...

    def block_status(self, context: str, offset: int, length: int) -> list[tuple[int, int, int]]:
        """Runs (offset, length, flags) of at least a part of [offset, offset + length), from its start."""
        ...

    def close(self) -> None: ...


def data_runs(view: FrozenView, first: int, end: int) -> Runs:
    """The extents of [first, end) that may hold anything but zeros."""
    return _runs(view, ALLOCATION, first, end, lambda flags: not flags & FLAG_ZERO)


def changed_runs(view: FrozenView, first: int, end: int) -> Runs:
    """The extents of [first, end) that may differ from the base."""
    return _runs(view, CHANGED, first, end, lambda flags: bool(flags & FLAG_CHANGED))


def _runs(view: FrozenView, context: str, first: int, end: int, wanted: Callable[[int], bool]) -> Runs:
    stop = min(end * EXTENT_BYTES, view.size_bytes)
    status = _status(view, context, first * EXTENT_BYTES, stop)
    return touched((offset, length) for offset, length, flags in status if wanted(flags))


def _status(view: FrozenView, context: str, at: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """All of [at, stop), asking again for what an answer left out."""
    while at < stop:
        for offset, length, flags in view.block_status(context, at, stop - at):
            length = min(offset + length, stop) - at
            if offset != at or length <= 0:
                raise AssertionError(f"{context}: a run of {length} at {offset} where {at} was due")
            yield at, length, flags
            at += length
            if at >= stop:
                return
