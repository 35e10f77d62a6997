"""What a freeze costs whoever writes: real agents, workers, etcd and TLS on this machine, without LIO.

    python tests/bench/freezes.py [--freezes 60] [--depth 16] [--folder DIRECTORY]

Each volume is written with random 4 KiB at the given depth by a process of its own. A pause is the longest
time between two acknowledgements, from a quarter of a second before the freeze is asked for until a quarter
after it is recorded; beside it, the same for windows of the same length without a freeze.
"""

import argparse
import contextlib
import itertools
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import mkdtemp

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot.v1 import snapshot_pb2 as sb
from holdfast.api.snapshot_group.v1 import snapshot_group_pb2 as gb
from holdfast.api.volume.v1 import volume_pb2 as vb
from holdfast.base.limits import MIB
from holdfast.lab.etcd import EtcdServer
from holdfast.lab.folders import fast_dir
from holdfast.lab.install import install
from holdfast.lab.servers import LocalHost
from holdfast.metadata import keys
from holdfast.metadata.records import decode
from holdfast.metadata.testing import RunningMetadata
from holdfast.target.testing_agent import AgentProcess
from holdfast.target.testing_driver import Driver

SIZE_BYTES = 256 * MIB
AROUND_S = 0.25
HOSTS = ("host-a", "host-b")


class Load:
    """A process that writes one volume, and notes when each write was acknowledged."""

    def __init__(self, path: Path, depth: int, think_s: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_write, args=(path, depth, think_s, theirs), daemon=True)
        self._process.start()

    def since(self, began_s: float) -> list[float]:
        """When writes were acknowledged, since then (CLOCK_MONOTONIC)."""
        self._ours.send(began_s)
        return list(self._ours.recv())

    def end(self) -> None:
        self._process.kill()
        self._process.join()


