"""An upload that loses hosts and processes under it ends all the same, with the bytes of the freeze.

Real agents, workers, etcd, TLS and snapshotters on this machine; only LIO is left out (tests/system has that,
with the power going off). The snapshotter stands still from when it has begun until the loss is recorded and
everything is overwritten; then the bytes are there only as copies before writes. What a snapshot holds is
said by snapshotter/tests/rebuild.py, which knows the format from its document alone.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.protobuf.message import Message

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot.v1 import snapshot_pb2 as sb
from holdfast.api.volume.v1 import volume_pb2 as vb
from holdfast.base.limits import MIB
from holdfast.metadata import keys
from holdfast.metadata.records import decode
from holdfast.metadata.testing import RunningMetadata, until
from holdfast.target.testing_agent import AgentProcess
from holdfast.target.testing_driver import Driver

SIZE = 48 * MIB
LIMIT_S = 120.0
REBUILD = Path(__file__).parents[2] / "snapshotter" / "tests" / "rebuild.py"


class Stage:
    """One volume on two hosts, and a snapshotter."""

    def __init__(self, metadata: RunningMetadata, agents: list[AgentProcess], folder: Path) -> None:
        self.metadata, self.agents, self.folder = metadata, {one.name: one for one in agents}, folder
        self.client = metadata.client("alice")
        (folder / "objects").mkdir()
        self.snapshotter: subprocess.Popen[bytes] | None = None
        self.content = bytearray(SIZE)
        request = vb.CreateVolumeRequest(volume_id="disk", size_bytes=SIZE)
        self.uid = str(self.client.volumes.CreateVolume(request).volume.uid)
        self.await_whole()

    def record(self, key: str, kind: type[Message]) -> Message:
        entry = self.metadata.etcd.get(key)
        assert entry is not None, key
        return decode(kind, entry.value)

    @property
    def replica(self) -> r.ReplicaRecord:
        found = self.record(keys.replica(self.uid), r.ReplicaRecord)
        assert isinstance(found, r.ReplicaRecord)
        return found

    @property
    def primary(self) -> AgentProcess:
        return self.agents[self.replica.primary_host_id]

    @property
    def mirror(self) -> AgentProcess:
        return next(one for name, one in self.agents.items() if name != self.replica.primary_host_id)

    def snapshot(self, uid: str) -> r.SnapshotRecord:
        found = self.record(keys.snapshot(uid), r.SnapshotRecord)
        assert isinstance(found, r.SnapshotRecord)
        return found

    def await_whole(self) -> None:
        def whole() -> bool:
            volume = self.record(keys.volume(self.uid), r.VolumeRecord)
            assert isinstance(volume, r.VolumeRecord)
            return len(self.replica.in_sync) == 2 and volume.health.state == r.HEALTH_STATE_HEALTHY

        until(whole, LIMIT_S)

    def write(self, value: int, step: int = 1) -> None:
        """Every `step`th MiB."""
        for at in range(0, SIZE, step * MIB):
            self._write(at, value + at // MIB)

    def _write(self, at: int, value: int) -> None:
        def tried() -> bool:
            try:
                driver = Driver(self.primary.run / f"{self.uid}.io")
                done = driver.write(at, MIB, value, 15.0)
                driver.close()
                return done
            except OSError:
                return False

        until(tried, LIMIT_S)
        self.content[at : at + MIB] = value.to_bytes(4, "little") * (MIB // 4)

    def start_snapshotter(self) -> None:
        own = self.metadata.tls("snapshotter", "service")
        words = [sys.executable, "-m", "holdfast.snapshotter.main", "--id", "s", "--address", "127.0.0.1"]
        words += ["--listen-nbd", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0", "--pack-mib", "1"]
        words += ["--checkpoint-s", "0", "--objects", f"file://{self.folder}/objects"]
        words += ["--etcd", self.metadata.etcd_endpoint]
        words += ["--ca", str(own.ca), "--cert", str(own.certificate), "--key", str(own.key)]
        with open(self.folder / "snapshotter.log", "ab") as log:
            self.snapshotter = subprocess.Popen(words, stdout=log, stderr=log)

    def end_snapshotter(self) -> None:
        if self.snapshotter is not None:
            self.snapshotter.kill()
            self.snapshotter.wait()

    def begin(self, name: str) -> str:
        """A snapshot whose upload has begun, and stands still."""
        request = sb.CreateSnapshotRequest(snapshot_id=name, volume_id="disk")
        uid = str(self.client.snapshots.CreateSnapshot(request).snapshot.uid)
        until(lambda: self.snapshot(uid).state == r.SNAPSHOT_STATE_FROZEN, LIMIT_S)
        # Nothing of it can be done: the claim comes first, and the process stands still or is not there yet.
        self.start_snapshotter()
        until(lambda: self.metadata.etcd.get(keys.claim(uid)) is not None, LIMIT_S)
        assert self.snapshotter is not None
        os.kill(self.snapshotter.pid, signal.SIGSTOP)
        assert self.snapshot(uid).state == r.SNAPSHOT_STATE_FROZEN
        return uid

    def finish(self, uid: str) -> bytes:
        """The snapshotter goes on; what the snapshot holds in the end."""
        assert self.snapshotter is not None
        os.kill(self.snapshotter.pid, signal.SIGCONT)
        ended = (r.SNAPSHOT_STATE_COMPLETED, r.SNAPSHOT_STATE_FAILED)
        until(lambda: self.snapshot(uid).state in ended, LIMIT_S)
        done = self.snapshot(uid)
        assert done.state == r.SNAPSHOT_STATE_COMPLETED, done.reason
        self.end_snapshotter()
        return self.rebuilt(uid)

    def rebuilt(self, uid: str) -> bytes:
        done, image = self.snapshot(uid), self.folder / "image"
        words = [sys.executable, str(REBUILD), str(self.folder / "objects"), done.manifest, str(image)]
        subprocess.run(words, check=True)
        return image.read_bytes()

    # What is lost.

    def primary_worker_dies(self) -> None:
        os.kill(self.primary.worker(self.uid), signal.SIGKILL)

    def mirror_goes(self) -> None:
        self.mirror.power_off()
        until(lambda: len(self.replica.in_sync) == 1, LIMIT_S)

    def primary_goes(self) -> None:
        lost = self.primary
        lost.power_off()
        until(lambda: self.primary is not lost, LIMIT_S)

    def snapshotter_dies(self) -> None:
        self.end_snapshotter()
        self.start_snapshotter()


@pytest.fixture
def stage(metadata: RunningMetadata, tmp_path: Path) -> Iterator[Stage]:
    agents = [
        AgentProcess(name, f"127.7.3.{number}", tmp_path, metadata, driven=True)
        for number, name in enumerate(("host-a", "host-b"), 2)
    ]
    made = None
    try:
        for agent in agents:
            agent.words += ["--sync-max-mib", "8"]
            agent.start()
        until(lambda: len(metadata.etcd.range(keys.HOST_LEASES)[0]) == len(agents), LIMIT_S)
        made = Stage(metadata, agents, tmp_path)
        yield made
    finally:
        if made is not None:
            made.end_snapshotter()
        for agent in agents:
            agent.end()


def test_whatever_is_lost_the_upload_ends_with_the_bytes_of_the_freeze(stage: Stage) -> None:
    losses: list[tuple[str, Callable[[], None]]] = [
        ("worker", stage.primary_worker_dies),
        ("primary", stage.primary_goes),
        ("mirror", stage.mirror_goes),
        ("snapshotter", stage.snapshotter_dies),
    ]
    for number, (name, lose) in enumerate(losses, 1):
        stage.write(number << 16, step=1 if number == 1 else 3)
        frozen = bytes(stage.content)
        uid = stage.begin(name)
        lose()
        stage.write(number << 24)
        if name == "primary":
            assert [one.host_id for one in stage.snapshot(uid).frozen_on] == [stage.primary.name]
        assert stage.finish(uid) == frozen, name
        assert bool(stage.snapshot(uid).base_snapshot_uid) == (number > 1)
        for agent in stage.agents.values():
            if agent.process is None or agent.process.poll() is not None:
                agent.start()
        stage.await_whole()


def test_one_that_is_deleted_in_the_middle_takes_nothing_from_the_next(stage: Stage) -> None:
    stage.write(1 << 16)
    assert stage.finish(stage.begin("first")) == stage.content
    stage.write(2 << 16, step=4)
    given_up = stage.begin("given-up")
    stage.write(3 << 16, step=5)
    stage.client.snapshots.DeleteSnapshot(sb.DeleteSnapshotRequest(snapshot_id="given-up"))
    stage.end_snapshotter()
    assert stage.snapshot(given_up).state == r.SNAPSHOT_STATE_DELETED
    after = stage.begin("after")
    frozen = bytes(stage.content)
    assert stage.finish(after) == frozen
    done = stage.snapshot(after)
    # Both what was written before the one that was given up, and after it; and not more.
    changed = len({at for step in (4, 5) for at in range(0, SIZE // MIB, step)})
    assert done.base_snapshot_uid and done.uploaded_bytes == changed * MIB

    # Nothing is copied before writes any more once nobody needs it.
    def left() -> list[Path]:
        return [
            one for agent in stage.agents.values() for one in (agent.store / stage.uid / "frozen").iterdir()
        ]

    until(lambda: not left(), LIMIT_S)


def test_several_under_way_are_each_of_their_own_moment(stage: Stage) -> None:
    contents, uids = [], []
    for number in range(1, 4):
        stage.write(number << 16, step=number)
        request = sb.CreateSnapshotRequest(snapshot_id=f"s{number}", volume_id="disk")
        uids.append(str(stage.client.snapshots.CreateSnapshot(request).snapshot.uid))
        until(lambda: stage.snapshot(uids[-1]).state == r.SNAPSHOT_STATE_FROZEN, LIMIT_S)
        contents.append(bytes(stage.content))
    stage.write(9 << 16)
    stage.start_snapshotter()
    done = (r.SNAPSHOT_STATE_COMPLETED,)
    until(lambda: all(stage.snapshot(uid).state in done for uid in uids), LIMIT_S)
    for uid, content in zip(uids, contents, strict=True):
        assert stage.rebuilt(uid) == content


def test_a_snapshot_of_a_volume_that_still_copies_is_of_its_moment(stage: Stage) -> None:
    stage.write(1 << 16)
    first = stage.begin("first")
    content = bytearray(stage.finish(first))
    stage.start_snapshotter()
    source = vb.SnapshotRef(snapshot_id="first")
    request = vb.CreateVolumeRequest(volume_id="copy", source_snapshot=source)
    uid = str(stage.client.volumes.CreateVolume(request).volume.uid)

    def copy() -> r.VolumeRecord:
        found = stage.record(keys.volume(uid), r.VolumeRecord)
        assert isinstance(found, r.VolumeRecord)
        return found

    until(lambda: copy().state == r.VOLUME_STATE_AVAILABLE, LIMIT_S)
    replica = stage.record(keys.replica(uid), r.ReplicaRecord)
    assert isinstance(replica, r.ReplicaRecord)
    driver = Driver(stage.agents[replica.primary_host_id].run / f"{uid}.io")
    # Parts of extents, and whole ones, near the end: they are not there yet.
    for at, length in ((SIZE - 4096, 4096), (SIZE - 5 * MIB - 512, 1024), (SIZE - 9 * MIB, MIB), (512, 512)):
        assert driver.write(at, length, 77, 60.0)
        content[at : at + length] = (77).to_bytes(4, "little") * (length // 4)
    made = stage.client.snapshots.CreateSnapshot(
        sb.CreateSnapshotRequest(snapshot_id="of-the-copy", volume_id="copy")
    )
    snapshot = str(made.snapshot.uid)
    until(lambda: stage.snapshot(snapshot).state != r.SNAPSHOT_STATE_PENDING, LIMIT_S)
    assert copy().hydrate_remaining_bytes > 0, "it was filled before it was frozen: nothing is shown"
    driver.write(SIZE - 3 * MIB, MIB, 99, 60.0)
    driver.close()
    until(lambda: stage.snapshot(snapshot).state == r.SNAPSHOT_STATE_COMPLETED, LIMIT_S)
    assert stage.rebuilt(snapshot) == content
