"""What tests of NBD need: an export in memory, and a loop that runs until something is so."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from holdfast.base.device import Op, Outcome, Request
from holdfast.base.extents import covering, runs
from holdfast.base.limits import BLOCK_BYTES
from holdfast.base.loop import Loop
from holdfast.base.nbd import wire
from holdfast.base.nbd.export import ControlDone, Served, StatusDone

_T = TypeVar("_T")


class MemoryExport:
    """An export whose bytes are in memory.

    Normally a request ends before `submit` returns. With `hold` set it waits in `held` until `release`.
    `fail` gives the outcome of requests instead of doing them, where it gives one. `base:allocation` says
    hole and zero of blocks that were never written, or zeroed; `dirty` lists the blocks that every other
    context flags with 1.
    """

    def __init__(
        self,
        size_bytes: int,
        *,
        read_only: bool = False,
        private: bool = False,
        contexts: tuple[str, ...] = (wire.CONTEXT_ALLOCATION,),
    ) -> None:
        self.size_bytes = size_bytes
        self.read_only = read_only
        self.private = private
        self.contexts = contexts
        self.data = bytearray(size_bytes)
        self.allocated: set[int] = set()
        self.dirty: set[int] = set()
        self.hold = False
        self.held: deque[Callable[[], None]] = deque()
        self.fail: Callable[[Request], Outcome | None] = lambda _request: None
        self.flushes = 0
        self.fua_writes = 0
        self.connection: Served | None = None
        self.opened_count = 0
        self.closed_count = 0

    def opened(self, connection: Served) -> None:
        self.connection = connection
        self.opened_count += 1

    def closed(self) -> None:
        self.closed_count += 1

    def submit(self, request: Request) -> None:
        self._later(partial(self._end, request))

    def block_status(self, context: str, offset: int, length: int, done: StatusDone) -> None:
        self._later(lambda: done(self._status(context, offset, length)))

    def control(self, payload: bytes, done: ControlDone) -> None:
        """Echoes."""
        self._later(lambda: done(Outcome.OK, payload))

    def release(self, count: int | None = None) -> None:
        """End the `count` (or all) requests held longest."""
        for _ in range(len(self.held) if count is None else count):
            self.held.popleft()()

    def _later(self, call: Callable[[], None]) -> None:
        if self.hold:
            self.held.append(call)
        else:
            call()

    def _end(self, request: Request) -> None:
        request.done(self.fail(request) or self._apply(request))

    def _apply(self, request: Request) -> Outcome:
        at, end = request.offset, request.offset + request.length
        blocks = covering(request.offset, request.length, BLOCK_BYTES)
        if request.op is Op.READ:
            for buffer in request.buffers:
                buffer[:] = memoryview(self.data)[at : at + len(buffer)]
                at += len(buffer)
        elif request.op is Op.WRITE:
            self.fua_writes += request.fua
            for buffer in request.buffers:
                self.data[at : at + len(buffer)] = buffer
                at += len(buffer)
            assert at == end
            self.allocated.update(blocks)
        elif request.op is Op.ZERO:
            self.data[at:end] = bytes(request.length)
            self.allocated.difference_update(
                block for block in blocks if at <= block * BLOCK_BYTES and (block + 1) * BLOCK_BYTES <= end
            )
        elif request.op is Op.FLUSH:
            self.flushes += 1
        else:
            return Outcome.INVALID
        return Outcome.OK

    def _status(self, context: str, offset: int, length: int) -> list[tuple[int, int]]:
        hole = wire.STATE_HOLE | wire.STATE_ZERO
        allocation = context == wire.CONTEXT_ALLOCATION
        marked = self.allocated if allocation else self.dirty
        inside, outside = (0, hole) if allocation else (1, 0)
        answer: list[tuple[int, int]] = []
        at, end = offset, offset + length
        for first, last in runs(block for block in covering(offset, length, BLOCK_BYTES) if block in marked):
            start, stop = max(at, first * BLOCK_BYTES), min(end, last * BLOCK_BYTES)
            if start > at:
                answer.append((start - at, outside))
            answer.append((stop - start, inside))
            at = stop
        if at < end:
            answer.append((end - at, outside))
        return answer


def run_until(loop: Loop, condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    """Turn `loop` until `condition` holds; AssertionError after `limit_s`."""
    deadline_s = loop.now() + limit_s
    while not condition():
        left_s = deadline_s - loop.now()
        assert left_s > 0, "the loop turned for its time limit and what was waited for did not happen"
        loop.run_once(left_s)


def drive(loop: Loop, work: Callable[[], _T], limit_s: float = 30.0) -> _T:
    """Run `work`, which may block, in the pool while the loop turns here; its result, or what it raised."""
    results: list[_T] = []
    errors: list[BaseException] = []
    loop.in_pool(work, results.append, errors.append)
    run_until(loop, lambda: bool(results or errors), limit_s)
    if errors:
        raise errors[0]
    return results[0]
