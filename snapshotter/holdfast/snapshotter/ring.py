"""The keys of one encrypted snapshot: its own, wrapped, and those of the snapshots whose packs it shares.

A snapshot's packs, and those that it shares with older ones of its lineage, are each under the key of the
snapshot in the pack's name. So a manifest carries, sealed with its own key, the keys of those others: one
key opens the whole snapshot, and no other snapshot's manifest is needed. Whoever may open one snapshot
can open what the ones before it wrote, and nothing of those that come after.

One key for a whole lineage was turned down: a grant of one snapshot would have opened all that follow.
"""

import struct
from collections.abc import Mapping
from typing import NamedTuple

from holdfast.base.ids import is_uid
from holdfast.snapshotter.cipher import KEY_BYTES, DataKey, Tampered
from holdfast.snapshotter.envelope import Cursor, damaged
from holdfast.snapshotter.names import snapshot_of

_HEAD = struct.Struct("<HHII")
_ROW = struct.Struct("<24s32s")


class WrappedKey(NamedTuple):
    """A data key as only the holder of `user`'s key `name` can open it."""

    user: str
    name: str
    ciphertext: bytes


class KeyMaterial(NamedTuple):
    """What a manifest says of its keys."""

    wrapped: WrappedKey
    """The snapshot's own data key, as it was wrapped when the manifest was written."""
    ring: bytes
    """The others', sealed with that."""


class Ring:
    """Data keys by the snapshots that wrote with them."""

    def __init__(self, keys: Mapping[str, DataKey]) -> None:
        self.keys = dict(keys)

    def of(self, object_name: str) -> DataKey | None:
        """The key of what is in a pack; None if nothing is encrypted. Raises DataLoss if it is not here."""
        if not self.keys:
            return None
        key = self.keys.get(snapshot_of(object_name))
        if key is None:
            raise damaged(object_name, "its snapshot's manifest names it and has no key of it")
        return key


PLAIN = Ring({})
"""Of a snapshot that is not encrypted."""


def encode(material: KeyMaterial) -> bytes:
    wrapped = material.wrapped
    user, name = wrapped.user.encode("ascii"), wrapped.name.encode("ascii")
    head = _HEAD.pack(len(user), len(name), len(wrapped.ciphertext), len(material.ring))
    return head + user + name + wrapped.ciphertext + material.ring


def decode(data: bytes, name: str) -> KeyMaterial:
    """Raises DataLoss, naming the object `name`, if `data` is no key material."""
    cursor = Cursor(data, name)
    user, key_name, ciphertext, ring = cursor.numbers(_HEAD)
    wrapped = WrappedKey(cursor.text(user), cursor.text(key_name), cursor.take(ciphertext))
    material = KeyMaterial(wrapped, cursor.take(ring))
    cursor.end()
    return material


def seal_ring(snapshot_uid: str, key: DataKey, others: Mapping[str, DataKey]) -> bytes:
    """The keys of other snapshots, for the manifest of `snapshot_uid`, whose own key is `key`."""
    rows = (_ROW.pack(uid.encode(), others[uid].secret) for uid in sorted(others) if uid != snapshot_uid)
    return key.seal_ring(b"".join(rows), snapshot_uid)


def open_ring(snapshot_uid: str, key: DataKey, sealed: bytes, name: str) -> Ring:
    """All keys of a snapshot, its own included. Raises DataLoss, naming the manifest `name`."""
    try:
        data = key.open_ring(sealed, snapshot_uid)
    except Tampered as error:
        raise damaged(name, "its ring of keys does not open with its own key") from error
    if len(data) % _ROW.size:
        raise damaged(name, f"its ring of keys has {len(data)} bytes")
    keys = {snapshot_uid: key}
    for raw_uid, secret in _ROW.iter_unpack(data):
        uid = raw_uid.decode("latin-1")
        if not is_uid(uid) or len(secret) != KEY_BYTES:
            raise damaged(name, f"its ring of keys holds one of {uid!r}")
        keys[uid] = DataKey(secret)
    return Ring(keys)
