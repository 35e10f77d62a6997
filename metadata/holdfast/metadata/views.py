"""Records as what a caller is shown. Pure."""

from collections.abc import Iterable, Mapping

from holdfast.api.attachment.v1.attachment_pb2 import Attachment, AttachmentPath
from holdfast.api.collection.v1.collection_pb2 import Collection
from holdfast.api.grant.v1.grant_pb2 import Grant
from holdfast.api.host.v1.host_pb2 import Host
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot.v1.snapshot_pb2 import BlockServer, Snapshot, SnapshotSizes
from holdfast.api.snapshot_group.v1.snapshot_group_pb2 import SnapshotGroup
from holdfast.api.volume.v1.volume_pb2 import SnapshotRef, Volume
from holdfast.metadata.owner_words import NOT_MADE_YET, NOT_REPAIRED_YET, health_for_owner
from holdfast.metadata.permissions import of_grant
from holdfast.metadata.records import clear


def volume_view(
    volume: r.VolumeRecord,
    replica: r.ReplicaRecord | None,
    origin: r.SnapshotRecord | None,
    operator: bool,
) -> Volume:
    """Which hosts hold a volume, and what happens to which of them, is for operators only."""
    view = Volume(
        volume_id=volume.volume_id,
        uid=volume.uid,
        owner=volume.owner,
        size_bytes=volume.size_bytes,
        state=volume.state,
        reason=volume.reason,
        multi_attach=volume.multi_attach,
        hydrate_remaining_bytes=volume.hydrate_remaining_bytes,
        hydrate_total_bytes=volume.hydrate_total_bytes,
        hydrate_rate_bytes_s=volume.hydrate_rate_bytes_s,
        epoch=replica.epoch if replica else 0,
        target_iqn=volume.target_iqn,
        needs_mirror=volume.needs_mirror,
        sync_remaining_bytes=volume.sync_remaining_bytes,
        sync_total_bytes=volume.sync_total_bytes,
        sync_rate_bytes_s=volume.sync_rate_bytes_s,
        repair_reason=volume.repair_reason,
        encryption_key=volume.encryption_key,
    )
    if volume.HasField("limits"):
        view.limits.CopyFrom(volume.limits)
    if volume.HasField("verify"):
        view.verify.CopyFrom(volume.verify)
    if volume.HasField("health"):
        view.health.CopyFrom(volume.health if operator else health_for_owner(volume.health))
    if not operator:
        _keep_from_owner(view)
    view.create_time.CopyFrom(volume.create_time)
    if origin is not None:
        view.source_snapshot.CopyFrom(SnapshotRef(owner=origin.owner, snapshot_id=origin.snapshot_id))
    if replica is not None:
        _show_replicas(view, replica, operator)
        if operator:
            members = {one.host_id for one in replica.in_sync}
            outside = set(replica.host_ids) - members
            view.replica_troubles.extend(one for one in volume.replica_troubles if one.host_id in outside)
    return view


def _keep_from_owner(view: Volume) -> None:
    """What hosts and the control plane wrote for operators."""
    if view.state == r.VOLUME_STATE_CREATING and view.reason:
        view.reason = NOT_MADE_YET
    if view.repair_reason:
        view.repair_reason = NOT_REPAIRED_YET


def _show_replicas(view: Volume, replica: r.ReplicaRecord, operator: bool) -> None:
    view.forced.extend(replica.forced)
    if not operator:
        for one in view.forced:
            one.by = one.host_id = ""
        return
    view.primary_host_id = replica.primary_host_id
    view.in_sync_host_ids.extend(member.host_id for member in replica.in_sync)
    view.joining_host_ids.extend(member.host_id for member in replica.joining)
    view.wanted_primary_host_id = replica.wanted_primary_host_id
    view.leaving_host_id = replica.leaving_host_id


def granted_view(snapshot: r.SnapshotRecord, grants: Iterable[r.GrantRecord]) -> Snapshot:
    """As somebody is shown it to whom it is granted: without what tells of other resources of its owner."""
    view = snapshot_view(snapshot)
    clear(view, "volume_id", "base_snapshot_uid", "manifest", "schedule_id", "group_id", "reason")
    clear(view, "verify", "whole_verify_time", "repaired_extents", "repair_time")
    granted = list(grants)
    view.granted_permissions.extend(sorted({one for grant in granted for one in of_grant(grant)}))
    view.encryption_key = next((one.data_key.name for one in granted if one.HasField("data_key")), "")
    return view


