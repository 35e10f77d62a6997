"""What the collection of objects records: each step a decision over a draft (see cas.py).

docs/collection.md says in which order, why each compares what it does, and what a breach would cost.
"""

from dataclasses import dataclass

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import Precondition
from holdfast.metadata import keys
from holdfast.metadata.assigned import timestamp
from holdfast.metadata.cas import Draft
from holdfast.metadata.snapshot_changes import Claimant

ENDED_UNWANTED = (r.SNAPSHOT_STATE_DELETED, r.SNAPSHOT_STATE_FAILED)
"""Nothing can begin to rely on such a snapshot, ever."""
MANIFEST_STANDS = (r.SNAPSHOT_STATE_COMPLETED, r.SNAPSHOT_STATE_RECYCLED)


@dataclass(frozen=True)
class Moment:
    """Now, by two clocks that are never compared with each other. Seconds since 1970."""

    collector_s: float
    store_s: float

    def record(self) -> r.TwoTimes:
        return r.TwoTimes(collector_time=timestamp(self.collector_s), store_time=timestamp(self.store_s))

    def is_past(self, since: r.TwoTimes, grace_s: float) -> bool:
        """Whether both clocks say that so much has gone by since then."""
        collector_s = self.collector_s - since.collector_time.ToMilliseconds() / 1000
        store_s = self.store_s - since.store_time.ToMilliseconds() / 1000
        return collector_s >= grace_s and store_s >= grace_s


def request(draft: Draft) -> tuple[r.CollectionRecord, bool]:
    """Ask for a collection; whether none that was asked for was still to begin."""
    record = draft.get(keys.COLLECTION, r.CollectionRecord) or r.CollectionRecord()
    if record.request > record.served:
        return record, False
    record.request += 1
    return record, draft.put(keys.COLLECTION, record)


def claim(draft: Draft, by: Claimant) -> bool:
    """Whether `by` now holds the claim to collect; False if another does."""
    held = draft.entry(keys.COLLECTION_CLAIM)
    if held is not None:
        return held.lease_id == by.lease_id
    return draft.put(keys.COLLECTION_CLAIM, r.CollectionClaim(snapshotter_id=by.snapshotter_id), by.lease_id)


def release(draft: Draft, by: Claimant) -> bool:
    held = draft.entry(keys.COLLECTION_CLAIM)
    if held is None or held.lease_id != by.lease_id:
        return False
    draft.delete(keys.COLLECTION_CLAIM)
    return True


def begin(draft: Draft, snapshotter_id: str, new_uid: str, now_s: float) -> str:
    """RUNNING; it serves whatever was asked for up to now. The uid of the cluster: new, if it has none."""
    record = draft.get(keys.COLLECTION, r.CollectionRecord) or r.CollectionRecord()
    record.state = r.COLLECTION_STATE_RUNNING
    record.snapshotter_id = snapshotter_id
    record.served = record.request
    record.start_time.CopyFrom(timestamp(now_s))
    for name in ("reason", "end_time", "counts"):
        record.ClearField(name)
    record.cluster_uid = record.cluster_uid or new_uid
    draft.put(keys.COLLECTION, record)
    return record.cluster_uid


def waits(draft: Draft, reason: str) -> bool:
    """Why the one that is RUNNING does not go on; empty: it does."""
    record = draft.get(keys.COLLECTION, r.CollectionRecord)
    if record is None or record.state != r.COLLECTION_STATE_RUNNING:
        return False
    record.reason = reason
    return draft.put(keys.COLLECTION, record)


def finish(draft: Draft, counts: r.CollectionCounts, reason: str, now_s: float) -> bool:
    """DONE, or FAILED with a reason."""
    record = draft.get(keys.COLLECTION, r.CollectionRecord) or r.CollectionRecord()
    record.state = r.COLLECTION_STATE_FAILED if reason else r.COLLECTION_STATE_DONE
    record.reason = reason
    record.end_time.CopyFrom(timestamp(now_s))
    record.counts.CopyFrom(counts)
    record.freed_bytes_ever += counts.freed_bytes
    record.freed_objects_ever += counts.freed_objects
    return draft.put(keys.COLLECTION, record)


