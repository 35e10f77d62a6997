"""OpenStack Swift in a virtual environment of its own: the S3 server of the tests and the demo."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from holdfast.lab.cache import cache_dir, locked
from holdfast.lab.errors import LabError

SWIFT_VERSION = "2.38.3"
# Raised when what is installed beside Swift changes, so that old environments are left alone.
_LAYOUT = 1


def swift_venv() -> Path:
    """Where Swift's environment is, or will be."""
    python = f"py{sys.version_info.major}.{sys.version_info.minor}"
    return cache_dir() / f"swift-{SWIFT_VERSION}-{python}-{_LAYOUT}"


def need_swift() -> Path:
    """The environment's folder; LabError if it is not installed."""
    if not (swift_venv() / "complete").exists():
        raise LabError("Swift is not installed: run 'holdfast-lab install'")
    return swift_venv()


def install_swift(say: Callable[[str], None]) -> bool:
    """Install Swift if it is not; True if it was installed.

    A virtual environment cannot be moved (its scripts name it), so this one is built in place and
    counts only once the file `complete` is in it.
    """
    venv = swift_venv()
    if (venv / "complete").exists():
        return False
    with locked(cache_dir()):
        if (venv / "complete").exists():
            return False
        say(f"installing Swift {SWIFT_VERSION} (an S3 server) into {venv}")
        _run([sys.executable, "-m", "venv", "--clear", str(venv)])
        # setuptools: Swift's dependencies still ask for pkg_resources.
        wanted = [f"swift=={SWIFT_VERSION}", "setuptools<81"]
        _run([f"{venv}/bin/pip", "install", "--quiet", *wanted])
        (venv / "complete").touch()
    return True


def _run(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, errors="replace")
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-10:])
        raise LabError(f"'{' '.join(words)}' failed (is PyPI reachable?):\n{tail}")
