"""How fast a resync goes: what is allowed while nobody else is there, ever less while somebody is, never less
than the floor.
"""

import pytest

from holdfast.base.limits import MIB, SYNC_FLOOR_BYTES_S
from holdfast.replicator.budget import DEBT_MAX_S, Budget

PIECE = 4 * MIB


def rate_bytes_s(budget: Budget, now_s: float, lasting_s: float, busy: bool) -> tuple[float, float]:
    """Work without pause but for what is asked: the mean rate of the second half, and when it is now."""
    half_s, end_s, moved = now_s + lasting_s / 2, now_s + lasting_s, 0
    while now_s < end_s:
        moved += PIECE if now_s >= half_s else 0
        now_s += budget.spend(PIECE, now_s, busy)
    return moved / (lasting_s / 2), now_s


def test_users_come_first_and_it_never_stands_still() -> None:
    most = 100 * MIB
    budget = Budget(0.0, most)
    alone, now_s = rate_bytes_s(budget, 0.0, 20.0, busy=False)
    assert alone == pytest.approx(most, rel=0.1)
    beside, now_s = rate_bytes_s(budget, now_s, 20.0, busy=True)
    assert beside == pytest.approx(SYNC_FLOOR_BYTES_S, rel=0.1)
    again, _ = rate_bytes_s(budget, now_s, 20.0, busy=False)
    assert again == pytest.approx(most, rel=0.1)


def test_what_an_operator_allows_may_be_less_than_the_floor() -> None:
    budget = Budget(0.0, MIB)
    assert rate_bytes_s(budget, 0.0, 100.0, busy=True)[0] == pytest.approx(MIB, rel=0.1)
    budget.most_bytes_s = 50 * MIB
    assert rate_bytes_s(budget, 200.0, 100.0, busy=False)[0] == pytest.approx(50 * MIB, rel=0.1)


def test_a_pause_is_not_made_up_for_by_a_burst_nor_a_huge_piece_by_a_silence() -> None:
    budget = Budget(0.0, 10 * MIB)
    budget.spend(PIECE, 0.0, busy=False)
    assert budget.spend(PIECE, 1000.0, busy=False) > 0
    assert budget.spend(1 << 40, 1000.0, busy=False) <= DEBT_MAX_S
