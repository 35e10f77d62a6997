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
from holdfast.snapshotter import ring
from holdfast.snapshotter.cipher import CIPHER_AES_256_GCM, CIPHER_NONE, DataKey
from holdfast.snapshotter.envelope import (
    HEADER,
    PROVEN,
    Cursor,
    StoredObject,
    check_proof,
    damaged,
    encode_names,
    seal,
    unseal,
)
from holdfast.snapshotter.ring import KeyMaterial, Ring
from holdfast.snapshotter.shard import SHARD_EXTENTS

KIND = b"MANI"
DIGEST_SHA256 = 1
DIGEST_KEYED = 2
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
    keys: KeyMaterial | None = None
    """Of an encrypted snapshot."""

    @property
    def extents(self) -> int:
        """How many extents of it are not zero."""
        return sum(ref.entries for ref in self.shards)


def extents_of(size_bytes: int) -> int:
    return -(-size_bytes // EXTENT_BYTES)


def shards_of(size_bytes: int) -> int:
    return -(-extents_of(size_bytes) // SHARD_EXTENTS)


def encode(manifest: Manifest, key: DataKey | None = None) -> bytes:
    """`key`: the snapshot's own data key, if it is encrypted."""
    if (manifest.keys is None) != (key is None):
        raise AssertionError(f"manifest of {manifest.snapshot_uid}: key material and a key go together")
    material = ring.encode(manifest.keys) if manifest.keys else b""
    head = _HEAD.pack(
        manifest.snapshot_uid.encode(),
        manifest.volume_uid.encode(),
        manifest.base_snapshot_uid.encode() or _NO_UID,
        manifest.size_bytes,
        EXTENT_BYTES,
        SHARD_EXTENTS,
        manifest.extents,
        manifest.freeze_time_ms,
        DIGEST_KEYED if key else DIGEST_SHA256,
        CIPHER_AES_256_GCM if key else CIPHER_NONE,
        len(material),
        len({ref.where for ref in manifest.shards}),
        len(manifest.shards),
    )
    return seal(KIND, head + material + encode_refs(manifest.shards), key.prove if key else None)


def open_keys(data: bytes, manifest: Manifest, key: DataKey, name: str) -> Ring:
    """All keys of an encrypted snapshot, by its own. Raises DataLoss unless the whole manifest, which is
    `data`, was written with that key.
    """
    check_proof(data, name, key.prove)
    if manifest.keys is None:
        raise damaged(name, "it has a proof and no keys")
    return ring.open_ring(manifest.snapshot_uid, key, manifest.keys.ring, name)


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
    """Raises DataLoss, naming the object `name`, if `data` is not a whole and sensible manifest.

    Needs no key: it is `open_keys` that says whether an encrypted one was written by a holder of its key.
    """
    cursor = Cursor(unseal(KIND, data, name, PROVEN), name)
    proven = bool(HEADER.unpack_from(data)[3] & PROVEN)
    snapshot, volume, base, *numbers = cursor.unpack(_HEAD)
    size, extent_bytes, shard_extents, extents, freeze_ms, digests, cipher, key_bytes, objects, count = (
        int(number) for number in numbers
    )
    expected = (DIGEST_KEYED, CIPHER_AES_256_GCM) if proven else (DIGEST_SHA256, CIPHER_NONE)
    if (extent_bytes, shard_extents, digests, cipher) != (EXTENT_BYTES, SHARD_EXTENTS, *expected):
        raise damaged(
            name,
            f"extents of {extent_bytes} bytes, {shard_extents} a shard, digests {digests} and cipher "
            f"{cipher} are not read by this version",
        )
    if bool(key_bytes) != proven:
        raise damaged(name, f"it has {key_bytes} bytes of key material")
    if size == 0 or size % BLOCK_BYTES or size > VOLUME_MAX_BYTES:
        raise damaged(name, f"a volume of {size} bytes is impossible")
    keys = ring.decode(cursor.take(key_bytes), name) if proven else None
    refs = decode_refs(cursor, objects, count, shards_of(size), name)
    cursor.end()
    manifest = Manifest(
        _uid(snapshot, name), _uid(volume, name), "" if base == _NO_UID else _uid(base, name), size,
        freeze_ms, refs, keys,
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
