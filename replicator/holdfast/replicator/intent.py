"""`intent`: which 4 MiB regions may differ between the hosts, or from what is on disk, after a crash.

The rule: a region's bit is on disk before a write into the region is applied here or sent to the other
host. It is cleared when all of the region is on disk on both, lazily, region by region, by `clean`.
`hot` holds the regions whose bit is known to be on disk, so a write to a hot region costs a set lookup.

Making a bit durable takes a disk sync. Syncs are batched: while one runs, all later requests gather for
the next. A writer that walks upward gets the next few regions in the same sync. After a sync that failed
there is none: what a second one would report is not what the first one lost.
"""

from collections.abc import Callable, Iterable

from holdfast.base.extents import covering
from holdfast.base.limits import REGION_BYTES
from holdfast.base.loop import Loop
from holdfast.replicator.bitmap import Bitmap

AHEAD_REGIONS = 8

Then = Callable[[], None]
Failed = Callable[[BaseException], None]


class Intent:
    """The intent bitmap of an open store. Loop thread only; syncs run in the pool."""

    def __init__(self, loop: Loop, bitmap: Bitmap) -> None:
        self._loop = loop
        self._bitmap = bitmap
        self.hot: set[int] = set()
        self.touched: set[int] = set()
        """Regions in which a write has begun since the last clean."""
        self._waiting: list[tuple[Iterable[int], Then, Failed]] = []
        self._syncing: set[int] = set()
        self._broken: BaseException | None = None
        self.cleaning = False
        """Between `candidates` and `untouched` (clean.py)."""

    def ensure(self, offset: int, length: int, then: Then, failed: Failed) -> None:
        """Call `then()` once every region of the range is on disk as intended; at once if it is.

        LocalReplica.is_prepared is the short way for a range within one hot region.
        """
        regions = covering(offset, length, REGION_BYTES)
        self.touched.update(regions)
        if self.hot.issuperset(regions):
            then()
        else:
            self._make_durable(regions, then, failed)

    def adopt(self, regions: set[int], then: Then, failed: Failed) -> None:
        """Make `regions` hot, so that the next clean but one finds and clears them."""
        if self.hot.issuperset(regions):
            then()
        else:
            self._make_durable(regions, then, failed)

    def candidates(self, writing: Iterable[tuple[int, int]]) -> set[int]:
        """Start a clean: hot regions with no write under way and none since the last call of this."""
        busy = self.touched | _regions_of(writing)
        self.touched = set()
        return self.hot - busy

    def intended(self, writing: Iterable[tuple[int, int]]) -> set[int]:
        """As `candidates`, of all that is intended, whoever wrote there and when."""
        busy = _regions_of(writing)
        self.touched = set()
        return set(self._bitmap.set_bits()) - busy - self._syncing

    def untouched(self, regions: set[int]) -> set[int]:
        """Those of `regions` to which no write has begun since `candidates` gave them."""
        return regions - self.touched - self._syncing

    def forget(self, regions: Iterable[int]) -> None:
        """Clear bits; the caller knows that both hosts have synced all that was ever begun there. They
        need no sync: one too many is harmless. So those of a sync under way, which are about to be hot, stay.
        """
        for region in regions:
            if region not in self._syncing:
                self.hot.discard(region)
                self.touched.discard(region)
                self._bitmap.clear(region)

    def _make_durable(self, regions: Iterable[int], then: Then, failed: Failed) -> None:
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
            if isinstance(wanted, range) and wanted[0] - 1 in self.hot:
                regions.update(range(wanted[-1] + 1, min(wanted[-1] + 1 + AHEAD_REGIONS, self._bitmap.bits)))
        for region in regions:
            self._bitmap.set(region)

        def done(_nothing: None) -> None:
            self.hot |= regions
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


def _regions_of(ranges: Iterable[tuple[int, int]]) -> set[int]:
    """Of half-open byte ranges."""
    return {region for start, end in ranges for region in covering(start, end - start, REGION_BYTES)}
