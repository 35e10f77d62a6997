"""What a replica shows over NBD besides the mirror session: its copy as it is, and its frozen views.

    replica:<volume uid>                  this host's bytes now; to compare the hosts with any NBD client
    frozen:<volume uid>:<snapshot uid>    the bytes at a freeze, with `holdfast:changed` (1: may differ
                                          from the snapshot's base)

Both are read-only. A read takes its turn with writes on the extents that it touches, so it sees none
halfway, and no write can pull an extent from under it. Extents that were never hydrated come from the
volume's origin.
"""

import logging
from collections.abc import Callable, Iterable
from functools import partial

from holdfast.base.device import Op, Outcome, Request
from holdfast.base.errors import HoldfastError, Unavailable
from holdfast.base.extents import covering, runs
from holdfast.base.limits import EXTENT_BYTES, KIB
from holdfast.base.loop import Loop
from holdfast.base.nbd.export import ControlDone, Served, StatusDone
from holdfast.replicator.bitmap import Bitmap
from holdfast.replicator.files import DataFile
from holdfast.replicator.frozen import FrozenView
from holdfast.replicator.hydrate import Source
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.order import Turn

log = logging.getLogger(__name__)

ALLOCATION = "base:allocation"
CHANGED = "holdfast:changed"
HOLE_AND_ZERO = 3
_CACHED_MAX_BYTES = 512 * KIB
"""What an upload reads at a time. What is longer keeps the loop's thread too long, cached or not."""
Runs = list[tuple[int, int]]


class _Reading(Turn):
    """A read, and its turn on all of the extents that it touches."""

    __slots__ = ("export", "request")

    def __init__(self, export: "ReplicaExport", request: Request) -> None:
        first, last = request.offset // EXTENT_BYTES, (request.offset + request.length - 1) // EXTENT_BYTES
        super().__init__(first * EXTENT_BYTES, (last + 1) * EXTENT_BYTES, False)
        self.export = export
        self.request = request

    def begin(self) -> None:
        self.export.begin(self)


class ReplicaExport:
    """This host's copy as it is. Subclassed for frozen views: `_place` says where an extent's bytes are."""

    read_only = True
    private = False
    contexts: tuple[str, ...] = (ALLOCATION,)

    def __init__(self, loop: Loop, local: LocalReplica, source: Callable[[], Source | None]) -> None:
        self._loop = loop
        self._local = local
        self._source = source
        self.size_bytes = local.store.size_bytes

    def opened(self, connection: Served) -> None:
        pass

    def closed(self) -> None:
        pass

    def control(self, payload: bytes, done: ControlDone) -> None:
        done(Outcome.INVALID, b"")

    def submit(self, request: Request) -> None:
        if request.op is Op.FLUSH:
            request.done(Outcome.OK)
        elif request.op is not Op.READ:
            request.done(Outcome.READ_ONLY)
        elif self._local.suspect:
            request.done(Outcome.MEDIUM_ERROR)
        else:
            reading = _Reading(self, request)
            if self._local.order.enter(reading):
                self.begin(reading)

    def begin(self, reading: "_Reading") -> None:
        """Its turn has come: from the page cache at once, else in the pool."""
        request = reading.request
        try:
            cached = self._read_cached(request)
        except OSError:
            cached = False  # It fails again in the pool, and is answered there.
        if cached:
            self._local.order.give_back(reading)
            request.done(Outcome.OK)
        else:
            self._read_in_pool(reading, request)

    def _read_cached(self, request: Request) -> bool:
        """Whether the request's buffers are filled, which took no wait."""
        offset, length = request.offset, request.length
        if length > _CACHED_MAX_BYTES:
            return False
        extents = covering(offset, length, EXTENT_BYTES)
        place = self._place(extents.start)
        if place is None or any(self._place(extent) is not place for extent in extents[1:]):
            return False
        return place.read_cached(request.buffers, offset, length)

    def _read_in_pool(self, turn: Turn, request: Request) -> None:
        def held(elsewhere: list[int]) -> None:
            self._local.order.give_back(turn)
            if not elsewhere:
                request.done(Outcome.OK)
                return
            fetch = partial(self._fetch, request, elsewhere)
            self._loop.in_pool(fetch, lambda _nothing: request.done(Outcome.OK), failed)

        def failed(error: BaseException) -> None:
            if not isinstance(error, HoldfastError | OSError):
                raise error
            retry = isinstance(error, HoldfastError) and error.retryable
            request.done(Outcome.BUSY if retry else Outcome.MEDIUM_ERROR)

        def broken(error: BaseException) -> None:
            self._local.order.give_back(turn)
            failed(error)

        self._loop.in_pool(partial(self._read_here, request), held, broken)

    def _read_here(self, request: Request) -> list[int]:
        """In the pool: fill what this host has; return the extents that only the origin has."""
        elsewhere = []
        for extent, start, end in _slices(request):
            place = self._place(extent)
            if place is None:
                elsewhere.append(extent)
            else:
                _put(request, start, place.read(start, end - start))
        return elsewhere

    def _fetch(self, request: Request, extents: list[int]) -> None:
        """In the pool: fill the rest from the origin."""
        source = self._source()
        if source is None:
            raise Unavailable("NO_SNAPSHOTTER", "no snapshotter serves the volume's origin now.")
        wanted = set(extents)
        for extent, start, end in _slices(request):
            if extent in wanted:
                _put(request, start, source.read(start, end - start))

    def _place(self, extent: int) -> DataFile | None:
        """The file that holds the extent, or None: the origin does."""
        store = self._local.store
        return None if store.missing.get(extent) else store.data

    def block_status(self, context: str, offset: int, length: int, done: StatusDone) -> None:
        """Runs of (length, flags) that cover the range."""
        self._loop.in_pool(
            partial(self._status, context, offset, length), done, lambda _error: done(Outcome.MEDIUM_ERROR)
        )

    def _status(self, context: str, offset: int, length: int) -> Runs:
        return _cover(sorted(self._allocated(offset, length)), offset, length, 0, HOLE_AND_ZERO)

    def _allocated(self, offset: int, length: int) -> set[int]:
        """Extents that may hold other than zeros. The live file first: what is punched out of it later
        has been copied before, and is found by the looks that follow.
        """
        store = self._local.store
        allocated: set[int] = set()
        for start, end in store.data.allocated(offset, offset + length):
            allocated.update(covering(start, end - start, EXTENT_BYTES))
        if store.missing.left:
            allocated.update(store.missing.among(covering(offset, length, EXTENT_BYTES)))
        return allocated


