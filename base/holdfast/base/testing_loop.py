"""A loop for tests: no descriptors, no threads, and a clock that moves only when nothing else is to do.

What goes to the pool runs on the caller's thread, at a moment and in an order that a seed chooses, and its
result comes back at another: whatever order threads could produce can be produced again. Several loops may
share one clock; each is then a process, and leaving one alone is how a process dies.
"""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from random import Random
from typing import Any, TypeVar

from holdfast.base.loop import Loop, Timer

_T = TypeVar("_T")
TURNS_MAX = 1_000_000
"""Of one `run_until`: more means that something spins."""


class Clock:
    """Seconds since the test began."""

    def __init__(self) -> None:
        self.now_s = 0.0


class TestingLoop(Loop):
    """Stands for a Loop without descriptors. `hold_work`: nothing of the pool is begun."""

    __test__ = False
    _armed_s = -math.inf

    def __init__(self, clock: Clock | None = None, chance: Random | None = None) -> None:
        self.clock = clock or Clock()
        self._chance = chance
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._soon: deque[Callable[[], None]] = deque()
        self._work: list[Callable[[], Callable[[], None]]] = []
        self._finished: list[Callable[[], None]] = []
        self._stopped = False
        self._left_behind: list[object] = []
        self.hold_work = False

    def now(self) -> float:
        return self.clock.now_s

    def call_about(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Not together: hosts in one process, on one clock, would all do everything at the same moments."""
        return self.call_later(delay_s, callback)

    def _arm(self, now_s: float) -> None:
        """Nothing wakes it: its clock is moved by others."""

    def call_from_thread(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def in_pool(
        self,
        work: Callable[[], _T],
        done: Callable[[_T], None],
        failed: Callable[[BaseException], None],
        pool: Executor | None = None,
    ) -> None:
        def begin() -> Callable[[], None]:
            try:
                result = work()
            except Exception as error:
                raised = error
                return lambda: failed(raised)
            return lambda: done(result)

        self._work.append(begin)

    @property
    def idle(self) -> bool:
        """Nothing is to do before the clock moves."""
        due = self._timers and self._timers[0][0] <= self.now()
        return not (self._soon or self._finished or due or (self._work and not self.hold_work))

    @property
    def next_timer_s(self) -> float | None:
        """When the clock must move to for something to happen."""
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def run_once(self, limit_s: float | None = None) -> None:
        """One turn, without waiting: timers that are due, some pool work, and callbacks."""
        self._run_timers()
        if self._work and not self.hold_work and self._now_or_later():
            self._finished.append(self._pick(self._work)())
        if self._finished and self._now_or_later():
            self._pick(self._finished)()
        for _ in range(len(self._soon)):
            self._soon.popleft()()

    def die(self) -> None:
        """The process is killed: system calls under way may still take place, nothing else does.

        What it was to do is kept, undone: a suspended sequence (base.steps) that is let go of runs its
        `finally`, and a killed process runs nothing. Whoever kills keeps this loop for the same reason.
        """
        while self._work and self._chance is not None and self._chance.random() < 0.5:
            self._left_behind.append(self._pick(self._work)())
        self._left_behind += [*self._work, *self._finished, *self._soon, *self._timers]
        self._work.clear()
        self._finished.clear()
        self._soon.clear()
        self._timers.clear()

    def close(self) -> None:
        self.die()

    def _now_or_later(self) -> bool:
        return self._chance is None or self._chance.random() < 0.6

    def _pick(self, among: list[Any]) -> Any:
        return among.pop(0 if self._chance is None else self._chance.randrange(len(among)))


def run_until(loops: Sequence[TestingLoop], condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Turn `loops`, moving their common clock when all are idle, until `condition()`.

    Raises AssertionError if that takes more than `limit_s` on the clock, or if nothing can happen any more.
    """
    clock = loops[0].clock
    end_s = clock.now_s + limit_s
    for _turn in range(TURNS_MAX):
        if condition():
            return
        if all(loop.idle for loop in loops):
            timers = [loop.next_timer_s for loop in loops]
            due_s = min((at for at in timers if at is not None), default=None)
            assert due_s is not None, "nothing can happen any more"
            assert due_s <= end_s, f"not within {limit_s} s"
            clock.now_s = max(clock.now_s, due_s)
        for loop in loops:
            loop.run_once()
    raise AssertionError(f"not within {TURNS_MAX} turns")


def run_for(loops: Sequence[TestingLoop], seconds: float) -> None:
    """Let `seconds` pass on the clock."""
    clock = loops[0].clock
    end_s = clock.now_s + seconds

    def over() -> bool:
        timers = [loop.next_timer_s for loop in loops]
        due_s = min((at for at in timers if at is not None), default=None)
        return all(loop.idle for loop in loops) and (due_s is None or due_s > end_s)

    run_until(loops, over, seconds)
    clock.now_s = end_s
