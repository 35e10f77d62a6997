"""Turns to be brought up to date: how many at once, in which order, and that nobody waits for ever."""

import random

import pytest

from holdfast.target.syncs import JITTER_S, STALLED_S, Syncs


class Line:
    def __init__(self, limit: int = 2, seed: int = 0) -> None:
        self.granted: list[str] = []
        self.syncs = Syncs(random.Random(seed), self.granted.append, limit)

    def asks(self, uid: str, now_s: float, left: int = 0) -> bool:
        return self.syncs.wanted(uid, left, now_s)


def test_one_that_comes_alone_goes_at_once() -> None:
    line = Line()
    assert line.asks("a", 0) and line.asks("b", 0)
    assert not line.asks("c", 0)
    assert line.asks("a", 1, 5) and line.asks("b", 1, 5) and not line.asks("c", 1)
    line.syncs.over("a", 3)
    assert line.granted == ["c"] and line.asks("c", 3)
    line.syncs.over("a", 3)
    assert not line.asks("a", 3)


def test_one_without_progress_goes_to_the_end_of_the_line_if_there_is_one() -> None:
    line = Line(limit=1)
    assert line.asks("a", 0, 7) and line.asks("a", 2 * STALLED_S, 7)
    assert not line.asks("b", 2 * STALLED_S)
    later_s = 2 * STALLED_S + JITTER_S
    assert not line.asks("a", later_s, 7) and line.granted == ["b"]
    assert line.asks("b", later_s, 9) and not line.asks("a", later_s)
    # With progress it keeps its turn for as long as it takes.
    for step in range(1, 10):
        assert line.asks("b", later_s + step * STALLED_S, 9 - step)
        assert not line.asks("a", later_s + step * STALLED_S)
    line.syncs.over("b", later_s + 400)
    assert line.asks("a", later_s + 400)


def test_what_is_under_way_counts_whoever_granted_it() -> None:
    """An agent that starts anew, while its workers go on."""
    line = Line(limit=2)
    for uid in ("a", "b", "c"):
        assert line.syncs.wanted(uid, 7, 0, under_way=True)
    assert not line.asks("d", 0)
    line.syncs.over("a", 1)
    line.syncs.over("b", 1)
    assert line.asks("d", 1 + JITTER_S)
    # One that has lost its turn goes on without, and does not take it back.
    assert not line.asks("e", 5) and not line.syncs.wanted("c", 7, 2 * STALLED_S, under_way=True)
    assert not line.syncs.wanted("c", 6, 2 * STALLED_S, under_way=True) and line.asks("e", 2 * STALLED_S)


@pytest.mark.parametrize("seed", range(20))
def test_everybody_comes_to_an_end(seed: int) -> None:
    """Volumes come and go as they like: never more than the limit, and each gets its turn."""
    chance = random.Random(seed)
    line = Line(limit=4, seed=seed)
    left = {f"v{number}": chance.randrange(1, 9) for number in range(40)}
    now_s = 0.0
    while left:
        now_s += 1.0
        assert now_s < 1000
        running = [
            uid for uid in sorted(left, key=lambda _uid: chance.random()) if line.asks(uid, now_s, left[uid])
        ]
        assert len(running) <= 4
        for uid in running:
            left[uid] -= 1
            if not left[uid]:
                del left[uid]
                line.syncs.over(uid, now_s)


@pytest.mark.parametrize("seed", range(20))
def test_hosts_that_bring_each_other_up_to_date_never_wait_in_a_ring(seed: int) -> None:
    """Both ends have a line, the joiner's comes first: never more than the limit at either, and all end. Of a
    primary whose line is long, no joiner's turn is kept for ever.
    """
    chance = random.Random(seed)
    hosts = range(3)
    sends = [Syncs(random.Random(seed), lambda _uid: None, 2) for _ in hosts]
    receives = [Syncs(random.Random(seed), lambda _uid: None, 2) for _ in hosts]
    ends = {f"v{number}": chance.sample(hosts, 2) for number in range(40)}
    left = {uid: chance.randrange(1, 9) for uid in ends}
    now_s = 0.0
    while left:
        now_s += 1.0
        assert now_s < 2000
        running: list[str] = []
        for uid in sorted(left, key=lambda _uid: chance.random()):
            primary, joiner = ends[uid]
            if not receives[joiner].wanted(uid, left[uid], now_s):
                sends[primary].over(uid, now_s)
            elif sends[primary].wanted(uid, left[uid], now_s):
                running.append(uid)
        for host in hosts:
            assert sum(ends[uid][0] == host for uid in running) <= 2
            assert sum(ends[uid][1] == host for uid in running) <= 2
        for uid in running:
            left[uid] -= 1
            if not left[uid]:
                del left[uid]
                sends[ends[uid][0]].over(uid, now_s)
                receives[ends[uid][1]].over(uid, now_s)
