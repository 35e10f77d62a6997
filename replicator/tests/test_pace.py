"""Limits of a volume: what they let through, and what becomes of those who wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.base.device import Op, Outcome
from holdfast.base.limits import HELD_COMMAND_MAX_S, LIMIT_MIN_IOPS, MIB
from holdfast.replicator.following import Role
from holdfast.replicator.pace import BURST_S, NO_LIMITS, Limits, Pace
from holdfast.replicator.testing_rig import Rig

BLOCK = 4096


@given(
    limits=st.builds(Limits, st.integers(0, 10_000), st.integers(0, 100 * MIB)),
    lengths=st.lists(st.integers(0, 4 * MIB), min_size=1, max_size=50),
)
def test_no_more_goes_than_the_limits_allow(limits: Limits, lengths: list[int]) -> None:
    pace, now_s = Pace(limits, 0.0), 0.0
    for count, length in enumerate(lengths):
        now_s = max(now_s, pace.free_s)
        if limits.iops:
            assert count <= (now_s + BURST_S) * limits.iops + 1e-3
        if limits.bytes_s:
            assert sum(lengths[:count]) <= (now_s + BURST_S) * limits.bytes_s + 1e-3 * MIB
        pace.spend(length, now_s)
    if limits == NO_LIMITS:
        assert now_s == 0.0


def test_what_was_not_used_is_kept_for_a_moment_only() -> None:
    pace = Pace(Limits(iops=100), 0.0)
    began = 0
    while pace.free_s <= 1000.0:
        pace.spend(BLOCK, 1000.0)
        began += 1
    assert began == int(BURST_S * 100) + 1


@pytest.mark.parametrize(("limits", "least_s"), [(Limits(iops=100), 0.7), (Limits(bytes_s=4 * MIB), 0.1)])
def test_a_volume_keeps_to_its_limits(rig: Rig, limits: Limits, least_s: float) -> None:
    pair = rig.pair
    pair.tell("a", Role.PRIMARY, 1, "ab", limits=limits)
    began_s = pair.clock.now_s
    outcomes = [pair.submit(Op.WRITE, i * BLOCK, b"x" * BLOCK) for i in range(100)]
    outcomes.append(pair.submit(Op.WRITE, 0, b"x" * MIB))
    pair.until(lambda: all(outcomes))
    assert outcomes == [[Outcome.OK]] * 101 and pair.clock.now_s - began_s >= least_s
    assert pair.clock.now_s - began_s < 3 * least_s + 1 and rig.same()


def test_limits_that_end_hold_nothing_back(rig: Rig) -> None:
    pair = rig.pair
    pair.tell("a", Role.PRIMARY, 1, "ab", limits=Limits(iops=1))
    outcomes = [pair.submit(Op.WRITE, i * BLOCK, b"x" * BLOCK) for i in range(50)]
    began_s = pair.clock.now_s
    pair.tell("a", Role.PRIMARY, 1, "ab")
    pair.until(lambda: all(outcomes))
    assert outcomes == [[Outcome.OK]] * 50 and pair.clock.now_s - began_s < 1


def test_what_waits_too_long_is_answered_and_never_done(rig: Rig) -> None:
    """I-11: nobody may find a write later that was given up."""
    pair = rig.pair
    pair.tell("a", Role.PRIMARY, 1, "ab", limits=Limits(iops=1))
    outcomes = [pair.submit(Op.WRITE, i * BLOCK, bytes([i + 1]) * BLOCK) for i in range(40)]
    pair.until(lambda: all(outcomes))
    assert pair.clock.now_s <= HELD_COMMAND_MAX_S + 5
    busy = [i for i, outcome in enumerate(outcomes) if outcome == [Outcome.BUSY]]
    assert 20 < len(busy) < 40
    pair.tell("a", Role.PRIMARY, 1, "ab")
    pair.for_s(30)
    assert all(pair.read(i * BLOCK, BLOCK) == bytes(BLOCK) for i in busy)


def test_the_end_of_a_role_answers_those_who_wait(rig: Rig) -> None:
    pair = rig.pair
    pair.tell("a", Role.PRIMARY, 1, "ab", limits=Limits(iops=1))
    outcomes = [pair.submit(Op.WRITE, i * BLOCK, b"x" * BLOCK) for i in range(10)]
    pair.epoch(2, "b", "ab")
    pair.until(lambda: all(outcomes))
    assert outcomes[-1] == [Outcome.BUSY]
    pair.until(lambda: pair.leading_of("b").primary.writes)
    pair.epoch(3, "a", "ab")
    pair.until(lambda: pair.leading_of("a").primary.writes)
    pair.for_s(30)
    assert pair.read(9 * BLOCK, BLOCK) == bytes(BLOCK)


def test_the_smallest_limit_lets_a_full_queue_through_in_time() -> None:
    """An initiator sends 128 at once, and nothing that it sent may be answered BUSY for the limit's sake."""
    pace, now_s = Pace(Limits(iops=LIMIT_MIN_IOPS), 0.0), 0.0
    for _ in range(128):
        now_s = max(now_s, pace.free_s)
        pace.spend(BLOCK, now_s)
    assert now_s < HELD_COMMAND_MAX_S / 2
