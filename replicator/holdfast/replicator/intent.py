"""`intent`: which 4 MiB regions may differ between the hosts, or from what is on disk, after a crash.

The rule: a region's bit is on disk before a write into the region is applied here or sent to the other
host. It is cleared when all of the region is on disk on both, lazily, region by region, by `clean`.
`hot` holds the regions whose bit is known to be on disk, so a write to a hot region costs a set lookup.

Making a bit durable takes a disk sync. Syncs are batched: while one runs, all later requests gather for
the next. A writer that walks upward gets the next few regions in the same sync.
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
        self._touched: set[int] = set()
        self._waiting: list[tuple[range, Then, Failed]] = []
        self._syncing = False

    def ensure(self, offset: int, length: int, then: Then, failed: Failed) -> None:
        """Call `then()` once every region of the range is on disk as intended; at once if it is."""
        regions = covering(offset, length, REGION_BYTES)
        self._touched.update(regions)
        if self.hot.issuperset(regions):
            then()
            return
        self._waiting.append((regions, then, failed))
        if not self._syncing:
            self._sync_waiting()

    def candidates(self, writing: Iterable[tuple[int, int]]) -> set[int]:
        """Start a clean: hot regions with no write under way and none since the last call of this."""
        busy = set(self._touched)
        for start, end in writing:
            busy.update(covering(start, end - start, REGION_BYTES))
        self._touched = set()
        return self.hot - busy

    def clear(self, regions: Iterable[int]) -> None:
        """End a clean: every write to `regions` before `candidates` is on disk on both hosts, and so is
        every other bitmap. Regions touched since then stay. The bits need no sync: one too many is harmless.
        """
        self.forget(set(regions) - self._touched)

    def forget(self, regions: Iterable[int]) -> None:
        """Clear bits; the caller knows that nothing was written there since both hosts synced."""
        for region in regions:
            self.hot.discard(region)
            self._bitmap.clear(region)

    def _sync_waiting(self) -> None:
        batch, self._waiting = self._waiting, []
        self._syncing = True
        regions: set[int] = set()
        for wanted, _then, _failed in batch:
            regions.update(wanted)
            if wanted[0] - 1 in self.hot:
                regions.update(range(wanted[-1] + 1, min(wanted[-1] + 1 + AHEAD_REGIONS, self._bitmap.bits)))
        for region in regions:
            self._bitmap.set(region)

        def done(_nothing: None) -> None:
            self.hot |= regions
            self._next()
            for _wanted, then, _failed in batch:
                then()

        def failed(error: BaseException) -> None:
            self._next()
            for _wanted, _then, fail in batch:
                fail(error)

        self._loop.in_pool(self._bitmap.sync, done, failed)

    def _next(self) -> None:
        self._syncing = False
        if self._waiting:
            self._sync_waiting()
