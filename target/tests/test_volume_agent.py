"""One volume's agent, with a worker that the test plays."""

import dataclasses
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import Precondition, StaleEpoch, Unavailable
from holdfast.base.loop import Loop
from holdfast.metadata.host_actions import HostActions
from holdfast.target.control import Desired, Observed, ObservedSnapshot
from holdfast.target.control_client import WorkerLink
from holdfast.target.lio import Lio
from holdfast.target.reconcile import Host
from holdfast.target.syncs import HOST_SYNCS_MAX, JITTER_S, Syncs
from holdfast.target.tools import Tools
from holdfast.target.upgrades import Upgrades
from holdfast.target.volume_agent import REBUILD_S, VolumeAgent
from holdfast.target.volume_worker import SILENT_LOOKS
from holdfast.target.worker_control import ControlServer
from holdfast.target.workers import Workers

UID = "0123456789abcdef01234567"
LIVE = {"a": "boot-1", "b": "b-1"}
HOST = Host("a", "boot-1", "127.0.0.1", "127.0.0.1:3260", "", no_lio="No LIO here.", leases=LIVE)
PENDING = r.AssignedSnapshot(uid="0" * 24, state=r.SNAPSHOT_STATE_PENDING)


class Etcd:
    """What is asked of HostActions, and what comes of it: an exception, or a wait, by the call's name."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.fail: dict[str, Exception] = {}
        self.away = True
        self.hold: dict[str, threading.Event] = {}

    def __getattr__(self, name: str) -> Callable[..., bool]:
        def call(*arguments: object) -> bool:
            self.called.append(name)
            if name in self.hold:
                self.hold[name].wait(20)
            if name in self.fail or self.away:
                raise self.fail.get(name, Unavailable("ETCD_UNREACHABLE", "etcd is away: try again."))
            return True

        return call

    def count(self, name: str) -> int:
        return self.called.count(name)


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


class Bench:
    """A volume's agent, whose worker and etcd are the test's."""

    def __init__(self, loop: Loop, folder: Path) -> None:
        self.loop = loop
        self.etcd = Etcd()
        self.host = HOST
        self.workers = Workers(folder, [sys.executable, "-c", "import time; time.sleep(60)"])
        self.told: list[Desired] = []
        self.observed = Observed(UID)
        self._socket = folder / f"{UID}.sock"
        nothing = cast(Any, None)
        self.urgent = ThreadPoolExecutor(2)
        self.upgrades = Upgrades(lambda: None)
        self.sends = Syncs(Random(0), lambda _uid: self.agent.reconcile_soon())
        self.receives = Syncs(Random(0), lambda _uid: self.agent.reconcile_soon())
        tools = Tools(
            loop, cast(HostActions, self.etcd), Lio(folder), self.workers, folder / "store", b"", nothing,
            lambda: self.host, self.urgent, self.sends, self.receives, self.upgrades,
        )  # fmt: skip
        self.agent = VolumeAgent(UID, tools)
        self.server: ControlServer | None = None

    def start_worker(self, observed: Observed) -> None:
        self.observed = observed
        self.server = ControlServer(self.loop, self._socket, self._apply)

    def adopted_code(self) -> str:
        worker = self.workers.adopt(UID)
        if worker is None:
            return ""
        worker.close()
        return worker.code

    def _apply(self, desired: Desired) -> Observed:
        self.told.append(desired)
        return self.observed

    def says(self, observed: Observed) -> None:
        self.observed = observed
        assert self.server is not None
        self.server.tell(observed)

    def leases(self, **boots: str) -> None:
        before = dict(self.host.leases or {})
        self.host = dataclasses.replace(self.host, leases=boots)
        changed = {host for host in before.keys() | boots.keys() if before.get(host) != boots.get(host)}
        self.agent.leases_changed(frozenset(changed))

    def until(self, holds: Callable[[], bool]) -> None:
        run_until(self.loop, holds)

    def close(self) -> None:
        for event in self.etcd.hold.values():
            event.set()
        self.agent.close()
        if self.server is not None:
            self.server.close()
        worker = self.workers.adopt(UID)
        if worker is not None:
            worker.stop()
            worker.close()


@pytest.fixture
def bench(loop: Loop, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(loop, tmp_path)
    yield made
    made.close()


@pytest.fixture
def agent(bench: Bench) -> VolumeAgent:
    return bench.agent


def run_until(loop: Loop, holds: Callable[[], bool]) -> None:
    deadline_s = loop.now() + 20
    while not holds():
        assert loop.now() < deadline_s
        loop.run_once(0.1)


WELL = Observed(UID, "primary", 1, True, True, True)
ALONE = r.Assignment(
    host_id="a", volume_uid=UID, size_bytes=1 << 20, role=r.ROLE_PRIMARY, epoch=1, boot_id="boot-1",
    initialized=True, primary_host_id="a",
)  # fmt: skip


def test_a_worker_of_older_code_is_replaced_when_its_turn_comes(loop: Loop, tmp_path: Path) -> None:
    words = [sys.executable, "-c", "import time; time.sleep(60)"]
    old = Workers(tmp_path, words, "old").start(UID)
    bench = Bench(loop, tmp_path)
    bench.workers.code = "new"
    try:
        bench.start_worker(dataclasses.replace(WELL, serving=False))
        assert bench.upgrades.take("another volume")
        bench.agent.assign(ALONE)
        bench.until(lambda: bench.agent._link.observed is not None)
        bench.says(WELL)
        bench.until(lambda: bool(bench.agent._link.observed and bench.agent._link.observed.serving))
        bench.agent.reconcile()
        assert old.alive(), "another volume has the turn"
        bench.upgrades.over("another volume")
        bench.agent.reconcile()
        bench.until(lambda: not old.alive())
        bench.until(lambda: bench.adopted_code() == "new")
        # The new one has not said that it is well: nobody else's turn comes.
        assert not bench.upgrades.take("another volume")
        bench.says(WELL)
        bench.until(lambda: bench.upgrades.take("another volume"))
        assert not bench.agent._worker.crash_looping and bench.agent._worker._backoff.failures == 0
    finally:
        bench.close()
        old.close()


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
        peers=[r.Peer(host_id="b", boot_id="b-1")], initialized=True, primary_host_id="a",
        snapshots=[PENDING],
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


def assigned(role: "r.Role.ValueType", **fields: Any) -> r.Assignment:
    known: dict[str, Any] = {
        "host_id": "a", "volume_uid": UID, "size_bytes": 1 << 20, "role": role, "epoch": 1,
        "boot_id": "boot-1", "peers": [r.Peer(host_id="b", boot_id="b-1")], "initialized": True,
        "primary_host_id": "a" if role == r.ROLE_PRIMARY else "b",
    }  # fmt: skip
    return r.Assignment(**{**known, **fields})


def observed(role: str, **fields: Any) -> Observed:
    good = Observed(UID, role, 1, store_open=True, peer_connected=True, consistent=True, store_empty=False)
    return dataclasses.replace(good, **fields)


def test_a_takeover_waits_for_nothing(bench: Bench) -> None:
    """Not for reports that etcd is slow to take, nor for the next look at things."""
    bench.etcd.away = False
    bench.etcd.hold["snapshot_lost_here"] = threading.Event()
    frozen = r.AssignedSnapshot(uid="f" * 24, state=r.SNAPSHOT_STATE_FROZEN)
    lost = (ObservedSnapshot("f" * 24, False, failed="its files are gone"),)
    bench.start_worker(observed("mirror", snapshots=lost))
    bench.agent.assign(assigned(r.ROLE_MIRROR, snapshots=[frozen]))
    bench.until(lambda: bench.etcd.count("snapshot_lost_here") == 1)
    bench.leases(a="boot-1")
    for _ in range(5):
        bench.loop.run_once(0.01)
    assert not bench.etcd.count("take_over"), "it is bound by its promise"
    said_s = bench.loop.now()
    bench.says(observed("mirror", may_take_over=True))
    bench.until(lambda: bench.etcd.count("take_over") == 1)
    assert bench.loop.now() - said_s < 0.5
    # The other order: free first, then the lease goes.
    bench.leases(**LIVE)
    bench.agent.assign(assigned(r.ROLE_MIRROR, epoch=2))
    bench.says(observed("mirror", epoch=2, may_take_over=True))
    bench.until(lambda: bool(bench.told) and bench.told[-1].epoch == 2)
    gone_s = bench.loop.now()
    bench.leases(a="boot-1")
    bench.until(lambda: bench.etcd.count("take_over") == 2)
    assert bench.loop.now() - gone_s < 0.5


def test_a_primary_stands_in_line_once_the_joiner_has_its_turn(bench: Bench) -> None:
    alone = [r.Peer(host_id="b")]
    others = [str(number) for number in range(HOST_SYNCS_MAX)]
    for other in others:
        assert bench.sends.wanted(other, 0, bench.loop.now())
    waits = observed("primary", joining=("b",))
    bench.start_worker(waits)
    bench.agent.assign(assigned(r.ROLE_PRIMARY, peers=alone))
    bench.until(lambda: bench.agent._link.observed == waits)
    assert not bench.agent._may_sync() and not bench.sends._waiting
    bench.says(dataclasses.replace(waits, syncable=("b",)))
    bench.until(lambda: bool(bench.sends._waiting))
    assert not bench.told[-1].may_sync
    bench.sends.over(others[0], bench.loop.now() + JITTER_S)
    bench.until(lambda: bench.told[-1].may_sync)
    # It lacks nothing, and that is being recorded.
    bench.says(observed("primary", bound=("b",)))
    bench.until(lambda: bool(bench.agent._link.observed and bench.agent._link.observed.bound))
    assert bench.agent._may_sync()
    bench.says(observed("primary"))
    bench.until(lambda: not bench.told[-1].may_sync)


def test_a_joiner_stands_in_line_once_its_primary_is_there(bench: Bench) -> None:
    bench.start_worker(observed("joiner", peer_connected=False))
    bench.agent.assign(assigned(r.ROLE_JOINER, boot_id=""))
    bench.until(lambda: bool(bench.told) and bench.agent._link.observed is not None)
    assert not bench.told[-1].may_sync
    bench.says(observed("joiner"))
    bench.until(lambda: bench.told[-1].may_sync)
    assert list(bench.receives._running) == [UID] and not bench.sends._running
    # In sync it stands in no line.
    bench.agent.assign(assigned(r.ROLE_MIRROR, epoch=2))
    bench.until(lambda: bench.told[-1].epoch == 2 and not bench.told[-1].may_sync)
    assert not bench.receives._running


def test_a_change_is_asked_for_until_it_is_made(bench: Bench) -> None:
    bench.start_worker(observed("primary", wants_leave_out=("b",)))
    bench.agent.assign(assigned(r.ROLE_PRIMARY))
    bench.until(lambda: bench.etcd.count("leave_out") >= 3)
    bench.etcd.fail["leave_out"] = StaleEpoch("too late")
    asked = bench.etcd.count("leave_out")
    bench.until(lambda: bench.etcd.count("leave_out") > asked)
    # Refused for good: nothing more for a while, but for a change that is another.
    asked = bench.etcd.count("leave_out")
    for _ in range(5):
        bench.agent.reconcile()
        bench.loop.run_once(0.01)
    assert bench.etcd.count("leave_out") == asked
    bench.agent.assign(assigned(r.ROLE_PRIMARY, epoch=2))
    bench.says(observed("primary", epoch=2, wants_leave_out=("b",)))
    bench.until(lambda: bench.etcd.count("leave_out") > asked)


def test_a_worker_that_does_not_stay_costs_its_host_the_volume(bench: Bench) -> None:
    """Once the mirror is there; not of a host that is not the primary."""
    bench.etcd.away = False
    bench.workers._command[:] = [sys.executable, "-c", ""]
    bench.leases(a="boot-1")
    bench.agent.assign(assigned(r.ROLE_PRIMARY))
    bench.until(lambda: bench.agent._worker.crash_looping)
    assert not bench.etcd.count("crash_move"), "there is nobody else"
    bench.leases(**LIVE)
    bench.until(lambda: bench.etcd.count("crash_move") == 1)
    bench.agent.assign(assigned(r.ROLE_JOINER, epoch=2, boot_id=""))
    assert bench.agent._situation().crash_looping, "its exports are fenced"
    bench.until(lambda: not bench.agent._changes._sending)
    bench.agent.reconcile()
    assert not bench.agent._changes._sending and bench.etcd.count("crash_move") == 1


def test_what_is_refused_for_now_is_asked_again(bench: Bench) -> None:
    bench.etcd.away = False
    bench.etcd.fail["take_over"] = Precondition("PRIMARY_LIVES", "wait")
    bench.start_worker(observed("mirror", may_take_over=True))
    bench.agent.assign(assigned(r.ROLE_MIRROR))
    bench.leases(a="boot-1")
    bench.until(lambda: bench.etcd.count("take_over") >= 3)
    bench.leases(**LIVE)
    bench.until(lambda: not bench.agent._changes._sending)
    asked = bench.etcd.count("take_over")
    for _ in range(10):
        bench.loop.run_once(0.05)
    assert bench.etcd.count("take_over") == asked


def test_a_bad_copy_is_thrown_away_once_in_a_while(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [1000.0]
    monkeypatch.setattr(bench.loop, "now", lambda: now_s[0])
    monkeypatch.setattr("holdfast.target.volume_agent._exists", lambda _path: True, raising=False)
    bad, good = observed("joiner", suspect=True), observed("joiner")

    bench.etcd.away = False
    renounced: list[int] = []

    def asked(seen: Observed) -> bool:
        """Each epoch that is renounced is followed by the next."""
        for _ in range(2):
            epoch = 1 + len(renounced)
            bench.agent.assign(assigned(r.ROLE_JOINER, boot_id="", epoch=epoch))
            bench.says(dataclasses.replace(seen, epoch=epoch))
            for _ in range(6):
                bench.loop.run_once(0.01)
                bench.agent.reconcile()
            bench.until(lambda: not bench.agent._changes._sending)
            renounced[:] = range(bench.etcd.count("renounce"))
        return bench.told[-1].rebuild

    bench.start_worker(good)
    assert not asked(good) and not renounced
    assert asked(bad) and asked(bad) and len(renounced) == 1
    now_s[0] += 5
    assert asked(bad), "it may take a moment"
    assert not asked(good)
    now_s[0] += 10
    assert not asked(bad), "again so soon: look at the disk"
    now_s[0] += REBUILD_S
    assert asked(bad)
    now_s[0] += 30
    assert not asked(bad), "it has not worked: not again and again"


def test_a_worker_that_does_not_answer_is_killed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped one, too. One that answers late is left alone."""
    monkeypatch.setattr("holdfast.target.volume_worker.WATCH_S", 0.05)
    bench.start_worker(observed("mirror"))
    bench.agent.assign(assigned(r.ROLE_MIRROR))
    bench.agent._worker.watch()
    bench.until(lambda: len(bench.told) >= 6)
    worker = bench.workers.adopt(UID)
    assert worker is not None and worker.alive()
    silent = WorkerLink.unanswered
    monkeypatch.setattr(WorkerLink, "unanswered", property(lambda _link: True))
    looks = SILENT_LOOKS
    for _ in range(looks - 1):
        bench.agent._worker._silent_looks = 0
        bench.loop.run_once(0.1)
    assert worker.alive()
    bench.until(lambda: not worker.alive())
    monkeypatch.setattr(WorkerLink, "unanswered", silent)
    worker.close()
    bench.until(lambda: bench.workers.adopt(UID) is not None)


def test_one_that_is_in_trouble_is_told_again_now_and_then(bench: Bench) -> None:
    """Not as fast as it answers."""
    bench.start_worker(observed("mirror", reason="STORE_ABSENT"))
    bench.agent.assign(assigned(r.ROLE_MIRROR))
    bench.until(lambda: len(bench.told) >= 1)
    for _ in range(50):
        bench.loop.run_once(0.01)
    assert len(bench.told) <= 3
    bench.agent._worker._told_s -= 2
    told = len(bench.told)
    bench.agent.reconcile()
    bench.until(lambda: len(bench.told) > told)
