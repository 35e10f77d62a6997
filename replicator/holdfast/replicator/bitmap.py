"""A bitmap over a mapped file: one bit a unit, least significant bit of byte 0 first.

The page cache has the only copy. So that memory does not grow with the volume (a 16 TiB volume has 16 MiB of
extent bits and 512 KiB of region bits), what is looked through for bits is read from the file, and only
a part is mapped: single bits elsewhere are read and written by system calls. These cost 2 µs; to map a piece
for one bit, and let another go for it, cost 7. Up to 512 KiB (a volume of 512 GiB) all is mapped.

One thread at a time writes to a bitmap: setting a bit rewrites a byte that it shares with seven others.
Other threads may read.
"""

import mmap
from collections.abc import Iterator
from contextlib import suppress

from holdfast.replicator.files import BitsFile

_SCAN_BYTES = 4096
_NOTHING = bytes(_SCAN_BYTES)
_PIECE_SHIFT = 16
_PIECE_BYTES = 1 << _PIECE_SHIFT
"""The extents of 64 GiB. Linux maps so much at a time of what is in the page cache (fault_around_bytes),
but by addresses: of a piece, and of one beside it.
"""
_NEAR_PIECES_MAX = 4
MAPPED_MAX_BYTES = 2 * _NEAR_PIECES_MAX * _PIECE_BYTES
"""So much of one bitmap is mapped at most."""


class MemoryBits:
    """Stands for a file where nothing is to be kept. Pages in which no bit was set take no memory."""

    def __init__(self, length: int) -> None:
        self.buffer = mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def read(self, at: int, length: int) -> bytes:
        return self.buffer[at : at + length]

    def write(self, at: int, content: bytes | bytearray) -> None:
        self.buffer[at : at + len(content)] = content

    def let_go(self, first: int, end: int) -> None:
        """Nobody else has it."""

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


