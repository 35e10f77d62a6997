"""What was put for a snapshot that is being made from outside: packs, in the order that counts.

Each snapshotter that takes blocks has a record in etcd with its newest packs, and the name of a list
object with those before, which leads to the list before it. So records stay small, however much is put.
"""

import heapq
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.extents import runs
from holdfast.snapshotter.envelope import Cursor, StoredObject, encode_names, seal, unseal
from holdfast.snapshotter.index import get
from holdfast.snapshotter.objects import ObjectStore

KIND = b"STGD"
_HEAD = struct.Struct("<24sHI")
_PACK = struct.Struct("<QI")
_BLOCK = struct.Struct("<I")


class StagedList(NamedTuple):
    """A list object: packs, oldest first, and the name of the list before (empty: none)."""

    before: str
    packs: Sequence[r.StagedPack]


def encode(snapshot_uid: str, staged: StagedList) -> bytes:
    before = staged.before.encode("ascii")
    names = encode_names([StoredObject(pack.name, pack.size_bytes) for pack in staged.packs])
    parts = [_HEAD.pack(snapshot_uid.encode(), len(before), len(staged.packs)), before, names]
    for pack in staged.packs:
        parts.append(_PACK.pack(pack.sequence, len(pack.block_runs)))
        parts += [_BLOCK.pack(block) for block in pack.block_runs]
    return seal(KIND, b"".join(parts))


def decode(data: bytes, name: str) -> StagedList:
    """Raises DataLoss, naming the object `name`, if `data` is not a whole list."""
    cursor = Cursor(unseal(KIND, data, name), name)
    _uid, length, count = cursor.unpack(_HEAD)
    before = cursor.text(int(length))
    packs = []
    for where in cursor.names(int(count)):
        packs.append(r.StagedPack(name=where.name, size_bytes=where.size_bytes))
    for pack in packs:
        pack.sequence, run_count = cursor.numbers(_PACK)
        pack.block_runs.extend(cursor.numbers(_BLOCK)[0] for _ in range(run_count))
    cursor.end()
    return StagedList(before, packs)


def in_order(store: ObjectStore, records: Sequence[r.StagedRecord]) -> Iterator[r.StagedPack]:
    """Every pack of every writer, so that of two with the same block the later one counts.

    Raises DataLoss, Unavailable.
    """
    yield from heapq.merge(*(_of_writer(store, record) for record in records), key=lambda pack: pack.sequence)


def _of_writer(store: ObjectStore, record: r.StagedRecord) -> Iterator[r.StagedPack]:
    names, name = [], record.list
    while name:
        names.append(name)
        name = decode(get(store, name), name).before
    for name in reversed(names):
        yield from decode(get(store, name), name).packs
    yield from record.packs


class BlockSet:
    """Blocks of one snapshot: a bit each, 4 MiB for the largest."""

    def __init__(self, blocks: int) -> None:
        self._bits = bytearray(-(-blocks // 8))

    def add(self, first: int, end: int) -> None:
        for block in range(first, end):
            self._bits[block >> 3] |= 1 << (block & 7)

    def __len__(self) -> int:
        return int.from_bytes(self._bits, "little").bit_count()

    def ascending(self, start: int = 0) -> Iterator[int]:
        """From `start` on."""
        for at in range(start >> 3, len(self._bits)):
            bits = self._bits[at]
            while bits:
                block = (at << 3) + (bits & -bits).bit_length() - 1
                if block >= start:
                    yield block
                bits &= bits - 1

    def runs(self, start: int = 0) -> Iterator[tuple[int, int]]:
        """Half open, ascending."""
        yield from runs(self.ascending(start))


def put_blocks(store: ObjectStore, records: Sequence[r.StagedRecord], blocks: int) -> BlockSet:
    """The blocks that were put, of a snapshot that has `blocks`. Raises DataLoss, Unavailable."""
    found = BlockSet(blocks)
    for pack in in_order(store, records):
        for at in range(0, len(pack.block_runs), 2):
            found.add(pack.block_runs[at], pack.block_runs[at + 1])
    return found
