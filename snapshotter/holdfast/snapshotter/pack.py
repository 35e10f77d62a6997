"""A pack: stored extents one behind the other, then a table that says what they are.

Nobody needs the table to read a snapshot (shards point at the extents themselves); it makes a pack
understandable alone, for repacking and for rescue. It comes last, so that a pack is built in one pass.

    header (envelope's 24 bytes, kind "PACK") · extents · table · u64 table offset · u32 count · u32 zero ·
    SHA-256 of header, table and the 16 bytes before it

The extents are not hashed again: each has its own digest.
"""

import hashlib
import struct
from collections.abc import Sequence
from typing import NamedTuple

from holdfast.base.limits import MIB
from holdfast.snapshotter.blob import Blob, Plain
from holdfast.snapshotter.envelope import DIGEST_BYTES, HEADER, check_header, damaged, header

KIND = b"PACK"
_ROW = struct.Struct("<QQII32s")
ROW_BYTES = _ROW.size
_TRAILER = struct.Struct("<QII")
TAIL_BYTES = _TRAILER.size + DIGEST_BYTES
_GROW_BYTES = 4 * MIB


class PackRow(NamedTuple):
    """One extent of a pack: `extent` is its number in the volume that it was read from."""

    extent: int
    offset: int
    stored_bytes: int
    coding: int
    digest: bytes


class PackBuilder:
    """Collects extents until the caller finds it full.

    Args:
        buffer: what the pack is made in, to be used again afterwards. It grows where it is too short.
    """

    def __init__(self, buffer: bytearray | None = None) -> None:
        self.buffer = bytearray() if buffer is None else buffer
        self._rows: list[PackRow] = []
        self._end = HEADER.size

    @property
    def size_bytes(self) -> int:
        """How long the pack would be now."""
        return self._end + len(self._rows) * _ROW.size + TAIL_BYTES

    @property
    def rows(self) -> Sequence[PackRow]:
        return self._rows

    def add(self, extent: int, blob: Blob) -> None:
        self._rows.append(PackRow(extent, self._end, len(blob.stored), blob.coding, blob.digest))
        self._place(self._end, blob.stored)
        self._end += len(blob.stored)

    def build(self) -> bytearray:
        """The pack, in the buffer; this is of no use any more."""
        table = b"".join(_ROW.pack(*row) for row in self._rows)
        trailer = _TRAILER.pack(self._end, len(self._rows), 0)
        head = header(KIND, self.size_bytes - HEADER.size - DIGEST_BYTES)
        digest = hashlib.sha256(head + table + trailer).digest()
        size_bytes = self.size_bytes
        self._place(0, head)
        self._place(self._end, b"".join([table, trailer, digest]))
        del self.buffer[size_bytes:]
        return self.buffer

    def _place(self, at: int, data: Plain) -> None:
        lacking = at + len(data) - len(self.buffer)
        if lacking > 0:
            self.buffer.extend(bytes(max(lacking, _GROW_BYTES)))
        with memoryview(self.buffer) as view:
            view[at : at + len(data)] = data


def tail_bytes(rows: int) -> int:
    """How much of a pack, from its end, holds its table if that has so many rows."""
    return rows * _ROW.size + TAIL_BYTES


def tail_of(end: bytes, name: str) -> int:
    """How many rows the table of a pack has, which ends with these `tail_bytes(0)` bytes. Raises DataLoss."""
    if len(end) < TAIL_BYTES:
        raise damaged(name, f"it is {len(end)} bytes long")
    count: int = _TRAILER.unpack_from(end, len(end) - TAIL_BYTES)[1]
    return count


def decode_table(data: bytes, name: str) -> list[PackRow]:
    """The table of a whole pack. Raises DataLoss; says nothing about the extents' own bytes."""
    body_bytes, _ = check_header(KIND, data, name)
    size_bytes = HEADER.size + body_bytes + DIGEST_BYTES
    if len(data) != size_bytes or body_bytes < _TRAILER.size:
        raise damaged(name, f"it is {len(data)} bytes long and says {size_bytes}")
    return decode_tail(data, size_bytes, name)


def decode_tail(data: bytes, size_bytes: int, name: str) -> list[PackRow]:
    """The table of a pack of `size_bytes`, of which `data` is the end. Raises DataLoss."""
    start, end = size_bytes - len(data), len(data) - DIGEST_BYTES
    table_at, count, zero = _TRAILER.unpack_from(data, end - _TRAILER.size)
    at = table_at - start
    if zero or table_at < HEADER.size or at < 0 or at + count * _ROW.size != end - _TRAILER.size:
        raise damaged(name, f"its table of {count} rows at {table_at} does not fit")
    head = header(KIND, size_bytes - HEADER.size - DIGEST_BYTES)
    if hashlib.sha256(head + data[at:end]).digest() != data[end:]:
        raise damaged(name, "its table's checksum does not match")
    rows = [PackRow(*fields) for fields in _ROW.iter_unpack(data[at : end - _TRAILER.size])]
    at = HEADER.size
    for row in rows:
        if row.offset != at:
            raise damaged(name, f"an extent is at {row.offset} where {at} was due")
        at += row.stored_bytes
    if at != table_at:
        raise damaged(name, f"its extents end at {at} and its table starts at {table_at}")
    return rows
