"""The short cut of the campaign: its most telling cases, on real hosts. Timings do not decide it."""

import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = Path(__file__).with_name("run.py")
_ANY_PAUSE = "1000"
_LIMIT_S = 900


@pytest.mark.lab
@pytest.mark.timeout(_LIMIT_S + 60)
def test_no_error_no_wrong_byte_and_the_volume_where_it_belongs(tmp_path: Path) -> None:
    words = [sys.executable, str(_PROGRAM), "--quick", "--patience", _ANY_PAUSE, "--logs", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=_LIMIT_S)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.endswith("\n4 passed, 0 failed\n")
