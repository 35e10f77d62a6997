"""Worker processes: they outlive their agent, are adopted, and are told apart from strangers."""

import json
import os
import select
import signal
import sys
from pathlib import Path

import pytest

from holdfast.base.loop import Loop
from holdfast.target.control import Desired, DesiredPeer, Observed
from holdfast.target.control_client import WorkerLink
from holdfast.target.process_record import start_time
from holdfast.target.worker_control import ControlServer
from holdfast.target.workers import (
    BACKOFF_FORGET_S,
    CRASH_LOOP_ENDS,
    Backoff,
    Worker,
    Workers,
    worker_command,
)

UID = "0123456789abcdef01234567"
DESIRED = Desired(
    UID, 1 << 20, "primary", 1, ("a", "b"), "a", True, "::1", 20000, (DesiredPeer("b", "::1", 20001),)
)


def script(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def ended(worker: Worker) -> bool:
    """Wait for the end of a process."""
    ready, _, _ = select.select([worker.pidfd], [], [], 10)
    return bool(ready) and not worker.alive()


def test_a_worker_is_adopted_by_the_next_agent(tmp_path: Path) -> None:
    ready = (
        "from holdfast.base import notify; notify.tell_supervisor(notify.READY); import time; time.sleep(60)"
    )
    workers = Workers(tmp_path, script(ready))
    with workers.listen() as notices:
        worker = workers.start(UID)
        assert select.select([notices], [], [], 10)[0] and notices.recv(100) == b"READY=1"
    adopted = Workers(tmp_path, []).adopt(UID)
    assert adopted is not None and adopted.pid == worker.pid and workers.known() == {UID}
    assert os.getsid(worker.pid) == worker.pid, "in a session of its own"
    adopted.stop()
    assert ended(worker) and not adopted.alive()
    assert Workers(tmp_path, []).adopt(UID) is None
    workers.forget(UID)
    assert [path.name for path in tmp_path.iterdir()] == ["agent.notify"]


def test_a_worker_that_was_not_noted_is_adopted(tmp_path: Path) -> None:
    """Its agent died, or found no room, between starting it and writing its process id."""
    words = worker_command("a", tmp_path / "store", tmp_path, ["--clear"])
    workers = Workers(tmp_path, words)
    with workers.listen() as notices:
        first = workers.start(UID)
        try:
            assert select.select([notices], [], [], 10)[0] and notices.recv(100) == b"READY=1"
            (tmp_path / f"{UID}.pid").unlink()
            assert workers.known() == {UID}
            # Whoever does not look loses, and does not make the first one unknown.
            second = workers.start(UID)
            assert ended(second)
            second.close()
            adopted = workers.adopt(UID)
            assert adopted is not None and adopted.pid == first.pid
            adopted.close()
        finally:
            os.kill(first.pid, signal.SIGKILL)
            assert ended(first)
    assert workers.adopt(UID) is None


def test_the_log_of_a_worker_that_runs_is_trimmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.target.workers.LOG_KEEP_BYTES", 1000)
    chatty = (
        "import signal\n"
        "from holdfast.base import notify\n"
        "def say(*_):\n"
        "    print('x' * 1200, flush=True)\n"
        "    notify.tell_supervisor(notify.READY)\n"
        "signal.signal(signal.SIGUSR1, say)\n"
        "say()\n"
        "while True: signal.pause()"
    )
    workers = Workers(tmp_path, script(chatty))
    log, old = tmp_path / f"{UID}.log", tmp_path / f"{UID}.log.old"
    with workers.listen() as notices:
        worker = workers.start(UID)
        try:
            assert select.select([notices], [], [], 10)[0] and notices.recv(100)
            workers.trim_logs()
            assert (log.stat().st_size, old.stat().st_size) == (0, 1201)
            os.kill(worker.pid, signal.SIGUSR1)
            assert select.select([notices], [], [], 10)[0] and notices.recv(100)
            assert log.stat().st_size == 1201, "at the end of what is left, not behind a hole"
        finally:
            os.kill(worker.pid, signal.SIGKILL)
            assert ended(worker)
    workers.forget(UID)
    assert not log.exists() and not old.exists()


def test_a_stranger_with_the_same_process_id_is_not_adopted(tmp_path: Path) -> None:
    record = tmp_path / f"{UID}.pid"
    own = os.getpid()
    for text in (
        json.dumps({"pid": own, "started": start_time(own) + 1}),
        json.dumps({"pid": own, "started": 0}),
        json.dumps({"pid": 1 << 22, "started": 1}),
        '{"pid": 1',
        "",
    ):
        record.write_text(text)
        assert Workers(tmp_path, []).adopt(UID) is None


def test_one_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "from holdfast.base import notify; notify.tell_supervisor(notify.READY); time.sleep(60)"
    )
    workers = Workers(tmp_path, script(stubborn))
    with workers.listen() as notices:
        worker = workers.start(UID)
        assert select.select([notices], [], [], 10)[0]
    worker.stop()
    worker.stop()
    assert worker.alive()
    monkeypatch.setattr("holdfast.target.workers.TERM_PATIENCE_S", -1.0)
    worker.stop()
    assert ended(worker)