def snapshot_view(snapshot: r.SnapshotRecord) -> Snapshot:
    view = Snapshot(
        snapshot_id=snapshot.snapshot_id,
        uid=snapshot.uid,
        owner=snapshot.owner,
        volume_id=snapshot.volume_id,
        size_bytes=snapshot.size_bytes,
        state=snapshot.state,
        reason=snapshot.reason,
        progress_done_bytes=snapshot.progress_done_bytes,
        progress_total_bytes=snapshot.progress_total_bytes,
        base_snapshot_uid=snapshot.base_snapshot_uid,
        stored_bytes=snapshot.stored_bytes,
        uploaded_bytes=snapshot.uploaded_bytes,
        manifest=snapshot.manifest,
        schedule_id=snapshot.schedule_id,
        direct=snapshot.HasField("direct"),
        encryption_key=snapshot.encryption_key,
        health=snapshot.health,
        repaired_extents=snapshot.repaired_extents,
        group_id=snapshot.group_id,
    )
    for name in (
        "create_time", "freeze_time", "complete_time", "lock_until_time", "delete_time", "recycle_until_time",
        "verify", "whole_verify_time", "repair_time",
    ):  # fmt: skip
        if snapshot.HasField(name):
            getattr(view, name).CopyFrom(getattr(snapshot, name))
    return view


def owned_view(snapshot: r.SnapshotRecord, counted: r.SizesRecord | None) -> Snapshot:
    """As its owner is shown it."""
    view = snapshot_view(snapshot)
    if counted is not None:
        view.sizes.CopyFrom(
            SnapshotSizes(
                logical_bytes=counted.logical_bytes,
                stored_bytes=counted.stored_bytes,
                exclusive_bytes=counted.exclusive_bytes,
                count_time=counted.count_time,
            )
        )
    return view


def group_view(
    group: r.SnapshotGroupRecord, snapshots: Mapping[str, r.SnapshotRecord | None]
) -> SnapshotGroup:
    """With its snapshots, by uid, as they are now."""
    view = SnapshotGroup(
        group_id=group.group_id,
        uid=group.uid,
        owner=group.owner,
        state=group.state,
        reason=group.reason or group.attempt_reason,
        attempt=group.attempt,
    )
    for name in ("create_time", "freeze_time", "complete_time"):
        if group.HasField(name):
            getattr(view, name).CopyFrom(getattr(group, name))
    for member in group.members:
        now = snapshots.get(member.snapshot_uid) or r.SnapshotRecord(state=member.state)
        view.members.add(
            volume_id=member.volume_id,
            snapshot_id=now.snapshot_id or member.snapshot_id,
            snapshot_uid=member.snapshot_uid,
            state=now.state,
            reason=now.reason,
            progress_done_bytes=now.progress_done_bytes,
            progress_total_bytes=now.progress_total_bytes,
        )
    return view


def collection_view(record: r.CollectionRecord) -> Collection:
    view = Collection(
        state=record.state,
        reason=record.reason,
        snapshotter_id=record.snapshotter_id,
        requested=record.request > record.served,
        request=record.request,
        served=record.served,
        counts=record.counts,
        freed_bytes_ever=record.freed_bytes_ever,
    )
    for name in ("start_time", "end_time"):
        if record.HasField(name):
            getattr(view, name).CopyFrom(getattr(record, name))
    return view


def block_server_view(lease: r.SnapshotterLease) -> BlockServer | None:
    """None for one of before there was a block API."""
    if not lease.grpc_port:
        return None
    host = f"[{lease.nbd_address}]" if ":" in lease.nbd_address else lease.nbd_address
    return BlockServer(blocks=f"{host}:{lease.grpc_port}", nbd=f"{host}:{lease.nbd_port}")


def grant_view(grant: r.GrantRecord) -> Grant:
    return Grant(
        snapshot_id=grant.snapshot_id,
        owner=grant.owner,
        user=grant.user,
        create_time=grant.create_time,
        permissions=of_grant(grant),
        encryption_key=grant.data_key.name,
    )


def attachment_view(
    attachment: r.AttachmentRecord, hosts: Mapping[str, r.HostRecord], chap_secret: str = ""
) -> Attachment:
    """`hosts`: the records of its `ready_host_ids`, as far as there are any."""
    ready = {hosts[host_id].portal for host_id in attachment.ready_host_ids if host_id in hosts}
    return Attachment(
        attachment_id=attachment.attachment_id,
        uid=attachment.uid,
        owner=attachment.owner,
        volume_id=attachment.volume_id,
        initiator_iqn=attachment.initiator_iqn,
        state=attachment.state,
        reason=attachment.reason,
        target_iqn=attachment.target_iqn,
        lun=attachment.lun,
        chap_user=attachment.chap_user,
        chap_secret=chap_secret,
        create_time=attachment.create_time,
        paths=[AttachmentPath(portal=portal, ready=portal in ready) for portal in attachment.portals],
    )


def host_view(host: r.HostRecord, live_boot_id: str, volume_count: int) -> Host:
    """`live_boot_id`: of the boot whose agent holds the host's lease; empty if none does."""
    view = Host(
        host_id=host.host_id,
        boot_id=host.boot_id,
        live=bool(live_boot_id) and live_boot_id == host.boot_id,
        address=host.address,
        portal=host.portal,
        capacity_bytes=host.capacity_bytes,
        allocated_bytes=host.allocated_bytes,
        volume_count=volume_count,
        exports=host.exports,
        exports_message=host.exports_message,
        draining=host.draining,
        drain_reason=host.drain_reason,
    )
    if host.HasField("lost_time"):
        view.lost_time.CopyFrom(host.lost_time)
    return view
