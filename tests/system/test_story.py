"""The demo is a test: the whole main job, with its own checks."""

from pathlib import Path

import pytest

from holdfast.lab.demo.narrator import Narrator
from holdfast.lab.demo.story import Story
from holdfast.lab.lab import Lab


@pytest.mark.lab
@pytest.mark.timeout(900)
def test_the_main_job_end_to_end(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab")
    try:
        Story(lab, Narrator()).run()
    finally:
        lab.down()
