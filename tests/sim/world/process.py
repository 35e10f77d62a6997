"""A process: a Loop on a host's clock that the world moves.

`die` is SIGKILL: of the system calls under way in its pool some still take place, nothing else does.
`stop` and `go_on` are SIGSTOP and SIGCONT: what comes meanwhile waits; descriptors are looked at before
timers then, as epoll does. A process whose machine is frozen is a stopped one.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from random import Random
from typing import TypeVar

from holdfast.base.loop import Loop, Timer

from .time import Call, Clock, Timeline

_T = TypeVar("_T")
_WORK_MAX_S = 0.004
_SLOW_WORK_S = 0.4
_WORK_LIMIT_S = 8.0


class Process(Loop):
    """A Loop without descriptors of its own: `deliver` is how something happens to it."""

    def __init__(self, timeline: Timeline, clock: Clock, chance: Random) -> None:
        self._timeline = timeline
        self._clock = clock
        self._chance = chance
        self._soon: deque[Call] = deque()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._work: dict[int, Call] = {}
        self._works = 0
        self._turn_planned = False
        self._late_events: list[Call] = []
        self._late_timers: list[Call] = []
        self.dead = False
        self.stopped = False
        self.slow = 1.0
        """How much longer than usual what it does in its pool takes."""

    # What Loop offers.

    def now(self) -> float:
        return self._clock.now()

    def add(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        self._handlers[fd] = handler

    def modify(self, fd: int, events: int) -> None:
        pass

    def remove(self, fd: int) -> None:
        self._handlers.pop(fd, None)

    def call_soon(self, callback: Call) -> None:
        self._soon.append(callback)
        if not self._turn_planned:
            self._turn_planned = True
            self._timeline.after(0.0, self._turn)

    def call_later(self, delay_s: float, callback: Call) -> Timer:
        timer = Timer(callback)
        # A microsecond at least: sums of moments round, and time must go on.
        self._timeline.after(max(delay_s / self._clock.rate, 1e-6), partial(self._due, timer))
        return timer

    def call_from_thread(self, callback: Call) -> None:
        self.call_soon(callback)

    def in_pool(
        self,
        work: Callable[[], _T],
        done: Callable[[_T], None],
        failed: Callable[[BaseException], None],
        pool: Executor | None = None,
    ) -> None:
        self._works += 1
        number = self._works

        def begin() -> None:
            if self.dead:
                return
            if self.stopped:
                self._late_timers.append(begin)
                return
            del self._work[number]
            try:
                result = work()
            except Exception as error:
                then: Call = partial(failed, error)
            else:
                then = partial(done, result)
            self._timeline.after(self._work_s(), partial(self.deliver, then))

        self._work[number] = lambda: _attempt(work)
        self._timeline.after(self._work_s(), begin)

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        self.die()

    # What the world does.

    def readable(self, fd: int) -> None:
        """The descriptor has something; its handler looks, if there is one by then."""
        if fd in self._handlers:
            # In a turn of its own: it may be this very process that made it readable.
            self._timeline.after(0.0, partial(self.deliver, partial(self._handle, fd)))

    def deliver(self, call: Call) -> None:
        """Something comes from outside."""
        if self.dead:
            return
        if self.stopped:
            self._late_events.append(call)
            return
        call()
        if self._soon:
            self._run_soon()

    def go_on(self) -> None:
        self.stopped = False
        late, self._late_events, self._late_timers = self._late_events + self._late_timers, [], []
        for call in late:
            self._timeline.after(0.0, partial(self.deliver, call))

    def die(self) -> None:
        if self.dead:
            return
        self.dead = True
        for work in self._work.values():
            if self._chance.random() < 0.5:
                work()
        self._work.clear()
        self._soon.clear()
        self._late_events.clear()
        self._late_timers.clear()
        self._handlers.clear()

    def _handle(self, fd: int) -> None:
        handler = self._handlers.get(fd)
        if handler is not None:
            handler(1)

    def _due(self, timer: Timer) -> None:
        if self.dead or timer.callback is None:
            return
        if self.stopped:
            self._late_timers.append(partial(self._due, timer))
            return
        timer.callback()
        if self._soon:
            self._run_soon()

    def _turn(self) -> None:
        self._turn_planned = False
        if self.dead or not self._soon:
            return
        if self.stopped:
            self._late_timers.append(self._turn)
            self._turn_planned = True
            return
        self._run_soon()

    def _run_soon(self) -> None:
        soon = self._soon
        for _ in range(len(soon)):
            soon.popleft()()
            if self.dead:
                return
        if soon and not self._turn_planned:
            self._turn_planned = True
            self._timeline.after(0.00002, self._turn)

    def _work_s(self) -> float:
        chance = self._chance.random()
        if chance < 0.02:
            return min(self._chance.random() * _SLOW_WORK_S * self.slow, _WORK_LIMIT_S)
        return min(chance * _WORK_MAX_S * self.slow, _WORK_LIMIT_S)


def _attempt(work: Callable[[], object]) -> None:
    try:
        work()
    except Exception:
        return
