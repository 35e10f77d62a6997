"""Users' requests of a volume with limits, one behind the other until each may begin.

They wait as what the primary has taken on and not begun: answered BUSY after HELD_COMMAND_MAX_S and with
the end of its role, and never begun after that (I-11). The smallest limits (limits.py) let a full queue of an
initiator through in less than that.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from holdfast.base.loop import Loop, Timer
from holdfast.replicator.pace import Limits, Pace

if TYPE_CHECKING:
    from holdfast.replicator.primary import Job


class Pacing:
    """Loop thread only. `begin` is called with each job when it may begin."""

    def __init__(self, loop: Loop, limits: Limits, begin: "Callable[[Job], None]") -> None:
        self._loop = loop
        self._begin = begin
        self._pace = Pace(limits, loop.now())
        self._waiting: deque[Job] = deque()
        self._timer: Timer | None = None

    @property
    def limits(self) -> Limits:
        return self._pace.limits

    def take(self, job: "Job") -> None:
        """It begins now, or in its turn. It has just come."""
        if not self._waiting and job.born_s >= self._pace.free_s:
            self._pace.spend(job.request.length, job.born_s)
            self._begin(job)
            return
        self._waiting.append(job)
        if self._timer is None:
            self._go_on()

    def end(self) -> "list[Job]":
        """Hold nothing back any more: those that still wait, in their order."""
        if self._timer is not None:
            self._timer.cancel()
        waiting, self._waiting = list(self._waiting), deque()
        return waiting

    def _go_on(self) -> None:
        self._timer = None
        while self._waiting:
            if self._waiting[0].forgotten:
                self._waiting.popleft()
                continue
            now_s = self._loop.now()
            if now_s < self._pace.free_s:
                self._timer = self._loop.call_later(self._pace.free_s - now_s, self._go_on)
                return
            job = self._waiting.popleft()
            self._pace.spend(job.request.length, now_s)
            self._begin(job)
