"""Random requests under random faults, judged at every step (testing_story.py).

More of them: HOLDFAST_SEEDS=500 HOLDFAST_SEED=1000 pytest replicator/tests/test_story.py
"""

import os

import pytest

from holdfast.replicator.testing_story import Story

FIRST = int(os.environ.get("HOLDFAST_SEED", "0"))
COUNT = int(os.environ.get("HOLDFAST_SEEDS", "24"))
STEPS = 120


FOUND = (5167, 21167)
"""Seeds that once found something: two cleans at once; a dropped view that a killed worker found whole."""


@pytest.mark.parametrize("seed", [*FOUND, *range(FIRST, FIRST + COUNT)])
def test_a_story(seed: int) -> None:
    Story(seed).tell(STEPS)
