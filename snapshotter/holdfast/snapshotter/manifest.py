"""A manifest: everything that a snapshot is, by naming the index shards that say where its bytes are.

It is complete by itself: no other manifest is needed to read a snapshot, so any other may be deleted.
Shards lie in index objects, several in one; a reference gives the object, the place and the SHA-256.
A shard that is not listed holds zeros only.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from holdfast.base.ids import is_uid
from holdfast.base.limits import BLOCK_BYTES, EXTENT_BYTES, VOLUME_MAX_BYTES
from holdfast.snapshotter.envelope import Cursor, StoredObject, damaged, encode_names, seal, unseal
from holdfast.snapshotter.shard import SHARD_EXTENTS

KIND = b"MANI"
DIGEST_SHA256 = 1
CIPHER_NONE = 0
_HEAD = struct.Struct("<24s24s24sQIIQQHHIII")
_REF = struct.Struct("<IIQIII4x32s")
_NO_UID = bytes(24)


class ShardRef(NamedTuple):
    """Where the shard number `shard` is: in `where`, from `offset`; `entries` of its extents are not zero."""

    shard: int
    where: StoredObject
    offset: int
    length: int
    entries: int
    digest: bytes


@dataclass(frozen=True)
class Manifest:
    snapshot_uid: str
    volume_uid: str
    base_snapshot_uid: str
    """What it was incremental from, for people; empty if nothing. Reading needs no base."""
    size_bytes: int
    freeze_time_ms: int
    """Since 1970."""
    shards: tuple[ShardRef, ...]
    """Ascending by number."""

    @property
    def extents(self) -> int:
        """How many extents of it are not zero."""
        return sum(ref.entries for ref in self.shards)


def extents_of(size_bytes: int) -> int:
    return -(-size_bytes // EXTENT_BYTES)


def shards_of(size_bytes: int) -> int:
    return -(-extents_of(size_bytes) // SHARD_EXTENTS)


def encode(manifest: Manifest) -> bytes:
    head = _HEAD.pack(
        manifest.snapshot_uid.encode(),
        manifest.volume_uid.encode(),
        manifest.base_snapshot_uid.encode() or _NO_UID,
        manifest.size_bytes,
        EXTENT_BYTES,
        SHARD_EXTENTS,
        manifest.extents,
        manifest.freeze_time_ms,
        DIGEST_SHA256,
        CIPHER_NONE,
        0,  # bytes of key material; for a cipher to come
        len({ref.where for ref in manifest.shards}),
        len(manifest.shards),
    )
    return seal(KIND, head + encode_refs(manifest.shards))


def encode_refs(refs: Sequence[ShardRef]) -> bytes:
    """The table of objects, then that of references into it."""
    numbers: dict[StoredObject, int] = {}
    for ref in refs:
        numbers.setdefault(ref.where, len(numbers))
    rows = [
        _REF.pack(ref.shard, numbers[ref.where], ref.offset, ref.length, ref.entries, 0, ref.digest)
        for ref in refs
    ]
    return encode_names(list(numbers)) + b"".join(rows)


def decode(data: bytes, name: str) -> Manifest:
    """Raises DataLoss, naming the object `name`, if `data` is not a whole and sensible manifest."""
    cursor = Cursor(unseal(KIND, data, name), name)
    snapshot, volume, base, *numbers = cursor.unpack(_HEAD)
    size, extent_bytes, shard_extents, extents, freeze_ms, digests, cipher, key_bytes, objects, count = (
        int(number) for number in numbers
    )
    if (extent_bytes, shard_extents, digests, cipher, key_bytes) != (EXTENT_BYTES, SHARD_EXTENTS, 1, 0, 0):
        raise damaged(
            name,
            f"extents of {extent_bytes} bytes, {shard_extents} a shard, digests {digests} and cipher "
            f"{cipher} with {key_bytes} bytes of key are not read by this version",
        )
    if size == 0 or size % BLOCK_BYTES or size > VOLUME_MAX_BYTES:
        raise damaged(name, f"a volume of {size} bytes is impossible")
    refs = decode_refs(cursor, objects, count, shards_of(size), name)
    cursor.end()
    manifest = Manifest(
        _uid(snapshot, name), _uid(volume, name), "" if base == _NO_UID else _uid(base, name), size,
        freeze_ms, refs,
    )  # fmt: skip
    if manifest.extents != extents:
        raise damaged(name, f"its shards hold {manifest.extents} extents and it says {extents}")
    return manifest


def decode_refs(
    cursor: Cursor, objects: int, count: int, shard_count: int, name: str
) -> tuple[ShardRef, ...]:
    """The inverse of `encode_refs`, for a volume of `shard_count` shards."""
    names = cursor.names(objects)
    refs: list[ShardRef] = []
    for fields in _REF.iter_unpack(cursor.take(count * _REF.size)):
        index, number, offset, length, entries, flags, digest = fields
        last = refs[-1].shard if refs else -1
        if not last < index < shard_count or flags or not 0 < entries <= SHARD_EXTENTS:
            raise damaged(name, f"shard {index} with {entries} extents follows {last} of {shard_count}")
        if number >= objects or offset + length > names[number].size_bytes:
            raise damaged(name, f"shard {index} lies outside its object")
        refs.append(ShardRef(index, names[number], offset, length, entries, digest))
    return tuple(refs)


def _uid(raw: int | bytes, name: str) -> str:
    text = raw.decode("latin-1") if isinstance(raw, bytes) else ""
    if not is_uid(text):
        raise damaged(name, f"{raw!r} is not a uid")
    return text
