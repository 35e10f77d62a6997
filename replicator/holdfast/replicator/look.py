"""Where a replica holds data: for initiators that ask (SCSI's GET LBA STATUS)."""

from itertools import islice

from holdfast.base.device import Runs
from holdfast.base.extents import covering
from holdfast.base.limits import EXTENT_BYTES
from holdfast.replicator.store import Store

PIECES_MAX = 64
"""Of the data file, in one answer: a look at a file full of holes has an end."""


def look(store: Store, offset: int, length: int) -> Runs:
    """What is stored in the range, or in its beginning. What only the origin holds counts as stored.

    In the pool: a file system may have to read its own maps. Whoever calls holds a turn on the range.
    """
    end = offset + length
    stored = list(islice(store.data.allocated(offset, end), PIECES_MAX))
    if len(stored) == PIECES_MAX:
        end = stored[-1][1]
    for extent in store.missing.among(covering(offset, end - offset, EXTENT_BYTES)):
        start = extent * EXTENT_BYTES
        stored.append((max(start, offset), min(start + EXTENT_BYTES, end)))
    return _runs(sorted(stored), offset, end)


def _runs(stored: list[tuple[int, int]], at: int, end: int) -> Runs:
    """Ranges, ascending, perhaps overlapping, as runs that cover [at, end)."""
    runs: Runs = []
    for start, stop in stored:
        if start > at:
            runs.append((start - at, False))
        grown = stop - max(at, start)
        if grown <= 0:
            continue
        if runs and runs[-1][1]:
            runs[-1] = (runs[-1][0] + grown, True)
        else:
            runs.append((grown, True))
        at = stop
    if at < end:
        runs.append((end - at, False))
    return runs
