"""Creating and deleting groups of snapshots, for their owner: decisions over a draft (see cas.py)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import AlreadyExists, BadInput, Precondition
from holdfast.base.ids import check_name
from holdfast.metadata import keeping_decisions, keys
from holdfast.metadata.assigned import timestamp
from holdfast.metadata.cas import Changed, Draft
from holdfast.metadata.lookups import OUT_OF_SIGHT, named, not_found
from holdfast.metadata.snapshot_decisions import NewSnapshot, add, may_snapshot, name_is_free

GROUP_VOLUMES_MAX = 12
"""Every step of a group is one transaction over the records of all of its volumes; etcd takes 128 keys."""


@dataclass(frozen=True)
class NewGroup:
    """A validated request; the snapshots are in the order of their volumes' ids."""

    owner: str
    group_id: str
    uid: str
    snapshots: tuple[NewSnapshot, ...]
    now_s: float


def check(
    owner: str,
    group_id: str,
    volumes: Sequence[tuple[str, str]],
    encryption_key: str,
    new_uid: Callable[[], str],
    now_s: float,
) -> NewGroup:
    """From a request; `volumes` are (volume id, snapshot id or ""). Raises BadInput BAD_ID, BAD_VOLUMES."""
    check_name("group", group_id)
    ids = [volume_id for volume_id, _ in volumes]
    if not 1 <= len(ids) <= GROUP_VOLUMES_MAX or len(set(ids)) < len(ids):
        raise BadInput(
            "BAD_VOLUMES",
            f"A group has 1 to {GROUP_VOLUMES_MAX} volumes, each once; this one names {len(ids)}, "
            f"{len(set(ids))} of them different: correct it.",
        )
    snapshots = tuple(
        NewSnapshot(
            owner,
            check_name("snapshot", snapshot_id or f"{group_id}-{volume_id}"),
            volume_id,
            new_uid(),
            now_s,
            encryption_key,
        )
        for volume_id, snapshot_id in sorted(volumes)
    )
    if len({one.snapshot_id for one in snapshots}) < len(snapshots):
        raise BadInput("BAD_VOLUMES", "Two snapshots of the group would have the same id: give each its own.")
    return NewGroup(owner, group_id, new_uid(), snapshots, now_s)


def create(draft: Draft, new: NewGroup) -> tuple[r.SnapshotGroupRecord, bool]:
    """The group, and whether this very request made it. Errors: CreateSnapshotGroup."""
    name_key = keys.name("snapshot_groups", new.owner, new.group_id)
    name = draft.get(name_key, r.NameRecord)
    if name is not None:
        existing = draft.get(keys.snapshot_group(name.uid), r.SnapshotGroupRecord)
        if existing is None:
            raise Changed
        if not _is_same(draft, existing, new):
            raise AlreadyExists(
                "ALREADY_EXISTS",
                f"You have a group {new.group_id!r} of other volumes, snapshots or keys: choose another id.",
            )
        return existing, name.uid == new.uid
    group = r.SnapshotGroupRecord(
        uid=new.uid,
        group_id=new.group_id,
        owner=new.owner,
        state=r.SNAPSHOT_GROUP_STATE_PENDING,
        attempt=1,
        step=r.FREEZE_STEP_PREPARE,
        create_time=timestamp(new.now_s),
    )
    freeze = r.GroupFreeze(group_uid=new.uid, attempt=1, step=r.FREEZE_STEP_PREPARE)
    for wanted in new.snapshots:
        name_is_free(draft, wanted)
        volume = may_snapshot(draft, wanted)
        snapshot = add(draft, replace(wanted, group_uid=new.uid, group_id=new.group_id), volume, freeze)
        group.members.add(
            volume_uid=volume.uid,
            volume_id=volume.volume_id,
            snapshot_uid=snapshot.uid,
            snapshot_id=snapshot.snapshot_id,
            state=snapshot.state,
        )
    draft.put(name_key, r.NameRecord(uid=new.uid))
    draft.put(keys.snapshot_group(new.uid), group)
    return group, True


def _is_same(draft: Draft, existing: r.SnapshotGroupRecord, new: NewGroup) -> bool:
    there = {(one.volume_id, one.snapshot_id) for one in existing.members}
    if there != {(one.volume_id, one.snapshot_id) for one in new.snapshots}:
        return False
    key = new.snapshots[0].encryption_key
    if not key:
        return True
    found = [draft.get(keys.snapshot(one.snapshot_uid), r.SnapshotRecord) for one in existing.members]
    return all(one is None or one.encryption_key == key for one in found)


def group_of(draft: Draft, owner: str, group_id: str) -> r.SnapshotGroupRecord:
    """Raises NotFound."""
    uid = named(draft, "snapshot_group", owner, group_id).uid
    group = draft.get(keys.snapshot_group(uid), r.SnapshotGroupRecord)
    if group is None:
        raise not_found("snapshot group", group_id)
    return group


def deletable(draft: Draft, owner: str, group_id: str, now_s: float) -> r.SnapshotGroupRecord:
    """The group. Raises NotFound, Precondition LOCKED if one of its snapshots cannot be deleted yet."""
    group = group_of(draft, owner, group_id)
    for member in group.members:
        snapshot = draft.get(keys.snapshot(member.snapshot_uid), r.SnapshotRecord)
        if snapshot is not None and keeping_decisions.is_locked(snapshot, now_s):
            until = keeping_decisions.moment(snapshot.lock_until_time.seconds)
            raise Precondition(
                "LOCKED",
                f"Its snapshot {snapshot.snapshot_id!r} is locked until {until}: nothing is deleted.",
            )
    return group


def delete_member(draft: Draft, snapshot_uid: str, at_once: bool, now_s: float) -> bool:
    """Delete one of its snapshots, unless it is deleted. Raises Precondition LOCKED."""
    snapshot = draft.get(keys.snapshot(snapshot_uid), r.SnapshotRecord)
    if snapshot is None or snapshot.state in OUT_OF_SIGHT:
        return False
    keeping_decisions.remove(draft, snapshot, at_once, now_s)
    return True


def delete(draft: Draft, owner: str, group_id: str, uid: str) -> bool:
    """The record and the name, once its snapshots are gone. False if it was."""
    key = keys.snapshot_group(uid)
    if draft.get(key, r.SnapshotGroupRecord) is None:
        return False
    draft.delete(key)
    draft.delete(keys.name("snapshot_groups", owner, group_id))
    draft.delete_under(keys.gates(uid))
    return True
