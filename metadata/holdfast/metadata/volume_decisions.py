"""Creating and deleting volumes: decisions over a draft (see cas.py). Input has been validated."""

from dataclasses import dataclass

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base import ids
from holdfast.base.errors import AlreadyExists, BadInput, Precondition
from holdfast.metadata import encryption_decisions, keys
from holdfast.metadata.assigned import Assignments, timestamp
from holdfast.metadata.cas import Changed, Draft
from holdfast.metadata.derived import write
from holdfast.metadata.lookups import not_found, usable_snapshot, volume_of
from holdfast.metadata.permissions import MAKE_VOLUMES
from holdfast.metadata.placement import candidate_of, next_port, place
from holdfast.metadata.snapshot_changes import is_condemned


@dataclass(frozen=True)
class NewVolume:
    """A validated request. `size_bytes` 0, only with a source, means the source's size."""

    owner: str
    volume_id: str
    size_bytes: int
    source_owner: str
    source_id: str
    multi_attach: bool
    uid: str
    now_s: float
    overcommit: float
    needs_mirror: bool = False
    encryption_key: str = ""


def create(draft: Draft, new: NewVolume) -> tuple[r.VolumeRecord, bool]:
    """The volume, and whether this very request made it. Errors: VolumeService.CreateVolume."""
    name_key = keys.name("volumes", new.owner, new.volume_id)
    name = draft.get(name_key, r.NameRecord)
    if name is not None:
        volume = draft.get(keys.volume(name.uid), r.VolumeRecord)
        if volume is None:
            raise Changed
        _check_same(draft, new, volume)
        return volume, name.uid == new.uid
    source = _source(draft, new)
    size_bytes = new.size_bytes or (source.size_bytes if source else 0)
    if source is not None and size_bytes < source.size_bytes:
        raise BadInput(
            "SIZE_TOO_SMALL",
            f"{size_bytes} bytes is smaller than the snapshot's {source.size_bytes}: ask for at least that.",
        )
    hosts = _choose_hosts(draft, size_bytes, new.overcommit)
    volume = _volume_record(new, size_bytes, source)
    if source is not None:
        encryption_decisions.inherit(draft, volume, source)
    draft.put(name_key, r.NameRecord(uid=new.uid))
    draft.put(keys.volume(new.uid), volume)
    _assign(draft, volume, hosts)
    return volume, True


def delete(draft: Draft, owner: str, volume_id: str) -> bool:
    """Begin to remove a volume; its hosts do the rest. False if that had begun."""
    volume = volume_of(draft, owner, volume_id)
    if volume.state == r.VOLUME_STATE_DELETING:
        return False
    attachments = draft.under(keys.attachments(volume.uid), r.AttachmentRecord)
    if attachments:
        names = ", ".join(sorted(one.attachment_id for one in attachments)[:5])
        raise Precondition("ATTACHED", f"Volume {volume_id!r} has attachments ({names}): delete them first.")
    assignments = Assignments.read(draft, volume.uid)
    if assignments.snapshots():
        raise Precondition(
            "FROZEN", f"A snapshot of volume {volume_id!r} is under way: wait for it, or delete it."
        )
    for one in assignments.each:
        one.deleting = True
    assignments.save(draft)
    volume.state = r.VOLUME_STATE_DELETING
    volume.reason = ""
    return draft.put(keys.volume(volume.uid), volume)


def _check_same(draft: Draft, new: NewVolume, volume: r.VolumeRecord) -> None:
    """Raise AlreadyExists unless `volume` is what `new` asks for."""
    if volume.state == r.VOLUME_STATE_DELETING:
        raise AlreadyExists(
            "ALREADY_EXISTS", f"Volume {new.volume_id!r} is being deleted: wait until it is gone."
        )
    same = volume.multi_attach == new.multi_attach and volume.needs_mirror == new.needs_mirror
    same = same and bool(volume.origin_snapshot_uid) == bool(new.source_id)
    same = same and new.encryption_key in ("", volume.encryption_key)
    if volume.origin_snapshot_uid:
        # The record outlives the snapshot's deletion, so the same request still finds its answer.
        origin = draft.peek(keys.snapshot(volume.origin_snapshot_uid), r.SnapshotRecord)
        if origin is not None:
            same = same and (origin.owner, origin.snapshot_id) == (new.source_owner, new.source_id)
            same = same and (new.size_bytes or origin.size_bytes) == volume.size_bytes
        elif new.size_bytes:
            same = same and new.size_bytes == volume.size_bytes
    else:
        same = same and volume.size_bytes == new.size_bytes
    if not same:
        raise AlreadyExists(
            "ALREADY_EXISTS",
            f"You have a volume {new.volume_id!r} that differs from what you ask for: choose another id.",
        )


