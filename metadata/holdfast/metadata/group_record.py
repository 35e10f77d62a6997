"""What becomes of a group when one of its snapshots ends: a decision over a draft (see cas.py).

    PENDING ── all frozen at one instant ──► FROZEN ── all COMPLETED ──► COMPLETED
       └──────────── one fails, or is deleted before it is COMPLETED ──► FAILED

Until all are frozen they stand and fall together; from then on each goes its own way, and the group tells.
"""

from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.metadata import keys
from holdfast.metadata.cas import Draft


def member_ended(draft: Draft, snapshot: r.SnapshotRecord) -> list[tuple[str, str]]:
    """A snapshot has ended as its state says: its group hears it. Whom that takes with it: (uid, reason)."""
    if not snapshot.group_uid:
        return []
    key = keys.snapshot_group(snapshot.group_uid)
    group = draft.get(key, r.SnapshotGroupRecord)
    if group is None or group.state not in (r.SNAPSHOT_GROUP_STATE_PENDING, r.SNAPSHOT_GROUP_STATE_FROZEN):
        return []
    pending = group.state == r.SNAPSHOT_GROUP_STATE_PENDING
    for member in group.members:
        if member.snapshot_uid == snapshot.uid:
            member.state = snapshot.state
    if snapshot.state == r.SNAPSHOT_STATE_COMPLETED:
        if all(member.state == r.SNAPSHOT_STATE_COMPLETED for member in group.members):
            group.state = r.SNAPSHOT_GROUP_STATE_COMPLETED
            group.complete_time.CopyFrom(snapshot.complete_time)
        draft.put(key, group)
        return []
    deleted = snapshot.state == r.SNAPSHOT_STATE_DELETED
    why = "it was deleted before it was COMPLETED." if deleted else snapshot.reason
    _fail(draft, group, f"Snapshot {snapshot.snapshot_id!r}: {why}")
    if not pending:
        return []
    return [
        (member.snapshot_uid, f"Its group {group.group_id!r} failed: {group.reason}")
        for member in group.members
        if member.snapshot_uid != snapshot.uid
    ]


def give_up(draft: Draft, group: r.SnapshotGroupRecord, reason: str) -> list[tuple[str, str]]:
    """No instant was found: the group fails. Which snapshots fail with it, and why (uid, reason)."""
    _fail(draft, group, reason)
    return [(member.snapshot_uid, reason) for member in group.members]


def all_frozen(draft: Draft, group: r.SnapshotGroupRecord, freeze_time: Timestamp) -> bool:
    """PENDING → FROZEN: its snapshots are. It counts."""
    group.state = r.SNAPSHOT_GROUP_STATE_FROZEN
    group.freeze_time.CopyFrom(freeze_time)
    group.attempt_reason = ""
    for member in group.members:
        member.state = r.SNAPSHOT_STATE_FROZEN
    draft.delete_under(keys.gates(group.uid))
    return draft.put(keys.snapshot_group(group.uid), group)


def _fail(draft: Draft, group: r.SnapshotGroupRecord, reason: str) -> None:
    pending = group.state == r.SNAPSHOT_GROUP_STATE_PENDING
    group.state = r.SNAPSHOT_GROUP_STATE_FAILED
    group.reason = reason
    if pending:
        for member in group.members:
            if member.state == r.SNAPSHOT_STATE_PENDING:
                member.state = r.SNAPSHOT_STATE_FAILED
        draft.delete_under(keys.gates(group.uid))
    draft.put(keys.snapshot_group(group.uid), group)
