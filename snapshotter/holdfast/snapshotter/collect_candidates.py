"""Which packs and index objects are worth copying: the deadest, and no more than fit in memory."""

import heapq

from holdfast.snapshotter.collect_mark import Marked
from holdfast.snapshotter.names import parts_of

HALF_DEAD = 0.5
"""An object is worth looking at when at most this part of its bytes is in use."""
OBJECTS_MAX = 256
"""Of one run: what is left is for the next."""
EXTENTS_MAX = 200_000
"""In use of all of them: each takes 400 bytes while it is copied. A pack that has more stays as it is."""


class Candidates:
    """Of one run. Told of everything that is needed; not of what a root leads to that cannot be replaced."""

    def __init__(self) -> None:
        self._deadest: list[tuple[int, Marked]] = []
        """A heap."""

    def look(self, marked: Marked, size_bytes: int) -> None:
        parts = parts_of(marked.name)
        if marked.fixed or parts is None or parts.kind not in ("pack", "index"):
            return
        if marked.live_bytes > size_bytes * HALF_DEAD or marked.extents > EXTENTS_MAX:
            return
        heapq.heappush(self._deadest, (size_bytes - marked.live_bytes, marked))
        if len(self._deadest) > OBJECTS_MAX:
            heapq.heappop(self._deadest)

    def by_family(self) -> dict[int, list[Marked]]:
        """The deadest first, as many as may be."""
        found: dict[int, list[Marked]] = {}
        extents = 0
        for _, marked in sorted(self._deadest, reverse=True):
            if extents + marked.extents <= EXTENTS_MAX:
                extents += marked.extents
                found.setdefault(marked.family, []).append(marked)
        return found
