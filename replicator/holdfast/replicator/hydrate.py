"""Fetching what a volume still misses of its origin: on demand, and in the background.

A fetched stretch is written through the primary like any write, extent by extent, to both hosts, and
only where it is still missing by the time its turn comes: a user's write always wins. Several requests
that need one extent wait for one fetch. Of a stretch of which something is lost at the origin, that alone
is an error. Other errors of the source are retried, with a pause; a request that waits too long is answered
BUSY by the primary, and the extent stays missing.

The background keeps to a rate, and gives way to users' requests; what they wait for does not.
"""

import contextlib
import logging
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, Protocol

from holdfast.base.device import Done, Op, Outcome, Request
from holdfast.base.errors import DataLoss, HoldfastError, Unavailable
from holdfast.base.extents import runs
from holdfast.base.limits import EXTENT_BYTES, KIB, MIB, SYNC_MAX_BYTES_S
from holdfast.base.loop import Loop
from holdfast.base.steps import Resume, run
from holdfast.replicator.budget import Budget
from holdfast.replicator.holes import FillRefused, HoleSource, fill_holes
from holdfast.replicator.rate import Rate
from holdfast.replicator.store import Store

log = logging.getLogger(__name__)

STRETCH_BYTES = MIB
"""Fetched at once: the extent that is needed and its neighbours (read-ahead)."""
STRETCH_EXTENTS = STRETCH_BYTES // EXTENT_BYTES
BACKGROUND_STRETCHES = 3
"""Background fetches under way at once; those on demand come on top."""
FETCH_THREADS = 6
RETRY_S = 1.0
TROUBLE_AFTER_S = 5.0
"""What passes sooner is nobody's business: a snapshotter that restarts, a connection that is lost."""
SNAPSHOTTER_UNREACHABLE, ORIGIN_UNREADABLE, ORIGIN_LOST = (
    "SNAPSHOTTER_UNREACHABLE",
    "ORIGIN_UNREADABLE",
    "ORIGIN_LOST",
)


class Stretch(NamedTuple):
    """What came of one: zeros where an extent is lost at the origin."""

    content: bytes
    lost: dict[int, DataLoss]
    """Extents, and why."""


class Waiting(NamedTuple):
    """Somebody who needs extents of a stretch."""

    extents: frozenset[int]
    then: Callable[[], None]
    failed: Done