def test_backoff() -> None:
    backoff = Backoff()
    waits = []
    for now_s in range(10):
        backoff.started(now_s)
        backoff.ended(now_s)
        waits.append(backoff.not_before_s - now_s)
    assert waits[:4] == pytest.approx([0, 0.2, 0.4, 0.8]) and max(waits) == pytest.approx(20)
    backoff.started(100)
    backoff.ended(161)
    assert backoff.not_before_s == 161 and backoff.failures == 1


def test_what_ends_again_and_again_is_in_a_loop_until_one_stays() -> None:
    backoff, now_s = Backoff(), 0.0
    for _ in range(CRASH_LOOP_ENDS):
        assert not backoff.crash_looping(now_s)
        backoff.started(now_s)
        now_s += BACKOFF_FORGET_S - 1
        backoff.ended(now_s)
    now_s += 100
    assert backoff.crash_looping(now_s), "it waits for its start"
    backoff.started(now_s)
    assert backoff.crash_looping(now_s + BACKOFF_FORGET_S - 1)
    assert not backoff.crash_looping(now_s + BACKOFF_FORGET_S)
    backoff.ended(now_s + BACKOFF_FORGET_S)
    assert not backoff.crash_looping(now_s + BACKOFF_FORGET_S)


def test_the_link_says_once_and_hears_everything(tmp_path: Path) -> None:
    loop = Loop()
    applied: list[Desired] = []

    def apply(desired: Desired) -> Observed:
        applied.append(desired)
        return Observed(UID, epoch=desired.epoch)

    path = tmp_path / "w.sock"
    changes: list[Observed | None] = []
    link = WorkerLink(loop, path, lambda: changes.append(link.observed))
    assert not link.connect()
    server = ControlServer(loop, path, apply)
    assert link.connect() and link.connect()
    link.apply(DESIRED)
    link.apply(DESIRED)
    run_until(loop, lambda: link.answered == DESIRED)
    assert applied == [DESIRED] and link.observed == Observed(UID, epoch=1)
    server.tell(Observed(UID, epoch=1, serving=True))
    run_until(loop, lambda: link.observed is not None and link.observed.serving)
    link.apply(DESIRED, again=True)
    run_until(loop, lambda: len(applied) == 2)
    server.close()
    run_until(loop, lambda: not link.connected)
    assert changes[-1] is None and link.answered is None
    link.close()
    loop.close()


def test_what_is_so_again_is_told_again(tmp_path: Path) -> None:
    loop = Loop()
    answers = iter((Observed(UID, epoch=1), Observed(UID, epoch=1, serving=True)))
    path = tmp_path / "w.sock"
    server = ControlServer(loop, path, lambda _desired: next(answers))
    link = WorkerLink(loop, path, lambda: None)
    assert link.connect()
    link.apply(DESIRED)
    run_until(loop, lambda: link.answered == DESIRED)
    server.tell(Observed(UID, epoch=1))
    link.apply(DESIRED, again=True)
    run_until(loop, lambda: link.observed is not None and link.observed.serving)
    server.tell(Observed(UID, epoch=1))
    run_until(loop, lambda: link.observed == Observed(UID, epoch=1))
    link.close()
    server.close()
    loop.close()


def run_until(loop: Loop, holds: object) -> None:
    assert callable(holds)
    deadline_s = loop.now() + 10
    while not holds():
        assert loop.now() < deadline_s
        loop.run_once(0.1)
