"""The same code in several places: to an agent that is started from another one, its workers are outdated."""

import shutil
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[3]
_PARTS = ("base", "metadata", "replicator", "target", "protos")


def copy_code(folder: Path) -> dict[str, str]:
    """Copy what agent and worker run; the environment in which they run it."""
    for part in _PARTS:
        shutil.copytree(
            _ROOT / part / "holdfast",
            folder / "holdfast",
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__", "*.proto"),
        )
    return {"PYTHONPATH": str(folder)}