class FrozenExport(ReplicaExport):
    """A view at a freeze. `base_generation` is None for a full snapshot."""

    contexts = (ALLOCATION, CHANGED)

    def __init__(
        self,
        loop: Loop,
        local: LocalReplica,
        source: Callable[[], Source | None],
        view: FrozenView,
        base_generation: int | None,
    ) -> None:
        super().__init__(loop, local, source)
        self._view = view
        self._base_generation = base_generation
        self._changed: Bitmap | None = None

    def submit(self, request: Request) -> None:
        done = request.done
        if not self._good():
            done(Outcome.MEDIUM_ERROR)
            return

        def end(outcome: Outcome) -> None:
            # Dropped meanwhile, it may have missed a copy: what was read is not of the freeze.
            good = self._good()
            self._local.views.unpin(self._view)
            done(outcome if good else Outcome.MEDIUM_ERROR)

        self._local.views.pin(self._view)
        request.done = end
        super().submit(request)

    def block_status(self, context: str, offset: int, length: int, done: StatusDone) -> None:
        if not self._good():
            done(Outcome.MEDIUM_ERROR)
            return

        def end(answer: Runs | Outcome) -> None:
            self._local.views.unpin(self._view)
            done(answer)

        self._local.views.pin(self._view)
        super().block_status(context, offset, length, end)

    def _good(self) -> bool:
        return self._local.views.usable(self._view.uid) is self._view

    def _place(self, extent: int) -> DataFile | None:
        if self._view.copied.get(extent):
            return self._view.data
        return None if self._view.missing.get(extent) else self._local.store.data

    def _allocated(self, offset: int, length: int) -> set[int]:
        allocated = super()._allocated(offset, length)
        extents = covering(offset, length, EXTENT_BYTES)
        for bitmap in (self._view.copied, self._view.missing):
            allocated.update(bitmap.set_bits(extents.start, extents.stop))
        return allocated

    def _status(self, context: str, offset: int, length: int) -> Runs:
        if context != CHANGED:
            return super()._status(context, offset, length)
        if self._changed is None:
            self._changed = self._changed_since_base()
        extents = covering(offset, length, EXTENT_BYTES)
        return _cover(self._changed.set_bits(extents.start, extents.stop), offset, length, 1, 0)

    def _changed_since_base(self) -> Bitmap:
        """Everything, if the base's generation is unknown here: more work for the reader, never less."""
        store = self._local.store
        try:
            if self._base_generation is not None:
                generation = store.state.views[self._view.uid].generation
                return store.changed_union(self._base_generation, generation)
        except HoldfastError as error:
            log.warning("snapshot %s is read whole: %s", self._view.uid, error)
        whole = Bitmap.in_memory(store.extents)
        whole.set_range(0, store.extents)
        return whole


def _slices(request: Request) -> Iterable[tuple[int, int, int]]:
    """(extent, start, end): the request's range, cut at extents; in bytes."""
    end = request.offset + request.length
    for extent in covering(request.offset, request.length, EXTENT_BYTES):
        yield (
            extent,
            max(request.offset, extent * EXTENT_BYTES),
            min(end, (extent + 1) * EXTENT_BYTES),
        )


def _put(request: Request, start: int, content: bytes | bytearray) -> None:
    """Place `content` at byte `start` of the volume in the request's buffers."""
    at = start - request.offset
    rest = memoryview(content)
    for buffer in request.buffers:
        if at >= len(buffer):
            at -= len(buffer)
            continue
        count = min(len(buffer) - at, len(rest))
        buffer[at : at + count] = rest[:count]
        rest, at = rest[count:], 0
        if not rest:
            return


def _cover(extents: Iterable[int], offset: int, length: int, inside: int, outside: int) -> Runs:
    """Runs of (length, flags) over [offset, offset + length): `inside` in the ascending `extents`, else
    `outside`.
    """
    covered: Runs = []
    at, stop = offset, offset + length
    for first, end in runs(extents):
        start = max(first * EXTENT_BYTES, at)
        finish = min(end * EXTENT_BYTES, stop)
        if start >= finish:
            continue
        if start > at:
            covered.append((start - at, outside))
        covered.append((finish - start, inside))
        at = finish
    if at < stop:
        covered.append((stop - at, outside))
    return covered
