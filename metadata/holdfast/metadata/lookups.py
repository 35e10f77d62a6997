"""From a caller's own id to a record, in a draft; and what a caller may not see is NOT_FOUND (I-10).

The message for "does not exist" and "is not yours" is the same, to the letter.
"""

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import BadInput, NotFound
from holdfast.base.ids import check_name
from holdfast.metadata import keys
from holdfast.metadata.cas import Draft
from holdfast.metadata.permissions import Permission, not_granted, permit

EVERYONE = "*"
OUT_OF_SIGHT = (r.SNAPSHOT_STATE_RECYCLED, r.SNAPSHOT_STATE_DELETED)
"""Snapshots that are there no more, but for the recycle bin."""


def is_name(text: str) -> bool:
    try:
        check_name("", text)
    except BadInput:
        return False
    return True


def not_found(kind: str, own_id: str) -> NotFound:
    return NotFound("NOT_FOUND", f"There is no {kind} {own_id[:80]!r} that you may see.")


def named(draft: Draft, kind: str, owner: str, own_id: str) -> r.NameRecord:
    """Where `owner`'s id of a `kind` (volume, snapshot_group, …) leads. Raises NotFound."""
    shown = kind.replace("_", " ")
    if not (is_name(owner) and is_name(own_id)):
        raise not_found(shown, own_id)
    name = draft.get(keys.name(f"{kind}s", owner, own_id), r.NameRecord)
    if name is None:
        raise not_found(shown, own_id)
    return name


def volume_of(draft: Draft, owner: str, volume_id: str) -> r.VolumeRecord:
    uid = named(draft, "volume", owner, volume_id).uid
    volume = draft.get(keys.volume(uid), r.VolumeRecord)
    if volume is None:
        raise not_found("volume", volume_id)
    return volume


def snapshot_of(draft: Draft, owner: str, snapshot_id: str) -> r.SnapshotRecord:
    uid = named(draft, "snapshot", owner, snapshot_id).uid
    snapshot = draft.get(keys.snapshot(uid), r.SnapshotRecord)
    if snapshot is None or snapshot.state in OUT_OF_SIGHT:
        raise not_found("snapshot", snapshot_id)
    return snapshot


def grants_of(draft: Draft, snapshot_uid: str, user: str) -> list[r.GrantRecord]:
    """What is granted to `user`: to them by name, and to everyone."""
    found = [draft.get(keys.grant(snapshot_uid, one), r.GrantRecord) for one in (user, EVERYONE)]
    return [grant for grant in found if grant is not None]


def visible_snapshot(draft: Draft, caller: str, owner: str, snapshot_id: str) -> r.SnapshotRecord:
    """A snapshot that the caller owns or is granted. An empty owner is the caller."""
    owner = owner or caller
    snapshot = snapshot_of(draft, owner, snapshot_id)
    if owner != caller and not grants_of(draft, snapshot.uid, caller):
        raise not_found("snapshot", snapshot_id)
    return snapshot


def usable_snapshot(
    draft: Draft, caller: str, owner: str, snapshot_id: str, permission: Permission
) -> r.SnapshotRecord:
    """A snapshot that the caller owns or is granted for this use. An empty owner is the caller.

    Raises NotFound if the caller may not see it, Denied NOT_GRANTED if they may, and may not use it so.
    """
    snapshot = visible_snapshot(draft, caller, owner, snapshot_id)
    if snapshot.owner != caller and not permit(grants_of(draft, snapshot.uid, caller), permission):
        raise not_granted(snapshot_id, permission)
    return snapshot


def attachment_of(draft: Draft, owner: str, attachment_id: str) -> r.AttachmentRecord:
    name = named(draft, "attachment", owner, attachment_id)
    attachment = draft.get(keys.attachment(name.volume_uid, name.uid), r.AttachmentRecord)
    if attachment is None:
        raise not_found("attachment", attachment_id)
    return attachment
