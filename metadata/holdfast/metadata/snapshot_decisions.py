"""Creating snapshots, making and revoking grants: decisions over a draft (see cas.py)."""

from dataclasses import dataclass

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import AlreadyExists, Exhausted, Precondition
from holdfast.metadata import keys
from holdfast.metadata.assigned import Assignments, timestamp
from holdfast.metadata.cas import Changed, Draft
from holdfast.metadata.encryption_decisions import Rewrapped, replaced
from holdfast.metadata.lookups import snapshot_of, volume_of
from holdfast.metadata.permissions import Permission, of_grant
from holdfast.metadata.snapshot_changes import is_condemned

UNDER_WAY_MAX = 4
"""Snapshots of one volume that are not yet uploaded: each costs copy-before-write on both hosts."""


@dataclass(frozen=True)
class NewSnapshot:
    owner: str
    snapshot_id: str
    volume_id: str
    uid: str
    now_s: float
    encryption_key: str = ""
    """Empty: as the volume says."""
    group_uid: str = ""
    group_id: str = ""


def create(draft: Draft, new: NewSnapshot) -> tuple[r.SnapshotRecord, bool]:
    """The snapshot, and whether this very request made it. Errors: SnapshotService.CreateSnapshot."""
    name_key = keys.name("snapshots", new.owner, new.snapshot_id)
    name = draft.get(name_key, r.NameRecord)
    if name is not None:
        existing = draft.get(keys.snapshot(name.uid), r.SnapshotRecord)
        if existing is None:
            raise Changed
        if existing.volume_id != new.volume_id:
            raise AlreadyExists(
                "ALREADY_EXISTS",
                f"You have a snapshot {new.snapshot_id!r} of another volume: choose another id.",
            )
        if new.encryption_key not in ("", existing.encryption_key):
            raise AlreadyExists(
                "ALREADY_EXISTS",
                f"You have a snapshot {new.snapshot_id!r} with another key, or none: choose another id.",
            )
        return existing, name.uid == new.uid
    return add(draft, new, may_snapshot(draft, new)), True


def name_is_free(draft: Draft, new: NewSnapshot) -> None:
    """Raises AlreadyExists."""
    if draft.get(keys.name("snapshots", new.owner, new.snapshot_id), r.NameRecord) is not None:
        raise AlreadyExists(
            "ALREADY_EXISTS", f"You have a snapshot {new.snapshot_id!r}: choose another id for the new one."
        )


def may_snapshot(draft: Draft, new: NewSnapshot) -> r.VolumeRecord:
    """The volume. Raises NotFound, Precondition NOT_AVAILABLE, Exhausted TOO_MANY."""
    volume = volume_of(draft, new.owner, new.volume_id)
    if volume.state != r.VOLUME_STATE_AVAILABLE:
        state = r.VolumeState.Name(volume.state).removeprefix("VOLUME_STATE_")
        raise Precondition("NOT_AVAILABLE", f"Volume {new.volume_id!r} is {state}, not AVAILABLE: wait.")
    assignments = Assignments.read(draft, volume.uid)
    if len(assignments.snapshots()) >= UNDER_WAY_MAX:
        raise Exhausted(
            "TOO_MANY", f"{UNDER_WAY_MAX} snapshots of volume {new.volume_id!r} are under way: wait for one."
        )
    return volume


def add(
    draft: Draft, new: NewSnapshot, volume: r.VolumeRecord, group: r.GroupFreeze | None = None
) -> r.SnapshotRecord:
    """Record it, with its name, and ask the volume's hosts for it: of a group, by its steps."""
    snapshot = _record(draft, new, volume)
    assignments = Assignments.read(draft, volume.uid)
    for one in assignments.each:
        one.snapshots.add(
            uid=new.uid,
            state=r.SNAPSHOT_STATE_PENDING,
            incremental=bool(snapshot.base_snapshot_uid),
            base_generation=snapshot.base_generation,
            group=group,
        )
    assignments.save(draft)
    draft.put(keys.name("snapshots", new.owner, new.snapshot_id), r.NameRecord(uid=new.uid))
    draft.put(keys.snapshot(new.uid), snapshot)
    return snapshot


