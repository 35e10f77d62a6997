"""Verifying and repairing snapshots in the object store: each a decision over a draft (see cas.py).

    (nothing) ── ask ──► WAITING ── begin ──► RUNNING ── end ──► DONE
                                     (its time has come: begin, without asking)      └─ fail ─► FAILED

Health is apart from the state: COMPLETED and RECYCLED snapshots have one. Whoever verifies or repairs holds
`claims/verify/<uid>`, on a lease; all that they record compares that they still do.
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import Precondition
from holdfast.metadata import keys
from holdfast.metadata.assigned import timestamp
from holdfast.metadata.cas import Draft
from holdfast.metadata.collection_changes import Moment, Replacement, replace_manifest
from holdfast.metadata.lookups import snapshot_of
from holdfast.metadata.snapshot_changes import Claimant

NAMED_MAX = 512
"""Lost objects that a `damaged/` record names: 40 kB."""
DESCRIBED_MAX = 32
"""Damaged objects that a snapshot's record describes."""
STORED = (r.SNAPSHOT_STATE_COMPLETED, r.SNAPSHOT_STATE_RECYCLED)
UNDER_WAY = (r.SNAPSHOT_VERIFY_STATE_WAITING, r.SNAPSHOT_VERIFY_STATE_RUNNING)


@dataclass(frozen=True)
class Found:
    """How far a verification is, and what it has found in all."""

    done_bytes: int
    read_bytes: int
    next_shard: int
    damaged: Sequence[r.DamagedObject]
    """The first DESCRIBED_MAX."""
    damaged_objects: int
    damaged_extents: int
    lost: Iterable[tuple[str, str]] = ()
    """(uid of the snapshot that wrote it, name) of objects that were found to be lost since the last time."""


@dataclass(frozen=True)
class Repaired:
    """A manifest that says the same as the one before, and what it could not have."""

    before: str
    """The manifest that it takes the place of."""
    manifest: str
    """The same, if nothing could be repaired."""
    manifest_sha256: str
    stored_bytes: int
    extents: int
    source_uid: str
    left: Found
    writer: str = ""
    """Of the objects; `rewrites/<writer>` has kept them from being taken for garbage."""


def ask(
    draft: Draft, owner: str, snapshot_id: str, sample_percent: int, now_s: float
) -> tuple[r.SnapshotRecord, bool]:
    """The snapshot, and whether this asks for a verification. Errors: SnapshotService.VerifySnapshot."""
    snapshot = snapshot_of(draft, owner, snapshot_id)
    if snapshot.state != r.SNAPSHOT_STATE_COMPLETED:
        state = r.SnapshotState.Name(snapshot.state).removeprefix("SNAPSHOT_STATE_")
        raise Precondition(
            "NOT_COMPLETED", f"Snapshot {snapshot_id!r} is {state}: nothing is there to verify."
        )
    return snapshot, _ask(draft, snapshot, sample_percent, now_s)


def suspect(draft: Draft, snapshot_uid: str, again_after_s: float, now_s: float) -> bool:
    """Ask for a verification since a reader met what is lost, unless that is known already, or was looked
    into less than `again_after_s` ago."""
    snapshot = draft.get(keys.snapshot(snapshot_uid), r.SnapshotRecord)
    if snapshot is None or snapshot.state not in STORED:
        return False
    ended = snapshot.verify.HasField("end_time")
    if ended and snapshot.verify.end_time.ToMilliseconds() / 1000 > now_s - again_after_s:
        return False
    return _ask(draft, snapshot, 100, now_s)


def _ask(draft: Draft, snapshot: r.SnapshotRecord, sample_percent: int, now_s: float) -> bool:
    before = snapshot.verify
    if before.state in UNDER_WAY and before.sample_percent >= sample_percent and before.asked:
        return False
    verify = r.SnapshotVerify(
        request=before.request + 1,
        state=r.SNAPSHOT_VERIFY_STATE_WAITING,
        sample_percent=sample_percent,
        start_time=timestamp(now_s),
        asked=True,
    )
    snapshot.verify.CopyFrom(verify)
    return draft.put(keys.snapshot(snapshot.uid), snapshot)


