"""Where downloaded things live, and how a half-finished download is never mistaken for a whole.

Everything is built in a temporary folder beside its final name and then renamed, under a lock:
an interrupted install leaves only rubbish that the next one removes, and two installs at once
wait for each other.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PARTIAL = "partial-"


def cache_dir() -> Path:
    """`$HOLDFAST_CACHE`, or `~/.cache/holdfast`; made if absent."""
    named = os.environ.get("HOLDFAST_CACHE")
    path = Path(named) if named else Path.home() / ".cache" / "holdfast"
    path.mkdir(parents=True, exist_ok=True)
    return path.resolve()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: only one process installs into it at a time."""
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def building(folder: Path) -> Iterator[Path]:
    """A fresh folder to build in; remains of interrupted builds are removed. Call it locked."""
    for stale in folder.glob(_PARTIAL + "*"):
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=folder, ignore_cleanup_errors=True) as t:
        Path(t).chmod(0o755)
        yield Path(t)
