"""A pair on disks in memory: what most tests start from."""

from collections.abc import Callable
from random import Random

from holdfast.base.limits import EXTENT_BYTES, REGION_BYTES
from holdfast.replicator.testing import FakeSource, Pair
from holdfast.replicator.testing_disk import Disk

SIZE_BYTES = REGION_BYTES + 2 * EXTENT_BYTES + 3 * 4096
"""Two regions, the last extent short."""


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

    def replace_disk(self, host: str) -> None:
        """An empty one, for a host without a process."""
        fresh = Disk(Random(1))
        fresh.cold_reads = False
        vars(self.disks[host]).update(vars(fresh))

    def mend(self) -> None:
        for disk in self.disks.values():
            disk.on_step = lambda _kind, _name: None

    def same(self) -> bool:
        return self.disks["a"].content("data") == self.disks["b"].content("data")


MakeRig = Callable[..., Rig]
