"""The primary: a device whose every acknowledged write is on both hosts.

A request's life: admitted (writes wait while the gate is closed or the link is down; missing extents are
fetched first) → its turn on the range → prepared here → sent to the mirror and applied here → ended when
both have it. A flush ends when both disks have it. Nothing is acknowledged on one host's word.

What takes longer than HELD_COMMAND_MAX_S is answered BUSY and forgotten, so that the initiator never
times out: a forgotten request that has not begun never will (I-11); one that has is in doubt, and the
link copies its region before anything new is acknowledged. Fills (hydrate.py) keep no initiator waiting,
and stay: a write that comes after one on the same extent relies on it at the mirror.
"""

import itertools
from collections import deque
from collections.abc import Callable
from functools import partial

from holdfast.base.device import Op, Outcome, Request
from holdfast.base.extents import covering
from holdfast.base.limits import EXTENT_BYTES, HELD_COMMAND_MAX_S
from holdfast.base.loop import Loop
from holdfast.replicator.hydrate import Hydrator
from holdfast.replicator.link import Link, Sent
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.order import Turn

SWEEP_INTERVAL_S = 1.0


class Job:
    """A request under way. `here` and `there` are the two hosts' outcomes, None until known."""

    __slots__ = ("born_s", "counted", "fill", "forgotten", "here", "request", "sent", "there", "turn")

    def __init__(self, request: Request, born_s: float, fill: bool = False) -> None:
        self.request = request
        self.born_s = born_s
        self.fill = fill
        self.forgotten = False
        self.counted = False
        self.turn: Turn | None = None
        self.sent: Sent | None = None
        self.here: Outcome | None = None
        self.there: Outcome | None = None