class Source(HoleSource, Protocol):
    """Where the origin's bytes come from. Called in threads; blocks."""

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes. Raises DataLoss for good, any other HoldfastError or OSError for now: Unavailable
        with the reason BUSY, or another class, if there is a server which cannot read it either.
        """


class Hydrator:
    """Loop thread only. Without missing extents it does nothing."""

    def __init__(self, loop: Loop, store: Store) -> None:
        self._loop = loop
        self._store = store
        self._fetching: dict[int, list[Waiting]] = {}
        self._threads = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="hydrate")
        self._background = 0
        self._holes_filled = False
        self._filling_holes = False
        self._paused = False
        self._cursor = 0
        self._stopped = False
        self._source: Source | None = None
        self._trouble = ("", "")
        self._trouble_since_s = 0.0
        self._lost: dict[int, str] = {}
        self._budget = Budget(loop.now(), SYNC_MAX_BYTES_S)
        self._rate = Rate()
        self.busy: Callable[[], bool] = lambda: False
        """Whether users' requests are under way."""
        self.fill: Callable[[Request], None] = lambda _request: None
        self.on_change: Callable[[], None] = lambda: None

    @property
    def total_bytes(self) -> int:
        """What the origin covers; 0 for a blank volume."""
        return self._store.size_bytes if self._store.state.origin_snapshot_uid else 0

    @property
    def remaining_bytes(self) -> int:
        return min(self._store.missing.left * EXTENT_BYTES, self.total_bytes)

    @property
    def rate_bytes_s(self) -> int:
        """How fast that goes down; 0 while it stands still, or is not known yet."""
        return self._rate.bytes_s(self._loop.now()) if self.remaining_bytes else 0

    @property
    def trouble(self) -> tuple[str, str]:
        """What keeps it from its origin, and has for TROUBLE_AFTER_S: a word and a sentence, or two empty
        strings. It ends with the next stretch that comes; that something is lost, when that comes.
        """
        lost = self._store.missing.among(sorted(self._lost))  # A user may have written it since.
        if lost:
            extent, why = lost[0], self._lost[lost[0]]
            which = (
                f"{len(lost)} of its pieces of {EXTENT_BYTES // KIB} KiB are lost at the origin, e.g. "
                f"that at {extent * EXTENT_BYTES}"
            )
            return ORIGIN_LOST, f"{which}: {why}"
        lasts_s = self._loop.now() - self._trouble_since_s
        return self._trouble if self.remaining_bytes and lasts_s >= TROUBLE_AFTER_S else ("", "")

    def limit(self, most_bytes_s: int) -> None:
        """How fast the background may go while nobody else uses the volume."""
        self._budget.most_bytes_s = most_bytes_s

    def use(self, source: Source | None) -> None:
        """Fetch from `source` from now on; None while nobody can serve the origin."""
        self._source = source
        if source is None and self._store.missing.left:
            self._say(SNAPSHOTTER_UNREACHABLE, "no snapshotter is running.")

    def stop(self) -> None:
        """Begin nothing more; what is being fetched is thrown away."""
        self._stopped = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    def need(self, extents: Iterable[int], then: Callable[[], None], failed: Done) -> None:
        """Call `then()` when the stretches that hold `extents` have been filled (look again: some may
        still be missing), or `failed(outcome)`: MEDIUM_ERROR if the origin has lost one, or what the
        primary said to the write.
        """
        wanted: dict[int, set[int]] = {}
        for extent in extents:
            wanted.setdefault(extent // STRETCH_EXTENTS, set()).add(extent)
        left = len(wanted)
        ended = False

        def one() -> None:
            nonlocal left
            left -= 1
            if left == 0 and not ended:
                then()

        def fail(outcome: Outcome) -> None:
            nonlocal ended
            if not ended:
                ended = True
                failed(outcome)

        for stretch in sorted(wanted):
            waiting = Waiting(frozenset(wanted[stretch]), one, fail)
            if stretch in self._fetching:
                self._fetching[stretch].append(waiting)
            else:
                self._fetching[stretch] = [waiting]
                self._fetch(stretch)

    def go_on(self) -> None:
        """Keep the background pass busy; call it when the link comes up, and whenever it may have stopped."""
        if not self._holes_filled:
            self._fill_holes()
            return
        while self._may_go_on():
            stretch = self._next_stretch()
            if stretch is None:
                self._pause()
                return
            self._background += 1
            self.need(self._extents(stretch), self._background_done, self._background_failed)

    def _fill_holes(self) -> None:
        """First what the origin does not hold: it costs nothing to fetch."""
        source = self._source
        if source is None or self._filling_holes or not self._may_go_on():
            return
        self._filling_holes = True

        def done(_nothing: None) -> None:
            self._filling_holes, self._holes_filled = False, True
            self._say("", "")
            self.go_on()

        def failed(error: Exception) -> None:
            self._filling_holes = False
            if not isinstance(error, HoldfastError | OSError):
                raise error
            if not isinstance(error, FillRefused):
                self._say(*trouble_of(error))
            self._pause()

        run(fill_holes(self._store, source, self._in_threads, lambda r: self.fill(r)), done, failed)

    def _in_threads(self, work: Callable[[], object], resume: Resume) -> None:
        """Work that is asked for after the end is not done, nor answered."""
        if not self._stopped:
            self._loop.in_pool(work, resume, resume, self._threads)

    def _may_go_on(self) -> bool:
        wanted = self._store.missing.left > 0 and self._source is not None
        return wanted and not (self._stopped or self._paused) and self._background < BACKGROUND_STRETCHES

    def _next_stretch(self) -> int | None:
        """The next stretch with anything missing that is not being fetched; None at the end of a pass."""
        for extent in self._store.missing.indexes(self._cursor):
            stretch = extent // STRETCH_EXTENTS
            if stretch not in self._fetching:
                self._cursor = (stretch + 1) * STRETCH_EXTENTS
                return stretch
        self._cursor = 0
        return None

    def _background_done(self) -> None:
        """Its place is free for the next one as soon as the rate allows."""
        if self._rate.due(self._loop.now()):
            self._rate.count(self.remaining_bytes, self._loop.now())
        wait_s = self._budget.spend(STRETCH_BYTES, self._loop.now(), self.busy())
        self._loop.call_later(wait_s, self._begin_next)

    def _begin_next(self) -> None:
        self._background -= 1
        self.go_on()

    def _background_failed(self, _outcome: Outcome) -> None:
        self._background -= 1
        self._pause()

    def _pause(self) -> None:
        """What is left cannot be had now: look again after a while."""
        if not self._paused:
            self._paused = True
            self._loop.call_later(RETRY_S, self._unpause)

    def _unpause(self) -> None:
        self._paused = False
        self.go_on()

    def _fetch(self, stretch: int) -> None:
        if self._stopped:
            return
        if self._source is None:
            self._loop.call_later(RETRY_S, partial(self._fetch, stretch))
            return
        offset, length = self._range(stretch)
        self._loop.in_pool(
            partial(read_stretch, self._source, offset, length),
            partial(self._fetched, stretch),
            partial(self._fetch_failed, stretch),
            self._threads,
        )

    def _range(self, stretch: int) -> tuple[int, int]:
        """(offset, length) in bytes."""
        offset = stretch * STRETCH_BYTES
        return offset, min(STRETCH_BYTES, self._store.size_bytes - offset)

    def _extents(self, stretch: int) -> range:
        first = stretch * STRETCH_EXTENTS
        return range(first, min(first + STRETCH_EXTENTS, self._store.extents))

    def _fetched(self, stretch: int, came: Stretch) -> None:
        if self._stopped:
            return
        start, length = self._range(stretch)
        content, lost = came
        if len(content) != length:
            error = OSError(f"{len(content)} bytes came for {length} at {start}")
            self._fetch_failed(stretch, error)
            return
        self._say("", "")
        self._note_lost(self._extents(stretch), lost)
        missing = self._store.missing.among(self._extents(stretch))
        extents = [extent for extent in missing if extent not in lost]
        left = 0
        worst = Outcome.OK

        def one(outcome: Outcome) -> None:
            nonlocal left, worst
            left -= 1
            if outcome is not Outcome.OK:
                worst = outcome
            if left == 0:
                self._settle(stretch, worst, lost)

        requests = list(_fill_requests(self._store, extents, start, memoryview(content), one))
        left = len(requests)
        for request in requests:
            self.fill(request)
        if not extents:
            self._settle(stretch, Outcome.OK, lost)

    def _note_lost(self, extents: Iterable[int], lost: Mapping[int, DataLoss]) -> None:
        """Which of `extents` are lost at the origin, as it says now."""
        for extent in extents:
            why = lost.get(extent)
            if why is None:
                self._lost.pop(extent, None)
            elif extent not in self._lost:
                log.error("hydration: the origin has lost extent %d: %s", extent, why)
                self._lost[extent] = str(why)

    def _settle(self, stretch: int, outcome: Outcome, lost: Container[int] = ()) -> None:
        """It is filled as far as it can be: who needs what is `lost` fails, the others go on."""
        for waiting in self._fetching.pop(stretch, []):
            if any(extent in lost for extent in waiting.extents):
                waiting.failed(Outcome.MEDIUM_ERROR)
            elif outcome is Outcome.OK:
                waiting.then()
            else:
                waiting.failed(outcome)
        if self._store.missing.left == 0:
            self.on_change()

    def _fetch_failed(self, stretch: int, error: BaseException) -> None:
        if self._stopped:
            return
        self._say(*trouble_of(error))
        self._loop.call_later(RETRY_S, partial(self._fetch, stretch))

    def _say(self, reason: str, message: str) -> None:
        before, self._trouble = self._trouble, (reason, message)
        if reason and not before[0]:
            self._trouble_since_s = self._loop.now()
        if self._trouble != before:
            if reason:
                log.warning("hydration: %s: %s", reason, message)
            self.on_change()


def read_stretch(source: Source, offset: int, length: int) -> Stretch:
    """A stretch, extent by extent if something of it is lost, so that the rest of it is not. Blocks.

    Raises what `source.read` raises, other than DataLoss.
    """
    with contextlib.suppress(DataLoss):
        return Stretch(source.read(offset, length), {})
    pieces: list[bytes] = []
    lost: dict[int, DataLoss] = {}
    for at in range(offset, offset + length, EXTENT_BYTES):
        size = min(EXTENT_BYTES, offset + length - at)
        try:
            pieces.append(source.read(at, size))
        except DataLoss as error:
            pieces.append(bytes(size))
            lost[at // EXTENT_BYTES] = error
    return Stretch(b"".join(pieces), lost)


def trouble_of(error: BaseException) -> tuple[str, str]:
    """A word and a sentence, of an error of the source that is not for good. Pure."""
    unreachable = isinstance(error, OSError) or (isinstance(error, Unavailable) and error.reason != "BUSY")
    return SNAPSHOTTER_UNREACHABLE if unreachable else ORIGIN_UNREADABLE, str(error)


def _fill_requests(
    store: Store, extents: list[int], start: int, content: memoryview, done: Done
) -> Iterator[Request]:
    """Writes that cover `extents`, neighbours together; a hole stays a hole. `content` begins at `start`."""

    def part(extent: int) -> memoryview:
        offset, length = store.extent_range(extent)
        return content[offset - start : offset - start + length]

    empty = {extent for extent in extents if bytes(part(extent)) == bytes(len(part(extent)))}
    for kind in (empty, set(extents) - empty):
        for first, end in runs(sorted(kind)):
            offset = first * EXTENT_BYTES
            length = min(end * EXTENT_BYTES, store.size_bytes) - offset
            if kind is empty:
                yield Request(Op.ZERO, offset, length, done)
            else:
                yield Request(
                    Op.WRITE, offset, length, done, [content[offset - start : offset - start + length]]
                )
