"""Memory that a connection receives into, and that its write requests point into.

A chunk is used again when nobody uses it, so a busy connection stays within a few that are warm in the
processor's cache. `users` counts the requests that point into it.
"""

from holdfast.base.limits import KIB

CHUNK_BYTES = 256 * KIB
_FREE_MAX = 32
"""Chunks that one pool keeps for later."""


class Chunk:
    __slots__ = ("users", "view")

    def __init__(self) -> None:
        self.view = memoryview(bytearray(CHUNK_BYTES))
        self.users = 0


class ChunkPool:
    """Shared by the connections of one server; of one thread."""

    def __init__(self) -> None:
        self._free: list[Chunk] = []

    def take(self) -> Chunk:
        return self._free.pop() if self._free else Chunk()

    def give_back(self, chunk: Chunk) -> None:
        if len(self._free) < _FREE_MAX:
            self._free.append(chunk)
