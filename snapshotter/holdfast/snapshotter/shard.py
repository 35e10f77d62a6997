"""An index shard: where each extent of one fixed range of a volume is.

A shard covers 4096 extents (512 MiB) and takes 56 bytes for each that is not zero, so at most 229 KiB:
cheap to hold in memory, to fetch for a first read, and to write again for one changed extent. An extent
that is not in it reads as zeros. A decoded shard stays the bytes that it was; entries are made on demand.
"""

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from holdfast.base.limits import EXTENT_BYTES
from holdfast.snapshotter.blob import CODINGS, STORED_MAX_BYTES
from holdfast.snapshotter.envelope import Cursor, StoredObject, damaged, encode_names, seal, unseal

KIND = b"SHRD"
SHARD_EXTENTS = 4096
_HEAD = struct.Struct("<QIIII")
_ROW = struct.Struct("<IIQII32s")


class Entry(NamedTuple):
    """Where one extent is, and what it must be."""

    pack: StoredObject
    offset: int
    stored_bytes: int
    coding: int
    digest: bytes


class Shard:
    """A decoded shard, immutable. Extents are numbered in the volume, not in the shard."""

    def __init__(self, index: int, packs: list[StoredObject], rows: bytes) -> None:
        self.index = index
        self.packs = packs
        self._first = index * SHARD_EXTENTS
        self._rows = rows
        self._numbers = array("I", [fields[0] for fields in _ROW.iter_unpack(rows)])

    def __len__(self) -> int:
        return len(self._numbers)

    def get(self, extent: int) -> Entry | None:
        """None: the extent reads as zeros."""
        number = extent - self._first
        at = bisect_left(self._numbers, number)
        if at == len(self._numbers) or self._numbers[at] != number:
            return None
        return self._entry(at)

    def extents(self, first: int = 0, end: int = 1 << 62) -> Iterator[int]:
        """The extents of [first, end) that are present, ascending."""
        for at in range(bisect_left(self._numbers, max(0, first - self._first)), len(self._numbers)):
            extent = self._first + self._numbers[at]
            if extent >= end:
                return
            yield extent

    def entries(self) -> dict[int, Entry]:
        return {self._first + number: self._entry(at) for at, number in enumerate(self._numbers)}

    def _entry(self, at: int) -> Entry:
        _, pack, offset, stored_bytes, coding, digest = _ROW.unpack_from(self._rows, at * _ROW.size)
        return Entry(self.packs[pack], offset, stored_bytes, coding, digest)


def encode(index: int, entries: Mapping[int, Entry]) -> bytes:
    """The shard `index` with these entries by extent. Equal entries give equal bytes."""
    first = index * SHARD_EXTENTS
    packs: dict[StoredObject, int] = {}
    rows = []
    for extent in sorted(entries):
        entry = entries[extent]
        if not first <= extent < first + SHARD_EXTENTS:
            raise ValueError(f"extent {extent} is not of shard {index}")
        number = packs.setdefault(entry.pack, len(packs))
        rows.append(_ROW.pack(extent - first, number, *entry[1:]))
    head = _HEAD.pack(first, SHARD_EXTENTS, EXTENT_BYTES, len(packs), len(rows))
    return seal(KIND, head + encode_names(list(packs)) + b"".join(rows))


def decode(data: bytes, name: str) -> Shard:
    """Raises DataLoss, naming the object `name`, if `data` is not a whole and sensible shard."""
    cursor = Cursor(unseal(KIND, data, name), name)
    first, extents, extent_bytes, pack_count, row_count = cursor.numbers(_HEAD)
    if extents != SHARD_EXTENTS or extent_bytes != EXTENT_BYTES or first % SHARD_EXTENTS:
        raise damaged(name, f"a shard of {extents} extents of {extent_bytes} bytes from {first} is not ours")
    packs = cursor.names(pack_count)
    rows = cursor.take(row_count * _ROW.size)
    cursor.end()
    _check_rows(rows, packs, name)
    return Shard(first // SHARD_EXTENTS, packs, rows)


def _check_rows(rows: bytes, packs: list[StoredObject], name: str) -> None:
    last = -1
    for number, pack, offset, stored_bytes, coding, _ in _ROW.iter_unpack(rows):
        if not last < number < SHARD_EXTENTS:
            raise damaged(name, f"extent {number} follows {last}")
        if pack >= len(packs) or offset + stored_bytes > packs[pack].size_bytes:
            raise damaged(name, f"extent {number} lies outside the packs")
        if coding not in CODINGS or not 0 < stored_bytes <= STORED_MAX_BYTES:
            raise damaged(name, f"extent {number} is {stored_bytes} bytes in coding {coding:#x}")
        last = number
