"""Processes are ended by identity: all that belong, and nobody else."""

import os
import signal
import subprocess
from pathlib import Path

from holdfast.lab.processes import Process, identify, launch, read_record


def _start(record: Path, script: str) -> "subprocess.Popen[bytes]":
    return launch(record, ["sh", "-c", script], stdout=subprocess.PIPE)


def test_the_record_names_the_process(tmp_path: Path) -> None:
    child = _start(tmp_path / "record", "echo up; sleep 1000")
    with child:
        assert child.stdout and child.stdout.readline() == b"up\n"
        process = read_record(tmp_path / "record")
        assert process == identify(child.pid)
        assert process.alive()
        process.end()
        assert not process.alive()
        process.end()
    assert child.returncode is not None


def test_children_end_with_their_leader_or_after_it(tmp_path: Path) -> None:
    child = _start(tmp_path / "record", "sleep 1000 & echo $!; exec sleep 1000")
    assert child.stdout
    grandchild = identify(int(child.stdout.readline()))
    process = identify(child.pid)
    child.kill()
    child.wait()
    child.stdout.close()
    assert grandchild.alive()
    process.end()
    assert not grandchild.alive()


def test_a_stranger_with_the_same_number_is_left_alone(tmp_path: Path) -> None:
    with _start(tmp_path / "record", "echo up; exec sleep 1000") as child:
        assert child.stdout and child.stdout.readline()
        real = identify(child.pid)
        stranger = Process(real.pid, real.start_ticks - 1)
        assert not stranger.alive()
        assert stranger.wait(timeout_s=0)
        stranger.end()
        assert real.alive()
        real.signal_group(signal.SIGTERM)


def test_no_record_is_no_process(tmp_path: Path) -> None:
    assert read_record(tmp_path / "none") is None
    (tmp_path / "torn").write_text("")
    assert read_record(tmp_path / "torn") is None


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen(["true"], start_new_session=True)
    process = identify(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not process.alive()
    process.end()
    child.wait()
