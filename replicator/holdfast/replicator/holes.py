"""What the origin does not hold is not fetched: its holes are filled with zeros, in long strokes.

A fill takes effect only where every extent of it is still missing when its turn comes, so a stroke that
meets a user's write does nothing, and its extents are left to be fetched one by one.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

from holdfast.base.device import Op, Outcome, Request
from holdfast.base.errors import Unavailable
from holdfast.base.extents import inside, runs
from holdfast.base.limits import EXTENT_BYTES, GIB, MIB
from holdfast.base.steps import Resume, Starter, Steps
from holdfast.replicator.store import Store

WINDOW_BYTES = 64 * GIB
"""How much of the origin is asked about at once."""
STROKE_BYTES = 64 * MIB


class FillRefused(Unavailable):
    """By the primary, which waits for another host: no fault of the source."""


class HoleSource(Protocol):
    def holes(self, offset: int, length: int) -> list[tuple[int, int]]:
        """(offset, length) of what reads as zeros within the range, ascending. Blocks. Errors as `read`."""


Fill = Callable[[Request], None]
InThreads = Callable[[Callable[[], object], Resume], None]
"""Run what blocks for long, then resume with its result or the exception."""


def fill_holes(store: Store, source: HoleSource, in_threads: InThreads, fill: Fill) -> Steps[None]:
    """Raises what the source raises, or FillRefused: begin anew later."""
    for offset in range(0, store.size_bytes, WINDOW_BYTES):
        length = min(WINDOW_BYTES, store.size_bytes - offset)
        holes = yield partial(in_threads, partial(source.holes, offset, length))
        for first, end in strokes(store, holes):
            outcome = yield _zero(store, first, end, fill)
            if outcome is not Outcome.OK:
                raise FillRefused("FILL_REFUSED", f"a hole could not be filled: {outcome.value}.")


def strokes(store: Store, holes: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Runs of extents [first, end) that lie in a hole and are missing, each at most STROKE_BYTES long."""
    longest = STROKE_BYTES // EXTENT_BYTES
    for offset, length in holes:
        if offset + length == store.size_bytes:
            length += -store.size_bytes % EXTENT_BYTES  # the last extent may be short
        whole = inside(offset, length, EXTENT_BYTES)
        for first, end in runs(store.missing.among(whole)):
            for start in range(first, end, longest):
                yield start, min(start + longest, end)


def _zero(store: Store, first: int, end: int, fill: Fill) -> Starter:
    offset = first * EXTENT_BYTES
    length = min(end * EXTENT_BYTES, store.size_bytes) - offset

    def start(resume: Resume) -> None:
        fill(Request(Op.ZERO, offset, length, resume))

    return start
