"""What these tests share. Nothing waits: clocks are moved, and what real threads do is waited for by turning
the loop.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings

from holdfast.base.limits import EXTENT_BYTES, REGION_BYTES
from holdfast.replicator.testing import FakeSource, Pair
from holdfast.replicator.testing_disk import Disk

settings.register_profile("replicator", deadline=None, max_examples=60)
settings.load_profile("replicator")

SIZE_BYTES = REGION_BYTES + 2 * EXTENT_BYTES + 3 * 4096


class Rig:
    """A pair, and the disks under it."""

    def __init__(self, seed: int = 0, origin: FakeSource | None = None, size_bytes: int = SIZE_BYTES) -> None:
        self.disks = {name: Disk(Random(seed)) for name in ("a", "b")}
        for disk in self.disks.values():
            disk.cold_reads = False
        self.pair = Pair(size_bytes, lambda name: self.disks[name].files, seed, origin)

    def fail(self, host: str, error: int, *steps: str, under: str = "") -> None:
        """Operations of these kinds fail on one disk, on files whose names start with `under`."""

        def failing(kind: str, name: str) -> None:
            if kind in steps and name.startswith(under):
                raise OSError(error, "injected")

        self.disks[host].on_step = failing

    def mend(self) -> None:
        for disk in self.disks.values():
            disk.on_step = lambda _kind, _name: None

    def same(self) -> bool:
        return self.disks["a"].content("data") == self.disks["b"].content("data")


MakeRig = Callable[..., Rig]


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