def _source(draft: Draft, new: NewVolume) -> r.SnapshotRecord | None:
    if not new.source_id:
        return None
    snapshot = usable_snapshot(draft, new.owner, new.source_owner, new.source_id, MAKE_VOLUMES)
    if snapshot.state != r.SNAPSHOT_STATE_COMPLETED or is_condemned(draft, snapshot.uid):
        if snapshot.owner != new.owner:
            raise not_found("snapshot", new.source_id)
        state = r.SnapshotState.Name(snapshot.state).removeprefix("SNAPSHOT_STATE_")
        raise Precondition(
            "NOT_COMPLETED", f"Snapshot {new.source_id!r} is {state}: wait until it is COMPLETED."
        )
    return snapshot


def _choose_hosts(draft: Draft, size_bytes: int, overcommit: float) -> list[r.HostRecord]:
    """The primary's record and the mirror's. All hosts are looked at; only these two are compared."""
    hosts = {host.host_id: host for host in draft.peek_under(keys.HOSTS, r.HostRecord)}
    boots = {lease.host_id: lease.boot_id for lease in draft.peek_under(keys.HOST_LEASES, r.HostLease)}
    candidates = [candidate_of(host, boots.get(host.host_id, "")) for host in hosts.values()]
    chosen = []
    for host_id in place(candidates, size_bytes, overcommit):
        host = draft.get(keys.host(host_id), r.HostRecord)
        lease = draft.get(keys.host_lease(host_id), r.HostLease)
        if host != hosts[host_id] or lease is None or lease.boot_id != host.boot_id:
            raise Changed
        chosen.append(host)
    return chosen


def _volume_record(new: NewVolume, size_bytes: int, source: r.SnapshotRecord | None) -> r.VolumeRecord:
    volume = r.VolumeRecord(
        uid=new.uid,
        volume_id=new.volume_id,
        owner=new.owner,
        size_bytes=size_bytes,
        state=r.VOLUME_STATE_CREATING,
        create_time=timestamp(new.now_s),
        multi_attach=new.multi_attach,
        needs_mirror=new.needs_mirror,
        target_iqn=ids.target_iqn(new.uid),
        naa=ids.naa(new.uid),
        encryption_key=new.encryption_key,
    )
    if source is not None:
        volume.origin_snapshot_uid = source.uid
        # Filling in what is missing is not a change: the first snapshot is incremental from the origin,
        # whose content is generation 0's.
        volume.base_snapshot_uid = source.uid
        volume.hydrate_remaining_bytes = volume.hydrate_total_bytes = source.size_bytes
    return volume


def _assign(draft: Draft, volume: r.VolumeRecord, hosts: list[r.HostRecord]) -> None:
    """Write the replica record, both assignments, and what they take from both hosts."""
    replica = r.ReplicaRecord(volume_uid=volume.uid, primary_host_id=hosts[0].host_id)
    for tag, host in enumerate(hosts, start=1):
        replica.host_ids.append(host.host_id)
        replica.in_sync.add(host_id=host.host_id, boot_id=host.boot_id)
        # Not compared: every assignment to a host changes its record, which is.
        others = draft.peek_under(keys.assignments(host.host_id), r.Assignment)
        port, host.next_nbd_port = next_port(host.next_nbd_port, {one.nbd_port for one in others})
        host.allocated_bytes += volume.size_bytes
        draft.put(keys.host(host.host_id), host)
        assignment = r.Assignment(
            host_id=host.host_id,
            volume_uid=volume.uid,
            size_bytes=volume.size_bytes,
            nbd_port=port,
            portal_group=tag,
            target_iqn=volume.target_iqn,
            naa=volume.naa,
            origin_snapshot_uid=volume.origin_snapshot_uid,
            needs_mirror=volume.needs_mirror,
            multi_attach=volume.multi_attach,
        )
        draft.put(keys.assignment(host.host_id, volume.uid), assignment)
    write(draft, replica)
