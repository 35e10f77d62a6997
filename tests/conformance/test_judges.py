"""What the suite prints is read as it is meant, and nothing passes for want of a reason."""

import subprocess
import sys
from pathlib import Path

import pytest
import suite
from fsynced import content
from reasons import TABLE, read_reasons, reason_for
from suite import FAILED, PASSED, SKIPPED, Unreadable, Verdict

FSYNCED = Path(suite.__file__).with_name("fsynced.py")
SAID = """
Suite: Read10
  Test: Simple ...passed    [SKIPPED] PERSISTENT RESERVE IN is not implemented.
  Test: Odd ...    [FAILED] READ10 command failed
FAILED
    1. test_read10.c:52  - CU_ASSERT_EQUAL(ret,0)    [SKIPPED] PERSISTENT RESERVE IN is not implemented.

Suite: OrWrite
  Test: Simple ...    [SKIPPED] ORWRITE is not implemented.
    [SKIPPED] ORWRITE is not implemented.
passed    [SKIPPED] PERSISTENT RESERVE IN is not implemented.

Run Summary:    Type  Total    Ran Passed Failed Inactive
              suites      2      2    n/a      0        0
               tests      3      3      2      1        0
             asserts      9      9      8      1      n/a
"""


def test_verdicts() -> None:
    assert suite.read(SAID) == [
        Verdict("Read10.Simple", PASSED),
        Verdict("Read10.Odd", FAILED, "test_read10.c:52  - CU_ASSERT_EQUAL(ret,0)"),
        Verdict("OrWrite.Simple", SKIPPED, "ORWRITE is not implemented."),
    ]


@pytest.mark.parametrize("text", ["", SAID.replace("3      3      2      1", "4      4      3      1")])
def test_what_was_not_read_whole_is_no_verdict(text: str) -> None:
    with pytest.raises(Unreadable):
        suite.read(text)


def test_reasons() -> None:
    reasons = read_reasons(TABLE.read_text())
    assert len(reasons) > 20 and all(len(why) > 20 for why in reasons.values())
    assert reason_for("OrWrite.Simple", reasons) and reason_for("iSCSIResiduals.Read10Residuals", reasons)
    for name in ("Read10.Simple", "Unmap.Simple", "CompareAndWrite.Simple", "sg_inq", "ext4.checked"):
        assert not reason_for(name, reasons)


def test_files_that_are_not_there_are_counted(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / str(number)).write_bytes(content(number))
    (tmp_path / "1").unlink()
    (tmp_path / "3").write_bytes(content(3)[:-1])
    (tmp_path / "4").write_bytes(content(404))  # a newer one by the same name
    words = [sys.executable, str(FSYNCED), "check", str(tmp_path), "5"]
    assert subprocess.run(words, capture_output=True, check=True, text=True).stdout == "2\n"
