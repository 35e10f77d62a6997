"""Which requests are traced, what is told of them, and by what way."""

import json
import random
import socket
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from holdfast.base.device import Op, Outcome, Request, submit_each
from holdfast.base.loop import Loop
from holdfast.base.trace import TracedRequest
from holdfast.target.control import Desired, Observed
from holdfast.target.trace_main import main, story, summary
from holdfast.target.tracing import SLOWEST_MAX, TraceCall, Traces, Tracing, decode_trace
from holdfast.target.worker_control import ControlServer
from holdfast.target.worker_ring import Ring


class Sink:
    """A device that ends everything at once."""

    size_bytes = 1 << 20

    def __init__(self) -> None:
        self.plain = 0

    def submit(self, request: Request) -> None:
        self.plain += 1
        request.done(Outcome.OK)

    def submit_all(self, requests: list[Request]) -> None:
        submit_each(self, requests)

    def submit_traced(self, request: TracedRequest) -> None:
        request.trace.note("turn")
        request.done(Outcome.OK)


def ask(traces: Traces, device: Sink, count: int, op: Op = Op.WRITE) -> list[Outcome]:
    before = Tracing(traces, device)
    outcomes: list[Outcome] = []
    for number in range(count):
        before.submit(Request(op, number * 512, 512, outcomes.append, [memoryview(bytearray(512))]))
    return outcomes


def test_one_in_so_many_is_traced_and_all_are_done() -> None:
    loop, device = Loop(), Sink()
    traces = Traces(loop)
    assert traces.call(TraceCall(1, every=4, for_s=60))["every"] == 4
    assert ask(traces, device, 42) == [Outcome.OK] * 42 and device.plain == 32
    told = traces.call(TraceCall(2))
    assert told["passed"] == 40 and [one["offset"] for one in told["recent"]] == [
        n * 512 for n in range(3, 40, 4)
    ]
    first = told["recent"][0]
    assert (first["op"], first["length"], first["outcome"]) == ("write", 512, "ok")
    assert [name for name, _us in first["stages"]] == ["taken", "turn", "done"]
    took = [one["stages"][-1][1] for one in told["slowest"]]
    assert len(took) == 10 and took == sorted(took, reverse=True)
    ask(traces, device, 4 * 5 * SLOWEST_MAX)
    assert len(traces.call(TraceCall(3))["slowest"]) == SLOWEST_MAX
    assert ask(traces, device, 8, Op.LOOK) == [Outcome.OK] * 8, "where data is, is nobody's I/O"
    # Begun anew, it forgets.
    assert traces.call(TraceCall(4, every=1))["recent"] == []
    loop.close()


@pytest.mark.parametrize("every", [1, 2, 3, 7, 100])
def test_of_those_that_come_together_the_same_are_traced(every: int) -> None:
    loop, device, rng = Loop(), Sink(), random.Random(every)
    traces = Traces(loop)
    traces.call(TraceCall(1, every=every))
    before, ended, count = Tracing(traces, device), list[int](), 0
    while count < 250:
        together = [
            Request(Op.WRITE, number, 1, lambda _ok, number=number: ended.append(number))  # type: ignore[misc]
            for number in range(count, count + rng.randrange(1, 20))
        ]
        count += len(together)
        before.submit_all(together)
    assert ended == list(range(count)), "in their order"
    traced = [one["offset"] for one in traces.call(TraceCall(2))["recent"]]
    assert traced == list(range(every - 1, count, every))
    loop.close()


def test_it_ends_by_itself() -> None:
    loop = Loop()
    traces = Traces(loop)
    changes: list[int] = []
    traces.changed = lambda: changes.append(traces.every)
    traces.call(TraceCall(1, every=1, for_s=0.01))
    while traces.every:
        loop.run_once(1)
    assert changes == [1, 0]
    loop.close()


def test_a_ring_serves_past_the_trace_unless_one_is_wanted() -> None:
    loop, device = Loop(), Sink()
    ring = Ring(loop, "u", lambda _configfs, _name: pytest.fail("it was not to be opened"))
    ring.serve_from(device)
    assert ring.device is device
    ring.traces.call(TraceCall(1, every=2))
    assert isinstance(ring.device, Tracing)
    ring.traces.call(TraceCall(2, every=0))
    assert ring.device is device
    ring.traces.call(TraceCall(3, every=2))
    ring.serve_from(None)
    assert not isinstance(ring.device, Tracing), "nothing is there to be traced"
    ring.close()
    loop.close()


@pytest.mark.parametrize(
    "asked", [{"every": -1}, {"every": "x"}, {"for_s": 0}, {"for_s": 1e9}, {"every": [1]}]
)
def test_what_is_no_call_is_refused(asked: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        decode_trace(json.dumps({"id": 1, "trace": asked}).encode())


def test_the_command_asks_a_worker(tmp_path: Path) -> None:
    """While that tells its agent of changes, too."""
    loop, device = Loop(), Sink()
    traces = Traces(loop)

    def apply(_desired: Desired) -> Observed:
        raise AssertionError("nothing was applied")

    def begun() -> None:
        server.tell(Observed(epoch=traces.every))
        if traces.every:
            ask(traces, device, 9)

    server = ControlServer(loop, tmp_path / "u.sock", apply, traces.call)
    traces.changed = begun
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        words = ["u", "--run-dir", str(tmp_path), "--every", "3", "--seconds", "0.1"]
        said = CliRunner().invoke(main, words)
        as_json = CliRunner().invoke(main, [*words, "--json"])
        nobody = CliRunner().invoke(main, ["other", "--run-dir", str(tmp_path)])
    finally:
        loop.call_from_thread(loop.stop)
        thread.join()
        server.close()
        loop.close()
    assert said.exit_code == 0 and "9 requests, of which 3 traces are kept" in said.output
    assert "turn" in said.output and "the slowest of them:" in said.output
    assert len(json.loads(as_json.output)["recent"]) == 3
    assert nobody.exit_code == 1 and "No such file" in nobody.output


def test_a_worker_of_older_code_is_told_of(tmp_path: Path) -> None:
    """It closes what it does not understand."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "u.sock"))
    listener.listen()

    def close_it() -> None:
        connection, _address = listener.accept()
        connection.recv(1 << 16)
        connection.close()

    thread = threading.Thread(target=close_it)
    thread.start()
    said = CliRunner().invoke(main, ["u", "--run-dir", str(tmp_path)])
    thread.join()
    listener.close()
    assert said.exit_code == 1 and "older code" in said.output


def test_what_people_read() -> None:
    traces = {
        "recent": [
            {
                "op": "write",
                "offset": 0,
                "length": 512,
                "outcome": "ok",
                "stages": [["turn", us], ["done", 10 * us]],
            }
            for us in range(1, 101)
        ]
    }
    lines = [line.split() for line in summary(traces)]
    assert lines[1:] == [["write", "turn", "100", "50", "100"], ["write", "done", "100", "505", "1,000"]]
    assert story(traces["recent"][9]).split("  ")[-1] == "write 512 at 0, ok: turn +10, done +90"
