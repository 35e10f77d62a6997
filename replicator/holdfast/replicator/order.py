"""One order for whatever meets on the same bytes.

Overlapping requests take turns, first come first served; reads share, everything else excludes. A turn
lasts from the first read that a request depends on to its last effect, on both hosts, so nobody ever
sees half a write, and both hosts apply overlapping writes in one order.

Waiting requests block later ones that overlap them: nothing starves.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable


class Turn:
    """A range [start, end) that a request holds or waits for."""

    __slots__ = ("blockers", "end", "exclusive", "run", "start", "waiters")

    def __init__(self, start: int, end: int, exclusive: bool, run: "Run") -> None:
        self.start = start
        self.end = end
        self.exclusive = exclusive
        self.run = run
        self.blockers = 0
        self.waiters: list[Turn] | None = None


Run = Callable[[Turn], None]


_BUCKET_SHIFT = 20
"""Turns are looked up by the MiB: few requests span two, and a queue is rarely all in one."""


class Order:
    """The turns of one volume."""

    def __init__(self) -> None:
        self._turns: dict[Turn, None] = {}
        self._buckets: dict[int, dict[Turn, None]] = {}
        self._ready: deque[Turn] = deque()
        self._running = False
        self._on_idle: Callable[[None], None] | None = None

    def take(self, start: int, end: int, exclusive: bool, run: "Run") -> Turn:
        """Call `run(turn)` when [start, end) is its own, perhaps at once. Give it back exactly once."""
        turn = Turn(start, end, exclusive, run)
        first, last = start >> _BUCKET_SHIFT, (end - 1) >> _BUCKET_SHIFT
        if first == last and first not in self._buckets:
            self._buckets[first] = {turn: None}
        else:
            buckets = [self._buckets.setdefault(index, {}) for index in range(first, last + 1)]
            self._meet(turn, dict.fromkeys(itertools.chain(*buckets)))
            for bucket in buckets:
                bucket[turn] = None
        self._turns[turn] = None
        if turn.blockers == 0:
            run(turn)
        return turn

    def give_back(self, turn: Turn) -> None:
        """End a turn, also one that still waits; those behind it move up, oldest first.

        A turn that ends while another's `run` is on the stack leaves its successors to the outermost
        call: a long queue on one block must not become a deep stack.
        """
        del self._turns[turn]
        for index in range(turn.start >> _BUCKET_SHIFT, ((turn.end - 1) >> _BUCKET_SHIFT) + 1):
            bucket = self._buckets[index]
            del bucket[turn]
            if not bucket:
                del self._buckets[index]
        if not self._turns and self._on_idle is not None:
            on_idle, self._on_idle = self._on_idle, None
            on_idle(None)
        if turn.waiters is None:
            return
        for waiter in turn.waiters:
            waiter.blockers -= 1
            if waiter.blockers == 0:
                self._ready.append(waiter)
        if not self._running:
            self._run_ready()

    @staticmethod
    def _meet(turn: Turn, others: Iterable[Turn]) -> None:
        """`turn` comes after those of `others` that it conflicts with."""
        start, end, exclusive = turn.start, turn.end, turn.exclusive
        for other in others:
            if other.start < end and start < other.end and (exclusive or other.exclusive):
                if other.waiters is None:
                    other.waiters = [turn]
                else:
                    other.waiters.append(turn)
                turn.blockers += 1

    def _run_ready(self) -> None:
        self._running = True
        try:
            while self._ready:
                turn = self._ready.popleft()
                if turn in self._turns:
                    turn.run(turn)
        finally:
            self._running = False

    def when_idle(self, resume: Callable[[None], None]) -> None:
        """A step: go on when no turn is held or waited for. One may wait."""
        assert self._on_idle is None, "somebody waits already"
        if self._turns:
            self._on_idle = resume
        else:
            resume(None)

    def writing(self) -> list[tuple[int, int]]:
        """Ranges of exclusive turns, held or waiting."""
        return [(turn.start, turn.end) for turn in self._turns if turn.exclusive]
