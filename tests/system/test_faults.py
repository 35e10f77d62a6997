"""A short cut of `make faults`: the most telling cases, on real hosts with multipath."""

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / "faults" / "run.py"


@pytest.mark.lab
@pytest.mark.timeout(1200)
def test_the_most_telling_faults_cost_no_error_and_no_byte() -> None:
    words = [sys.executable, str(RUN), "--quick", "--patience", "4"]
    told = subprocess.run(words, capture_output=True, text=True, timeout=1150, check=False)
    assert told.returncode == 0, told.stdout[-6000:] + told.stderr[-2000:]
    assert ", 0 failed" in told.stdout
