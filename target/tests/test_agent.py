"""Two agents and their workers as processes on this machine, on a real etcd, with the real service."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.protobuf.message import Message

from holdfast.api.attachment.v1 import attachment_pb2 as ab
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot.v1 import snapshot_pb2 as sb
from holdfast.api.volume.v1 import volume_pb2 as vb
from holdfast.base.limits import MIB
from holdfast.metadata import keys
from holdfast.metadata.etcd import Etcd
from holdfast.metadata.records import decode
from holdfast.metadata.testing import RunningMetadata
from holdfast.target.testing_agent import AgentProcess

LIMIT_S = 30
LOST_MAX_S = 10.0
"""Until a host's loss is recorded, with a lease of 2 s, on a machine that has other things to do."""
IQN = "iqn.2026-01.com.example:compute1"


def wait_for(etcd: Etcd, key: str, holds: Callable[[bytes | None], bool]) -> bytes | None:
    """The value of `key` once it satisfies `holds`. Watches."""
    stop = threading.Event()
    timer = threading.Timer(LIMIT_S, stop.set)
    timer.start()
    entries, revision = etcd.range(key)
    value = next((entry.value for entry in entries if entry.key == key), None)
    try:
        if holds(value):
            return value
        for events in etcd.watch(key, revision + 1, stop):
            for event in events:
                if event.key == key:
                    value = event.entry.value if event.entry else None
                    if holds(value):
                        return value
    finally:
        timer.cancel()
    raise AssertionError(f"{key} did not become what was waited for; it is {value!r}")


def is_such(kind: type[Message], holds: Callable[..., bool]) -> Callable[[bytes | None], bool]:
    return lambda value: value is not None and holds(decode(kind, value))


@pytest.fixture
def lease_ttl_s() -> int:
    """So that a lost host is soon known to be lost."""
    return 2


@pytest.fixture
def agents(metadata: RunningMetadata, tmp_path: Path, lease_ttl_s: int) -> Iterator[list[AgentProcess]]:
    made = [
        AgentProcess(f"host-{letter}", f"127.7.5.{number}", tmp_path, metadata, lease_ttl_s=lease_ttl_s)
        for number, letter in enumerate("ab", 1)
    ]
    try:
        for agent in made:
            agent.start()
        for agent in made:
            wait_for(metadata.etcd, keys.host_lease(agent.name), lambda value: value is not None)
        yield made
    finally:
        for agent in made:
            agent.end()


def make_volume(metadata: RunningMetadata, name: str) -> str:
    client = metadata.client("alice")
    request = vb.CreateVolumeRequest(volume_id=name, size_bytes=64 * MIB)
    uid = str(client.volumes.CreateVolume(request).volume.uid)
    wait_for(
        metadata.etcd,
        keys.volume(uid),
        is_such(r.VolumeRecord, lambda volume: volume.state == r.VOLUME_STATE_AVAILABLE),
    )
    return uid


def healthy(volume: r.VolumeRecord) -> bool:
    return volume.health.state == r.HEALTH_STATE_HEALTHY


def test_a_volume_lives_and_goes(metadata: RunningMetadata, agents: list[AgentProcess]) -> None:
    etcd, alice = metadata.etcd, metadata.client("alice")
    uid = make_volume(metadata, "disk")
    for agent in agents:
        assert (agent.store / uid / "data").stat().st_size == 64 * MIB
    wait_for(etcd, keys.volume(uid), is_such(r.VolumeRecord, healthy))

    # This machine has no LIO: the host says so, and so does the attachment.
    record = etcd.get(keys.host("host-a"))
    assert record is not None
    host = decode(r.HostRecord, record.value)
    assert not host.exports and "cannot export volumes" in host.exports_message
    assert host.capacity_bytes > 0
    request = ab.CreateAttachmentRequest(attachment_id="a1", volume_id="disk", initiator_iqn=IQN)
    attachment = alice.attachments.CreateAttachment(request).attachment
    key = keys.attachment(uid, attachment.uid)
    wait_for(etcd, key, is_such(r.AttachmentRecord, lambda one: "cannot export" in one.reason))
    alice.attachments.DeleteAttachment(ab.DeleteAttachmentRequest(attachment_id="a1"))
    wait_for(etcd, key, lambda value: value is None)

    frozen_on = freeze(metadata, "s1").frozen_on
    assert sorted(one.host_id for one in frozen_on) == ["host-a", "host-b"]
    alice.snapshots.DeleteSnapshot(sb.DeleteSnapshotRequest(snapshot_id="s1"))

    workers = [agent.worker(uid) for agent in agents]
    alice.volumes.DeleteVolume(vb.DeleteVolumeRequest(volume_id="disk"))
    wait_for(etcd, keys.volume(uid), lambda value: value is None)
    for agent, pid in zip(agents, workers, strict=True):
        assert list(agent.store.iterdir()) == []
        assert not Path(f"/proc/{pid}").exists()
        assert not (agent.run / f"{uid}.pid").exists()


