"""The simulation itself: the same in every process, and able to fail. The campaigns are `make sim` and
`make sim-mutants`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MISTAKES = [
    "alone, acknowledge from memory",
    "flush one side only",
    "acknowledge before the mirror",
    "no boot in the set",
]
"""Some that are found soon."""
RUN = Path(__file__).with_name("run.py")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(RUN), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_seed_is_the_same_run_in_every_process() -> None:
    """Whatever the order of sets, and whatever was run before it in the same process."""
    one = run("--digest", "--seeds", "20", "--first", "100", PYTHONHASHSEED="1").stdout.splitlines()
    two = run("--digest", "--seeds", "20", "--first", "100", PYTHONHASHSEED="2").stdout.splitlines()
    alone = run("--digest", "--seeds", "1", "--first", "119", PYTHONHASHSEED="3").stdout.splitlines()
    assert one == two and len(one) == 20
    assert one[-1:] == alone


def test_some_runs_violate_nothing() -> None:
    """The same ones each time: CI plays ten thousand beside the tests, and campaigns play new ones."""
    told = run("--seeds", "250", "--jobs", "2")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "250 runs, " in told.stdout and ", 0 violations" in told.stdout


def test_every_mistake_can_be_planted() -> None:
    """They are pieces of source, which move: `make sim-mutants` must not find that out."""
    mutants = RUN.with_name("mutants.py")
    told = subprocess.run([sys.executable, str(mutants), "--plant"], capture_output=True, text=True)
    assert told.returncode == 0 and "mistakes can be planted" in told.stdout, told.stderr


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake: str) -> None:
    told = run("--seeds", "400", "--jobs", "2", "--failures", "1", HOLDFAST_MISTAKE=mistake)
    assert told.returncode == 1, told.stdout + told.stderr
    assert "a mistake was planted" in told.stdout