def _record(draft: Draft, new: NewSnapshot, volume: r.VolumeRecord) -> r.SnapshotRecord:
    snapshot = r.SnapshotRecord(
        uid=new.uid,
        snapshot_id=new.snapshot_id,
        owner=new.owner,
        volume_uid=volume.uid,
        volume_id=volume.volume_id,
        size_bytes=volume.size_bytes,
        state=r.SNAPSHOT_STATE_PENDING,
        create_time=timestamp(new.now_s),
        encryption_key=new.encryption_key or volume.encryption_key,
        group_uid=new.group_uid,
        group_id=new.group_id,
    )
    if volume.base_snapshot_uid:
        base = draft.get(keys.snapshot(volume.base_snapshot_uid), r.SnapshotRecord)
        # A base that was deleted for good may lose its objects at any moment: then this one is full; one in
        # the recycle bin cannot. Compared, so that from this transaction on the base is a root of the
        # collection. Nor do encrypted snapshots share packs with others.
        good = base is not None and base.state in (r.SNAPSHOT_STATE_COMPLETED, r.SNAPSHOT_STATE_RECYCLED)
        good = good and not is_condemned(draft, volume.base_snapshot_uid)
        if base is not None and good and bool(base.encryption_key) == bool(snapshot.encryption_key):
            snapshot.base_snapshot_uid = base.uid
            snapshot.base_manifest = base.manifest
            snapshot.base_generation = volume.base_generation
    return snapshot


@dataclass(frozen=True)
class NewGrant:
    """A validated request."""

    owner: str
    snapshot_id: str
    user: str
    permissions: tuple[Permission, ...]
    now_s: float


def create_grant(
    draft: Draft, new: NewGrant, rewrapped: Rewrapped | None = None
) -> tuple[r.GrantRecord, bool]:
    """The grant, and whether it is new. Errors: GrantService.CreateGrant.

    Args:
        rewrapped: the data key of an encrypted snapshot for that user; None if what is granted is good.
    """
    snapshot = snapshot_of(draft, new.owner, new.snapshot_id)
    if rewrapped is not None and rewrapped.snapshot_uid != snapshot.uid:
        raise replaced(new.snapshot_id)
    key = keys.grant(snapshot.uid, new.user)
    existing = draft.get(key, r.GrantRecord)
    if existing is not None:
        if tuple(of_grant(existing)) != new.permissions:
            raise AlreadyExists(
                "ALREADY_EXISTS",
                f"{new.user!r} is granted other permissions on {new.snapshot_id!r}: delete that grant first.",
            )
        if rewrapped is not None:
            existing.data_key.CopyFrom(rewrapped.data_key)
            draft.put(key, existing)
        return existing, False
    if snapshot.encryption_key and rewrapped is None:
        raise replaced(new.snapshot_id)
    grant = r.GrantRecord(
        snapshot_uid=snapshot.uid,
        snapshot_id=new.snapshot_id,
        owner=new.owner,
        user=new.user,
        permissions=new.permissions,
        create_time=timestamp(new.now_s),
        data_key=rewrapped.data_key if rewrapped else None,
    )
    draft.put(key, grant)
    draft.put(keys.granted(new.user, snapshot.uid), r.NameRecord(uid=snapshot.uid))
    return grant, True


def delete_grant(draft: Draft, owner: str, snapshot_id: str, user: str) -> bool:
    snapshot = snapshot_of(draft, owner, snapshot_id)
    key = keys.grant(snapshot.uid, user)
    if draft.get(key, r.GrantRecord) is None:
        return False
    draft.delete(key)
    draft.delete(keys.granted(user, snapshot.uid))
    return True