def condemn(draft: Draft, snapshot_uid: str, now: Moment) -> bool:
    """Nothing relies on a snapshot that has ended unwanted, and nothing may. False if it is otherwise, or was
    condemned. That nothing did is the caller's finding: in these states it cannot become untrue.
    """
    snapshot = draft.get(keys.snapshot(snapshot_uid), r.SnapshotRecord)
    if snapshot is None or snapshot.state not in ENDED_UNWANTED:
        return False
    key = keys.condemned(snapshot_uid)
    if draft.entry(key) is not None:
        return False
    return draft.put(key, r.CondemnedRecord(snapshot_uid=snapshot_uid, since=now.record()))


def forget(draft: Draft, snapshot_uid: str) -> bool:
    """The records of a deleted and condemned snapshot go. False if it is otherwise; a FAILED one is still
    shown to its owner."""
    snapshot = draft.get(keys.snapshot(snapshot_uid), r.SnapshotRecord)
    if snapshot is None or snapshot.state != r.SNAPSHOT_STATE_DELETED:
        return False
    if draft.entry(keys.condemned(snapshot_uid)) is None:
        return False
    for key in (keys.snapshot(snapshot_uid), keys.condemned(snapshot_uid), keys.sizes(snapshot_uid)):
        draft.delete(key)
    return True


def begin_rewrite(draft: Draft, writer: str, by: Claimant) -> bool:
    """From now on, and while the lease lasts, objects of `writer` are no garbage."""
    key = keys.rewrite(writer)
    draft.entry(key)
    return draft.put(key, r.RewriteRecord(writer=writer, snapshotter_id=by.snapshotter_id), by.lease_id)


def end_rewrite(draft: Draft, writer: str) -> bool:
    if draft.entry(keys.rewrite(writer)) is None:
        return False
    draft.delete(keys.rewrite(writer))
    return True


@dataclass(frozen=True)
class Replacement:
    """A manifest that says the same as `old`, in the object store."""

    snapshot_uid: str
    old: str
    new: str
    new_sha256: str


def replace_manifest(draft: Draft, writer: str, made: Replacement, now: Moment) -> bool:
    """Put a manifest in the place of one that says the same (I-9). False if this very one was.

    Raises Precondition REWRITE_LOST: the snapshot, its manifest, or the rewriting is not what it was.
    """
    key = keys.snapshot(made.snapshot_uid)
    snapshot = draft.get(key, r.SnapshotRecord)
    if snapshot is not None and snapshot.manifest == made.new:
        return False
    stands = snapshot is not None and snapshot.state in MANIFEST_STANDS and snapshot.manifest == made.old
    if snapshot is None or not stands or draft.entry(keys.rewrite(writer)) is None:
        raise Precondition("REWRITE_LOST", f"Manifest {made.old} is not to be replaced any more.")
    snapshot.manifest, snapshot.manifest_sha256 = made.new, made.new_sha256
    snapshot.former_manifests.add(manifest=made.old, since=now.record())
    return draft.put(key, snapshot)


def drop_former(draft: Draft, snapshot_uid: str, now: Moment, grace_s: float) -> bool:
    """Former manifests whose grace is over are no roots any more."""
    snapshot = draft.get(keys.snapshot(snapshot_uid), r.SnapshotRecord)
    if snapshot is None:
        return False
    kept = [one for one in snapshot.former_manifests if not now.is_past(one.since, grace_s)]
    if len(kept) == len(snapshot.former_manifests):
        return False
    del snapshot.former_manifests[:]
    snapshot.former_manifests.extend(kept)
    return draft.put(keys.snapshot(snapshot_uid), snapshot)


def set_sizes(draft: Draft, counted: r.SizesRecord) -> bool:
    """False if the snapshot's manifest does not stand any more."""
    snapshot = draft.get(keys.snapshot(counted.snapshot_uid), r.SnapshotRecord)
    if snapshot is None or snapshot.state not in MANIFEST_STANDS:
        return False
    draft.entry(keys.sizes(counted.snapshot_uid))
    return draft.put(keys.sizes(counted.snapshot_uid), counted)