class Bitmap:
    """`bits` bits in `file`, which holds at least `bytes_for(bits)` bytes."""

    __slots__ = ("_far", "_file", "_near", "bits", "buffer")

    def __init__(self, file: BitsFile | MemoryBits, bits: int) -> None:
        self._file = file
        pieces = range(-(-self.bytes_for(bits) // _PIECE_BYTES))
        # What of `buffer` may be used. (Other threads that read change it, too: a set's methods are atomic.)
        self._near: set[int] | range = pieces if len(pieces) <= 2 * _NEAR_PIECES_MAX else set()
        self._far = -1
        self.buffer = file.buffer
        """For whoever cannot afford a call for each bit, of a small one."""
        self.bits = bits

    @staticmethod
    def bytes_for(bits: int) -> int:
        return max(1, -(-bits // 8))

    @classmethod
    def in_memory(cls, bits: int) -> "Bitmap":
        return cls(MemoryBits(cls.bytes_for(bits)), bits)

    def get(self, index: int) -> bool:
        at = index >> 3
        byte = self.buffer[at] if at >> _PIECE_SHIFT in self._near else self._fetch(at)
        return bool(byte >> (index & 7) & 1)

    def set(self, index: int) -> None:
        at = index >> 3
        if at >> _PIECE_SHIFT in self._near:
            self.buffer[at] |= 1 << (index & 7)
        else:
            self._store(at, self._fetch(at), 1 << (index & 7), 0)

    def clear(self, index: int) -> None:
        at = index >> 3
        if at >> _PIECE_SHIFT in self._near:
            self.buffer[at] &= ~(1 << (index & 7)) & 0xFF
        else:
            self._store(at, self._fetch(at), 0, 1 << (index & 7))

    def _fetch(self, at: int) -> int:
        """A byte that is not near. Whoever wants two of a piece in a row will want more: it is near then."""
        piece = at >> _PIECE_SHIFT
        if piece == self._far and isinstance(self._near, set):
            while len(self._near) >= _NEAR_PIECES_MAX:
                # Another thread may have been quicker.
                with suppress(KeyError):
                    gone = self._near.pop() * _PIECE_BYTES
                    self._file.let_go(max(0, gone - _PIECE_BYTES), gone + 2 * _PIECE_BYTES)
            self._near.add(piece)
        self._far = piece
        return self._file.read(at, 1)[0]

    def _store(self, at: int, old: int, more: int, less: int) -> None:
        new = (old | more) & ~less
        if new != old:
            self._file.write(at, bytes((new,)))

    def set_range(self, first: int, end: int) -> None:
        """Set [first, end)."""
        whole_first, whole_end = -(-first // 8), end // 8
        if whole_first < whole_end:
            self._put(whole_first, b"\xff" * (whole_end - whole_first))
            edges = (range(first, whole_first * 8), range(whole_end * 8, end))
        else:
            edges = (range(first, end), range(0))
        for edge in edges:
            for index in edge:
                self.set(index)

    def clear_all(self) -> None:
        for at, page in self._pages():
            self._put(at, bytes(len(page)))

    def or_with(self, other: "Bitmap", but_not: "Bitmap | None" = None) -> None:
        """Set every bit that is set in `other` (and clear in `but_not`); all have as many bits."""
        for at, theirs in other._pages():
            end, nothing = at + len(theirs), _NOTHING[: len(theirs)]
            unwanted = nothing if but_not is None else but_not._take(at, end)
            ours = self._take(at, end)
            # The usual case, within the gate of a freeze too, is a plain copy.
            united = theirs if unwanted == nothing == ours else _united(ours, theirs, unwanted)
            self._put(at, united)

    def set_bits(self, first: int = 0, end: int | None = None) -> Iterator[int]:
        """Indexes of the set bits in [first, end), ascending, as they are when each page is reached."""
        end = self.bits if end is None else min(end, self.bits)
        for at, page in self._pages(first >> 3, -(-end // 8)):
            for byte_index, byte in enumerate(page, at):
                if byte:
                    for index in range(byte_index << 3, (byte_index << 3) + 8):
                        if byte >> (index & 7) & 1 and first <= index < end:
                            yield index

    def any(self) -> bool:
        return next(self.set_bits(), None) is not None

    def any_in(self, first: int, end: int) -> bool:
        """Whether a bit of [first, end) is set."""
        if end - first == 1:
            return self.get(first)
        return next(self.set_bits(first, end), None) is not None

    def clear_range(self, first: int, end: int) -> None:
        """Clear [first, end)."""
        for index in range(first, end):
            self.clear(index)

    def every_page(self) -> Iterator[tuple[int, bytes]]:
        """As `pages`, those that are all zeros too; each as it is when it is reached."""
        end = self.bytes_for(self.bits)
        for at in range(0, end, _SCAN_BYTES):
            yield at, self._file.read(at, min(_SCAN_BYTES, end - at))

    def set_but(self, at: int, page: bytes) -> Iterator[int]:
        """Indexes of the bits that are set here and not in `page`, of another bitmap of as many bits, which
        begins at byte `at`. Raises ValueError if that is no page of it.
        """
        if at % _SCAN_BYTES or len(page) != min(_SCAN_BYTES, self.bytes_for(self.bits) - at):
            raise ValueError(f"{len(page)} bytes at {at} are no page of {self.bytes_for(self.bits)} bytes")
        first = at * 8
        for index in self.set_bits(first, first + len(page) * 8):
            if not page[(index - first) >> 3] >> (index & 7) & 1:
                yield index

    def pages(self) -> Iterator[tuple[int, bytes]]:
        """(index of its first byte, bytes) of all pages that are not all zeros: what another bitmap of as
        many bits lacks to hold these too.
        """
        return ((at, bytes(page)) for at, page in self._pages())

    def or_page(self, at: int, page: bytes) -> None:
        """Set the bits of `page`, which begins at byte `at`. Raises ValueError if it reaches beyond."""
        end = at + len(page)
        spare = -self.bits % 8
        if at < 0 or end > self.bytes_for(self.bits):
            raise ValueError(f"a page of {len(page)} bytes at {at} of {self.bytes_for(self.bits)}")
        if spare and end == self.bytes_for(self.bits) and page and page[-1] >> (8 - spare):
            raise ValueError("a page with bits beyond the last")
        self._put(at, _united(self._take(at, end), page, b""))

    def count(self) -> int:
        return sum(int.from_bytes(page, "little").bit_count() for _at, page in self._pages())

    def sync(self) -> None:
        """Durable on return. Blocks."""
        self._file.sync()

    def close(self) -> None:
        self._file.close()

    def _take(self, first: int, end: int) -> bytes | bytearray:
        if self._is_near(first, end):
            return self.buffer[first:end]
        return self._file.read(first, end - first)

    def _put(self, first: int, content: bytes | bytearray) -> None:
        end = first + len(content)
        if self._is_near(first, end):
            self.buffer[first:end] = content
        else:
            self._file.write(first, content)

    def _is_near(self, first: int, end: int) -> bool:
        near = self._near
        return (
            end - first <= _PIECE_BYTES and first >> _PIECE_SHIFT in near and end - 1 >> _PIECE_SHIFT in near
        )

    def _pages(self, first: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes | bytearray]]:
        """(index of its first byte, bytes) of the pages of [first, end) that are not all zeros."""
        end = self.bytes_for(self.bits) if end is None else end
        few = end - first <= _SCAN_BYTES
        for at in range(first, end, _SCAN_BYTES):
            until = min(at + _SCAN_BYTES, end)
            page = self._take(at, until) if few else self._file.read(at, until - at)
            if page != _NOTHING[: len(page)]:
                yield at, page


def _united(ours: bytes | bytearray, theirs: bytes | bytearray, unwanted: bytes | bytearray) -> bytes:
    wanted = int.from_bytes(theirs, "little") & ~int.from_bytes(unwanted, "little")
    return (int.from_bytes(ours, "little") | wanted).to_bytes(len(ours), "little")
