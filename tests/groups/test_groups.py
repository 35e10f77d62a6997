"""Groups of snapshots under faults: one that counts has no write without those that came before it."""

from collections import Counter
from collections.abc import Callable

import pytest
from group_play import FROZEN, play

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.replicator.primary import Primary


def test_without_faults_the_first_attempt_counts_and_costs_a_short_pause() -> None:
    for seed in range(5):
        world, found = play(seed, 0)
        assert world.group.state == FROZEN and world.group.attempt == 1 and not found
        assert not [key for key in world.etcd.entries if "/gates/" in key]
        assert all(chain.acknowledged > 20 for chain in world.chains)


def test_with_faults_at_any_moment_nothing_is_there_without_what_came_before() -> None:
    ended: Counter[int] = Counter()
    tries: Counter[int] = Counter()
    for seed in range(100, 124):
        world, found = play(seed, 1 + seed % 3)
        assert not found, (seed, found)
        ended[world.group.state] += 1
        tries[world.group.attempt] += 1
        if world.group.state != FROZEN:
            assert world.group.reason and all(
                member.state == r.SNAPSHOT_STATE_FAILED for member in world.group.members
            )
    assert ended[FROZEN] > 12 and sum(tries[n] for n in tries if n > 1) > 6, (ended, tries)


def test_the_judge_sees_a_gate_that_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both hosts flip at a moment without writes, as they should; but others begin at once."""

    def close_gate(primary: Primary, drained: Callable[[None], None]) -> None:
        primary._drained = drained
        primary._check_drained()

    monkeypatch.setattr(Primary, "close_gate", close_gate)
    assert any("without" in one for seed in range(20) for one in play(seed, 0)[1])