def _write(path: Path, depth: int, think_s: float, pipe) -> None:  # type: ignore[no-untyped-def]
    """In a process of its own."""
    driver, chance = Driver(path), random.Random(os.getpid())
    acknowledged: list[float] = []

    def send() -> None:
        driver.send(0, chance.randrange(SIZE_BYTES // 4096) * 4096, 4096, chance.randrange(1 << 32))

    for _ in range(depth):
        send()
    while True:
        for _number, done in driver.answers():
            if done:
                acknowledged.append(time.monotonic())
            if think_s:
                time.sleep(think_s)
            send()
        if pipe.poll():
            began_s = pipe.recv()
            acknowledged = [at for at in acknowledged if at >= began_s]
            pipe.send(acknowledged)


def longest_gap_s(times: list[float], began_s: float, ended_s: float) -> float:
    inside = [began_s, *(at for at in times if began_s <= at <= ended_s), ended_s]
    return max(b - a for a, b in itertools.pairwise(inside))


class Stage:
    def __init__(
        self,
        folder: Path,
        ending: ExitStack,
        volumes: int,
        depth: int,
        overcommit: float = 1.0,
        think_s: float = 0.0,
    ) -> None:
        local = LocalHost(folder / "processes")
        ending.callback(local.down)
        (folder / "etcd").mkdir()
        etcd = EtcdServer(local, folder / "etcd").start()
        self.metadata = RunningMetadata(folder / "pki", etcd.endpoint, overcommit=overcommit).start()
        ending.callback(self.metadata.stop)
        self.etcd = self.metadata.etcd
        self.client = self.metadata.client("alice")
        self.agents = {}
        for number, name in enumerate(HOSTS, 2):
            agent = AgentProcess(name, f"127.7.2.{number}", folder, self.metadata, driven=True)
            agent.start()
            ending.callback(agent.end)
            self.agents[name] = agent
        self._until(lambda: len(self.etcd.range(keys.HOST_LEASES)[0]) == len(HOSTS))
        self.loads = []
        for number in range(volumes):
            request = vb.CreateVolumeRequest(volume_id=f"v{number}", size_bytes=SIZE_BYTES)
            uid = self.client.volumes.CreateVolume(request).volume.uid
            self.await_healthy(uid)
            entry = self.etcd.get(keys.replica(uid))
            assert entry is not None
            primary = decode(r.ReplicaRecord, entry.value).primary_host_id
            load = Load(self.agents[primary].run / f"{uid}.io", depth, think_s)
            ending.callback(load.end)
            self.loads.append(load)

    def await_healthy(self, uid: str) -> None:
        self._until(lambda: self._volume(uid).health.state == r.HEALTH_STATE_HEALTHY)

    def _volume(self, uid: str) -> r.VolumeRecord:
        entry = self.etcd.get(keys.volume(uid))
        assert entry is not None
        return decode(r.VolumeRecord, entry.value)

    @staticmethod
    def _until(condition) -> None:  # type: ignore[no-untyped-def]
        deadline_s = time.monotonic() + 60
        while not condition():
            if time.monotonic() > deadline_s:
                raise SystemExit("it did not come about")
            time.sleep(0.02)

    def freeze_one(self, name: str) -> None:
        request = sb.CreateSnapshotRequest(snapshot_id=name, volume_id="v0")
        self.client.snapshots.CreateSnapshot(request)
        for answer in self.client.snapshots.WatchSnapshot(sb.WatchSnapshotRequest(snapshot_id=name)):
            if answer.snapshot.state == r.SNAPSHOT_STATE_FROZEN:
                return
            if answer.snapshot.state == r.SNAPSHOT_STATE_FAILED:
                raise SystemExit(answer.snapshot.reason)

    def freeze_group(self, name: str) -> int:
        """How many attempts it took."""
        volumes = [gb.GroupVolume(volume_id=f"v{number}") for number in range(len(self.loads))]
        request = gb.CreateSnapshotGroupRequest(group_id=name, volumes=volumes)
        self.client.groups.CreateSnapshotGroup(request)
        for answer in self.client.groups.WatchSnapshotGroup(gb.WatchSnapshotGroupRequest(group_id=name)):
            if answer.group.state == r.SNAPSHOT_GROUP_STATE_FROZEN:
                return int(answer.group.attempt)
            if answer.group.state == r.SNAPSHOT_GROUP_STATE_FAILED:
                raise SystemExit(answer.group.reason)
        raise SystemExit("the watch ended")

    def gaps_s(self, began_s: float, ended_s: float) -> list[float]:
        return [longest_gap_s(load.since(began_s), began_s, ended_s) for load in self.loads]


def show(name: str, gaps_s: list[float]) -> None:
    ordered = sorted(one * 1000 for one in gaps_s)
    at = {share: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.9, 0.99)}
    below = sum(one < 100 for one in ordered) / len(ordered)
    print(
        f"  {name:34} {len(ordered):4}: median {at[0.5]:5.1f}, 90 % {at[0.9]:5.1f}, 99 % {at[0.99]:5.1f},"
        f" longest {ordered[-1]:5.1f} ms; {below:.0%} below 100 ms"
    )
    edges = (5, 10, 20, 50, 100, 200, 500)
    cells, low = [], 0
    for edge in (*edges, 10**9):
        count = sum(low <= one < edge for one in ordered)
        cells.append(f"{'<' if edge < 10**9 else '≥'}{edge if edge < 10**9 else low} {count}")
        low = edge
    print("    " + "  ".join(cells) + "  (ms, how many)", flush=True)


def measure(stage: Stage, freezes: int) -> None:
    single, group, beside = [], [], []
    for load in stage.loads:
        while len(load.since(0.0)) < 100:
            time.sleep(0.1)
    began_s = time.monotonic()
    time.sleep(1)
    rates = [len(load.since(began_s)) for load in stage.loads]
    print(f"  writes a second of each volume before: {rates}", flush=True)
    attempts = 0
    for number in range(freezes):
        for kind in ("none", "one", "group"):
            began_s = time.monotonic()
            time.sleep(AROUND_S)
            if kind == "one":
                stage.freeze_one(f"s{number}")
            elif kind == "group":
                attempts += stage.freeze_group(f"g{number}")
            else:
                time.sleep(0.3)
            time.sleep(AROUND_S)
            gaps = stage.gaps_s(began_s, time.monotonic())
            if kind == "one":
                single.append(gaps[0])
                stage.client.snapshots.DeleteSnapshot(sb.DeleteSnapshotRequest(snapshot_id=f"s{number}"))
            elif kind == "group":
                group += gaps
                stage.client.groups.DeleteSnapshotGroup(gb.DeleteSnapshotGroupRequest(group_id=f"g{number}"))
            else:
                beside += gaps
    show("without a freeze", beside)
    show("a volume is frozen", single)
    show(f"{len(stage.loads)} volumes are frozen together", group)
    print(f"  attempts of {freezes} groups: {attempts}")


@contextlib.contextmanager
def scratch(parent: Path | None) -> Iterator[Path]:
    folder = Path(mkdtemp(prefix="holdfast-freezes-", dir=parent or fast_dir(4096)))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--freezes", type=int, default=60)
    parser.add_argument("--depth", type=int, default=16)
    parser.add_argument("--volumes", type=int, default=3)
    parser.add_argument("--think-ms", type=float, default=0.0, help="Between a write's end and the next.")
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    install()
    with scratch(asked.folder) as folder, ExitStack() as ending:
        stage = Stage(folder, ending, asked.volumes, asked.depth, think_s=asked.think_ms / 1000)
        measure(stage, asked.freezes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