def claim(draft: Draft, snapshot_uid: str, by: Claimant) -> r.SnapshotRecord | None:
    """The snapshot, if `by` now holds it, to verify or repair it. None if another does, or it is gone."""
    snapshot = draft.get(keys.snapshot(snapshot_uid), r.SnapshotRecord)
    if snapshot is None or snapshot.state not in STORED:
        return None
    held = draft.entry(keys.verify_claim(snapshot_uid))
    if held is not None:
        return snapshot if held.lease_id == by.lease_id else None
    record = r.SnapshotClaim(snapshot_uid=snapshot_uid, snapshotter_id=by.snapshotter_id)
    draft.put(keys.verify_claim(snapshot_uid), record, by.lease_id)
    return snapshot


def release(draft: Draft, snapshot_uid: str, by: Claimant) -> bool:
    held = draft.entry(keys.verify_claim(snapshot_uid))
    if held is None or held.lease_id != by.lease_id:
        return False
    draft.delete(keys.verify_claim(snapshot_uid))
    return True


def begin(draft: Draft, snapshot_uid: str, by: Claimant, total_bytes: int, now_s: float) -> r.SnapshotVerify:
    """→ RUNNING, of what was asked for or of what is due; what is RUNNING already goes on where it was."""
    snapshot = _claimed(draft, snapshot_uid, by)
    verify = snapshot.verify
    if verify.state not in UNDER_WAY:
        number = verify.request + 1
        verify.Clear()
        verify.request, verify.sample_percent = number, 100
        verify.start_time.CopyFrom(timestamp(now_s))
    verify.state = r.SNAPSHOT_VERIFY_STATE_RUNNING
    verify.total_bytes = total_bytes
    draft.put(keys.snapshot(snapshot_uid), snapshot)
    return verify


def progress(draft: Draft, snapshot_uid: str, by: Claimant, request: int, found: Found) -> bool:
    """How far it is; damage is told at once. At most once in five seconds, please."""
    snapshot = _running(draft, snapshot_uid, by, request)
    _say(draft, snapshot, found)
    return draft.put(keys.snapshot(snapshot_uid), snapshot)


def end(draft: Draft, snapshot_uid: str, by: Claimant, request: int, found: Found, now_s: float) -> bool:
    """→ DONE, with the snapshot's health, and the claim given back."""
    snapshot = _running(draft, snapshot_uid, by, request)
    _say(draft, snapshot, found)
    verify = snapshot.verify
    verify.state = r.SNAPSHOT_VERIFY_STATE_DONE
    verify.end_time.CopyFrom(timestamp(now_s))
    whole = verify.sample_percent >= 100
    if whole:
        snapshot.whole_verify_time.CopyFrom(verify.end_time)
    if not found.damaged_objects and (whole or snapshot.health != r.SNAPSHOT_HEALTH_DAMAGED):
        snapshot.health = r.SNAPSHOT_HEALTH_GOOD
    if found.damaged_objects:
        snapshot.ClearField("repair_source_uid")
    draft.delete(keys.verify_claim(snapshot_uid))
    return draft.put(keys.snapshot(snapshot_uid), snapshot)


def fail(draft: Draft, snapshot_uid: str, by: Claimant, request: int, reason: str, now_s: float) -> bool:
    """→ FAILED: it cannot be done now. The claim is given back."""
    snapshot = _running(draft, snapshot_uid, by, request)
    snapshot.verify.state = r.SNAPSHOT_VERIFY_STATE_FAILED
    snapshot.verify.reason = reason
    snapshot.verify.end_time.CopyFrom(timestamp(now_s))
    draft.delete(keys.verify_claim(snapshot_uid))
    return draft.put(keys.snapshot(snapshot_uid), snapshot)


