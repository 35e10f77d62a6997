"""With which keys snapshots are encrypted: decisions over a draft (see cas.py); docs/encryption.md.

Data keys are wrapped by a snapshotter, which is asked between a look (what is to be wrapped?) and the
decision that records it. What comes of it is good for that one snapshot, whatever else has changed since.
"""

from collections.abc import Iterable
from typing import NamedTuple

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import Precondition, Unavailable
from holdfast.metadata import keys
from holdfast.metadata.cas import Draft
from holdfast.metadata.lookups import EVERYONE, grants_of, snapshot_of, volume_of

DEFAULT_KEY = "default"
"""The key of a user's that a snapshot is granted with where none is named."""


class Wanted(NamedTuple):
    """A data key that is to be wrapped anew, and for whose key."""

    snapshot_uid: str
    data_key: r.WrappedKey
    to_user: str
    to_name: str


class Rewrapped(NamedTuple):
    """What has come of it."""

    snapshot_uid: str
    data_key: r.WrappedKey


def replaced(snapshot_id: str) -> Unavailable:
    return Unavailable("CONTENDED", f"Snapshot {snapshot_id!r} was replaced by another meanwhile: try again.")


def wanted_for_grant(draft: Draft, owner: str, snapshot_id: str, user: str, key_name: str) -> Wanted | None:
    """What a grant to `user` needs; None if nothing. Raises what GrantService.CreateGrant says of keys."""
    snapshot = snapshot_of(draft, owner, snapshot_id)
    if not snapshot.encryption_key:
        if key_name:
            raise _not_encrypted(snapshot_id)
        return None
    if user == EVERYONE:
        raise Precondition(
            "ENCRYPTED",
            f"Snapshot {snapshot_id!r} is encrypted: it cannot be granted to everyone. Name the users.",
        )
    grant = draft.get(keys.grant(snapshot.uid, user), r.GrantRecord)
    if grant is not None and key_name in ("", grant.data_key.name):
        return None
    return Wanted(snapshot.uid, _data_key(snapshot), user, key_name or DEFAULT_KEY)


def wanted_for_volume(draft: Draft, owner: str, volume_id: str, key_name: str) -> Wanted | None:
    """What a volume that gets another key needs. Errors: EncryptionService.SetVolumeKey."""
    volume = volume_of(draft, owner, volume_id)
    if volume.state == r.VOLUME_STATE_DELETING:
        raise Precondition("NOT_AVAILABLE", f"Volume {volume_id!r} is being deleted.")
    if not key_name:
        origin = draft.get(keys.snapshot(volume.origin_snapshot_uid), r.SnapshotRecord)
        if volume.HasField("origin_key") or (origin is not None and origin.encryption_key):
            raise Precondition(
                "ENCRYPTED",
                f"Volume {volume_id!r} was made from an encrypted snapshot: its own are encrypted, too.",
            )
    if not volume.HasField("origin_key"):
        return None
    return Wanted(volume.origin_snapshot_uid, volume.origin_key, owner, key_name)


def set_volume_key(
    draft: Draft, owner: str, volume_id: str, key_name: str, rewrapped: Rewrapped | None
) -> bool:
    """Whether anything has changed. Errors: EncryptionService.SetVolumeKey."""
    wanted = wanted_for_volume(draft, owner, volume_id, key_name)
    volume = volume_of(draft, owner, volume_id)
    if wanted is not None:
        if rewrapped is None or rewrapped.snapshot_uid != wanted.snapshot_uid:
            raise Unavailable(
                "CONTENDED", f"Volume {volume_id!r} was replaced by another meanwhile: try again."
            )
        volume.origin_key.CopyFrom(rewrapped.data_key)
    volume.encryption_key = key_name
    return draft.put(keys.volume(volume.uid), volume)


def wanted_for_rekey(draft: Draft, owner: str, snapshot_id: str, key_name: str) -> Wanted:
    """Errors: EncryptionService.RekeySnapshot."""
    snapshot = snapshot_of(draft, owner, snapshot_id)
    if not snapshot.encryption_key:
        raise _not_encrypted(snapshot_id)
    return Wanted(snapshot.uid, _data_key(snapshot), owner, key_name or snapshot.encryption_key)


def rekey(draft: Draft, owner: str, snapshot_id: str, rewrapped: Rewrapped) -> str:
    """The name of the key that the snapshot is encrypted with from now on."""
    snapshot = snapshot_of(draft, owner, snapshot_id)
    if snapshot.uid != rewrapped.snapshot_uid:
        raise replaced(snapshot_id)
    snapshot.data_key.CopyFrom(rewrapped.data_key)
    snapshot.encryption_key = rewrapped.data_key.name
    draft.put(keys.snapshot(snapshot.uid), snapshot)
    return snapshot.encryption_key


def inherit(draft: Draft, volume: r.VolumeRecord, source: r.SnapshotRecord) -> None:
    """A volume made from an encrypted snapshot can open that, and has its own snapshots encrypted."""
    if not source.encryption_key:
        return
    name = source.encryption_key
    if source.owner != volume.owner:
        granted = key_for_user(source, grants_of(draft, source.uid, volume.owner), volume.owner)
        name = granted[0].name
        volume.origin_key.CopyFrom(granted[0])
    volume.encryption_key = volume.encryption_key or name


def key_for_user(
    snapshot: r.SnapshotRecord, grants: Iterable[r.GrantRecord | None], user: str
) -> list[r.WrappedKey]:
    """The data key of an encrypted snapshot for who owns it or is granted it; empty if it has none."""
    if snapshot.owner == user:
        return [snapshot.data_key] if snapshot.HasField("data_key") else []
    return [one.data_key for one in grants if one is not None and one.HasField("data_key")]


def base_key(draft: Draft, snapshot: r.SnapshotRecord) -> r.WrappedKey | None:
    """The data key of what `snapshot` is incremental from, for its owner; None if it is not encrypted."""
    base = draft.get(keys.snapshot(snapshot.base_snapshot_uid), r.SnapshotRecord)
    if base is not None and base.owner == snapshot.owner:
        return base.data_key if base.HasField("data_key") else None
    volume = draft.get(keys.volume(snapshot.volume_uid), r.VolumeRecord)
    if volume is None or volume.origin_snapshot_uid != snapshot.base_snapshot_uid:
        return None
    return volume.origin_key if volume.HasField("origin_key") else None


def _data_key(snapshot: r.SnapshotRecord) -> r.WrappedKey:
    if not snapshot.HasField("data_key"):
        raise Precondition(
            "KEY_PENDING",
            f"The upload of {snapshot.snapshot_id!r} has not begun: wait until it has.",
        )
    return snapshot.data_key


def _not_encrypted(snapshot_id: str) -> Precondition:
    return Precondition(
        "NOT_ENCRYPTED", f"Snapshot {snapshot_id!r} is not encrypted, and stays so: name no key."
    )
