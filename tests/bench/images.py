"""Volumes' contents for the benchmarks: files of a size, made from a seed, and what changes in them."""

import os
from collections.abc import Sequence
from pathlib import Path
from random import Random

from holdfast.base.extents import covering, runs
from holdfast.base.limits import EXTENT_BYTES, KIB, MIB
from holdfast.snapshotter.frozen import ALLOCATION, FLAG_CHANGED, FLAG_ZERO

_WORDS = ["extent", "epoch", "mirror", "primary", "resync", "snapshot", "volume", "grant", "initiator", "LUN"]


class Image:
    """A file that is a volume's content, and the extents that differ from what was last frozen."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.written: set[int] = set()
        self.changed: set[int] = set()
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.ftruncate(self.descriptor, size_bytes)

    def write(self, offset: int, data: bytes) -> None:
        os.pwrite(self.descriptor, data, offset)
        extents = covering(offset, len(data), EXTENT_BYTES)
        self.written.update(extents)
        self.changed.update(extents)

    def fill(self, seed: int, compressible: bool, length: int | None = None) -> "Image":
        """From the start, `length` bytes: noise, or text of few words, which zstd makes a quarter of."""
        random = Random(seed)
        length = length or self.size_bytes
        for offset in range(0, length, MIB):
            self.write(offset, _text(random) if compressible else random.randbytes(MIB))
        return self

    def scatter(self, seed: int, count: int, size_bytes: int = 4 * KIB) -> None:
        """Random writes of noise, aligned to their size."""
        random = Random(seed)
        for _ in range(count):
            self.write(
                random.randrange(self.size_bytes // size_bytes) * size_bytes, random.randbytes(size_bytes)
            )

    def freeze(self) -> "ImageView":
        """What is in it now; it must not be written while somebody reads this. The next one's `changed`
        starts empty."""
        changed, self.changed = self.changed, set()
        return ImageView(self, set(self.written), changed)

    def close(self) -> None:
        os.close(self.descriptor)
        self.path.unlink()


class ImageView:
    """A FrozenView of an image. For several threads."""

    def __init__(self, image: Image, written: set[int], changed: set[int]) -> None:
        self._image = image
        self._written = sorted(written)
        self._changed = sorted(changed)
        self.size_bytes = image.size_bytes

    @property
    def changed_bytes(self) -> int:
        return len(self._changed) * EXTENT_BYTES

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        return [os.pread(self._image.descriptor, length, offset) for offset, length in ranges]

    def read_into(self, buffers: Sequence[memoryview], offset: int) -> None:
        os.preadv(self._image.descriptor, buffers, offset)

    def block_status(self, context: str, offset: int, length: int) -> list[tuple[int, int, int]]:
        extents = self._written if context == ALLOCATION else self._changed
        inside, outside = (0, FLAG_ZERO | 1) if context == ALLOCATION else (FLAG_CHANGED, 0)
        wanted = covering(offset, length, EXTENT_BYTES)
        answer, at, end = [], offset, offset + length
        for first, stop in runs([one for one in extents if one in wanted]):
            start, stop_byte = max(offset, first * EXTENT_BYTES), min(end, stop * EXTENT_BYTES)
            answer += [(at, start - at, outside)] if start > at else []
            answer.append((start, stop_byte - start, inside))
            at = stop_byte
        return answer + ([(at, end - at, outside)] if at < end else [])

    def close(self) -> None:
        """The image keeps the file."""


def _text(random: Random) -> bytes:
    """1 MiB of lines: words of a small vocabulary and numbers, different everywhere."""
    lines = []
    length = 0
    while length < MIB:
        line = " ".join([*random.choices(_WORDS, k=3), str(random.randrange(10**6)), "\n"])
        lines.append(line)
        length += len(line)
    return "".join(lines).encode()[:MIB]
