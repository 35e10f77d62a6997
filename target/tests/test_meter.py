"""What a worker counts of its initiators' I/O, and how it is read."""

import logging
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from holdfast.base.device import LookRequest, Op, Outcome, Request
from holdfast.base.testing_loop import Clock, TestingLoop
from holdfast.target import meter as meters
from holdfast.target.meter import BUCKETS, SAVE_AFTER_S, Meter
from holdfast.target.metrics import serve, text

UID = "0123456789abcdef01234567"


@pytest.fixture
def loop() -> TestingLoop:
    return TestingLoop(Clock(), Random(0))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / f"{UID}.meter"


def request(op: Op, length: int, came_s: float = 10.0) -> Request:
    made = Request(op, 4096, length, _ignored)
    made.came_s = came_s
    return made


def _ignored(_outcome: Outcome) -> None:
    pass


def wait(loop: TestingLoop, seconds: float) -> None:
    loop.clock.now_s += seconds
    loop.run_once()


def test_each_wait_is_in_its_bucket(loop: TestingLoop, path: Path) -> None:
    meter = Meter(loop, path)
    for us, _bucket in (cases := [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (1 << 26, 27), (1 << 40, 27)]):
        meter.good([request(Op.WRITE, 512, 0.0)], (us + 0.5) / 1e6)
    meter.good([LookRequest(0, 4096, _ignored)], 1.0)
    meter.close()
    counts = meters.read(path)
    assert counts is not None
    wanted = [0] * BUCKETS
    for _us, bucket in cases:
        wanted[bucket] += 1
    writes = counts.kinds["write"]
    assert writes.buckets == wanted and writes.bytes == 512 * len(cases)
    assert writes.us == sum(us for us, _ in cases)
    assert not any(sum(kind.buckets) for op, kind in counts.kinds.items() if op != "write")


def test_it_is_written_once_a_second_while_something_ends_and_never_else(
    loop: TestingLoop, path: Path
) -> None:
    meter = Meter(loop, path)
    assert loop.next_timer_s is None
    for _ in range(100):
        meter.good([request(Op.READ, 4096)], 10.001)
    meter.bad(busy=True)
    assert loop.next_timer_s == SAVE_AFTER_S and meters.read(path) is None
    wait(loop, SAVE_AFTER_S)
    counts = meters.read(path)
    assert counts is not None and sum(counts.kinds["read"].buckets) == 100 and counts.busy == 1
    assert loop.next_timer_s is None


def test_a_successor_goes_on_counting(loop: TestingLoop, path: Path) -> None:
    for turn in (1, 2):
        meter = Meter(loop, path)
        meter.good([request(Op.FLUSH, 0)], 11.0)
        meter.bad(busy=False)
        meter.close()
        counts = meters.read(path)
        assert counts is not None and sum(counts.kinds["flush"].buckets) == counts.checked == turn


@pytest.mark.parametrize("content", [b"", b"HFMETER1", b"x" * 5000])
def test_what_is_no_counts_is_begun_anew(loop: TestingLoop, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert meters.read(path) is None
    meter = Meter(loop, path)
    meter.good([request(Op.READ, 1)], 11.0)
    meter.close()
    counts = meters.read(path)
    assert len(content) > 2000 or (counts is not None and sum(counts.kinds["read"].buckets) == 1)


def test_what_was_slow_is_said_once(loop: TestingLoop, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    meter = Meter(loop, path, UID)
    with caplog.at_level(logging.WARNING):
        meter.good([request(Op.READ, 512), request(Op.WRITE, 8192, 8.0)], 11.0)
        wait(loop, SAVE_AFTER_S)
        meter.good([request(Op.READ, 512)], 10.5)
        wait(loop, SAVE_AFTER_S)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"volume {UID}: 2 requests took a second or more, the longest 3.0 s: ")
    assert said.endswith("a write of 8192 bytes at 4096")


@pytest.fixture
def url(loop: TestingLoop, path: Path) -> Iterator[str]:
    meter = Meter(loop, path)
    meter.good([request(Op.READ, 4096), request(Op.READ, 4096, 9.0)], 10.000003)
    meter.bad(busy=True)
    meter.close()
    server = serve("127.0.0.1", 0, path.parent)
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_metrics_over_http(url: str) -> None:
    with urllib.request.urlopen(f"{url}/metrics", timeout=20) as answer:
        said = answer.read().decode()
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    labels = f'volume="{UID}",op="read"'
    for line in (
        f'holdfast_io_seconds_bucket{{{labels},le="2e-06"}} 0',
        f'holdfast_io_seconds_bucket{{{labels},le="4e-06"}} 1',
        f'holdfast_io_seconds_bucket{{{labels},le="+Inf"}} 2',
        f"holdfast_io_seconds_count{{{labels}}} 2",
        f"holdfast_io_bytes_total{{{labels}}} 8192",
        f'holdfast_io_refused_total{{volume="{UID}",status="busy"}} 1',
    ):
        assert line in said.splitlines()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{url}/", timeout=20)


def test_what_is_not_a_volumes_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "other.meter").write_bytes(b"x")
    (tmp_path / f"{UID}.meter").write_bytes(b"x")
    assert "volume=" not in text(tmp_path)