@pytest.mark.parametrize("lease_ttl_s", [60], ids=["an agent may take long to start"])
def test_killing_anything_is_mended(metadata: RunningMetadata, agents: list[AgentProcess]) -> None:
    etcd = metadata.etcd
    uid = make_volume(metadata, "disk")
    wait_for(etcd, keys.volume(uid), is_such(r.VolumeRecord, healthy))
    replicas = etcd.get(keys.replica(uid))
    assert replicas is not None
    primary_id = decode(r.ReplicaRecord, replicas.value).primary_host_id
    primary = next(agent for agent in agents if agent.name == primary_id)
    lease = etcd.get(keys.host_lease(primary.name))
    worker = primary.worker(uid)

    # The agent dies: its worker does not, and the next agent adopts both worker and lease.
    primary.kill()
    assert Path(f"/proc/{worker}").exists()
    primary.start()
    made = make_volume(metadata, "second")
    assert primary.worker(uid) == worker != primary.worker(made)
    again = etcd.get(keys.host_lease(primary.name))
    assert lease is not None and again is not None and again.lease_id == lease.lease_id

    # The worker dies: another is started, which serves.
    (mirror,) = (agent for agent in agents if agent is not primary)
    for number, (agent, how) in enumerate(
        [(primary, signal.SIGKILL), (mirror, signal.SIGKILL), (primary, signal.SIGSTOP)]
    ):
        worker = agent.worker(uid)
        os.kill(worker, how)
        # Only a worker that serves freezes.
        freeze(metadata, f"after-{number}")
        assert agent.worker(uid) != worker


def freeze(metadata: RunningMetadata, name: str) -> r.SnapshotRecord:
    """A new snapshot of the volume "disk", frozen."""
    request = sb.CreateSnapshotRequest(snapshot_id=name, volume_id="disk")
    snapshot = metadata.client("alice").snapshots.CreateSnapshot(request).snapshot
    frozen = is_such(r.SnapshotRecord, lambda one: one.state == r.SNAPSHOT_STATE_FROZEN)
    value = wait_for(metadata.etcd, keys.snapshot(snapshot.uid), frozen)
    assert value is not None
    return decode(r.SnapshotRecord, value)


def replica_of(value: bytes | None) -> r.ReplicaRecord:
    assert value is not None
    return decode(r.ReplicaRecord, value)


def test_either_host_is_lost_and_comes_back(metadata: RunningMetadata, agents: list[AgentProcess]) -> None:
    """With nobody's help: left out or taken over from, brought up to date, in sync."""
    etcd = metadata.etcd
    uid = make_volume(metadata, "disk")
    wait_for(etcd, keys.volume(uid), is_such(r.VolumeRecord, healthy))
    in_sync = is_such(r.ReplicaRecord, lambda one: len(one.in_sync) == 2)
    record = replica_of(wait_for(etcd, keys.replica(uid), in_sync))
    for which in ("primary", "mirror"):
        (primary,) = (agent for agent in agents if agent.name == record.primary_host_id)
        (mirror,) = (agent for agent in agents if agent is not primary)
        lost, left = (primary, mirror) if which == "primary" else (mirror, primary)
        lost.power_off()
        began_s = time.monotonic()
        alone = is_such(
            r.ReplicaRecord,
            lambda one: [(m.host_id) for m in one.in_sync] == [left.name],  # noqa: B023
        )
        after = replica_of(wait_for(etcd, keys.replica(uid), alone))
        assert time.monotonic() - began_s < LOST_MAX_S
        assert after.epoch == record.epoch + 1 and after.primary_host_id == left.name
        alone_health = is_such(r.VolumeRecord, lambda one: one.health.reason == "MIRROR_LOST")
        value = wait_for(etcd, keys.volume(uid), alone_health)
        assert value is not None and lost.name in decode(r.VolumeRecord, value).health.message
        freeze(metadata, f"without-{which}")
        lost.start()
        record = replica_of(wait_for(etcd, keys.replica(uid), in_sync))
        assert record.epoch == after.epoch + 1 and record.primary_host_id == left.name
        wait_for(etcd, keys.volume(uid), is_such(r.VolumeRecord, healthy))


def test_a_store_that_is_not_mounted_is_not_made(metadata: RunningMetadata, tmp_path: Path) -> None:
    agent = AgentProcess("host-c", "127.7.5.3", tmp_path, metadata)
    agent.store.rmdir()
    done = subprocess.run(agent.words, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 1 and "mount its file system" in done.stderr
    assert not agent.store.exists()
    assert metadata.etcd.get(keys.host("host-c")) is None
