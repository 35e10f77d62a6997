"""The way of one request through its stages, for an operator who asks where its time goes.

A `TracedRequest` stands in for the request that it traces: whoever carries it out sees no difference, and
whoever knows of stages (`Trace.note`) says when each was reached.
"""

from collections.abc import Callable

from holdfast.base.device import Outcome, Request


class Trace:
    """`stages`: (name, seconds on the loop's clock), in the order in which they were reached. None is added
    once it has ended: what comes of a request that was given up is nobody's.
    """

    __slots__ = ("_now", "came_s", "length", "offset", "op", "outcome", "stages")

    def __init__(self, request: Request, now: Callable[[], float]) -> None:
        self._now = now
        self.op = request.op
        self.offset = request.offset
        self.length = request.length
        self.came_s = request.came_s or now()
        self.outcome: Outcome | None = None
        self.stages: list[tuple[str, float]] = []

    def note(self, stage: str) -> None:
        if self.outcome is None:
            self.stages.append((stage, self._now()))

    def end(self, outcome: Outcome) -> None:
        self.note("done")
        self.outcome = outcome

    @property
    def took_s(self) -> float:
        """From its coming to the last stage so far."""
        return self.stages[-1][1] - self.came_s if self.stages else 0.0


class TracedRequest(Request):
    """`original`, but for its end, which the trace and `ended` hear of. Its buffers are the original's: who
    takes them away from that one (a ring that closes) takes them from here.
    """

    __slots__ = ("_ended", "original", "trace")

    def __init__(self, original: Request, trace: Trace, ended: Callable[[Trace], None]) -> None:
        # Not the parent's: what may change is read from the original, and kept there.
        self.original = original
        self.trace = trace
        self._ended = ended
        self.op = original.op
        self.offset = original.offset
        self.length = original.length
        self.fua = original.fua
        self.expected = original.expected
        self.came_s = original.came_s

    @property
    def buffers(self) -> list[memoryview]:
        return self.original.buffers

    @buffers.setter
    def buffers(self, buffers: list[memoryview]) -> None:
        self.original.buffers = buffers

    @property
    def miscompare_offset(self) -> int:
        return self.original.miscompare_offset

    @miscompare_offset.setter
    def miscompare_offset(self, offset: int) -> None:
        self.original.miscompare_offset = offset

    def done(self, outcome: Outcome) -> None:
        self.trace.end(outcome)
        self.original.done(outcome)
        self._ended(self.trace)
