"""`intent`: a write goes on only when its bits are on disk, and no bit is cleared under one."""

import errno
import tracemalloc
from functools import partial
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from holdfast.base.limits import KIB, REGION_BYTES, TIB
from holdfast.base.testing_loop import TestingLoop, run_until
from holdfast.replicator.bitmap import Bitmap
from holdfast.replicator.intent import AHEAD_REGIONS, Intent
from holdfast.replicator.testing_disk import Disk

REGIONS = 40


class Bench:
    def __init__(self, seed: int = 0, regions: int = REGIONS) -> None:
        self.disk = Disk(Random(seed))
        self.loop = TestingLoop(chance=Random(seed))
        file = self.disk.files().bits("intent", Bitmap.bytes_for(regions), make=True)
        self.disk.sync_names("")
        self.bitmap = Bitmap(file, regions)
        self.intent = Intent(self.loop, self.bitmap)
        self.failures: list[BaseException] = []

    def durable(self) -> set[int]:
        """On disk, and not about to be cleared there."""
        bits = int.from_bytes(self.disk.durable("intent"), "little")
        bits &= int.from_bytes(self.disk.content("intent"), "little")
        return {region for region in range(REGIONS) if bits >> region & 1}

    def hot(self) -> set[int]:
        return set(self.intent.hot.set_bits())


@given(st.integers(0, 1 << 30))
def test_a_write_waits_for_its_bits_and_a_clean_waits_for_the_write(seed: int) -> None:
    chance, bench = Random(seed), Bench(seed)
    intent, writing, done = bench.intent, dict[int, range](), list[int]()
    dirty: set[int] = set()

    def begin(number: int) -> None:
        regions = writing[number]
        assert bench.durable().issuperset(regions), "a write began before its bits were on disk"
        dirty.update(regions)
        done.append(number)

    for number in range(60):
        first = chance.randrange(REGIONS)
        writing[number] = range(first, min(REGIONS, first + chance.choice((1, 1, 1, 2, 5))))
        offset, length = first * REGION_BYTES, len(writing[number]) * REGION_BYTES
        intent.ensure(offset, length, lambda n=number: begin(n), bench.failures.append)  # type: ignore[misc]
        for _ in range(chance.randrange(3)):
            bench.loop.run_once()
        assert bench.durable() >= dirty
        if chance.random() < 0.3:
            begun = [writing[n] for n in writing if n not in done]
            ranges = [(r.start * REGION_BYTES, r.stop * REGION_BYTES) for r in begun]
            quiet = intent.candidates(ranges)
            bench.loop.run_once()
            untouched = set(intent.untouched(quiet))
            dirty -= untouched
            intent.forget(untouched)
            assert all(map(bench.bitmap.get, intent.hot.set_bits())), "hot, and its bit is gone"
    run_until([bench.loop], lambda: len(done) == len(writing))
    assert not bench.failures
    assert bench.durable() >= bench.hot()


def test_a_writer_that_walks_upward_gets_the_next_regions_too() -> None:
    bench = Bench()
    begun: list[int] = []
    for region in (0, 1):
        bench.intent.ensure(region * REGION_BYTES, 1, partial(begun.append, region), bench.failures.append)
        run_until([bench.loop], lambda: region in begun)  # noqa: B023
    assert bench.hot() == set(range(2 + AHEAD_REGIONS))


def test_regions_forgotten_while_they_are_made_durable_stay() -> None:
    """Ahead of the other host: it may call a region clean that this one is about to make hot."""
    bench = Bench()
    begun: list[int] = []
    bench.intent.hot.set(4)
    bench.intent.ensure(5 * REGION_BYTES, 1, lambda: begun.append(5), bench.failures.append)
    bench.intent.forget(range(REGIONS))
    run_until([bench.loop], lambda: bool(begun))
    assert bench.hot() <= bench.durable()


def test_a_sync_that_failed_is_the_last() -> None:
    bench = Bench()
    syncs: list[str] = []

    def failing(kind: str, _name: str) -> None:
        if kind == "sync":
            syncs.append(kind)
            raise OSError(errno.EIO, "injected")

    bench.disk.on_step = failing
    for region in (1, 2, 3):
        bench.intent.ensure(region * REGION_BYTES, 1, bench.loop.stop, bench.failures.append)
        bench.loop.run_once()
    run_until([bench.loop], lambda: len(bench.failures) == 3)
    bench.disk.on_step = lambda _kind, _name: None
    bench.intent.ensure(7 * REGION_BYTES, 1, bench.loop.stop, bench.failures.append)
    assert len(bench.failures) == 4 and len(syncs) == 1 and not bench.hot()


def test_writes_all_over_a_large_volume_take_no_memory() -> None:
    """Beside two bits for each of its regions."""
    regions, writes, together = 15 * TIB // REGION_BYTES, 60_000, 200
    bench, chance = Bench(regions=regions), Random(0)
    intent, begun = bench.intent, [0]

    def begin() -> None:
        begun[0] += 1

    tracemalloc.start()
    try:
        for _ in range(writes // together):
            wanted = begun[0] + together
            for _ in range(together):
                intent.ensure(chance.randrange(regions) * REGION_BYTES, 4096, begin, bench.failures.append)
            run_until([bench.loop], lambda: begun[0] == wanted)  # noqa: B023
        kept, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 256 * KIB, f"{kept} bytes for {writes} writes"
    assert intent.hot.count() > 0.9 * writes
    intent.candidates([])
    quiet = intent.candidates([])
    assert quiet.count() == intent.hot.count()
    intent.forget(intent.untouched(quiet))
    assert not intent.hot.any() and not bench.bitmap.any()
