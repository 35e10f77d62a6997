"""Copies of snapshots in other object stores: each step a decision over a draft (see cas.py).

    WAITING ─ begin ─► COPYING ─ copied ─► VERIFYING ─ complete ─► COMPLETED ─ delete ─► DELETING ─► gone
       ▲                  └─────── fail ──────┴──► FAILED ─ ask ─► WAITING      (and DELETING from any)

Whoever works on one holds `claims/copies/<uid>`, on a lease; all that they record compares that they do.
"""

from dataclasses import dataclass

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import NotFound, Precondition
from holdfast.metadata import keys
from holdfast.metadata.assigned import timestamp
from holdfast.metadata.cas import Draft
from holdfast.metadata.lookups import snapshot_of
from holdfast.metadata.snapshot_changes import Claimant

UNDER_WAY = (r.COPY_STATE_WAITING, r.COPY_STATE_COPYING, r.COPY_STATE_VERIFYING)
WORK = (*UNDER_WAY, r.COPY_STATE_DELETING)
"""States in which a snapshotter has something to do."""


@dataclass(frozen=True)
class NewCopy:
    owner: str
    snapshot_id: str
    target: str
    uid: str
    now_s: float


@dataclass(frozen=True)
class Progress:
    done_bytes: int
    total_bytes: int
    next_shard: int
    stored_bytes: int


def create(draft: Draft, new: NewCopy) -> tuple[r.CopyRecord, bool]:
    """The copy of that snapshot at that target, and whether this began it. Errors: CopySnapshot."""
    snapshot = snapshot_of(draft, new.owner, new.snapshot_id)
    if snapshot.state != r.SNAPSHOT_STATE_COMPLETED:
        state = r.SnapshotState.Name(snapshot.state).removeprefix("SNAPSHOT_STATE_")
        raise Precondition("NOT_COMPLETED", f"Snapshot {new.snapshot_id!r} is {state}: nothing to copy yet.")
    for one in draft.under(keys.copies(new.owner), r.CopyRecord):
        if (one.snapshot_uid, one.target) == (
            snapshot.uid,
            new.target,
        ) and one.state != r.COPY_STATE_DELETING:
            if one.state != r.COPY_STATE_FAILED:
                return one, False
            one.state, one.reason = r.COPY_STATE_WAITING, ""
            draft.put(keys.copy(new.owner, one.uid), one)
            return one, True
    _check_target(draft, new.target)
    made = r.CopyRecord(
        uid=new.uid,
        owner=new.owner,
        target=new.target,
        snapshot_uid=snapshot.uid,
        snapshot_id=snapshot.snapshot_id,
        volume_id=snapshot.volume_id,
        size_bytes=snapshot.size_bytes,
        encryption_key=snapshot.encryption_key,
        state=r.COPY_STATE_WAITING,
        create_time=timestamp(new.now_s),
    )
    if snapshot.HasField("freeze_time"):
        made.freeze_time.CopyFrom(snapshot.freeze_time)
    if snapshot.HasField("data_key"):
        made.data_key.CopyFrom(snapshot.data_key)
    draft.put(keys.copy(new.owner, new.uid), made)
    return made, True


def _check_target(draft: Draft, target: str) -> None:
    leases = draft.peek_under(keys.SNAPSHOTTER_LEASES, r.SnapshotterLease)
    known = sorted({name for lease in leases for name in lease.targets})
    if target not in known:
        raise Precondition(
            "NO_SUCH_TARGET",
            f"No snapshotter copies to {target!r} now; those that there are: {', '.join(known) or 'none'}.",
        )


def delete(draft: Draft, owner: str, uid: str) -> bool:
    """→ DELETING. Raises NotFound."""
    copy = draft.get(keys.copy(owner, uid), r.CopyRecord)
    if copy is None:
        raise NotFound("NOT_FOUND", f"There is no copy {uid[:80]!r} that you may see.")
    if copy.state == r.COPY_STATE_DELETING:
        return False
    copy.state, copy.reason = r.COPY_STATE_DELETING, ""
    return draft.put(keys.copy(owner, uid), copy)


def claim(draft: Draft, owner: str, uid: str, by: Claimant) -> r.CopyRecord | None:
    """The copy, if `by` now holds it and there is something to do. None otherwise."""
    copy = draft.get(keys.copy(owner, uid), r.CopyRecord)
    if copy is None or copy.state not in WORK:
        return None
    held = draft.entry(keys.copy_claim(uid))
    if held is not None:
        return copy if held.lease_id == by.lease_id else None
    record = r.SnapshotClaim(snapshot_uid=copy.snapshot_uid, snapshotter_id=by.snapshotter_id)
    draft.put(keys.copy_claim(uid), record, by.lease_id)
    return copy


def release(draft: Draft, uid: str, by: Claimant) -> bool:
    held = draft.entry(keys.copy_claim(uid))
    if held is None or held.lease_id != by.lease_id:
        return False
    draft.delete(keys.copy_claim(uid))
    return True


