"""The event loop: what runs when, and what may be called from where."""

import os
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from holdfast.base.loop import READABLE, Loop
from holdfast.base.nbd.testing import run_until


def test_a_descriptor_is_reported_until_it_is_read(loop: Loop) -> None:
    reader, writer = os.pipe()
    seen: list[int] = []
    loop.add(reader, READABLE, seen.append)
    loop.run_once(0)
    assert seen == []
    os.write(writer, b"x")
    loop.run_once(1)
    loop.run_once(1)
    assert len(seen) == 2 and seen[0] & READABLE
    os.read(reader, 1)
    loop.run_once(0)
    assert len(seen) == 2
    loop.remove(reader)
    loop.remove(reader)
    os.write(writer, b"x")
    loop.run_once(0)
    assert len(seen) == 2
    os.close(reader)
    os.close(writer)


def test_a_handler_removed_by_another_in_the_same_turn_is_not_called(loop: Loop) -> None:
    pipes = [os.pipe() for _ in range(2)]
    seen: list[int] = []

    def handle(mine: int, other: int) -> None:
        seen.append(mine)
        loop.remove(other)

    (a, a_in), (b, b_in) = pipes
    loop.add(a, READABLE, lambda _events: handle(a, b))
    loop.add(b, READABLE, lambda _events: handle(b, a))
    os.write(a_in, b"x")
    os.write(b_in, b"x")
    loop.run_once(1)
    assert len(seen) == 1
    for fd in (a, a_in, b, b_in):
        loop.remove(fd)
        os.close(fd)


def test_soon_runs_after_this_turns_events_and_what_it_adds_in_the_next(loop: Loop) -> None:
    order: list[str] = []

    def first() -> None:
        order.append("first")
        loop.call_soon(lambda: order.append("second"))

    loop.call_soon(first)
    loop.run_once(5)
    assert order == ["first"]
    loop.run_once(5)
    assert order == ["first", "second"]


def test_timers_run_in_order_and_not_when_cancelled(loop: Loop) -> None:
    order: list[str] = []
    loop.call_later(0.02, lambda: order.append("late"))
    loop.call_later(0.01, lambda: order.append("early"))
    cancelled = loop.call_later(0.015, lambda: order.append("never"))
    cancelled.cancel()
    cancelled.cancel()
    run_until(loop, lambda: len(order) == 2)
    assert order == ["early", "late"]


def test_a_timer_that_starts_itself_again_starves_nobody(loop: Loop) -> None:
    ran: list[None] = []

    def again() -> None:
        ran.append(None)
        if len(ran) < 1000:
            loop.call_later(0, again)

    again()
    turns = 0
    while len(ran) < 1000:
        loop.run_once(1)
        turns += 1
    assert turns > 100


def test_other_threads_hand_over_calls(loop: Loop) -> None:
    here = threading.get_ident()
    seen: list[int] = []
    threads = [
        threading.Thread(target=lambda: loop.call_from_thread(lambda: seen.append(threading.get_ident())))
        for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    run_until(loop, lambda: len(seen) == 10)
    for thread in threads:
        thread.join()
    assert set(seen) == {here}


def test_the_pool_gives_back_results_and_errors_on_the_loops_thread(loop: Loop, tmp_path: Path) -> None:
    results: list[object] = []
    here = threading.get_ident()
    loop.in_pool(lambda: threading.get_ident(), results.append, results.append)
    run_until(loop, lambda: len(results) == 1)
    assert results[0] != here
    loop.in_pool(lambda: (tmp_path / "nothing").read_bytes(), results.append, results.append)
    run_until(loop, lambda: len(results) == 2)
    assert isinstance(results[1], FileNotFoundError)


def test_what_a_callback_raises_ends_the_run(loop: Loop) -> None:
    def broken() -> None:
        raise AssertionError("broken invariant")

    loop.call_soon(broken)
    with pytest.raises(AssertionError, match="broken invariant"):
        loop.run()


def test_stop_ends_the_run(loop: Loop) -> None:
    loop.call_later(0.005, loop.stop)
    loop.run()


def test_what_is_done_now_and_then_is_done_together(loop: Loop) -> None:
    ran: list[float] = []
    for _ in range(3):
        loop.call_about(0.2, lambda: ran.append(loop.now()))
    turns = 0
    while len(ran) < 3:
        loop.run_once(1)
        turns += 1
    assert turns <= 2  # Not one, if half of an interval was passed just between two of the calls.


def test_a_timer_that_is_due_already_is_not_waited_for(loop: Loop) -> None:
    ran: list[str] = []
    loop.call_later(60, lambda: ran.append("late"))
    loop.call_later(-1, lambda: ran.append("now"))
    loop.run_once(30)
    assert ran == ["now"]


def test_an_earlier_timer_moves_the_alarm_forward(loop: Loop) -> None:
    ran: list[str] = []
    loop.call_later(60, lambda: ran.append("late"))
    loop.call_later(0.01, lambda: ran.append("early"))
    loop.run_once(30)
    assert ran == ["early"]
    loop.call_later(0.01, lambda: ran.append("next"))
    loop.run_once(30)
    assert ran == ["early", "next"]


def test_a_timer_of_a_closed_loop_touches_no_descriptor(tmp_path: Path) -> None:
    loop = Loop()
    loop.close()
    with ExitStack() as stack:
        for number in range(4):  # They get the numbers that the loop had.
            stack.enter_context(open(tmp_path / str(number), "wb"))
        loop.call_later(0.01, lambda: None)
        loop.call_about(0.01, lambda: None)


def test_whatever_is_handed_over_is_run_also_by_those_that_are_running(loop: Loop) -> None:
    """One wake-up is for all that wait; nobody may be left behind by that."""
    ran: list[int] = []

    def hand_over(number: int) -> None:
        ran.append(number)
        if number < 3:
            loop.call_from_thread(lambda: hand_over(number + 1))

    def many() -> None:
        for number in range(1000):
            loop.call_from_thread(lambda number=number: ran.append(1000 + number))  # type: ignore[misc]

    threads = [threading.Thread(target=many) for _ in range(3)]
    for one in threads:
        one.start()
    loop.call_from_thread(lambda: hand_over(0))
    run_until(loop, lambda: len(ran) == 3004, 60)
    for one in threads:
        one.join()
    assert sorted(ran) == sorted([*range(4), *(3 * [*range(1000, 2000)])])
