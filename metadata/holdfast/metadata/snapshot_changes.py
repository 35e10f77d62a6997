"""What hosts and snapshotters do to a snapshot's records: each a decision over a draft (see cas.py).

    PENDING ── frozen ──► FROZEN ── complete ──► COMPLETED
       └────── fail / strike_off ────► FAILED        (and DELETED from any, by its owner)

Whatever ends a snapshot takes it off its volume's assignments, which is what lets the hosts drop the
frozen view, and moves `keep_generation`, which is what lets them drop `changed` generations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import Precondition
from holdfast.metadata import keys
from holdfast.metadata.assigned import Assignments, check_owner, timestamp
from holdfast.metadata.cas import Draft
from holdfast.metadata.group_record import member_ended

UNDER_WAY = (r.SNAPSHOT_STATE_PENDING, r.SNAPSHOT_STATE_FROZEN)


@dataclass(frozen=True)
class Claimant:
    """A snapshotter process: its id, and the lease that its claims are on."""

    snapshotter_id: str
    lease_id: int


@dataclass(frozen=True)
class Uploaded:
    """What a finished upload left in the object store."""

    manifest: str
    manifest_sha256: str
    stored_bytes: int
    uploaded_bytes: int


def is_condemned(draft: Draft, snapshot_uid: str) -> bool:
    """Whether its objects may be gone; compared. Whatever makes anything rely on them asks."""
    return draft.entry(keys.condemned(snapshot_uid)) is not None


def frozen(
    draft: Draft,
    volume_uid: str,
    snapshot_uid: str,
    host_id: str,
    epoch: int,
    generation: int,
    freeze_time_s: float,
    frozen_on: Sequence[str],
) -> bool:
    """PENDING → FROZEN, by the primary's agent. False if it was, or is moot. (In a group: group_changes.py.)

    Args:
        generation: the `changed` generation that the freeze opened.
        frozen_on: ids of the hosts that hold a good frozen view on disk.
    """
    check_owner(draft, volume_uid, host_id, epoch)
    snapshot = draft.get(keys.snapshot(snapshot_uid), r.SnapshotRecord)
    if snapshot is None or snapshot.state != r.SNAPSHOT_STATE_PENDING or snapshot.group_uid:
        return False
    return content_is_fixed(draft, snapshot, generation, timestamp(freeze_time_s), frozen_on)


def content_is_fixed(
    draft: Draft,
    snapshot: r.SnapshotRecord,
    generation: int,
    freeze_time: Timestamp,
    frozen_on: Sequence[str],
) -> bool:
    """PENDING → FROZEN, as the primary says."""
    assignments = Assignments.read(draft, snapshot.volume_uid)
    snapshot.state = r.SNAPSHOT_STATE_FROZEN
    snapshot.reason = ""
    snapshot.generation = generation
    snapshot.freeze_time.CopyFrom(freeze_time)
    for one in assignments.each:
        host = draft.peek(keys.host(one.host_id), r.HostRecord)
        if one.host_id in frozen_on and one.boot_id and host is not None:
            snapshot.frozen_on.add(
                host_id=one.host_id, boot_id=one.boot_id, nbd_address=host.address, nbd_port=one.nbd_port
            )
    assignments.set_snapshot_state(snapshot.uid, r.SNAPSHOT_STATE_FROZEN)
    assignments.save(draft)
    return draft.put(keys.snapshot(snapshot.uid), snapshot)


def fail(draft: Draft, snapshot_uid: str, reason: str) -> bool:
    """It will not complete; `reason` is one sentence. False if it had already ended."""
    snapshot = draft.get(keys.snapshot(snapshot_uid), r.SnapshotRecord)
    if snapshot is None or snapshot.state not in UNDER_WAY:
        return False
    snapshot.state = r.SNAPSHOT_STATE_FAILED
    snapshot.reason = reason
    draft.put(keys.snapshot(snapshot_uid), snapshot)
    end(draft, snapshot)
    return True


def strike_off(draft: Draft, snapshot_uid: str, host_id: str, reason: str) -> bool:
    """`host_id` no longer holds a good frozen view. If no host does, the snapshot fails with `reason`."""
    snapshot = draft.get(keys.snapshot(snapshot_uid), r.SnapshotRecord)
    if snapshot is None or snapshot.state != r.SNAPSHOT_STATE_FROZEN:
        return False
    kept = [one for one in snapshot.frozen_on if one.host_id != host_id]
    if not kept:
        return fail(draft, snapshot_uid, reason)
    del snapshot.frozen_on[:]
    snapshot.frozen_on.extend(kept)
    return draft.put(keys.snapshot(snapshot_uid), snapshot)


def end(draft: Draft, snapshot: r.SnapshotRecord) -> None:
    """Take a snapshot that ends off its volume's assignments; drop its claim, and what was staged for it; and
    whom it takes with it, of its group.

    Its state says how it ends.
    """
    if snapshot.HasField("direct"):
        draft.delete(keys.direct(snapshot.owner, snapshot.uid))
        draft.delete_under(keys.staged(snapshot.uid))
        volume = None
    else:
        volume = draft.get(keys.volume(snapshot.volume_uid), r.VolumeRecord)
    if volume is not None:
        assignments = Assignments.read(draft, snapshot.volume_uid)
        assignments.drop_snapshot(snapshot.uid, volume.base_generation)
        assignments.save(draft)
    if draft.entry(keys.claim(snapshot.uid)) is not None:
        draft.delete(keys.claim(snapshot.uid))
    for other_uid, reason in member_ended(draft, snapshot):
        fail(draft, other_uid, reason)


def claim(draft: Draft, snapshot_uid: str, by: Claimant) -> bool:
    """Whether `by` now holds the snapshot, to upload it. False if another does or nothing is to be done."""
    snapshot = draft.get(keys.snapshot(snapshot_uid), r.SnapshotRecord)
    if snapshot is None or snapshot.state != r.SNAPSHOT_STATE_FROZEN:
        return False
    held = draft.entry(keys.claim(snapshot_uid))
    if held is not None:
        return held.lease_id == by.lease_id
    record = r.SnapshotClaim(snapshot_uid=snapshot_uid, snapshotter_id=by.snapshotter_id)
    return draft.put(keys.claim(snapshot_uid), record, by.lease_id)


def claimed(draft: Draft, snapshot_uid: str, by: Claimant) -> r.SnapshotRecord:
    """The snapshot, if `by` holds it. Raises Precondition CLAIM_LOST or NOT_FROZEN: stop working on it."""
    snapshot = draft.need(keys.snapshot(snapshot_uid), r.SnapshotRecord)
    if snapshot.state != r.SNAPSHOT_STATE_FROZEN:
        state = r.SnapshotState.Name(snapshot.state)
        raise Precondition("NOT_FROZEN", f"Snapshot {snapshot_uid} is {state}: there is nothing to upload.")
    held = draft.entry(keys.claim(snapshot_uid))
    if held is None or held.lease_id != by.lease_id:
        raise Precondition(
            "CLAIM_LOST", f"Snapshotter {by.snapshotter_id} no longer holds snapshot {snapshot_uid}."
        )
    return snapshot


def release(draft: Draft, snapshot_uid: str, by: Claimant) -> bool:
    """Give a claim back, so that another may take it at once."""
    held = draft.entry(keys.claim(snapshot_uid))
    if held is None or held.lease_id != by.lease_id:
        return False
    draft.delete(keys.claim(snapshot_uid))
    return True


def progress(draft: Draft, snapshot_uid: str, by: Claimant, done_bytes: int, total_bytes: int) -> bool:
    """Record how far the upload is; it no longer waits. At most once in five seconds, please."""
    snapshot = claimed(draft, snapshot_uid, by)
    snapshot.progress_done_bytes = done_bytes
    snapshot.progress_total_bytes = total_bytes
    snapshot.reason = ""
    return draft.put(keys.snapshot(snapshot_uid), snapshot)


def waits(draft: Draft, snapshot_uid: str, by: Claimant, reason: str) -> bool:
    """Say why the upload does not go on: one sentence, e.g. that the object store is out of reach."""
    snapshot = claimed(draft, snapshot_uid, by)
    snapshot.reason = reason
    return draft.put(keys.snapshot(snapshot_uid), snapshot)


def checkpoint(draft: Draft, snapshot_uid: str, by: Claimant, name: str) -> bool:
    """Name the checkpoint object from which another snapshotter could go on: each holds all of the
    upload's state, so it takes the place of the one before.
    """
    snapshot = claimed(draft, snapshot_uid, by)
    if snapshot.checkpoints == [name]:
        return False
    snapshot.checkpoints[:] = [name]
    return draft.put(keys.snapshot(snapshot_uid), snapshot)


def set_data_key(draft: Draft, snapshot_uid: str, by: Claimant, made: r.WrappedKey) -> r.WrappedKey:
    """The snapshot's data key: `made`, unless it has one. Whatever is uploaded is under that.

    Before any object is: two that upload one snapshot must never do it under two keys.
    """
    snapshot = claimed(draft, snapshot_uid, by)
    if not snapshot.HasField("data_key"):
        snapshot.data_key.CopyFrom(made)
        draft.put(keys.snapshot(snapshot_uid), snapshot)
    return snapshot.data_key


def complete(draft: Draft, snapshot_uid: str, by: Claimant, uploaded: Uploaded, now_s: float) -> bool:
    """FROZEN → COMPLETED: the manifest is in the object store. False if this very upload already did it.

    It becomes its volume's base unless a newer one is. Raises Precondition: CLAIM_LOST, NOT_FROZEN (e.g.
    deleted meanwhile), or BASE_CONDEMNED (objects of the base may be gone: fail it, or upload in full).
    """
    key = keys.snapshot(snapshot_uid)
    snapshot = draft.need(key, r.SnapshotRecord)
    if snapshot.state == r.SNAPSHOT_STATE_COMPLETED and snapshot.manifest == uploaded.manifest:
        return False
    snapshot = claimed(draft, snapshot_uid, by)
    base = snapshot.base_snapshot_uid
    if base and is_condemned(draft, base):
        raise Precondition("BASE_CONDEMNED", f"Snapshot {base}, the base of {snapshot_uid}, is condemned.")
    volume = draft.get(keys.volume(snapshot.volume_uid), r.VolumeRecord)
    if volume is not None and snapshot.generation > volume.base_generation:
        volume.base_snapshot_uid = snapshot_uid
        volume.base_generation = snapshot.generation
        draft.put(keys.volume(volume.uid), volume)
    snapshot.state = r.SNAPSHOT_STATE_COMPLETED
    snapshot.reason = ""
    snapshot.manifest = uploaded.manifest
    snapshot.manifest_sha256 = uploaded.manifest_sha256
    snapshot.stored_bytes = uploaded.stored_bytes
    snapshot.uploaded_bytes = uploaded.uploaded_bytes
    snapshot.progress_done_bytes = snapshot.progress_total_bytes
    snapshot.complete_time.CopyFrom(timestamp(now_s))
    end(draft, snapshot)
    return draft.put(key, snapshot)