def begin(draft: Draft, owner: str, uid: str, by: Claimant) -> r.CopyRecord:
    """What is to be copied: from the start if it was WAITING, else from where it was.

    Raises Precondition SNAPSHOT_GONE if there is nothing to copy any more.
    """
    copy = _claimed(draft, owner, uid, by)
    if copy.state == r.COPY_STATE_WAITING:
        _start(draft, copy)
    return copy


def start_over(draft: Draft, owner: str, uid: str, by: Claimant) -> bool:
    """What was begun with cannot be read. False if there is no other manifest to begin with."""
    copy = _claimed(draft, owner, uid, by)
    before = copy.manifest
    _start(draft, copy)
    return copy.manifest != before


def _start(draft: Draft, copy: r.CopyRecord) -> None:
    snapshot = draft.get(keys.snapshot(copy.snapshot_uid), r.SnapshotRecord)
    if snapshot is None or snapshot.state not in (r.SNAPSHOT_STATE_COMPLETED, r.SNAPSHOT_STATE_RECYCLED):
        raise Precondition("SNAPSHOT_GONE", f"Snapshot {copy.snapshot_id!r} was deleted too soon.")
    copy.manifest, copy.manifest_sha256 = snapshot.manifest, snapshot.manifest_sha256
    if snapshot.HasField("data_key"):
        copy.data_key.CopyFrom(snapshot.data_key)
        copy.encryption_key = snapshot.encryption_key
    copy.state, copy.next_shard, copy.done_bytes = r.COPY_STATE_COPYING, 0, 0
    draft.put(keys.copy(copy.owner, copy.uid), copy)


def progress(draft: Draft, owner: str, uid: str, by: Claimant, far: Progress) -> bool:
    """At most once in five seconds, please. It no longer waits."""
    copy = _claimed(draft, owner, uid, by)
    _say(copy, far)
    copy.reason = ""
    return draft.put(keys.copy(owner, uid), copy)


def copied(draft: Draft, owner: str, uid: str, by: Claimant, far: Progress) -> bool:
    """→ VERIFYING: every object is there."""
    copy = _claimed(draft, owner, uid, by)
    _say(copy, far)
    copy.state, copy.next_shard = r.COPY_STATE_VERIFYING, 0
    return draft.put(keys.copy(owner, uid), copy)


def waits(draft: Draft, owner: str, uid: str, by: Claimant, reason: str) -> bool:
    copy = _claimed(draft, owner, uid, by)
    copy.reason = reason
    return draft.put(keys.copy(owner, uid), copy)


def complete(draft: Draft, owner: str, uid: str, by: Claimant, now_s: float) -> bool:
    """→ COMPLETED: it was read back, and its descriptor is there. False if it is."""
    copy = draft.need(keys.copy(owner, uid), r.CopyRecord)
    if copy.state == r.COPY_STATE_COMPLETED:
        return False
    copy = _claimed(draft, owner, uid, by)
    copy.state, copy.reason, copy.done_bytes = r.COPY_STATE_COMPLETED, "", copy.total_bytes
    copy.complete_time.CopyFrom(timestamp(now_s))
    draft.delete(keys.copy_claim(uid))
    return draft.put(keys.copy(owner, uid), copy)


def fail(draft: Draft, owner: str, uid: str, by: Claimant, reason: str) -> bool:
    copy = _claimed(draft, owner, uid, by)
    copy.state, copy.reason = r.COPY_STATE_FAILED, reason
    draft.delete(keys.copy_claim(uid))
    return draft.put(keys.copy(owner, uid), copy)


def gone(draft: Draft, owner: str, uid: str, by: Claimant) -> bool:
    """The objects of a copy that is being deleted are gone: so is its record."""
    copy = draft.get(keys.copy(owner, uid), r.CopyRecord)
    if copy is None:
        return False
    held = draft.entry(keys.copy_claim(uid))
    if copy.state != r.COPY_STATE_DELETING or held is None or held.lease_id != by.lease_id:
        raise _claim_lost(uid, by)
    draft.delete(keys.copy(owner, uid))
    draft.delete(keys.copy_claim(uid))
    return True


def _say(copy: r.CopyRecord, far: Progress) -> None:
    copy.done_bytes, copy.total_bytes = far.done_bytes, far.total_bytes
    copy.next_shard, copy.stored_bytes = far.next_shard, far.stored_bytes


def _claimed(draft: Draft, owner: str, uid: str, by: Claimant) -> r.CopyRecord:
    """The copy, if `by` holds it and it is under way. Raises Precondition: stop working on it."""
    copy = draft.need(keys.copy(owner, uid), r.CopyRecord)
    held = draft.entry(keys.copy_claim(uid))
    if copy.state not in UNDER_WAY or held is None or held.lease_id != by.lease_id:
        raise _claim_lost(uid, by)
    return copy


def _claim_lost(uid: str, by: Claimant) -> Precondition:
    return Precondition("CLAIM_LOST", f"Snapshotter {by.snapshotter_id} is no longer to work on copy {uid}.")
