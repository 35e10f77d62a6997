"""Traces of a volume's requests: which are traced, and what is kept of them until somebody asks.

`Tracing` stands before a device only while it is wanted, and lets one in `every` requests go by way of a
trace; the others pay a call. It ends by itself, so that nobody leaves it on by mistake.

    control socket:   {"id": 3, "trace": {"every": 100, "for_s": 10}}     0: none from now on
                      {"id": 4, "trace": {}}                               only tell
    answer:           {"id": 3, "traces": {"every": .., "passed": .., "recent": [..], "slowest": [..]}}

    a trace:          {"op": "write", "offset": .., "length": .., "outcome": "ok",
                       "stages": [["taken", µs since it came], .., ["done", µs]]}
"""

import heapq
import itertools
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from holdfast.base.device import Device, Op, Request
from holdfast.base.loop import Loop, Timer
from holdfast.base.trace import Trace, TracedRequest

RECENT_MAX = 1000
SLOWEST_MAX = 16
FOR_MAX_S = 600.0


@runtime_checkable
class Traceable(Device, Protocol):
    def submit_traced(self, request: TracedRequest) -> None: ...


@dataclass(frozen=True)
class TraceCall:
    """`every`: trace one request in so many, 0 none; None: as it is."""

    id: int
    every: int | None = None
    for_s: float = FOR_MAX_S


def decode_trace(line: bytes) -> TraceCall | None:
    """None if it is another call. Raises ValueError, TypeError or KeyError on what is none."""
    raw = json.loads(line)
    if "trace" not in raw:
        return None
    asked = raw["trace"]
    every = asked.get("every")
    call = TraceCall(raw["id"], None if every is None else int(every), float(asked.get("for_s", FOR_MAX_S)))
    if (call.every or 0) < 0 or not 0 < call.for_s <= FOR_MAX_S:
        raise ValueError(f"every {call.every}, for_s {call.for_s}")
    return call


def encode_traces(number: int, traces: dict[str, Any]) -> bytes:
    return json.dumps({"id": number, "traces": traces}, separators=(",", ":")).encode() + b"\n"


class Traces:
    """What is traced, and the traces that have ended: the newest, and the slowest."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.every = 0
        self.passed = 0
        """Requests since it was begun, traced or not."""
        self.changed: Callable[[], None] = lambda: None
        """Called when `every` has changed."""
        self._recent: deque[Trace] = deque(maxlen=RECENT_MAX)
        self._slowest: list[tuple[float, int, Trace]] = []
        self._numbers = itertools.count()
        self._timer: Timer | None = None

    def call(self, call: TraceCall) -> dict[str, Any]:
        if call.every is not None:
            self._set(call.every, call.for_s)
        return {
            "every": self.every,
            "passed": self.passed,
            "recent": [_told(trace) for trace in self._recent],
            "slowest": [_told(trace) for _took, _number, trace in sorted(self._slowest, reverse=True)],
        }

    def ended(self, trace: Trace) -> None:
        self._recent.append(trace)
        heapq.heappush(self._slowest, (trace.took_s, next(self._numbers), trace))
        if len(self._slowest) > SLOWEST_MAX:
            heapq.heappop(self._slowest)

    def _set(self, every: int, for_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if every:
            self._recent.clear()
            self._slowest.clear()
            self.passed = 0
            self._timer = self.loop.call_later(for_s, lambda: self._set(0, 0))
        self.every = every
        self.changed()


class Tracing:
    """Device, before `device`."""

    def __init__(self, traces: Traces, device: Traceable) -> None:
        self._traces = traces
        self._device = device
        self._submit, self._submit_all = device.submit, device.submit_all
        self._left = traces.every

    @property
    def size_bytes(self) -> int:
        return self._device.size_bytes

    def submit(self, request: Request) -> None:
        self._left -= 1
        if self._left > 0 or request.op is Op.LOOK:
            self._submit(request)
        else:
            self._trace(request)

    def submit_all(self, requests: list[Request]) -> None:
        """In their order; what is traced goes by itself, between those before it and those after it."""
        while len(requests) >= self._left:
            first, chosen = requests[: self._left - 1], requests[self._left - 1]
            requests = requests[self._left :]
            self._submit_all(first)
            self._trace(chosen)
        self._left -= len(requests)
        self._submit_all(requests)

    def _trace(self, request: Request) -> None:
        traces = self._traces
        self._left = traces.every
        traces.passed += traces.every
        trace = Trace(request, traces.loop.now)
        trace.note("taken")
        self._device.submit_traced(TracedRequest(request, trace, traces.ended))


def _told(trace: Trace) -> dict[str, Any]:
    return {
        "op": trace.op.value,
        "offset": trace.offset,
        "length": trace.length,
        "outcome": trace.outcome.value if trace.outcome else "",
        "stages": [[name, round((at_s - trace.came_s) * 1e6)] for name, at_s in trace.stages],
    }
