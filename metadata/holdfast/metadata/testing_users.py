"""For tests: what users have before a test begins, made as they would make it."""

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot.v1 import snapshot_pb2 as sb
from holdfast.api.volume.v1 import volume_pb2 as vb
from holdfast.base.limits import GIB
from holdfast.metadata.client import Client
from holdfast.metadata.snapshot_changes import Uploaded
from holdfast.metadata.snapshotter_actions import SnapshotterActions
from holdfast.metadata.testing import RunningMetadata


def made_volume(client: Client, volume_id: str, **fields: object) -> vb.Volume:
    """A volume, once it is AVAILABLE."""
    request = vb.CreateVolumeRequest(volume_id=volume_id, size_bytes=GIB, **fields)  # type: ignore[arg-type]
    client.volumes.CreateVolume(request)
    return available(client, volume_id)


def available(client: Client, volume_id: str) -> vb.Volume:
    """The volume, once it is: from then on its hosts change nothing of themselves."""
    for answer in client.volumes.WatchVolume(vb.WatchVolumeRequest(volume_id=volume_id), timeout=20):
        if answer.volume.state == r.VOLUME_STATE_AVAILABLE:
            return answer.volume
    raise AssertionError("the watch ended")


def made_snapshot(metadata: RunningMetadata, client: Client, snapshot_id: str, volume_id: str) -> sb.Snapshot:
    """A snapshot, COMPLETED."""
    request = sb.CreateSnapshotRequest(snapshot_id=snapshot_id, volume_id=volume_id)
    client.snapshots.CreateSnapshot(request)
    return completed(metadata, client, snapshot_id)


def completed(metadata: RunningMetadata, client: Client, snapshot_id: str) -> sb.Snapshot:
    """A snapshot, COMPLETED as a snapshotter does it once it is FROZEN."""
    snapshotter = SnapshotterActions(metadata.etcd, "s", "127.0.0.1", 1)
    snapshotter.start()
    assert snapshotter.keeper.wait_attached(10)
    for answer in client.snapshots.WatchSnapshot(
        sb.WatchSnapshotRequest(snapshot_id=snapshot_id), timeout=20
    ):
        if answer.snapshot.state == r.SNAPSHOT_STATE_FROZEN:
            by = snapshotter.claim(answer.snapshot.uid)
            if by is not None:
                snapshotter.complete(answer.snapshot.uid, by, Uploaded("m", "00", 1, 1))
    snapshotter.stop()
    return answer.snapshot
