"""A bitmap over a mapped file: one bit a unit, least significant bit of byte 0 first.

The mapping is the only copy. The kernel pages it in and out, so that memory does not grow with the
volume (a 16 TiB volume has 16 MiB of extent bits and 512 KiB of region bits).
"""

from collections.abc import Iterator

from holdfast.replicator.files import BitsFile

_SCAN_BYTES = 4096
_NOTHING = bytes(_SCAN_BYTES)


class Bitmap:
    """`bits` bits in `file`, which holds at least `bytes_for(bits)` bytes."""

    __slots__ = ("_buffer", "_file", "bits")

    def __init__(self, file: BitsFile, bits: int) -> None:
        self._file = file
        self._buffer = file.buffer
        self.bits = bits

    @staticmethod
    def bytes_for(bits: int) -> int:
        return max(1, -(-bits // 8))

    def get(self, index: int) -> bool:
        return bool(self._buffer[index >> 3] >> (index & 7) & 1)

    def set(self, index: int) -> None:
        self._buffer[index >> 3] |= 1 << (index & 7)

    def clear(self, index: int) -> None:
        self._buffer[index >> 3] &= ~(1 << (index & 7)) & 0xFF

    def set_range(self, first: int, end: int) -> None:
        """Set [first, end)."""
        whole_first, whole_end = -(-first // 8), end // 8
        if whole_first < whole_end:
            self._buffer[whole_first:whole_end] = b"\xff" * (whole_end - whole_first)
            edges = (range(first, whole_first * 8), range(whole_end * 8, end))
        else:
            edges = (range(first, end), range(0))
        for edge in edges:
            for index in edge:
                self.set(index)

    def clear_all(self) -> None:
        self._buffer[:] = bytes(len(self._buffer))

    def or_with(self, other: "Bitmap") -> None:
        """Set every bit that is set in `other`, which has the same number of bits."""
        for at in range(0, len(self._buffer), _SCAN_BYTES):
            theirs = other._buffer[at : at + _SCAN_BYTES]
            if theirs != _NOTHING[: len(theirs)]:
                ours = int.from_bytes(self._buffer[at : at + _SCAN_BYTES], "little")
                both = ours | int.from_bytes(theirs, "little")
                self._buffer[at : at + len(theirs)] = both.to_bytes(len(theirs), "little")

    def set_bits(self, first: int = 0, end: int | None = None) -> Iterator[int]:
        """Indexes of the set bits in [first, end), ascending, as they are when each page is reached."""
        end = self.bits if end is None else min(end, self.bits)
        at = first >> 3
        while at << 3 < end:
            page = self._buffer[at : at + _SCAN_BYTES]
            if page != _NOTHING[: len(page)]:
                for byte_index, byte in enumerate(page, at):
                    if byte:
                        for index in range(byte_index << 3, (byte_index << 3) + 8):
                            if byte >> (index & 7) & 1 and first <= index < end:
                                yield index
            at += _SCAN_BYTES

    def any(self) -> bool:
        return next(self.set_bits(), None) is not None

    def count(self) -> int:
        return int.from_bytes(self._buffer[: self.bytes_for(self.bits)], "little").bit_count()

    def sync(self) -> None:
        """Durable on return. Blocks."""
        self._file.sync()

    def close(self) -> None:
        self._file.close()
