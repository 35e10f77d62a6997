"""One volume's agent, with a worker that the test plays."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import Unavailable
from holdfast.base.loop import Loop
from holdfast.metadata.host_actions import HostActions
from holdfast.target.control import Desired, Observed, ObservedSnapshot
from holdfast.target.lio import Lio
from holdfast.target.reconcile import Host
from holdfast.target.tools import Tools
from holdfast.target.volume_agent import VolumeAgent
from holdfast.target.worker_control import ControlServer
from holdfast.target.workers import Workers

UID = "0123456789abcdef01234567"
HOST = Host("a", "boot-1", "127.0.0.1", "127.0.0.1:3260", "", no_lio="No LIO here.")
PENDING = r.AssignedSnapshot(uid="0" * 24, state=r.SNAPSHOT_STATE_PENDING)


class NoEtcd:
    def __getattr__(self, _name: str) -> Callable[..., bool]:
        def call(*_: object) -> bool:
            raise Unavailable("ETCD_UNREACHABLE", "etcd is away: try again.")

        return call


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


@pytest.fixture
def agent(loop: Loop, tmp_path: Path) -> Iterator[VolumeAgent]:
    workers = Workers(tmp_path, [sys.executable, "-c", "import time; time.sleep(60)"])
    nothing = cast(Any, None)
    actions = cast(HostActions, NoEtcd())
    tools = Tools(loop, actions, Lio(tmp_path), workers, tmp_path / "store", b"", nothing, lambda: HOST)
    made = VolumeAgent(UID, tools)
    yield made
    made.close()
    worker = workers.adopt(UID)
    if worker is not None:
        worker.stop()
        worker.close()


def run_until(loop: Loop, holds: Callable[[], bool]) -> None:
    deadline_s = loop.now() + 20
    while not holds():
        assert loop.now() < deadline_s
        loop.run_once(0.1)


def test_a_new_worker_is_not_told_to_freeze_again(loop: Loop, agent: VolumeAgent, tmp_path: Path) -> None:
    """Nobody knows whether FROZEN was recorded; if it was, the view is being copied (I-8)."""
    told: list[Desired] = []

    def worker(frozen: bool) -> ControlServer:
        observed = Observed(
            UID, "primary", 1, True, True, True, snapshots=(ObservedSnapshot(PENDING.uid, frozen, 2, 9.0),)
        )

        def apply(desired: Desired) -> Observed:
            told.append(desired)
            return observed

        return ControlServer(loop, tmp_path / f"{UID}.sock", apply)

    first = worker(frozen=True)
    assignment = r.Assignment(
        host_id="a", volume_uid=UID, size_bytes=1 << 20, role=r.ROLE_PRIMARY, epoch=1, boot_id="boot-1",
        peer=r.Peer(host_id="b"), initialized=True, snapshots=[PENDING],
    )  # fmt: skip
    agent.assign(assignment)
    run_until(loop, lambda: bool(told))
    assert told[0].snapshots[0].freeze
    run_until(loop, lambda: not told[-1].snapshots[0].freeze)
    first.close()
    told.clear()
    second = worker(frozen=False)
    run_until(loop, lambda: bool(told))
    assert not any(one.snapshots[0].freeze for one in told)
    second.close()
