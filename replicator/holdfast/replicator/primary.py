"""The primary: a device whose every acknowledged write is on every host that is in sync.

A request's life: admitted (held while it may not begin; missing extents are fetched first) → its turn on
the range → prepared here → sent to the others and applied here → ended when all have it. Alone, it is on
disk here before it is acknowledged. A flush ends when all disks have it. A read ends only while no other
host can have become the primary (I-3).

What takes longer than HELD_COMMAND_MAX_S is answered BUSY and forgotten, so that the initiator never times
out: a forgotten request that has not begun never will (I-11); one that has is in doubt. Its region is copied
(mending.py), and what is read there before that goes to the other hosts before it is shown; it is answered
when no copy of it can be applied any more (endings.py). Fills (hydrate.py) keep no initiator waiting, and
stay: a write that comes after one on the same extent relies on it at the mirror.

An error of this disk is not the initiator's as long as another host is in sync: the request is answered
BUSY, and `on_trouble` is told.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from holdfast.base.device import LookRequest, Op, Outcome, Request
from holdfast.base.extents import covering
from holdfast.base.limits import EXTENT_BYTES, HELD_COMMAND_MAX_S, REGION_BYTES
from holdfast.base.loop import Loop, Timer
from holdfast.replicator.endings import HERE, Endings
from holdfast.replicator.hydrate import Hydrator
from holdfast.replicator.link import Sent
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.order import Turn
from holdfast.replicator.pace import NO_LIMITS, Limits
from holdfast.replicator.pacing import Pacing
from holdfast.replicator.partner import Partner

SWEEP_INTERVAL_S = 1.0


_OK = Outcome.OK
_READ, _WRITE, _FLUSH = Op.READ, Op.WRITE, Op.FLUSH
_COMPARE, _LOOK = Op.COMPARE_AND_WRITE, Op.LOOK
_NOTHING: tuple[()] = ()


def _nobody(_outcome: Outcome) -> None:
    """A link tells its own."""


class Job(Turn):
    """A request under way, and its turn on its range. `waiting` counts the hosts that have not done it, this
    one included. One object with methods where closures would do: this is on the path of every request.
    """

    __slots__ = (
        "born_s", "copies", "counted", "fill", "forgotten", "hard", "holds", "outcome", "primary", "request",
        "sent", "shared", "waiting",
    )  # fmt: skip

    def __init__(self, primary: "Primary", request: Request, born_s: float, fill: bool = False) -> None:
        self.start = request.offset
        self.end = request.offset + request.length
        self.exclusive = request.op is not _READ and request.op is not _LOOK
        self.over = False
        self.blockers = 0
        self.waiters = None
        self.primary = primary
        self.request = request
        self.born_s = born_s
        self.fill = fill
        self.forgotten = False
        self.counted = False
        self.hard = request.fua
        """On disk here when it is done here."""
        self.holds = False
        """It has its turn."""
        self.sent: Sequence[tuple[Partner, Sent]] = _NOTHING
        self.copies: tuple[str, ...] = ()
        """Hosts that may still apply it, although it was given up."""
        self.waiting = 0
        self.outcome = _OK
        self.shared = False
        """What it read goes to others."""

    def begin(self) -> None:
        self.primary.begin(self)

    def was_read(self, outcome: Outcome) -> None:
        self.primary.was_read(self, outcome)

    def here(self, outcome: Outcome) -> None:
        """This host has done it, or failed to."""
        if outcome is _OK:
            self.there(_OK)
        else:
            self.primary.failed_here(self, outcome)

    def there(self, _ok: Outcome) -> None:
        """One of the hosts that it waits for has done it."""
        self.waiting -= 1
        if not self.waiting:
            self.primary.done(self)


class Primary:
    """holdfast.base.device.Device over a local replica and its partners. Loop thread only.

    What may be acknowledged, and when, is said by its owner (leading.py) through `partners`, `alone`,
    `needs_mirror`, `hardens`, `reads`, `writes` and `leased_until_s`.
    """

    def __init__(
        self, loop: Loop, local: LocalReplica, hydrator: Hydrator, endings: Endings | None = None
    ) -> None:
        self._loop = loop
        self._swept_s = loop.now()
        """When jobs were last looked at. A job's age is counted from there: no look at the clock for each."""
        self._sweeper: Timer | None = None
        self.rests = True
        """There is no job, and there was none when they were last looked at: nothing is timed."""
        self.on_work: Callable[[], None] = lambda: None
        """Called when it rests no more."""
        self._hydrator = hydrator
        self._endings = endings or Endings(loop)
        self._jobs: dict[Job, None] = {}
        self._held: deque[Job] = deque()
        self._unleased: list[Job] = []
        self._writing = 0
        self._closed = False
        self._gate_closed = False
        self._drained: Callable[[None], None] | None = None
        self.freezing = False
        """A freeze (freeze.py) has the gate."""
        self.partners: Sequence[Partner] = ()
        self.alone = False
        """Nobody else is in sync, or about to be."""
        self.needs_mirror = False
        """No write is acknowledged by this host alone."""
        self.hardens = False
        """A write is on this disk before it is acknowledged: perhaps no other host is recorded as in sync."""
        self.reads = False
        """Reads may begin."""
        self._writes = False
        self._open = False
        self._plain = False
        """A write may begin at once: open, and nothing paces it."""
        self.leased_until_s = -math.inf
        self._pacing: Pacing | None = None
        self.on_trouble: Callable[[Outcome], None] = lambda _outcome: None
        self.on_quiet: Callable[[], None] = lambda: None
        self.local = local
        self._order = local.order
        self.size_bytes = local.store.size_bytes
        hydrator.fill = self.fill

    def close(self) -> None:
        """Answer everything BUSY, also what is still to come, and begin nothing more."""
        self._rest()
        self._closed = self._gate_closed = True
        self._reopen()
        self.refuse_all()

    def refuse_all(self) -> None:
        """Answer everything that is under way BUSY: what has not begun, now."""
        self._held.clear()
        if self._pacing is not None:
            self._pacing.end()
        self._forget_all(list(self._jobs))

    @property
    def writes(self) -> bool:
        """Writes and flushes may begin: every host that they need is there."""
        return self._writes

    @writes.setter
    def writes(self, may: bool) -> None:
        self._writes = may
        self._reopen()

    def _reopen(self) -> None:
        self._open = self._writes and not self._gate_closed
        self._plain = self._open and self._pacing is None

    @property
    def equal(self) -> bool:
        """Every host in sync is there, and nothing is in doubt."""
        return all(partner.link.equal for partner in self.partners if partner.required)

    @property
    def under_way(self) -> int:
        """Requests and fills that are not ended."""
        return len(self._jobs)

    @property
    def serving_users(self) -> bool:
        """Whether a request that is no fill has not ended."""
        return any(not job.fill for job in self._jobs)

    @property
    def quiet(self) -> bool:
        """No write is under way, on any host."""
        return self._writing == 0

    def submit(self, request: Request) -> None:
        if self.rests:
            self._work()
        if request.offset < 0 or request.offset + request.length > self.size_bytes:
            request.done(Outcome.INVALID)
        elif not request.length and request.op is not _FLUSH:
            request.done(Outcome.OK)
        elif request.op is _WRITE and self._plain and not self.local.store.missing.left:
            # The way of nearly every write, as `_admit`, `begin` and `_prepare` have it step by step.
            job = self._enter(request)
            if job.holds:
                self._prepare(job)
        elif request.op is _READ and self._may_read() and not self.local.store.missing.left:
            job = Job(self, request, self._swept_s)
            self._jobs[job] = None
            if self._order.enter(job):
                job.holds = True
                self.local.read(request, job.was_read)
        else:
            self._take_on(Job(self, request, self._swept_s))

    def submit_all(self, requests: list[Request]) -> None:
        """`submit` of each, one after the other. WRITEs of which no step has to wait go on together: sent to
        the others in one go, before any is applied here, so that all hosts are at work at once.
        """
        if self.rests:
            self._work()
        local, together, at, count = self.local, list[Job](), 0, len(requests)
        while at < count:
            request = requests[at]
            if request.op is _READ:
                at += 1
                self.submit(request)
                continue
            if self._plain and at + 1 < count and requests[at + 1].op is _WRITE:
                entered, at = local.enter_plain(self._entered(request), requests, at)
                self._jobs.update(dict.fromkeys(entered))
                self._writing += len(entered)
                together += entered
                if at == count:
                    break
                request = requests[at]
            at += 1
            offset, length = request.offset, request.length
            plain = request.op is _WRITE and self._plain and not (request.fua or local.store.missing.left)
            job = self._enter(request) if plain and 0 <= offset < offset + length <= self.size_bytes else None
            if job is not None and job.holds and local.is_prepared(offset, length):
                together.append(job)
            elif job is None or job.holds:
                # Whatever this one brings about, the writes before it have begun.
                self._replicate_all(together)
                together = []
                if job is not None:
                    self._prepare(job)
                else:
                    self.submit(request)
        self._replicate_all(together)

    def _may_read(self) -> bool:
        """A read may begin at once."""
        return self.reads and self._pacing is None and not self._closed

    def _entered(self, request: Request) -> Job:
        """What jobs of writes that have their turns begin as."""
        job = Job(self, request, self._swept_s)
        job.counted = job.holds = True
        return job

    def _enter(self, request: Request) -> Job:
        """The job of a WRITE that is admitted; it holds its turn, or waits for it."""
        job = Job(self, request, self._swept_s)
        self._jobs[job] = None
        job.counted = True
        self._writing += 1
        job.holds = self._order.enter(job)
        return job

    def submit_job(self, job: Job) -> None:
        """As `submit`, of a request whose job is made already (traced.py); what needs no job gets none."""
        request = job.request
        within = 0 <= request.offset <= self.size_bytes - request.length
        if within and (request.length or request.op is _FLUSH):
            self._take_on(job)
        else:
            self.submit(request)

    def born_s(self) -> float:
        """When a job that is made now is born, as its age is counted."""
        if self.rests:
            self._work()
        return self._swept_s

    def fill(self, request: Request) -> None:
        """Write what the origin has, unless the extents were overwritten meanwhile (hydrate.py)."""
        self._take_on(Job(self, request, self.born_s(), fill=True))

    def limit(self, limits: Limits) -> None:
        """How fast requests may begin from now on; what waits already follows the new limits."""
        if limits == (self._pacing.limits if self._pacing is not None else NO_LIMITS):
            return
        waiting = self._pacing.end() if self._pacing is not None else []
        self._pacing = Pacing(self._loop, limits, self._admit) if limits != NO_LIMITS else None
        self._reopen()
        take = self._pacing.take if self._pacing is not None else self._admit
        for job in waiting:
            take(job)

    def release_held(self) -> None:
        """Something may begin that was held: in the order in which it came, but reads pass held writes."""
        if self._closed or not (self.reads or self.writes):
            return
        held, self._held = self._held, deque()
        for job in held:
            self._admit(job)

    def lease_until(self, until_s: float) -> None:
        """No other host can be the primary before then; reads that waited to hear it end."""
        self.leased_until_s = until_s
        if self._unleased and self._loop.now() < until_s:
            waiting, self._unleased = self._unleased, []
            for job in waiting:
                self._end_read(job, job.outcome)

    # The gate (freeze.py).

    def close_gate(self, drained: Callable[[None], None]) -> None:
        """Hold new writes; call `drained(None)` when none is under way."""
        self._gate_closed = True
        self._reopen()
        self._drained = drained
        self._check_drained()

    def open_gate(self) -> None:
        self._gate_closed = self._closed
        self._reopen()
        self._drained = None
        self.release_held()

    def _check_drained(self) -> None:
        if self._writing == 0 and self._drained is not None:
            drained, self._drained = self._drained, None
            drained(None)

    # A job's stages.

    def _take_on(self, job: Job) -> None:
        if self._closed:
            job.request.done(Outcome.BUSY)
        else:
            self._jobs[job] = None
            if self._pacing is None or job.fill:
                self._admit(job)
            else:
                self._pacing.take(job)

    def _admit(self, job: Job) -> None:
        request = job.request
        if job.forgotten:
            return
        op = request.op
        reading = not job.exclusive
        if not (self.reads if reading else self._open):
            self._held.append(job)
            return
        if op is _FLUSH:
            self._flush(job)
            return
        if self.local.store.missing.left and not job.fill and op is not _LOOK:
            wanted = self._wanted(request)
            if wanted:
                self._hydrator.need(wanted, partial(self._admit, job), partial(self._not_filled, job))
                return
        if not reading:
            job.counted = True
            self._writing += 1
        if self._order.enter(job):
            self.begin(job)

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

    def begin(self, job: Job) -> None:
        """It has its turn."""
        job.holds = True
        request = job.request
        if job.forgotten:
            self._end(job, Outcome.BUSY)
        elif request.op is _READ:
            self.local.read(request, job.was_read)
        elif request.op is _COMPARE:
            self._compare(job)
        elif isinstance(request, LookRequest):
            self.local.look(request, job.was_read)
        elif job.fill and not self._still_missing(request):
            self._end(job, Outcome.OK)
        else:
            self._prepare(job)

    def was_read(self, job: Job, outcome: Outcome) -> None:
        """Its buffers are filled, or not."""
        if outcome is not _OK:
            self._fail_here(job, outcome)
        else:
            self._found(job, outcome, job.request.buffers)

    def _found(self, job: Job, outcome: Outcome, found: list[memoryview]) -> None:
        """What was read goes to the hosts that may hold something else there, before it is shown."""
        if job.forgotten or not self._in_doubt(job.request):
            self._end_read(job, outcome)
            return
        doubtful = [one for one in self.partners if one.required and one.link.in_doubt]
        if not all(one.link.up for one in doubtful):
            self._hold_again(job)
            return
        job.outcome, job.shared = outcome, True
        content = bytearray().join(found)
        op = Op.ZERO if content == bytes(len(content)) else _WRITE
        request = Request(op, job.request.offset, len(content), _nobody, [memoryview(content)])
        job.waiting = len(doubtful)
        job.sent = tuple((partner, partner.link.send(request, job.there)) for partner in doubtful)

    def _hold_again(self, job: Job) -> None:
        """It reads anew when those hosts take requests. Until then it is in nobody's way: whatever makes them
        equal takes turns, too.
        """
        self._order.give_back(job)
        job.holds, job.over, job.blockers, job.waiters = False, False, 0, None
        self._uncount(job)
        self._held.append(job)

    def _end_read(self, job: Job, outcome: Outcome) -> None:
        """After the bytes were read, before anybody is told: nobody else was the primary by then."""
        if self._loop.now() < self.leased_until_s or job.forgotten:
            self._end(job, outcome)
            return
        if job.holds:
            job.holds = False
            self._order.give_back(job)
        job.outcome = outcome
        self._unleased.append(job)

    def _in_doubt(self, request: Request) -> bool:
        """Another host in sync may hold something else there, and would show it if it took over now."""
        if request.op is _LOOK:
            return False
        doubts = [one.link.in_doubt for one in self.partners if one.required and one.link.in_doubt]
        regions = covering(request.offset, request.length, REGION_BYTES) if doubts else ()
        return any(not doubt.isdisjoint(regions) for doubt in doubts)

    def _still_missing(self, request: Request) -> bool:
        extents = covering(request.offset, request.length, EXTENT_BYTES)
        return len(self.local.store.missing.among(extents)) == len(extents)

    def _compare(self, job: Job) -> None:
        request = job.request
        content = bytearray(request.length)

        def compare(outcome: Outcome) -> None:
            if outcome is not Outcome.OK:
                self._fail_here(job, outcome)
            elif job.forgotten:
                self._end(job, outcome)
            elif content != request.expected:
                pairs = enumerate(zip(content, request.expected, strict=True))
                request.miscompare_offset = next(i for i, (a, b) in pairs if a != b)
                self._found(job, Outcome.MISCOMPARE, [memoryview(content)])
            else:
                self._prepare(job)

        read = Request(Op.READ, request.offset, request.length, compare, [memoryview(content)])
        self.local.read(read, compare)

    def _prepare(self, job: Job) -> None:
        local, request = self.local, job.request
        if local.is_prepared(request.offset, request.length):
            self._replicate(job)
        else:
            replicate, fail = partial(self._replicate, job), partial(self._fail_here, job)
            local.prepare(request.offset, request.length, replicate, fail)

    def _replicate(self, job: Job) -> None:
        local, request = self.local, job.request
        if job.forgotten:
            self._end(job, Outcome.BUSY)
            return
        if local.suspect:
            self._fail_here(job, Outcome.MEDIUM_ERROR)
            return
        job.waiting = 1
        for partner in self.partners:
            if partner.required or partner.takes(request.offset, request.length):
                job.waiting += 1
                job.sent = (*job.sent, (partner, partner.link.send(request, job.there)))
        local.apply(request, job.here, not job.fill)

    def _replicate_all(self, jobs: list[Job]) -> None:
        """`_replicate` of WRITEs without FUA that are prepared, just now."""
        partners = self.partners
        together = len(jobs) > 1 and not self.local.suspect and all(partner.required for partner in partners)
        if not together or any(job.forgotten for job in jobs):
            for job in jobs:
                self._replicate(job)
            return
        requests = [job.request for job in jobs]
        for job in jobs:
            job.waiting = 1 + len(partners)
        for partner in partners:
            sents = partner.link.send_all(requests, [job.there for job in jobs])
            for job, sent in zip(jobs, sents, strict=True):
                job.sent = (*job.sent, (partner, sent))
        self.local.apply_all(requests, [job.here for job in jobs])

    def _flush(self, job: Job) -> None:
        job.waiting, job.hard = 1, True
        for partner in self.partners:
            if partner.required:
                job.waiting += 1
                job.sent = (*job.sent, (partner, partner.link.send(job.request, job.there)))
        self.local.flush(job.here)

    def failed_here(self, job: Job, outcome: Outcome) -> None:
        """This host's disk failed a request that the others may have."""
        if job.forgotten:
            self._end(job, outcome)
        else:
            self._give_up(job, outcome)

    def done(self, job: Job) -> None:
        """All hosts that it waited for have done it."""
        if job.shared:
            self._end_read(job, job.outcome)
        elif self.needs_mirror and self.alone and not (job.fill or job.request.op is _FLUSH):
            # One of them was left out meanwhile.
            self._end(job, Outcome.BUSY)
        elif self.hardens and not (job.hard or job.fill or job.forgotten):
            # Nobody else has it, or nobody knows of it: it must survive this host's memory.
            # (What fills brought, the origin has.)
            job.hard = True
            job.waiting = 1
            self.local.flush(job.here)
        else:
            self._end(job, job.outcome)

    def _give_up(self, job: Job, outcome: Outcome) -> None:
        """It failed here, and others may have it: they get back what is here, before they serve."""
        sent, job.sent = job.sent, _NOTHING
        for partner, one in sent:
            if partner.give_up(one):
                self._note_copy(job, partner)
            else:
                partner.doubt(job.request)
        self._fail_here(job, outcome)

    def _fail_here(self, job: Job, outcome: Outcome) -> None:
        """This host's disk failed a request. The initiator hears of it only if nobody else has the data."""
        if not self.alone and not job.forgotten:
            self.on_trouble(outcome)
            outcome = Outcome.BUSY
        self._end(job, outcome)

    def _end(self, job: Job, outcome: Outcome) -> None:
        """The one way out of a job that was not forgotten, and the release of one that was."""
        if job.holds:
            job.holds = False
            self._order.give_back(job)
        if not job.forgotten:
            job.forgotten = True  # Whatever else still comes of it is nobody's.
            job.sent = _NOTHING  # Each knows the job: a circle, which would wait for the collector.
            del self._jobs[job]
            if job.copies:
                self._endings.end(job.request, outcome, job.copies)
            else:
                job.request.done(outcome)
        else:
            self._endings.over(job.request, HERE)
        self._uncount(job)

    def _uncount(self, job: Job) -> None:
        """It writes nothing any more."""
        if job.counted:
            job.counted = False
            self._writing -= 1
            if self._writing == 0:
                self._check_drained()
                self.on_quiet()

    # Giving up.

    def _work(self) -> None:
        """A job is about to come, after a rest: as if jobs had been looked at all the time, at whole
        multiples of the interval.
        """
        if self._closed:
            return
        now_s = self._loop.now()
        since_s = now_s % SWEEP_INTERVAL_S
        self.rests, self._swept_s = False, now_s - since_s
        self._sweeper = self._loop.call_later(SWEEP_INTERVAL_S - since_s, self._sweep)
        self.on_work()

    def _rest(self) -> None:
        self.rests = True
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _sweep(self) -> None:
        if not self._jobs:
            self._rest()
            return
        self._swept_s = self._loop.now()
        limit = self._swept_s - HELD_COMMAND_MAX_S - SWEEP_INTERVAL_S
        late = itertools.takewhile(lambda job: job.born_s <= limit, self._jobs)
        self._forget_all([job for job in late if not job.fill])
        self._sweeper = self._loop.call_about(SWEEP_INTERVAL_S, self._sweep)

    def _forget_all(self, jobs: list[Job]) -> None:
        # All are marked before the first is ended, or its turn would pass to one that is to be forgotten.
        for job in jobs:
            del self._jobs[job]
            job.forgotten = True
        for job in jobs:
            self._forget(job)

    def _forget(self, job: Job) -> None:
        """Answer BUSY, as soon as that may be. The buffers are the ring's again: nothing may touch them from
        here on.
        """
        if job in self._held:
            self._held.remove(job)
        unleased = job in self._unleased
        if unleased:
            self._unleased.remove(job)
        sent, job.sent = job.sent, _NOTHING
        for partner, one in sent:
            if partner.give_up(one):
                job.waiting -= 1
                self._note_copy(job, partner)
        if job.waiting and job.request.op is Op.ZERO:
            job.copies += (HERE,)  # A long one is applied in a thread.
        job.request.buffers = []
        self._endings.end(job.request, Outcome.BUSY, job.copies)
        if unleased or (sent and job.waiting == 0):
            self._end(job, Outcome.BUSY)

    @staticmethod
    def _note_copy(job: Job, partner: Partner) -> None:
        """It was given up, and is perhaps on its way to that host. (A flush changes nothing.)"""
        if partner.required and not job.fill and job.request.op is not _FLUSH:
            job.copies += (partner.host_id,)
