"""Groups on real processes: agents, workers, etcd and TLS on this machine; only LIO is left out."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot_group.v1 import snapshot_group_pb2 as pb
from holdfast.api.volume.v1 import volume_pb2 as vb
from holdfast.base.limits import MIB
from holdfast.base.nbd.client import Client
from holdfast.base.tls import PeerIdentity, client_context
from holdfast.metadata import keys
from holdfast.metadata.records import decode
from holdfast.metadata.testing import RunningMetadata, until
from holdfast.target.testing_agent import AgentProcess
from holdfast.target.testing_driver import Driver

SIZE, BLOCK = 8 * MIB, 4096
LIMIT_S = 90.0
HOSTS = ("host-a", "host-b", "host-c")


class Real:
    """Three volumes on three hosts."""

    def __init__(self, metadata: RunningMetadata, agents: dict[str, AgentProcess]) -> None:
        self.metadata, self.agents = metadata, agents
        self.client = metadata.client("alice")
        self.uids = []
        for number in range(3):
            request = vb.CreateVolumeRequest(volume_id=f"v{number}", size_bytes=SIZE)
            self.uids.append(str(self.client.volumes.CreateVolume(request).volume.uid))
        for uid in self.uids:
            until(lambda uid=uid: self._is_healthy(uid), LIMIT_S)  # type: ignore[misc]

    def _is_healthy(self, uid: str) -> bool:
        return self.record(keys.volume(uid), r.VolumeRecord).health.state == r.HEALTH_STATE_HEALTHY

    def record(self, key: str, kind):  # type: ignore[no-untyped-def]
        entry = self.metadata.etcd.get(key)
        assert entry is not None, key
        return decode(kind, entry.value)

    def primary(self, uid: str) -> AgentProcess:
        return self.agents[self.record(keys.replica(uid), r.ReplicaRecord).primary_host_id]

    def freeze(self, name: str) -> r.SnapshotGroupRecord:
        volumes = [pb.GroupVolume(volume_id=f"v{number}") for number in range(3)]
        request = pb.CreateSnapshotGroupRequest(group_id=name, volumes=volumes)
        uid = self.client.groups.CreateSnapshotGroup(request).group.uid
        watch = pb.WatchSnapshotGroupRequest(group_id=name)
        for answer in self.client.groups.WatchSnapshotGroup(watch, timeout=LIMIT_S):
            if answer.group.state != r.SNAPSHOT_GROUP_STATE_PENDING:
                break
        return self.record(keys.snapshot_group(uid), r.SnapshotGroupRecord)

    def views(self, group: r.SnapshotGroupRecord) -> list[list[bytes]]:
        """Of each volume, what each host that vouches for it has."""
        context = client_context(self.metadata.tls("operator", "operator"))
        found = []
        for member in group.members:
            snapshot = self.record(keys.snapshot(member.snapshot_uid), r.SnapshotRecord)
            found.append(
                [
                    self._read(f"frozen:{member.volume_uid}:{member.snapshot_uid}", on, context)
                    for on in snapshot.frozen_on
                ]
            )
        return found

    @staticmethod
    def _read(export: str, on: r.FrozenOn, context) -> bytes:  # type: ignore[no-untyped-def]
        where = (on.nbd_address, on.nbd_port)
        with Client(where, export, tls=context, expected=PeerIdentity(on.host_id, "host")) as client:
            return bytes(client.read(0, SIZE))


class Chain(threading.Thread):
    """Write n + 1 is issued when n was acknowledged, to a volume and block of its choice, each block once."""

    def __init__(self, real: Real, number: int) -> None:
        super().__init__(daemon=True)
        self._real, self._number = real, number
        self._chance = random.Random(number)
        self.where: list[tuple[int, int]] = []
        self.acknowledged = 0
        self.over = threading.Event()

    def value(self, index: int) -> int:
        return self._number << 24 | index + 1

    def run(self) -> None:
        blocks = [(v, b) for v in range(3) for b in range(self._number, SIZE // BLOCK, 3)]
        self._chance.shuffle(blocks)
        drivers: dict[int, Driver] = {}
        for volume, block in blocks:
            self.where.append((volume, block))
            while not self.over.is_set() and not self._try(drivers, volume, block):
                self.over.wait(0.02)
            if self.over.is_set():
                break
            self.acknowledged += 1
        for driver in drivers.values():
            driver.close()

    def _try(self, drivers: dict[int, Driver], volume: int, block: int) -> bool:
        uid = self._real.uids[volume]
        try:
            if volume not in drivers:
                drivers[volume] = Driver(self._real.primary(uid).run / f"{uid}.io")
            if drivers[volume].write(block * BLOCK, BLOCK, self.value(len(self.where) - 1), 15.0):
                return True
        except OSError:
            pass
        if volume in drivers:
            drivers.pop(volume).close()
        return False


@pytest.fixture
def real(metadata: RunningMetadata, tmp_path: Path) -> Iterator[Real]:
    agents = {
        name: AgentProcess(name, f"127.7.1.{number}", tmp_path, metadata, driven=True)
        for number, name in enumerate(HOSTS, 2)
    }
    try:
        for agent in agents.values():
            agent.start()
        until(lambda: len(metadata.etcd.range(keys.HOST_LEASES)[0]) == len(HOSTS), LIMIT_S)
        yield Real(metadata, agents)
    finally:
        for agent in agents.values():
            agent.end()


def violations(chains: list[Chain], must: list[int], views: list[list[bytes]]) -> list[str]:
    found = [f"v{n} differs between hosts" for n, one in enumerate(views) if any(x != one[0] for x in one)]
    for chain, least in zip(chains, must, strict=True):
        has = []
        for index, (volume, block) in enumerate(list(chain.where)):
            wanted = chain.value(index).to_bytes(4, "little") * (BLOCK // 4)
            has.append(views[volume][0][block * BLOCK : (block + 1) * BLOCK] == wanted)
        count = has.index(False) if False in has else len(has)
        if any(has[count:]):
            found.append(f"{chain.name} has a write after {count}, and not that")
        if count < least:
            found.append(f"{chain.name} lacks {count}, acknowledged before the group was asked for")
    return found


def test_no_group_has_a_write_without_those_before_it(real: Real) -> None:
    chains = [Chain(real, number) for number in range(3)]
    for chain in chains:
        chain.start()
    until(lambda: all(chain.acknowledged > 20 for chain in chains), LIMIT_S)
    try:
        faults: list[Callable[[], None]] = [
            lambda: None,
            lambda: None,
            lambda: _kill_worker(real, real.uids[1]),
            lambda: None,
        ]
        for number, fault in enumerate(faults):
            must = [chain.acknowledged for chain in chains]
            trouble = threading.Timer(0.05, fault)
            trouble.start()
            group = real.freeze(f"g{number}")
            trouble.join()
            assert group.state == r.SNAPSHOT_GROUP_STATE_FROZEN, group
            primaries = {real.primary(uid).name for uid in real.uids}
            assert len(primaries) > 1, "the volumes' primaries are not all on one host"
            assert not violations(chains, must, real.views(group))
            real.client.groups.DeleteSnapshotGroup(pb.DeleteSnapshotGroupRequest(group_id=f"g{number}"))
        before = [chain.acknowledged for chain in chains]
        deadline_s = time.monotonic() + LIMIT_S
        until(lambda: all(c.acknowledged > b for c, b in zip(chains, before, strict=True)), LIMIT_S)
        assert time.monotonic() < deadline_s
    finally:
        for chain in chains:
            chain.over.set()
        for chain in chains:
            chain.join(LIMIT_S)


def _kill_worker(real: Real, uid: str) -> None:
    os.kill(real.primary(uid).worker(uid), signal.SIGKILL)
