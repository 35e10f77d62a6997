"""Locking, deleting, restoring and purging snapshots: decisions over a draft (see cas.py).

    COMPLETED ── delete ──► RECYCLED ── purge, or its time is over ──► DELETED
        ▲                       │
        └────── restore ────────┘        (and DELETED at once: delete now, or what never completed)

Only DELETED lets the collection of objects have what the snapshot alone uses. A lock is of a COMPLETED
snapshot, so what is in the bin is never locked. All times are those of the service's clock.
"""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import AlreadyExists, BadInput, Precondition
from holdfast.base.ids import is_uid
from holdfast.metadata import keys, snapshot_changes
from holdfast.metadata.assigned import timestamp
from holdfast.metadata.cas import Draft
from holdfast.metadata.lookups import not_found, snapshot_of
from holdfast.metadata.settings_decisions import recycle_s_of

LOCK_MAX_S = 36_525 * 86_400
"""A hundred years: beyond it is a slip of the hand that nobody could mend."""

_INDEX_ENTRIES_MAX = 64
"""Deleted with the grants: etcd takes 128 operations in a transaction."""


def check_until(until: Timestamp, now_s: float) -> int:
    """The first whole second that is not before `until`. Raises BadInput BAD_TIME."""
    until_s = until.seconds + (until.nanos > 0)
    if not now_s < until_s <= now_s + LOCK_MAX_S:
        raise BadInput(
            "BAD_TIME",
            f"A lock until {until_s} s after 1970 is not ahead of the service's clock, which says "
            f"{moment(now_s)}, or is more than 100 years ahead: correct it.",
        )
    return until_s


