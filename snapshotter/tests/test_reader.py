"""Reading: right bytes or an error with a name, in few requests."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.base.errors import DataLoss, Unavailable
from holdfast.base.limits import EXTENT_BYTES, GIB, MIB
from holdfast.snapshotter.cache import Cache
from holdfast.snapshotter.envelope import StoredObject
from holdfast.snapshotter.fetch import GAP_MAX_BYTES, GET_MAX_BYTES, Fetcher, plan_fetches
from holdfast.snapshotter.objects_directory import DirectoryStore
from holdfast.snapshotter.objects_faults import Fault, FaultyStore, Rule
from holdfast.snapshotter.reader import SnapshotReader
from holdfast.snapshotter.shard import SHARD_EXTENTS, Entry
from holdfast.snapshotter.testing import ModelView, ModelVolume, index_of, upload

UID = "0" * 24
SIZE = 600 * MIB + 4096


class Opened:
    """A snapshot with some data, and a reader of it on a store that counts and fails."""

    def __init__(self, store: FaultyStore) -> None:
        chance, volume = random.Random(7), ModelVolume(SIZE)
        for _ in range(12):
            volume.write(chance.randrange(0, 500) * MIB + 777, chance.randbytes(MIB))
        volume.write(SIZE - 4096, b"the end".ljust(4096))
        volume.write(200 * MIB, chance.randbytes(20 * MIB))
        self.view: ModelView = volume.freeze()
        self.store = store
        self.manifest = upload(store, UID, self.view).manifest
        self.fetcher = Fetcher(store)
        self.reader = self.again()
        store.calls.clear()

    def again(self) -> SnapshotReader:
        """A reader that shares the extents fetched, and has not seen any shard."""
        return SnapshotReader(index_of(self.store, self.manifest), self.fetcher)

    def gets(self, part: str) -> int:
        return sum(1 for operation, name in self.store.calls if operation.startswith("get") and part in name)


@pytest.fixture
def opened(faulty: FaultyStore) -> Iterator[Opened]:
    made = Opened(faulty)
    yield made
    made.fetcher.close()


def test_reads_of_any_place_and_length(opened: Opened) -> None:
    @settings(max_examples=150)
    @given(st.integers(0, SIZE), st.integers(0, 3 * MIB))
    def check(offset: int, length: int) -> None:
        length = min(length, SIZE - offset)
        assert opened.reader.read(offset, length) == opened.view.read(offset, length)

    check()
    for offset, length in ((0, 0), (0, 1), (SIZE - 1, 1), (SIZE, 0), (200 * MIB, 20 * MIB)):
        assert opened.reader.read(offset, length) == opened.view.read(offset, length)
    for offset, length in ((-1, 1), (SIZE, 1), (0, SIZE + 1)):
        with pytest.raises(ValueError):
            opened.reader.read(offset, length)


def test_allocation_is_what_is_there(opened: Opened) -> None:
    for start, length in ((0, SIZE), (200 * MIB + 5, 10 * MIB), (SIZE - 4096, 4096), (511 * MIB, 2 * MIB)):
        at, data = start, set()
        while at < start + length:
            for run, flags in opened.reader.allocation(at, start + length - at):
                assert run > 0
                if not flags:
                    data |= set(range(at // EXTENT_BYTES, -(-(at + run) // EXTENT_BYTES)))
                at += run
        assert at == start + length
        touched = range(start // EXTENT_BYTES, -(-(start + length) // EXTENT_BYTES))
        assert data == {extent for extent in opened.view.extents if extent in touched}


def test_a_sequence_is_fetched_in_large_pieces(opened: Opened) -> None:
    for offset in range(200 * MIB, 220 * MIB, 64 * 1024):
        assert opened.reader.read(offset, 64 * 1024) == opened.view.read(offset, 64 * 1024)
    # 20 MiB in packs of one or two MiB each: a few GETs a pack, not one an extent.
    assert opened.gets("pack-") < 60
    assert opened.gets("index-") == 1


def test_one_read_fetches_no_more_than_it_needs(opened: Opened) -> None:
    opened.reader.read(210 * MIB, 4096)
    assert opened.gets("pack-") == 1
    opened.reader.read(210 * MIB + 8192, 4096)
    assert opened.gets("") == 2, "the same extent, and its shard, are kept"


def test_holes_cost_nothing(opened: Opened) -> None:
    assert opened.reader.read(590 * MIB, MIB) == bytes(MIB)
    assert opened.gets("pack-") == 0


def test_many_threads_fetch_nothing_twice(opened: Opened) -> None:
    def read(number: int) -> bool:
        offset = 200 * MIB + (number * 7919) % (19 * MIB)
        return opened.reader.read(offset, MIB) == opened.view.read(offset, MIB)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(200)))
    assert opened.gets("index-") == 1
    assert opened.gets("pack-") <= 20 * MIB // EXTENT_BYTES


# What goes wrong.


def test_a_missing_pack_is_named(opened: Opened) -> None:
    opened.store.rules.append(Rule("get_range", "pack-", Fault.MISSING))
    with pytest.raises(DataLoss, match=r"snapshots/0{24}/pack-") as raised:
        opened.reader.read(200 * MIB, 4096)
    assert raised.value.reason == "OBJECT_MISSING"


def test_a_missing_or_damaged_index_is_named(opened: Opened) -> None:
    for fault in (Fault.MISSING, Fault.FLIP):
        opened.store.rules[:] = [Rule("get_range", "index-", fault)]
        with pytest.raises(DataLoss, match=r"snapshots/0{24}/index-"):
            opened.again().read(200 * MIB, 4096)
    opened.store.rules.clear()
    opened.again().read(200 * MIB, 4096)


def test_a_missing_or_damaged_manifest_is_named(opened: Opened) -> None:
    for fault in (Fault.MISSING, Fault.FLIP):
        opened.store.rules[:] = [Rule("get", "manifest-", fault)]
        with pytest.raises(DataLoss, match=r"snapshots/0{24}/manifest-"):
            opened.again()
    opened.store.rules.clear()
    with pytest.raises(DataLoss, match="not the manifest that was recorded"):
        index_of(opened.store, opened.manifest, "00" * 32)


def test_a_bit_flipped_on_the_way_is_fetched_again(opened: Opened) -> None:
    opened.store.rules.append(Rule("get_range", "pack-", Fault.FLIP, times=1))
    assert opened.reader.read(200 * MIB, 2 * MIB) == opened.view.read(200 * MIB, 2 * MIB)


def test_a_bit_flipped_for_good_is_never_given_out(opened: Opened) -> None:
    opened.store.rules.append(Rule("get_range", "pack-", Fault.FLIP))
    with pytest.raises(DataLoss, match=r"snapshots/0{24}/pack-"):
        opened.reader.read(200 * MIB, 2 * MIB)
    # What was fetched beside the first that failed would be joined by the next read, with its flipped bit.
    wait(opened.fetcher._coming.copy().values())
    opened.store.rules.clear()
    assert opened.reader.read(200 * MIB, 2 * MIB) == opened.view.read(200 * MIB, 2 * MIB)


def test_a_cut_pack_costs_what_was_cut(directory: DirectoryStore, opened: Opened) -> None:
    for one in list(directory.list("")):
        if "pack-" in one.name:
            data = directory.get(one.name)
            directory.delete(one.name)
            directory.put(one.name, data[: len(data) // 2])
    right = lost = 0
    for extent in sorted(opened.view.extents):
        length = min(EXTENT_BYTES, SIZE - extent * EXTENT_BYTES)
        try:
            data = opened.reader.read(extent * EXTENT_BYTES, length)
            assert data == opened.view.read(extent * EXTENT_BYTES, length)
            right += 1
        except DataLoss as error:
            assert "pack-" in error.message and error.reason == "OBJECT_TRUNCATED"
            lost += 1
    assert right > 50 and lost > 50


def test_a_store_out_of_reach_is_no_loss(opened: Opened) -> None:
    opened.store.rules.append(Rule("get_range", "pack-", Fault.UNREACHABLE, times=1))
    with pytest.raises(Unavailable):
        opened.reader.read(200 * MIB, 4096)
    assert opened.reader.read(200 * MIB, 4096) == opened.view.read(200 * MIB, 4096)


def test_read_ahead_that_fails_fails_nobody(opened: Opened) -> None:
    """Packs after the first are lost: reads of the first, in sequence, are right nevertheless."""
    first_pack = index_of(opened.store, opened.manifest).get(200 * MIB // EXTENT_BYTES)
    assert first_pack
    opened.store.rules.append(Rule("get_range", "pack-", Fault.MISSING))
    opened.store.rules.insert(0, Rule("get_range", first_pack.pack.name, Fault.LOST_ANSWER))
    for extent in range(200 * MIB // EXTENT_BYTES, 220 * MIB // EXTENT_BYTES):
        entry = index_of(opened.store, opened.manifest).get(extent)
        if entry and entry.pack == first_pack.pack:
            offset = extent * EXTENT_BYTES
            assert opened.reader.read(offset, 4096) == opened.view.read(offset, 4096)


# The plan of GETs.


@st.composite
def placed(draw: st.DrawFn) -> list[Entry]:
    entries = []
    for pack in range(draw(st.integers(1, 3))):
        at = 24
        for _ in range(draw(st.integers(0, 30))):
            at += draw(st.sampled_from([0, 0, 100, GAP_MAX_BYTES, GAP_MAX_BYTES + 1, MIB]))
            stored = draw(st.integers(1, EXTENT_BYTES))
            entries.append(Entry(StoredObject(f"pack-{pack}", GIB), at, stored, 0, bytes(32)))
            at += stored
    return draw(st.permutations(entries))


@given(placed())
def test_gets_cover_what_is_wanted(entries: list[Entry]) -> None:
    fetches = plan_fetches(entries)
    assert sorted(entry for fetch in fetches for entry in fetch.entries) == sorted(set(entries))
    for fetch in fetches:
        assert fetch.end - fetch.offset <= GET_MAX_BYTES
        for entry in fetch.entries:
            assert fetch.pack == entry.pack.name
            assert fetch.offset <= entry.offset and entry.offset + entry.stored_bytes <= fetch.end
    wasted = sum(
        fetch.end - fetch.offset - sum(entry.stored_bytes for entry in fetch.entries) for fetch in fetches
    )
    assert wasted <= GAP_MAX_BYTES * len(entries)


# The cache.


def test_a_cache_is_bounded_and_keeps_what_is_used() -> None:
    cache: Cache[int, str] = Cache(10)
    for key in range(5):
        cache.put(key, str(key), 2)
    assert cache.peek(0) == "0"
    cache.put(5, "5", 2)
    assert cache.peek(1) is None and cache.peek(0) == "0" and cache.kept_bytes == 10
    cache.put(6, "too large", 11)
    assert cache.peek(6) is None and cache.kept_bytes == 10
    cache.put(0, "other", 4)
    assert cache.peek(0) == "other" and cache.kept_bytes <= 10


def test_a_cache_makes_each_thing_once() -> None:
    cache: Cache[int, str] = Cache(10)
    made: list[int] = []
    all_there = threading.Barrier(4)

    def make() -> str:
        made.append(1)
        return "value"

    def get() -> str:
        all_there.wait()
        return cache.get(1, make, lambda _: 1)

    with ThreadPoolExecutor(4) as pool:
        assert {future.result() for future in [pool.submit(get) for _ in range(4)]} == {"value"}
    assert len(made) == 1


def test_a_cache_forgets_failures() -> None:
    cache: Cache[int, str] = Cache(10)

    def fail() -> str:
        raise Unavailable("X", "x")

    with pytest.raises(Unavailable):
        cache.get(1, fail, lambda _: 1)
    assert cache.get(1, lambda: "value", lambda _: 1) == "value"
    assert SHARD_EXTENTS == 4096
