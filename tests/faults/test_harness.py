"""The campaign must be able to fail: its judges see what is wrong."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import alua
import faults
import flush_aware
import pytest
from blackout import WRITER
from cases import CASES, Case
from load import PULSE, read_fio
from outcome import Outcome
from play import bounds
from zombie import STALE

_SIZE = 16 * 4096
_LIMIT_S = 60


@pytest.fixture
def device() -> Iterator[Path]:
    """Not in the usual folder for temporary files: that may be in memory, without O_DIRECT."""
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
        file.truncate(_SIZE)
        yield Path(file.name)


def _await_bytes(path: Path, process: "subprocess.Popen[bytes]") -> None:
    """All blocks have been written."""
    while any(not path.read_bytes()[at : at + 4096].strip(b"\0") for at in range(0, _SIZE, 4096)):
        assert process.poll() is None


def _pulse(device: Path, report: Path, spoil: bool) -> dict[str, list[str]]:
    device.write_bytes(bytes(_SIZE))
    words = [sys.executable, str(PULSE), str(device), "0", str(_SIZE), str(report)]
    with subprocess.Popen(words) as process:
        _await_bytes(device, process)
        process.send_signal(signal.SIGSTOP)
        if spoil:
            with open(device, "r+b") as file:
                file.write(os.urandom(_SIZE))
                os.fsync(file.fileno())
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        assert process.wait(_LIMIT_S) == 0
    said: dict[str, list[str]] = json.loads(report.read_text())
    return said


def test_the_pulse_finds_bytes_that_it_did_not_write(device: Path, tmp_path: Path) -> None:
    said = _pulse(device, tmp_path / "sound", spoil=False)
    assert said["wrong_blocks"] == said["errors"] == [] and len(said["pauses"]) == 5
    assert len(_pulse(device, tmp_path / "spoilt", spoil=True)["wrong_blocks"]) >= 15


def test_the_pulse_finds_an_older_write(device: Path, tmp_path: Path) -> None:
    """A lost write leaves bytes that once were right."""
    report = tmp_path / "report"
    words = [sys.executable, str(PULSE), str(device), "0", str(_SIZE), str(report)]
    with subprocess.Popen(words) as process:
        _await_bytes(device, process)
        older = device.read_bytes()
        _await_change(device, older, process)
        process.send_signal(signal.SIGSTOP)
        with open(device, "r+b") as file:
            file.write(older)
            os.fsync(file.fileno())
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        assert process.wait(_LIMIT_S) == 0
    assert json.loads(report.read_text())["wrong_blocks"]


def _await_change(device: Path, older: bytes, process: "subprocess.Popen[bytes]") -> None:
    """Every block has been written again."""
    while any(device.read_bytes()[at : at + 4096] == older[at : at + 4096] for at in range(0, _SIZE, 4096)):
        assert process.poll() is None


@pytest.mark.parametrize("spoil", [False, True])
def test_what_was_flushed_is_counted(spoil: bool, device: Path, tmp_path: Path) -> None:
    run, notes = str(random.getrandbits(48)), tmp_path / "notes"
    writer = [sys.executable, str(WRITER)]
    subprocess.run([*writer, "write", str(device), "0", str(_SIZE), run, str(notes)], check=True)
    assert notes.read_text() == "1\n"
    if spoil:
        with open(device, "r+b") as file:
            file.seek(4096)
            file.write(bytes(8192))
            os.fsync(file.fileno())
    said = subprocess.run([*writer, "check", str(device), "0", "16", run], capture_output=True, check=True)
    assert int(said.stdout) == (2 if spoil else 0)


@pytest.mark.parametrize("spoil", [False, True])
def test_fio_after_a_restart_misses_what_had_completed(spoil: bool, device: Path, tmp_path: Path) -> None:
    with open(device, "r+b") as file:
        file.truncate(32 << 20)
    trigger, saved = tmp_path / "trigger", tmp_path / "saved"
    common = flush_aware.words(str(device), 0, 32, random.getrandbits(31), str(tmp_path))
    words = flush_aware.writing(common, str(trigger), str(saved))
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        _await_written(device, 100, process)
        trigger.touch()
        said, _ = process.communicate(timeout=_LIMIT_S)
    assert saved.exists() and not read_fio(said).io_errors
    if spoil:
        with open(device, "r+b") as file:
            # Of a hundred and more, the last eight may have been under way.
            for at in [at for at in range(0, 32 << 20, 4096) if os.pread(file.fileno(), 1, at) != b"\0"][:20]:
                os.pwrite(file.fileno(), bytes(4096), at)
            os.fsync(file.fileno())
    done = subprocess.run(flush_aware.reading(common), capture_output=True, text=True)
    seen = read_fio(f"{done.stderr}\n{done.stdout}")
    assert bool(seen.wrong_bytes) == spoil and not seen.io_errors
    assert spoil or seen.verified >= 90


def _await_written(path: Path, count: int, process: "subprocess.Popen[str]") -> None:
    """So many blocks are there."""
    written = 0
    while written < count:
        assert process.poll() is None
        with open(path, "rb") as file:
            written = sum(os.pread(file.fileno(), 1, at) != b"\0" for at in range(0, 32 << 20, 4096))


@pytest.mark.parametrize("stale", [False, True])
def test_a_stale_read_is_seen(stale: bool, device: Path, tmp_path: Path) -> None:
    report = tmp_path / "report"
    other = device.with_name(f"{device.name}.old")
    other.write_bytes(bytes(_SIZE))
    device.write_bytes(bytes(_SIZE))
    words = [sys.executable, str(STALE), str(other if stale else device), str(device), "4096", str(report)]
    with subprocess.Popen(words) as process:
        while device.read_bytes()[4096:4104] < bytes([20]):
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(_LIMIT_S) == 0
    other.unlink()
    said = json.loads(report.read_text())
    assert bool(said["stale"]) == stale and bool(said["right"]) != stale


def test_what_was_not_to_be_acknowledged_or_copied() -> None:
    held = Case("held", faults.etcd_killed, 1.0, must_hold=True)
    assert bounds(held, 20.0, Outcome("held", pause_ms=15_000))
    assert not bounds(held, 20.0, Outcome("held", pause_ms=20_000))
    little = Case("little", faults.etcd_killed, 1.0, resync_limit_mib=4)
    assert not bounds(little, 20.0, Outcome("little", resynced_bytes=4 << 20))
    for wrong in (0, 5 << 20):
        assert bounds(little, 20.0, Outcome("little", resynced_bytes=wrong))


def test_what_fio_says() -> None:
    job = {"error": 0, "read": {"total_ios": 7}}

    def said(error: int) -> str:
        return json.dumps({"jobs": [{**job, "error": error}]})

    assert read_fio(said(0)).verified == 7
    assert (read_fio(said(0)).io_errors, read_fio(said(0)).wrong_bytes) == (0, 0)
    assert (read_fio(said(5)).io_errors, read_fio(said(5)).wrong_bytes) == (1, 0)
    wrong = read_fio("verify: bad magic header cd1f\nfio: err=84\n" + said(84))
    assert (wrong.io_errors, wrong.wrong_bytes) == (0, 4096)
    assert read_fio("killed").io_errors == 1


@pytest.mark.parametrize(
    ("outcome", "trouble"),
    [
        (Outcome("case", io_errors=1), "1 I/O errors"),
        (Outcome("case", wrong_bytes=3), "3 wrong bytes"),
        (Outcome("case", pause_ms=6001, pause_limit_ms=6000), "paused for 6001 ms"),
    ],
)
def test_what_is_wrong_fails_a_case(outcome: Outcome, trouble: str) -> None:
    outcome.judge()
    assert not outcome.passed and trouble in outcome.row() and "FAIL" in outcome.row()
    sound = Outcome("case", pause_limit_ms=6000, pause_ms=6000)
    sound.judge()
    assert sound.passed and sound.row().endswith("PASS")


_RTPG = """Report target port groups:
  target port group id : 0x1 , Pref=0, Rtpg_fmt=0
    target port group asymmetric access state : 0x{0}
    T_SUP : 1, O_SUP : 0
  target port group id : 0x2 , Pref=0, Rtpg_fmt=0
    target port group asymmetric access state : 0x{1}
    T_SUP : 1, O_SUP : 0
"""


def test_paths_that_do_not_agree() -> None:
    mine, other = (alua.read_groups(_RTPG.format(*states)) for states in (("00", "02"), ("02", "00")))
    assert mine == {"0x1": "0x00", "0x2": "0x02"}
    assert alua.agree([mine, mine])
    both = alua.read_groups(_RTPG.format("00", "00"))
    assert not any(alua.agree(wrong) for wrong in ([mine, other], [both, both], [mine], [{}, {}]))


def test_names_are_used_once() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
