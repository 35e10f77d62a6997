"""Blocking work on one store's names and records: off the loop's thread, and one piece after another.

A freeze that is recorded, a view that is dropped and a generation that is opened touch the same few files.
In the pool they would pass each other; here they happen in the order in which they were asked for.
"""

from collections import deque
from collections.abc import Callable

from holdfast.base.loop import Loop

Work = Callable[[], object]
Resume = Callable[[object], None]


class Serial:
    """Loop thread only."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiting: deque[tuple[Work, Resume]] = deque()
        self._working = False

    def run(self, work: Work, resume: Resume) -> None:
        """Run `work` when all before it has ended; `resume` with its result, or the exception."""
        self._waiting.append((work, resume))
        if not self._working:
            self._next()

    def _next(self) -> None:
        work, resume = self._waiting.popleft()
        self._working = True

        def ended(result: object) -> None:
            self._working = False
            if self._waiting:
                self._next()
            resume(result)

        self._loop.in_pool(work, ended, ended)
