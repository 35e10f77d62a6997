"""A device over a buffer, for tests: a bytearray, or a file's mapping, which outlives its process."""

from collections import deque
from collections.abc import Callable
from mmap import mmap

from holdfast.base.device import LookRequest, Op, Outcome, Request, submit_each


class BufferDevice:
    """A request ends before `submit` returns; with `hold` it waits in `held` until `release`.

    `fail` gives an outcome instead of doing the request, where it gives one. `log` holds every request.
    """

    def __init__(self, buffer: bytearray | mmap) -> None:
        self.data = memoryview(buffer)
        self.hold = False
        self.held: deque[Request] = deque()
        self.fail: Callable[[Request], Outcome | None] = lambda _request: None
        self.log: list[tuple[Op, int, int, bool]] = []

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def submit(self, request: Request) -> None:
        self.log.append((request.op, request.offset, request.length, request.fua))
        if self.hold:
            self.held.append(request)
        else:
            self._end(request)

    def submit_all(self, requests: list[Request]) -> None:
        submit_each(self, requests)

    def release(self, index: int = 0) -> None:
        """End the held request at `index`."""
        request = self.held[index]
        del self.held[index]
        self._end(request)

    def _end(self, request: Request) -> None:
        failed = self.fail(request)
        request.done(self._apply(request) if failed is None else failed)

    def _apply(self, request: Request) -> Outcome:
        start, end = request.offset, request.offset + request.length
        if end > len(self.data):
            return Outcome.INVALID
        if request.op is Op.READ:
            for buffer in request.buffers:
                buffer[:] = self.data[start : start + len(buffer)]
                start += len(buffer)
        elif isinstance(request, LookRequest):
            # Alternately, 4 KiB each.
            request.runs = [(min(4096, end - at), at // 4096 % 2 == 0) for at in range(start, end, 4096)]
        elif request.op is Op.ZERO:
            self.data[start:end] = bytes(request.length)
        elif request.op in (Op.WRITE, Op.COMPARE_AND_WRITE):
            if request.op is Op.COMPARE_AND_WRITE:
                found = self.data[start:end].tobytes()
                if found != request.expected:
                    pairs = zip(found, request.expected, strict=True)
                    request.miscompare_offset = next(i for i, (a, b) in enumerate(pairs) if a != b)
                    return Outcome.MISCOMPARE
            for buffer in request.buffers:
                self.data[start : start + len(buffer)] = buffer
                start += len(buffer)
        return Outcome.OK
