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
    """A range [start, end) that somebody holds or waits for. Who has more to say of it, subclasses it."""

    __slots__ = ("blockers", "end", "exclusive", "over", "start", "waiters")

    def __init__(self, start: int, end: int, exclusive: bool) -> None:
        self.start = start
        self.end = end
        self.exclusive = exclusive
        self.over = False
        """It was given back."""
        self.blockers = 0
        self.waiters: list[Turn] | None = None

    def begin(self) -> None:
        """Called when it had to wait, and need not any more."""
        raise NotImplementedError


Run = Callable[[Turn], None]


class _Taken(Turn):
    __slots__ = ("run",)

    def __init__(self, start: int, end: int, exclusive: bool, run: Run) -> None:
        super().__init__(start, end, exclusive)
        self.run = run

    def begin(self) -> None:
        self.run(self)


BUCKET_SHIFT = 20
"""Turns are looked up by the MiB: few requests span two, and a queue is rarely all in one."""

_Bucket = dict[Turn, None]


class Order:
    """The turns of one volume."""

    def __init__(self) -> None:
        # A turn that is alone in its MiB, as most are, needs no dictionary.
        self.buckets: dict[int, _Bucket | Turn] = {}
        self._ready: deque[Turn] = deque()
        self._running = False
        self._on_idle: Callable[[None], None] | None = None

    def take(self, start: int, end: int, exclusive: bool, run: Run) -> Turn:
        """Call `run(turn)` when [start, end) is its own, perhaps at once. Give it back exactly once."""
        turn = _Taken(start, end, exclusive, run)
        if self.enter(turn):
            run(turn)
        return turn

    def enter(self, turn: Turn) -> bool:
        """As `take`: True if its range is its own at once; else `turn.begin()` is called when it is."""
        first, last = turn.start >> BUCKET_SHIFT, (turn.end - 1) >> BUCKET_SHIFT
        if first == last:
            found = self.buckets.setdefault(first, turn)
            if found is turn:
                return True
            bucket = self._shared(first)
            self._meet(turn, bucket)
            bucket[turn] = None
        else:
            buckets = [self._shared(index) for index in range(first, last + 1)]
            self._meet(turn, dict.fromkeys(itertools.chain(*buckets)))
            for bucket in buckets:
                bucket[turn] = None
        return not turn.blockers

    def _shared(self, index: int) -> _Bucket:
        found = self.buckets.get(index)
        if not isinstance(found, dict):
            found = self.buckets[index] = {} if found is None else {found: None}
        return found

    def give_back(self, turn: Turn) -> None:
        """End a turn, also one that still waits; those behind it move up, oldest first.

        A turn that ends while another's `begin` is on the stack leaves its successors to the outermost
        call: a long queue on one block must not become a deep stack.
        """
        assert not turn.over, "a turn is given back twice"
        turn.over = True
        buckets, first = self.buckets, turn.start >> BUCKET_SHIFT
        if buckets[first] is turn:
            del buckets[first]
        else:
            for index in range(first, ((turn.end - 1) >> BUCKET_SHIFT) + 1):
                bucket = self._shared(index)
                del bucket[turn]
                if not bucket:
                    del buckets[index]
        if self._on_idle is not None and not buckets:
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
                if not turn.over:
                    turn.begin()
        finally:
            self._running = False

    def when_idle(self, resume: Callable[[None], None]) -> None:
        """A step: go on when no turn is held or waited for. One may wait."""
        assert self._on_idle is None, "somebody waits already"
        if self.buckets:
            self._on_idle = resume
        else:
            resume(None)

    def writing(self) -> list[tuple[int, int]]:
        """Ranges of exclusive turns, held or waiting."""
        buckets = (found if isinstance(found, dict) else (found,) for found in self.buckets.values())
        turns = dict.fromkeys(itertools.chain(*buckets))
        return [(turn.start, turn.end) for turn in turns if turn.exclusive]
