"""The main job's control side, end to end: real etcd, real server, stand-in hosts."""

from collections.abc import Iterable
from typing import Any

import grpc

from holdfast.api.attachment.v1 import attachment_pb2 as ab
from holdfast.api.grant.v1 import grant_pb2 as gb
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot.v1 import snapshot_pb2 as sb
from holdfast.api.volume.v1 import volume_pb2 as vb
from holdfast.base.limits import GIB, MIB
from holdfast.metadata import keys
from holdfast.metadata.client import Client
from holdfast.metadata.records import decode
from holdfast.metadata.seal import host_recipient, unseal
from holdfast.metadata.snapshot_changes import Uploaded
from holdfast.metadata.snapshotter_actions import SnapshotterActions
from holdfast.metadata.testing import RunningMetadata, StandInHost

IQN = "iqn.2026-01.com.example:compute1"


def wait_volume(client: Client, volume_id: str) -> vb.Volume:
    for answer in client.volumes.WatchVolume(vb.WatchVolumeRequest(volume_id=volume_id), timeout=20):
        if answer.volume.state == r.VOLUME_STATE_AVAILABLE:
            return answer.volume
    raise AssertionError("the watch ended")


def until_gone(answers: Iterable[Any]) -> None:
    """A watch of what is being deleted ends with `deleted`; or it was gone before the watch began."""
    try:
        assert list(answers)[-1].deleted
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND


def upload(snapshotter: SnapshotterActions, uid: str, manifest: str) -> None:
    by = snapshotter.claim(uid)
    assert by is not None
    assert snapshotter.progress(uid, by, 0, 10 * MIB)
    assert snapshotter.checkpoint(uid, by, manifest + ".checkpoint")
    assert snapshotter.complete(uid, by, Uploaded(manifest, "ab" * 32, 5 * MIB, 10 * MIB))
    assert not snapshotter.complete(uid, by, Uploaded(manifest, "ab" * 32, 5 * MIB, 10 * MIB))


def test_first_user_to_second_user(metadata: RunningMetadata, two_hosts: list[StandInHost]) -> None:
    alice, bob = metadata.client("alice"), metadata.client("bob")
    etcd = metadata.etcd
    made = alice.volumes.CreateVolume(vb.CreateVolumeRequest(volume_id="disk", size_bytes=GIB))
    assert made.created and made.volume.target_iqn.endswith(made.volume.uid)
    assert not made.volume.primary_host_id, "which hosts hold it is for operators"
    volume = wait_volume(alice, "disk")

    attached = alice.attachments.CreateAttachment(
        ab.CreateAttachmentRequest(attachment_id="a1", volume_id="disk", initiator_iqn=IQN)
    ).attachment
    assert len(attached.chap_secret) == 16 and attached.paths and attached.lun == 0
    watch_a1 = ab.WatchAttachmentRequest(attachment_id="a1")
    for answer in alice.attachments.WatchAttachment(watch_a1, timeout=20):
        if answer.attachment.state == r.ATTACHMENT_STATE_READY:
            break
    again = alice.attachments.GetAttachment(ab.GetAttachmentRequest(attachment_id="a1")).attachment
    assert again.chap_secret == attached.chap_secret
    for host in two_hosts:
        entry = etcd.get(keys.assignment(host.record.host_id, volume.uid))
        assert entry is not None
        (assigned,) = decode(r.Assignment, entry.value).attachments
        assert assigned.secret.recipient == host_recipient(host.record.host_id)
        secret = unseal(assigned.secret, host.seal_key, assigned.uid)
        assert secret.decode() == attached.chap_secret
        assert attached.chap_secret.encode() not in entry.value

    snapshotter = SnapshotterActions(etcd, "snapshotter-1", "127.0.0.1", 10809)
    snapshotter.start()
    assert snapshotter.keeper.wait_attached(10)
    for name in ("one", "two"):
        created = alice.snapshots.CreateSnapshot(
            sb.CreateSnapshotRequest(snapshot_id=name, volume_id="disk")
        ).snapshot
        for answer in alice.snapshots.WatchSnapshot(sb.WatchSnapshotRequest(snapshot_id=name), timeout=20):
            if answer.snapshot.state == r.SNAPSHOT_STATE_FROZEN and not answer.snapshot.progress_total_bytes:
                upload(snapshotter, created.uid, f"manifest-{name}")
        assert answer.snapshot.state == r.SNAPSHOT_STATE_COMPLETED, "the watch ends with it"
    record = snapshotter.snapshot(created.uid)
    assert record is not None and record.base_manifest == "manifest-one"
    assert (record.base_generation, record.generation) == (1, 2)
    for host in two_hosts:
        entry = etcd.get(keys.assignment(host.record.host_id, volume.uid))
        assert entry is not None
        assignment = decode(r.Assignment, entry.value)
        assert not assignment.snapshots and assignment.keep_generation == 2 and assignment.initialized

    alice.grants.CreateGrant(gb.CreateGrantRequest(snapshot_id="one", user="bob"))
    listed = bob.snapshots.ListSnapshots(sb.ListSnapshotsRequest(granted=True)).snapshots
    assert [one.snapshot_id for one in listed] == ["one"]
    source = vb.SnapshotRef(owner="alice", snapshot_id="one")
    copy = bob.volumes.CreateVolume(vb.CreateVolumeRequest(volume_id="disk", source_snapshot=source)).volume
    assert copy.size_bytes == GIB and copy.source_snapshot == source
    wait_volume(bob, "disk")
    first = bob.snapshots.CreateSnapshot(sb.CreateSnapshotRequest(snapshot_id="s", volume_id="disk")).snapshot
    record = snapshotter.snapshot(first.uid)
    assert record is not None and record.base_manifest == "manifest-one" and record.base_generation == 0
    assert bob.snapshots.DeleteSnapshot(sb.DeleteSnapshotRequest(snapshot_id="s")).changed

    alice.attachments.DeleteAttachment(ab.DeleteAttachmentRequest(attachment_id="a1"))
    until_gone(alice.attachments.WatchAttachment(watch_a1, timeout=20))
    for client in (alice, bob):
        assert client.volumes.DeleteVolume(vb.DeleteVolumeRequest(volume_id="disk")).changed
        until_gone(client.volumes.WatchVolume(vb.WatchVolumeRequest(volume_id="disk"), timeout=20))
    left = {entry.key.split("/")[3] for entry in etcd.range(keys.PREFIX)[0]}
    assert left == {"hosts", "leases", "snapshots", "names", "grants", "granted"}
    for entry in etcd.range(keys.HOSTS)[0]:
        assert decode(r.HostRecord, entry.value).allocated_bytes == 0
    snapshotter.stop()
