"""Who has nothing to do is not woken: no timer is armed. And what a rest must not cost."""

import errno
from random import Random

import pytest

from holdfast.base.device import Op, Outcome, Request
from holdfast.base.limits import HELD_COMMAND_MAX_S
from holdfast.base.testing_loop import Clock, run_for, run_until
from holdfast.replicator.chores import Snapshots
from holdfast.replicator.clean import CLEAN_INTERVAL_S
from holdfast.replicator.following import Role
from holdfast.replicator.pace import NO_LIMITS, Limits
from holdfast.replicator.primary import SWEEP_INTERVAL_S
from holdfast.replicator.testing import Host
from holdfast.replicator.testing_disk import Disk
from holdfast.replicator.testing_rig import SIZE_BYTES, Rig
from holdfast.replicator.wanted import Wanted

BLOCK = 4096
LONG_S = 3 * CLEAN_INTERVAL_S


class Lone:
    """A host by itself, in one role, with nobody to talk to."""

    def __init__(self, role: Role, peers: tuple[str, ...] = ()) -> None:
        self.disk = Disk(Random(1))
        self.disk.cold_reads = False
        self.host = Host("a", self.disk.files, Clock(), Random(1))
        self.loop = self.host.loop
        self.replica = self.host.open("volume", SIZE_BYTES, "", _nobody)
        members = {"a", *peers} if role is Role.MIRROR else {"a"} if role is Role.PRIMARY else {"b"}
        self._wanted = {"role": role, "epoch": 1, "members": frozenset(members), "peers": peers}
        self.tell()
        run_until([self.loop], lambda: self.replica.report().role is role)

    def tell(self, limits: Limits = NO_LIMITS, freeze: tuple[str, ...] = ()) -> None:
        wanted = Wanted(**self._wanted, may_be_new=True, limits=limits, snapshots=Snapshots(freeze))  # type: ignore[arg-type]
        self.replica.apply(wanted)

    def submit(self, op: Op) -> list[Outcome]:
        outcomes: list[Outcome] = []
        buffers = [memoryview(bytearray(BLOCK))]
        self.replica.device.submit(Request(op, 0, BLOCK, outcomes.append, buffers))
        return outcomes

    def do(self, op: Op) -> Outcome:
        outcomes = self.submit(op)
        run_until([self.loop], lambda: bool(outcomes))
        return outcomes[0]

    def rest(self) -> None:
        run_for([self.loop], LONG_S)
        assert self.rests

    @property
    def rests(self) -> bool:
        return self.loop.idle and self.loop.next_timer_s is None


def _nobody(*_words: object) -> object:
    raise ConnectionError("there is nobody")


@pytest.fixture
def lone() -> Lone:
    """A primary without a mirror, which has been idle for long."""
    lone = Lone(Role.PRIMARY)
    lone.rest()
    return lone


@pytest.mark.parametrize("role", (Role.MIRROR, Role.JOINER))
def test_who_waits_for_a_primary_is_not_woken(role: Role) -> None:
    Lone(role, peers=("b",)).rest()


@pytest.mark.parametrize("op", (Op.READ, Op.WRITE))
def test_a_primary_without_a_mirror_rests_again_when_its_work_is_done(lone: Lone, op: Op) -> None:
    assert lone.do(op) is Outcome.OK
    assert not lone.rests
    lone.rest()


def test_it_cleans_up_before_it_rests(lone: Lone) -> None:
    lone.do(Op.READ)
    assert lone.do(Op.WRITE) is Outcome.OK
    assert lone.host.store.intent.any()
    lone.rest()
    assert not lone.host.store.intent.any()


@pytest.mark.parametrize("rested_s", (0.0, 0.3, 0.9))
def test_what_is_held_after_a_rest_is_answered_in_time(lone: Lone, rested_s: float) -> None:
    run_for([lone.loop], rested_s)
    leading = lone.replica.device.leading
    assert leading is not None
    leading.primary.close_gate(lambda _nothing: None)
    began_s = lone.loop.now()
    outcomes = lone.submit(Op.WRITE)
    run_until([lone.loop], lambda: bool(outcomes))
    assert outcomes == [Outcome.BUSY]
    took_s = lone.loop.now() - began_s
    assert HELD_COMMAND_MAX_S <= took_s <= HELD_COMMAND_MAX_S + 2 * SWEEP_INTERVAL_S


def test_limits_hold_after_a_rest(lone: Lone) -> None:
    lone.tell(limits=Limits(iops=100))
    lone.rest()
    began_s = lone.loop.now()
    outcomes = [lone.submit(Op.WRITE) for _ in range(300)]
    run_until([lone.loop], lambda: all(outcomes))
    assert lone.loop.now() - began_s > 1
    lone.rest()


def test_a_freeze_that_failed_is_tried_again(lone: Lone) -> None:
    def failing(kind: str, _name: str) -> None:
        if kind == "make":
            raise OSError(errno.ENOSPC, "injected")

    lone.disk.on_step = failing
    lone.tell(freeze=("s",))
    run_for([lone.loop], 2)
    assert not lone.replica.report().frozen and not lone.rests
    lone.disk.on_step = lambda _kind, _name: None
    run_until([lone.loop], lambda: bool(lone.replica.report().frozen))
    lone.rest()


def test_each_end_of_a_promise_is_told(rig: Rig) -> None:
    told: list[bool] = []
    assert rig.pair.b.replica is not None
    rig.pair.b.replica.on_change = lambda: told.append(rig.pair.following.may_take_over)
    for _ in range(2):
        rig.pair.for_s(3)
        assert told and not told[-1]
        rig.pair.net.refuse_dial = True
        rig.pair.net.cut()
        rig.pair.until(lambda: told[-1])
        rig.pair.net.refuse_dial = False
        rig.pair.until_up()
        rig.pair.until(lambda: not told[-1])
