"""A checkpoint: how far an upload has come, as an object, so that another snapshotter goes on from it.

It is a manifest in the making: the references of the shards that are done and stored, the shards that
are done and wait to be stored together, and the shard that is half done. Everything below `position` is
in it; the store had acknowledged everything that it refers to before it was written. Its size is
bounded by that of a manifest and one index object, and each one replaces the last.
"""

import struct
from dataclasses import dataclass

from holdfast.snapshotter import manifest
from holdfast.snapshotter.cipher import DataKey
from holdfast.snapshotter.envelope import PROVEN, Cursor, check_proof, damaged, seal, unseal
from holdfast.snapshotter.manifest import ShardRef, decode_refs, encode_refs

KIND = b"CKPT"
_HEAD = struct.Struct("<24sQQQQQHIII")
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Counters:
    """What an upload has done so far, over all its runs."""

    done_bytes: int = 0
    """Of what the plan says must be read, so much is dealt with."""
    uploaded_bytes: int = 0
    """Of extents that were stored, before compression."""
    stored_bytes: int = 0
    """Of packs, index objects and the manifest."""


@dataclass(frozen=True)
class Checkpoint:
    snapshot_uid: str
    base_manifest: str
    """The object name of the base's manifest: a checkpoint made with another base is worthless."""
    size_bytes: int
    position: int
    """Every extent below this number is dealt with."""
    counters: Counters
    shards: tuple[ShardRef, ...]
    """Done and stored (or the base's, unchanged); ascending, with gaps where `waiting` has them."""
    waiting: tuple[bytes, ...]
    """Encoded shards, done, not yet stored."""
    open_shard: bytes
    """The encoded shard that `position` is in, as far as it is done; empty if there is none."""


def encode(checkpoint: Checkpoint, key: DataKey | None = None) -> bytes:
    """`key`: the snapshot's own data key, if it is encrypted."""
    base = checkpoint.base_manifest.encode("ascii")
    counters = checkpoint.counters
    head = _HEAD.pack(
        checkpoint.snapshot_uid.encode(),
        checkpoint.size_bytes,
        checkpoint.position,
        counters.done_bytes,
        counters.uploaded_bytes,
        counters.stored_bytes,
        len(base),
        len({ref.where for ref in checkpoint.shards}),
        len(checkpoint.shards),
        len(checkpoint.waiting),
    )
    pieces = [head, base, encode_refs(checkpoint.shards)]
    for shard in (*checkpoint.waiting, checkpoint.open_shard):
        pieces += [_LENGTH.pack(len(shard)), shard]
    return seal(KIND, b"".join(pieces), key.prove if key else None)


def decode(data: bytes, name: str, key: DataKey | None = None) -> Checkpoint:
    """Raises DataLoss, naming the object `name`, if `data` is not a whole checkpoint, written with `key`."""
    cursor = Cursor(unseal(KIND, data, name, PROVEN if key else 0), name)
    if key:
        check_proof(data, name, key.prove)
    uid, *numbers = cursor.unpack(_HEAD)
    size, position, done, uploaded, stored, base_length, objects, count, waits = (int(n) for n in numbers)
    base = cursor.text(base_length)
    refs = decode_refs(cursor, objects, count, manifest.shards_of(size), name)
    waiting = tuple(cursor.take(cursor.numbers(_LENGTH)[0]) for _ in range(waits))
    open_shard = cursor.take(cursor.numbers(_LENGTH)[0])
    cursor.end()
    if not isinstance(uid, bytes) or position > manifest.extents_of(size):
        raise damaged(name, f"position {position} is outside a volume of {size} bytes")
    return Checkpoint(
        uid.decode("latin-1"),
        base,
        size,
        position,
        Counters(done, uploaded, stored),
        refs,
        waiting,
        open_shard,
    )
