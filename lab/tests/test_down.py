"""`holdfast-lab` as people use it; what it leaves behind when it ends, or is killed half way."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.lab.lab import Lab

pytestmark = pytest.mark.lab

_SMALL = ["--storage", "1", "--compute", "0", "--memory-mib", "512"]


def _command(folder: Path, word: str, *words: str) -> list[str]:
    return [sys.executable, "-m", "holdfast.lab.main", word, "--dir", str(folder), *words]


def _lab(folder: Path, word: str, *words: str, status: int = 0) -> str:
    done = subprocess.run(_command(folder, word, *words), capture_output=True, text=True, timeout=240)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def _remains(folder: Path) -> list[str]:
    """Whatever still speaks of the lab in that folder: processes, namespace, disks, files."""
    found = [str(folder)] if folder.exists() else []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(folder) in words and int(process.name) != os.getpid():
            found.append(f"process {process.name}: {words[:200]!r}")
    lab = Lab(folder)
    found += [str(p) for p in Path("/run/netns").glob(lab.namespace)]
    found += [str(p) for p in Path("/var/tmp").glob(f"*{lab.namespace.removeprefix('holdfast-')}")]
    return found


@pytest.fixture
def folder(installed: None, tmp_path: Path) -> Path:
    # Longer than a Unix socket's address may be.
    return tmp_path / ("long-" * 20) / "lab"


def test_a_lab_from_up_to_down(folder: Path) -> None:
    assert "storage-a" in _lab(folder, "up", *_SMALL)
    try:
        assert "already up" in _lab(folder, "up", *_SMALL, status=1)
        assert "there is no guest 'nobody'" in _lab(folder, "boot", "nobody", status=1)
        assert _lab(folder, "shell", "storage-a", "sh", "-c", "hostname; exit 3", status=3) == ("storage-a\n")
        _lab(folder, "cut", "storage-a", "host", "--one-way")
        assert "storage-a to host: cut" in _lab(folder, "status")
        _lab(folder, "mend")
        for word in ("freeze", "thaw", "power-off", "boot", "shutdown"):
            _lab(folder, word, "storage-a")
        assert "off" in _lab(folder, "status")
        Lab.open(folder).host_popen(["sleep", "1000"])
    finally:
        _lab(folder, "down")
    assert _remains(folder) == []
    _lab(folder, "down")
    assert "there is no lab" in _lab(folder, "status", status=1)


def test_up_killed_half_way_is_cleaned_up_by_the_next(folder: Path) -> None:
    with subprocess.Popen(_command(folder, "up", *_SMALL), stdout=subprocess.PIPE) as up:
        assert up.stdout
        for line in up.stdout:
            if b"guests: starting" in line:
                break
        up.send_signal(signal.SIGKILL)
    try:
        _lab(folder, "down")
        assert _remains(folder) == []
        _lab(folder, "up", *_SMALL)
    finally:
        _lab(folder, "down")
    assert _remains(folder) == []


def test_a_folder_with_other_things_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("years of work")
    assert "holds other things" in _lab(tmp_path, "up", *_SMALL, status=1)
    _lab(tmp_path, "down")
    assert (tmp_path / "thesis").exists()


def test_two_labs_do_not_meet(lab: Lab, tmp_path: Path) -> None:
    with Lab(tmp_path / "other") as other:
        assert other.address == lab.address
        assert other.namespace != lab.namespace
    assert lab.is_up