class Primary:
    """holdfast.base.device.Device over a local replica and a link. Loop thread only."""

    def __init__(self, loop: Loop, local: LocalReplica, link: Link, hydrator: Hydrator) -> None:
        self._loop = loop
        self._link = link
        self._hydrator = hydrator
        self._jobs: dict[Job, None] = {}
        self._held: deque[Job] = deque()
        self._writing = 0
        self._closed = False
        self._gate_closed = False
        self._drained: Callable[[None], None] | None = None
        self.freezing = False
        """A freeze (freeze.py) has the gate."""
        self.local = local
        self.size_bytes = local.store.size_bytes
        hydrator.fill = self.fill
        self._sweeper = loop.call_later(SWEEP_INTERVAL_S, self._sweep)

    def close(self) -> None:
        """Answer everything BUSY, also what is still to come, and begin nothing more."""
        self._sweeper.cancel()
        self._closed = self._gate_closed = True
        self._held.clear()
        self._forget_all(list(self._jobs))

    @property
    def under_way(self) -> int:
        """Requests and fills that are not ended."""
        return len(self._jobs)

    def submit(self, request: Request) -> None:
        if request.offset < 0 or request.offset + request.length > self.size_bytes:
            request.done(Outcome.INVALID)
        elif not request.length and request.op is not Op.FLUSH:
            request.done(Outcome.OK)
        else:
            self._take_on(Job(request, self._loop.now()))

    def fill(self, request: Request) -> None:
        """Write what the origin has, unless the extents were overwritten meanwhile (hydrate.py)."""
        self._take_on(Job(request, self._loop.now(), fill=True))

    def release_held(self) -> None:
        """The link is up, or the gate open: what was held goes on, in its order."""
        held, self._held = self._held, deque()
        while held and self._open():
            self._admit(held.popleft())
        self._held.extendleft(reversed(held))

    # The gate (freeze.py).

    def close_gate(self, drained: Callable[[None], None]) -> None:
        """Hold new writes; call `drained(None)` when none is under way."""
        self._gate_closed = True
        self._drained = drained
        self._check_drained()

    def open_gate(self) -> None:
        self._gate_closed = self._closed
        self._drained = None
        self.release_held()

    def _check_drained(self) -> None:
        if self._writing == 0 and self._drained is not None:
            drained, self._drained = self._drained, None
            drained(None)

    # A job's stages.

    def _open(self) -> bool:
        return self._link.up and not self._gate_closed

    def _take_on(self, job: Job) -> None:
        if self._closed:
            job.request.done(Outcome.BUSY)
        else:
            self._jobs[job] = None
            self._admit(job)

    def _admit(self, job: Job) -> None:
        request = job.request
        if job.forgotten:
            return
        reading = request.op is Op.READ
        if not reading and not self._open():
            self._held.append(job)
            return
        if request.op is Op.FLUSH:
            self._flush(job)
            return
        if self.local.store.missing.left and not job.fill:
            wanted = self._wanted(request)
            if wanted:
                self._hydrator.need(wanted, partial(self._admit, job), partial(self._not_filled, job))
                return
        if not reading:
            job.counted = True
            self._writing += 1
        self.local.order.take(
            request.offset, request.offset + request.length, not reading, partial(self._begin, job)
        )

    def _wanted(self, request: Request) -> list[int]:
        """Missing extents that must be here before the request."""
        if request.op in (Op.READ, Op.COMPARE_AND_WRITE):
            extents = covering(request.offset, request.length, EXTENT_BYTES)
            return self.local.store.missing.among(extents)
        return self.local.partly_covered(request.offset, request.length)

    def _not_filled(self, job: Job, outcome: Outcome) -> None:
        """A read that found no room to be hydrated into has lost nothing: it may try again."""
        full = outcome is Outcome.NO_SPACE and job.request.op is Op.READ
        self._end(job, Outcome.BUSY if full else outcome)

    def _begin(self, job: Job, turn: Turn) -> None:
        job.turn = turn
        request = job.request
        if job.forgotten:
            self._end(job, Outcome.BUSY)
        elif request.op is Op.READ:
            self.local.read(request, partial(self._end, job))
        elif request.op is Op.COMPARE_AND_WRITE:
            self._compare(job)
        elif job.fill and not self._still_missing(request):
            self._end(job, Outcome.OK)
        else:
            self._prepare(job)

    def _still_missing(self, request: Request) -> bool:
        extents = covering(request.offset, request.length, EXTENT_BYTES)
        return len(self.local.store.missing.among(extents)) == len(extents)

    def _compare(self, job: Job) -> None:
        request = job.request
        content = bytearray(request.length)

        def compare(outcome: Outcome) -> None:
            if outcome is not Outcome.OK or job.forgotten:
                self._end(job, outcome)
            elif content != request.expected:
                pairs = enumerate(zip(content, request.expected, strict=True))
                request.miscompare_offset = next(i for i, (a, b) in pairs if a != b)
                self._end(job, Outcome.MISCOMPARE)
            else:
                self._prepare(job)

        read = Request(Op.READ, request.offset, request.length, compare, [memoryview(content)])
        self.local.read(read, compare)

    def _prepare(self, job: Job) -> None:
        local, request = self.local, job.request
        if local.is_prepared(request.offset, request.length):
            self._replicate(job)
        else:
            replicate, end = partial(self._replicate, job), partial(self._end, job)
            local.prepare(request.offset, request.length, replicate, end)

    def _replicate(self, job: Job) -> None:
        local = self.local
        if job.forgotten:
            self._end(job, Outcome.BUSY)
        elif local.suspect:
            self._end(job, Outcome.MEDIUM_ERROR)
        else:
            job.sent = self._link.send(job.request, partial(self._there, job))
            local.apply(job.request, partial(self._here, job), not job.fill)

    def _flush(self, job: Job) -> None:
        job.sent = self._link.send(job.request, partial(self._there, job))
        self.local.flush(partial(self._here, job))

    def _here(self, job: Job, outcome: Outcome) -> None:
        job.here = outcome
        if outcome is not Outcome.OK and job.request.op is not Op.FLUSH:
            self._give_up(job, outcome)
        elif job.there is not None:
            self._end(job, outcome)

    def _there(self, job: Job, outcome: Outcome) -> None:
        job.there = outcome
        if job.here is not None:
            self._end(job, job.here)

    def _give_up(self, job: Job, outcome: Outcome) -> None:
        """It failed here, and the mirror may have it: the mirror gets back what is here."""
        assert job.sent is not None
        if job.there is None:
            self._link.forget(job.sent)
        else:
            self._link.doubt(job.request.offset, job.request.length)
        self._end(job, outcome)

    def _end(self, job: Job, outcome: Outcome) -> None:
        """The one way out of a job that was not forgotten, and the release of one that was."""
        turn, job.turn = job.turn, None
        if turn is not None:
            self.local.order.give_back(turn)
        if not job.forgotten:
            del self._jobs[job]
            job.request.done(outcome)
        if job.counted:
            job.counted = False
            self._writing -= 1
            if self._drained is not None:
                self._check_drained()

    # Giving up.

    def _sweep(self) -> None:
        limit = self._loop.now() - HELD_COMMAND_MAX_S
        late = itertools.takewhile(lambda job: job.born_s <= limit, self._jobs)
        self._forget_all([job for job in late if not job.fill])
        self._sweeper = self._loop.call_later(SWEEP_INTERVAL_S, self._sweep)

    def _forget_all(self, jobs: list[Job]) -> None:
        # All are marked before the first is ended, or its turn would pass to one that is to be forgotten.
        for job in jobs:
            del self._jobs[job]
            job.forgotten = True
        for job in jobs:
            self._forget(job)

    def _forget(self, job: Job) -> None:
        """Answer BUSY now. The buffers are the ring's again, so nothing may touch them from here on."""
        if job in self._held:
            self._held.remove(job)
        if job.sent is not None and job.there is None:
            self._link.forget(job.sent)
            job.there = Outcome.BUSY
        job.request.buffers = []
        job.request.done(Outcome.BUSY)
        if job.sent is not None and job.here is not None:
            self._end(job, Outcome.BUSY)