def repaired(draft: Draft, snapshot_uid: str, by: Claimant, done: Repaired, now: Moment) -> bool:
    """The manifest is replaced by one that says the same. False if this very repair already did it.

    Raises Precondition CLAIM_LOST, or REWRITE_LOST: somebody else has replaced it meanwhile.
    """
    key = keys.snapshot(snapshot_uid)
    is_other = done.manifest != done.before
    if is_other and draft.need(key, r.SnapshotRecord).manifest == done.manifest:
        return False
    _claimed(draft, snapshot_uid, by)
    if is_other:
        made = Replacement(snapshot_uid, done.before, done.manifest, done.manifest_sha256)
        replace_manifest(draft, done.writer, made, now)
    snapshot = draft.need(key, r.SnapshotRecord)
    if snapshot.manifest != done.manifest:
        raise Precondition("REWRITE_LOST", f"Snapshot {snapshot_uid} has another manifest by now.")
    snapshot.stored_bytes += done.stored_bytes
    snapshot.repair_source_uid = done.source_uid
    if done.extents:
        snapshot.repaired_extents += done.extents
        snapshot.repair_time.CopyFrom(timestamp(now.collector_s))
    verify, left = snapshot.verify, done.left
    del verify.damaged[:]
    verify.damaged.extend(left.damaged)
    verify.damaged_objects, verify.damaged_extents = left.damaged_objects, left.damaged_extents
    if not left.damaged_objects:
        snapshot.health = r.SNAPSHOT_HEALTH_GOOD
    draft.delete(keys.verify_claim(snapshot_uid))
    return draft.put(key, snapshot)


def not_repairable(draft: Draft, snapshot_uid: str, by: Claimant, source_uid: str) -> bool:
    """It is not tried again with this source. The claim is given back."""
    snapshot = _claimed(draft, snapshot_uid, by)
    snapshot.repair_source_uid = source_uid
    draft.delete(keys.verify_claim(snapshot_uid))
    return draft.put(keys.snapshot(snapshot_uid), snapshot)


def _claimed(draft: Draft, snapshot_uid: str, by: Claimant) -> r.SnapshotRecord:
    """The snapshot, if `by` holds it. Raises Precondition NOT_COMPLETED or CLAIM_LOST: stop working on it."""
    snapshot = draft.need(keys.snapshot(snapshot_uid), r.SnapshotRecord)
    if snapshot.state not in STORED:
        raise Precondition("NOT_COMPLETED", f"Snapshot {snapshot_uid} is deleted.")
    held = draft.entry(keys.verify_claim(snapshot_uid))
    if held is None or held.lease_id != by.lease_id:
        raise Precondition(
            "CLAIM_LOST", f"Snapshotter {by.snapshotter_id} no longer verifies snapshot {snapshot_uid}."
        )
    return snapshot


def _running(draft: Draft, snapshot_uid: str, by: Claimant, request: int) -> r.SnapshotRecord:
    snapshot = _claimed(draft, snapshot_uid, by)
    if snapshot.verify.request != request or snapshot.verify.state != r.SNAPSHOT_VERIFY_STATE_RUNNING:
        raise Precondition(
            "ANOTHER_REQUEST", f"Verification {request} of snapshot {snapshot_uid} is no longer the newest."
        )
    return snapshot


def _say(draft: Draft, snapshot: r.SnapshotRecord, found: Found) -> None:
    verify = snapshot.verify
    verify.done_bytes, verify.read_bytes, verify.next_shard = (
        found.done_bytes,
        found.read_bytes,
        found.next_shard,
    )
    del verify.damaged[:]
    verify.damaged.extend(found.damaged[:DESCRIBED_MAX])
    verify.damaged_objects, verify.damaged_extents = found.damaged_objects, found.damaged_extents
    if found.damaged_objects:
        snapshot.health = r.SNAPSHOT_HEALTH_DAMAGED
    mark_lost(draft, found.lost)


def mark_lost(draft: Draft, lost: Iterable[tuple[str, str]]) -> None:
    """No upload is to use these objects (the uid of who wrote each, and its name) again."""
    by_uid: dict[str, set[str]] = {}
    for uid, name in lost:
        by_uid.setdefault(uid, set()).add(name)
    for uid, names in by_uid.items():
        record = draft.get(keys.damaged(uid), r.DamagedRecord) or r.DamagedRecord(snapshot_uid=uid)
        known = names | set(record.names)
        record.names[:] = sorted(known)[:NAMED_MAX]
        record.more = record.more or len(known) > NAMED_MAX
        draft.put(keys.damaged(uid), record)


def forget_lost(draft: Draft, uid: str, names: Set[str], more: bool) -> bool:
    """Nothing leads to these objects of `uid` any more; `more`: nor to those that are not named."""
    key = keys.damaged(uid)
    record = draft.get(key, r.DamagedRecord)
    if record is None:
        return False
    record.names[:] = [name for name in record.names if name not in names]
    record.more = record.more and not more
    if record.names or record.more:
        return draft.put(key, record)
    draft.delete(key)
    return True
