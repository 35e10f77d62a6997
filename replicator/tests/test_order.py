"""Turns: what overlaps takes them one after another, first come first served, and nothing starves."""

from hypothesis import given
from hypothesis import strategies as st

from holdfast.replicator.order import Order, Turn

# In units that make some turns span the MiB by which they are looked up.
UNIT = 1 << 17
asked = st.tuples(st.integers(0, 20), st.integers(1, 12), st.booleans())


def conflict(a: Turn, b: Turn) -> bool:
    return a.start < b.end and b.start < a.end and (a.exclusive or b.exclusive)


@given(st.lists(st.one_of(asked, st.integers(0, 30)), max_size=60))
def test_turns(steps: list[tuple[int, int, bool] | int]) -> None:
    """A tuple asks for a turn, a number gives back one of those held, or one of those that wait."""
    order = Order()
    held: list[Turn] = []
    come: list[Turn] = []
    ran: list[Turn] = []

    def run(turn: Turn) -> None:
        assert not any(conflict(turn, other) for other in held), "two at once"
        held.append(turn)
        ran.append(turn)

    for step in steps:
        if isinstance(step, tuple):
            start, length, exclusive = step
            come.append(order.take(start * UNIT, (start + length) * UNIT, exclusive, run))
        elif step < 25 and held:
            order.give_back(held.pop(step % len(held)))
        elif waiting := [turn for turn in come if turn not in ran]:
            given_up = waiting[step % len(waiting)]
            come.remove(given_up)
            order.give_back(given_up)
        for waits in (turn for turn in come if turn not in ran):
            blockers = [turn for turn in come[: come.index(waits)] if conflict(turn, waits)]
            assert any(turn in held or turn not in ran for turn in blockers), "it waits for nothing"
    while held:
        order.give_back(held.pop(0))
    assert set(ran) >= set(come), "somebody starved"
    for index, turn in enumerate(come):
        earlier = [other for other in come[:index] if conflict(other, turn)]
        assert all(ran.index(other) < ran.index(turn) for other in earlier), "somebody was overtaken"
    assert order.writing() == [] and not order.buckets


def test_a_long_queue_on_one_block_does_not_deepen_the_stack() -> None:
    order = Order()
    first = order.take(0, 1, True, lambda _turn: None)
    ran: list[Turn] = []

    def run(turn: Turn) -> None:
        ran.append(turn)
        order.give_back(turn)

    turns = [order.take(0, 1, True, run) for _ in range(1200)]
    order.give_back(first)
    assert ran == turns