def moment(unix_s: float) -> str:
    """To the second, in UTC, as RFC 3339 has it."""
    return datetime.fromtimestamp(int(unix_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def is_locked(snapshot: r.SnapshotRecord, now_s: float) -> bool:
    return snapshot.lock_until_time.seconds > now_s


def lock(draft: Draft, owner: str, snapshot_id: str, until_s: int) -> tuple[r.SnapshotRecord, bool]:
    """The snapshot, and whether its lock is longer now. Errors: SnapshotService.LockSnapshot."""
    snapshot = snapshot_of(draft, owner, snapshot_id)
    if snapshot.state != r.SNAPSHOT_STATE_COMPLETED:
        state = r.SnapshotState.Name(snapshot.state).removeprefix("SNAPSHOT_STATE_")
        raise Precondition("NOT_COMPLETED", f"Snapshot {snapshot_id!r} is {state}: only COMPLETED is locked.")
    if until_s < snapshot.lock_until_time.seconds:
        raise _locked(snapshot, "a lock can only be made longer")
    snapshot.lock_until_time.CopyFrom(timestamp(until_s))
    return snapshot, draft.put(keys.snapshot(snapshot.uid), snapshot)


def delete(draft: Draft, owner: str, snapshot_id: str, at_once: bool, now_s: float) -> r.SnapshotRecord:
    """The snapshot as it is now: RECYCLED, or DELETED. Errors: SnapshotService.DeleteSnapshot."""
    snapshot = snapshot_of(draft, owner, snapshot_id)
    remove(draft, snapshot, at_once, now_s)
    return snapshot


def remove(draft: Draft, snapshot: r.SnapshotRecord, at_once: bool, now_s: float) -> None:
    """Delete a snapshot that is shown. Raises Precondition LOCKED."""
    if is_locked(snapshot, now_s):
        raise _locked(snapshot, "nobody can delete it before then")
    owner, under_way = snapshot.owner, snapshot.state in snapshot_changes.UNDER_WAY
    recycle_s = recycle_s_of(draft, owner)
    if snapshot.state == r.SNAPSHOT_STATE_COMPLETED and recycle_s and not at_once:
        snapshot.state = r.SNAPSHOT_STATE_RECYCLED
        snapshot.recycle_until_time.CopyFrom(timestamp(now_s + recycle_s))
        draft.put(keys.name("recycled", owner, snapshot.uid), r.NameRecord(uid=snapshot.uid))
    else:
        snapshot.state = r.SNAPSHOT_STATE_DELETED
    snapshot.reason = ""
    snapshot.delete_time.CopyFrom(timestamp(now_s))
    draft.put(keys.snapshot(snapshot.uid), snapshot)
    if under_way:
        snapshot_changes.end(draft, snapshot)
    draft.delete(keys.name("snapshots", owner, snapshot.snapshot_id))
    # Not compared, and not all of very many: an index entry without its grant says nothing.
    for grant in draft.peek_under(keys.grants(snapshot.uid), r.GrantRecord)[:_INDEX_ENTRIES_MAX]:
        draft.delete(keys.granted(grant.user, snapshot.uid))
    draft.delete_under(keys.grants(snapshot.uid))


def restore(
    draft: Draft, owner: str, uid: str, snapshot_id: str, now_s: float
) -> tuple[r.SnapshotRecord, bool]:
    """The snapshot, shown again as `snapshot_id` ("": as before), and whether it had been deleted.

    Errors: SnapshotService.RestoreSnapshot.
    """
    snapshot = _owned(draft, owner, uid)
    wanted = snapshot_id or snapshot.snapshot_id
    if snapshot.state == r.SNAPSHOT_STATE_COMPLETED and snapshot.snapshot_id == wanted:
        return snapshot, False
    if snapshot.state != r.SNAPSHOT_STATE_RECYCLED:
        raise not_found("deleted snapshot", uid)
    name_key = keys.name("snapshots", owner, wanted)
    if draft.get(name_key, r.NameRecord) is not None:
        raise AlreadyExists(
            "ALREADY_EXISTS", f"You have another snapshot {wanted!r}: restore this one under another id."
        )
    snapshot.state = r.SNAPSHOT_STATE_COMPLETED
    snapshot.snapshot_id = wanted
    snapshot.ClearField("recycle_until_time")
    snapshot.ClearField("delete_time")
    snapshot.restore_time.CopyFrom(timestamp(now_s))
    draft.put(keys.snapshot(uid), snapshot)
    draft.put(name_key, r.NameRecord(uid=uid))
    draft.delete(keys.name("recycled", owner, uid))
    return snapshot, True


def purge(draft: Draft, owner: str, uid: str) -> bool:
    """RECYCLED → DELETED, by its owner. False if it was."""
    snapshot = _owned(draft, owner, uid)
    if snapshot.state == r.SNAPSHOT_STATE_DELETED:
        return False
    if snapshot.state != r.SNAPSHOT_STATE_RECYCLED:
        raise not_found("deleted snapshot", uid)
    return _purge(draft, snapshot)


def purge_due(draft: Draft, uid: str, now_s: float) -> bool:
    """RECYCLED → DELETED, if its time in the bin is over."""
    snapshot = draft.get(keys.snapshot(uid), r.SnapshotRecord)
    return snapshot is not None and is_due(snapshot, now_s) and _purge(draft, snapshot)


def is_due(snapshot: r.SnapshotRecord, now_s: float) -> bool:
    """Whether its time in the bin is over."""
    until_s = snapshot.recycle_until_time.ToMilliseconds() / 1000
    return snapshot.state == r.SNAPSHOT_STATE_RECYCLED and until_s <= now_s


def _purge(draft: Draft, snapshot: r.SnapshotRecord) -> bool:
    snapshot.state = r.SNAPSHOT_STATE_DELETED
    snapshot.ClearField("recycle_until_time")
    draft.delete(keys.name("recycled", snapshot.owner, snapshot.uid))
    return draft.put(keys.snapshot(snapshot.uid), snapshot)


def _owned(draft: Draft, owner: str, uid: str) -> r.SnapshotRecord:
    """By its uid. The record of somebody else's looks as if it were not there."""
    snapshot = draft.get(keys.snapshot(uid), r.SnapshotRecord) if is_uid(uid) else None
    if snapshot is None or snapshot.owner != owner:
        raise not_found("deleted snapshot", uid)
    return snapshot


def _locked(snapshot: r.SnapshotRecord, why: str) -> Precondition:
    until = moment(snapshot.lock_until_time.seconds)
    return Precondition("LOCKED", f"Snapshot {snapshot.snapshot_id!r} is locked until {until}: {why}.")
