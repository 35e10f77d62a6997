"""`intent`: which 4 MiB regions may differ between the hosts, or from what is on disk, after a crash.

The rule: a region's bit is on disk before a write into the region is applied here or sent to the other
host. It is cleared when all of the region is on disk on both, lazily, region by region, by `clean`.
`hot` holds the regions whose bit is known to be on disk, so a write to a hot region costs a look at a bit.

What is known of a region here is two bits and no objects: random writes reach every region of a volume of
15 TiB, which are four millions, before the first is clean again. In sets they took 140 bytes each.

Making a bit durable takes a disk sync. Syncs are batched: while one runs, all later requests gather for
the next. A writer that walks upward gets the next few regions in the same sync. After a sync that failed
there is none: what a second one would report is not what the first one lost.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice

from holdfast.base.extents import covering
from holdfast.base.limits import REGION_BYTES
from holdfast.base.loop import Loop
from holdfast.replicator.bitmap import Bitmap

AHEAD_REGIONS = 8

Then = Callable[[], None]
Failed = Callable[[BaseException], None]


FORGET_REGIONS = 4096
"""So many bits are cleared at a time: some milliseconds, in which nobody is served."""
FORGET_PAUSE_S = 0.005
"""After that."""


class Intent:
    """The intent bitmap of an open store. Loop thread only; syncs run in the pool."""

    def __init__(self, loop: Loop, bitmap: Bitmap) -> None:
        self._loop = loop
        self._bitmap = bitmap
        self.hot = Bitmap.in_memory(bitmap.bits)
        self.touched = Bitmap.in_memory(bitmap.bits)
        """Regions in which a write has begun since the last clean."""
        self._waiting: list[tuple[Collection[int], Then, Failed]] = []
        self._syncing: set[int] = set()
        self._broken: BaseException | None = None
        self.cleaning = False
        """Between `candidates` and `untouched` (clean.py)."""
        self.untold = True
        """Other hosts may intend more than this one: they have not been told of all that is clean."""

    def ensure(self, offset: int, length: int, then: Then, failed: Failed) -> None:
        """Call `then()` once every region of the range is on disk as intended; at once if it is.

        LocalReplica.is_prepared is the short way for a range within one hot region.
        """
        regions = covering(offset, length, REGION_BYTES)
        self.touched.set_range(regions.start, regions.stop)
        self.adopt(regions, then, failed)

    def adopt(self, regions: Collection[int], then: Then, failed: Failed) -> None:
        """Make `regions` hot, so that the next clean but one finds and clears them."""
        if all(map(self.hot.get, regions)):
            then()
        else:
            self._make_durable(regions, then, failed)

    def candidates(self, writing: Iterable[tuple[int, int]]) -> Bitmap:
        """Start a clean: hot regions with no write under way and none since the last call of this."""
        quiet = self._but_for(self.hot, writing, self.touched)
        self.touched.clear_all()
        return quiet

    def intended(self, writing: Iterable[tuple[int, int]]) -> Bitmap:
        """As `candidates`, of all that is intended, whoever wrote there and when."""
        quiet = self._but_for(self._bitmap, writing)
        for region in self._syncing:
            quiet.clear(region)
        self.touched.clear_all()
        return quiet

    def untouched(self, regions: Bitmap) -> Iterator[int]:
        """Those of `regions` to which no write has begun since `candidates` gave them, each as it is when it
        is reached.
        """
        for region in regions.set_bits():
            if not self.touched.get(region) and region not in self._syncing:
                yield region

    def untouched_parts(self, regions: Bitmap) -> Iterator[list[int]]:
        """`untouched`, so many at a time as may be forgotten in one turn of the loop."""
        left = self.untouched(regions)
        while part := list(islice(left, FORGET_REGIONS)):
            yield part

    def forget(self, regions: Iterable[int]) -> None:
        """Clear bits; the caller knows that both hosts have synced all that was ever begun there. They
        need no sync: one too many is harmless. So those of a sync under way, which are about to be hot, stay.
        """
        for region in regions:
            if region not in self._syncing:
                self.hot.clear(region)
                self.touched.clear(region)
                self._bitmap.clear(region)

    @staticmethod
    def _but_for(
        regions: Bitmap, writing: Iterable[tuple[int, int]], touched: Bitmap | None = None
    ) -> Bitmap:
        """A copy of `regions`, without those of half-open byte ranges."""
        left = Bitmap.in_memory(regions.bits)
        left.or_with(regions, but_not=touched)
        for start, end in writing:
            for region in covering(start, end - start, REGION_BYTES):
                left.clear(region)
        return left

    def _make_durable(self, regions: Collection[int], then: Then, failed: Failed) -> None:
        if self._broken is not None:
            failed(self._broken)
            return
        self._waiting.append((regions, then, failed))
        if not self._syncing:
            self._sync_waiting()

    def _sync_waiting(self) -> None:
        batch, self._waiting = self._waiting, []
        regions = self._syncing
        for wanted, _then, _failed in batch:
            regions.update(wanted)
            if isinstance(wanted, range) and wanted[0] and self.hot.get(wanted[0] - 1):
                regions.update(range(wanted[-1] + 1, min(wanted[-1] + 1 + AHEAD_REGIONS, self._bitmap.bits)))
        for region in regions:
            self._bitmap.set(region)

        def done(_nothing: None) -> None:
            for region in regions:
                self.hot.set(region)
            self._syncing = set()
            if self._waiting:
                self._sync_waiting()
            for _wanted, then, _failed in batch:
                then()

        def failed(error: BaseException) -> None:
            self._broken = error
            self._syncing = set()
            rest, self._waiting = self._waiting, []
            for _wanted, _then, fail in batch + rest:
                fail(error)

        self._loop.in_pool(self._bitmap.sync, done, failed)
