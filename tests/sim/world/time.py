"""The one true clock, and everything that is to happen: a heap of calls, in the order of their moments.

Calls of one moment happen in the order in which they were asked for. Nothing else decides an order, so a
run is a function of its seed.
"""

from collections.abc import Callable
from heapq import heappop, heappush

Call = Callable[[], None]
STEPS_MAX = 400_000
"""Of one run: more means that something spins."""


class Timeline:
    """`now` in seconds since the run began; `steps`: how many calls were made."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self._asked = 0
        self._calls: list[tuple[float, int, Call]] = []

    def at(self, moment: float, call: Call) -> None:
        self._asked += 1
        heappush(self._calls, (moment if moment > self.now else self.now, self._asked, call))

    def after(self, delay_s: float, call: Call) -> None:
        self._asked += 1
        heappush(self._calls, (self.now + delay_s, self._asked, call))

    def run_until(self, end: float, over: Callable[[], bool] | None = None) -> bool:
        """Make every call that is due up to `end`; stop early, and say so, once `over()`."""
        calls = self._calls
        while calls and calls[0][0] <= end:
            self.now, _, call = heappop(calls)
            self.steps += 1
            if self.steps > STEPS_MAX:
                raise RuntimeError(f"something spins at {self.now} s: {call}")
            call()
            if over is not None and over():
                return True
        self.now = max(self.now, end)
        return False


class Clock:
    """A machine's CLOCK_BOOTTIME: it counts from its boot, at its own rate, whatever its processes do."""

    def __init__(self, timeline: Timeline, rate: float, started_s: float) -> None:
        self._timeline = timeline
        self.rate = rate
        self._began = timeline.now
        self._started_s = started_s

    def now(self) -> float:
        return self._started_s + (self._timeline.now - self._began) * self.rate
