"""What these tests share. Nothing waits: clocks are moved, and what real threads do is waited for by turning
the loop.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings

from holdfast.replicator.testing_rig import MakeRig, Rig

settings.register_profile("replicator", deadline=None, max_examples=60)
settings.load_profile("replicator")


@pytest.fixture
def rig() -> Rig:
    """A pair whose link is up."""
    rig = Rig()
    rig.pair.until_up()
    return rig


@pytest.fixture
def make_rig() -> MakeRig:
    return Rig


@pytest.fixture(params=["disk", "memory"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A real directory, on a file system on a disk and on one in memory: they differ in what they can do."""
    if request.param == "disk":
        yield tmp_path
    else:
        with TemporaryDirectory(dir="/dev/shm") as name:
            yield Path(name)
