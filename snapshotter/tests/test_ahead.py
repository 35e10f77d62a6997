"""What is fetched ahead, and how much is held meanwhile."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.base.limits import EXTENT_BYTES, MIB
from holdfast.snapshotter import ahead, fetch
from holdfast.snapshotter.ahead import Sequences, whole_packs
from holdfast.snapshotter.blob import CODING_PLAIN, digest_of
from holdfast.snapshotter.envelope import StoredObject
from holdfast.snapshotter.fetch import Fetcher
from holdfast.snapshotter.objects_memory import MemoryObjects
from holdfast.snapshotter.shard import SHARD_EXTENTS, Entry

PACK_EXTENTS = 64


def entries_of(packs: int) -> list[Entry]:
    """Of packs that hold nothing but extents, each the bytes of its number."""
    found = []
    for pack in range(packs):
        where = StoredObject(f"pack-{pack}", PACK_EXTENTS * EXTENT_BYTES)
        for at in range(PACK_EXTENTS):
            digest = digest_of(content(pack * PACK_EXTENTS + at))
            found.append(Entry(where, at * EXTENT_BYTES, EXTENT_BYTES, CODING_PLAIN, digest))
    return found


def content(extent: int) -> bytes:
    return extent.to_bytes(4, "little") * (EXTENT_BYTES // 4)


class CountedObjects(MemoryObjects):
    """Notes, before each piece that is fetched, how much a fetcher holds. `gate` closed: none comes."""

    def __init__(self, packs: int) -> None:
        super().__init__(lambda: 0.0)
        for pack in range(packs):
            extents = range(pack * PACK_EXTENTS, (pack + 1) * PACK_EXTENTS)
            self.put(f"pack-{pack}", b"".join(map(content, extents)))
        self.held: list[int] = []
        self.gets = 0
        self.gate = threading.Event()
        self.gate.set()
        self.fetcher: Fetcher | None = None

    def get_pieces(self, name: str, offset: int, lengths: "list[int]") -> Iterator[bytes]:  # type: ignore[override]
        self.gets += 1
        for piece in super().get_pieces(name, offset, lengths):
            assert self.fetcher is not None
            assert self.gate.wait(60)
            self.held.append(self.fetcher.held_bytes)
            yield piece


def read_in_order(reads: list[range], order: list[int]) -> dict[int, list[tuple[int, int]]]:
    """Several sequences of reads of two extents, mixed as `order` says: what each asks for ahead."""
    sequences = Sequences()
    at = [0] * len(reads)
    asked: dict[int, list[tuple[int, int]]] = {number: [] for number in range(len(reads))}
    for number in order:
        first = reads[number].start + at[number]
        if first >= reads[number].stop:
            continue
        at[number] += 2
        sequence = sequences.follow(range(first, first + 2))
        if sequence is not None:
            due = sequence.due()
            sequence.asked(due[1])
            if due[0] < due[1]:
                asked[number].append(due)
    return asked


@given(st.lists(st.integers(0, 3), min_size=2000, max_size=2000))
def test_sequences_that_are_mixed_are_each_fetched_ahead(order: list[int]) -> None:
    reads = [range(number * 1024, number * 1024 + 1024) for number in range(4)]
    asked = read_in_order(reads, order)
    assert asked == {
        number: read_in_order([reads[number]], [0] * order.count(number))[0] for number in range(4)
    }, "each is fetched ahead as if it were alone"
    for number, windows in asked.items():
        for (_, end), (first, _) in pairwise(windows):
            assert first == end, f"sequence {number} asks for everything once"


def test_what_is_fetched_ahead_grows_to_its_limit_and_ends_with_the_shard() -> None:
    windows = read_in_order([range(SHARD_EXTENTS)], [0] * SHARD_EXTENTS)[0]
    sizes = [end - first for first, end in windows]
    assert sizes[0] == ahead.FIRST_EXTENTS and max(sizes) == ahead.MAX_EXTENTS
    assert len(windows) < 3 + SHARD_EXTENTS // ahead.MAX_EXTENTS + 1
    assert windows[-1][1] == SHARD_EXTENTS


def test_reads_here_and_there_fetch_nothing_ahead() -> None:
    sequences, chance = Sequences(), random.Random(3)
    for _ in range(500):
        first = chance.randrange(1 << 24) * 64
        assert sequences.follow(range(first, first + 1)) is None


def test_one_place_again_and_again_fetches_nothing_ahead() -> None:
    sequences = Sequences()
    assert [sequences.follow(range(7, 8)) for _ in range(10)] == [None] * 10


def test_a_window_ends_with_a_pack() -> None:
    entries = entries_of(4)
    assert whole_packs(entries[: 2 * PACK_EXTENTS + 5]) == 2 * PACK_EXTENTS
    assert whole_packs(entries[:5]) == 5
    first = ahead.FIRST_EXTENTS - 2
    assert whole_packs(entries[PACK_EXTENTS - first : PACK_EXTENTS + 9]) == first + 9, "not for so little"


def test_what_is_held_is_bounded_whoever_reads() -> None:
    """Eight copies at once, and what is asked for ahead by some that then stop."""
    packs, cache_bytes, ahead_bytes = 24, 4 * MIB, 8 * MIB
    store, entries = CountedObjects(packs), entries_of(packs)
    fetcher = store.fetcher = Fetcher(store, cache_bytes, 4, ahead_bytes)
    readers = 8

    def copy(number: int) -> None:
        for at in range(number * PACK_EXTENTS, (number + 1) * PACK_EXTENTS, 2):
            coming = fetcher.start(entries[at : at + 2])
            fetcher.ahead(entries[at + 2 : at + 66])
            found = coming.wait()
            for extent in (at, at + 1):
                assert found[entries[extent]] == content(extent)

    fetcher.ahead(entries[-100:])  # Nobody comes for these.
    with ThreadPoolExecutor(readers) as threads:
        list(threads.map(copy, range(readers)))
    fetcher.close()
    waited_for = readers * 2 * EXTENT_BYTES
    assert max(store.held) <= cache_bytes + ahead_bytes + waited_for
    assert max(store.held) > ahead_bytes, "the room was used"


def test_what_there_is_no_room_for_is_asked_for_later() -> None:
    store, entries = CountedObjects(2), entries_of(2)
    fetcher = store.fetcher = Fetcher(store, 4 * MIB, 4, 16 * EXTENT_BYTES)
    assert fetcher.ahead(entries[:40]) == 16
    assert fetcher.ahead(entries[16:40]) == 0
    for entry in entries[:10]:
        fetcher.start([entry]).wait()
    assert fetcher.ahead(entries[16:40]) == 10
    fetcher.close()


def test_what_was_given_up_makes_room() -> None:
    now_s = 0.0
    store, entries = CountedObjects(2), entries_of(2)
    fetcher = store.fetcher = Fetcher(store, 4 * MIB, 4, 16 * EXTENT_BYTES, clock=lambda: now_s)
    assert fetcher.ahead(entries[:16]) == 16
    fetcher.start([entries[20]]).wait()
    assert fetcher.ahead(entries[64:72]) == 0
    now_s = fetch.ABANDONED_S + 1
    assert fetcher.ahead(entries[64:72]) == 8
    fetcher.close()


def test_what_is_fetched_ahead_comes_in_one_get_and_once() -> None:
    store, entries = CountedObjects(1), entries_of(1)
    fetcher = store.fetcher = Fetcher(store)
    store.gate.clear()
    assert fetcher.ahead(entries) == PACK_EXTENTS
    coming = fetcher.start(entries)
    store.gate.set()
    assert list(coming.wait().values()) == [content(at) for at in range(PACK_EXTENTS)]
    assert store.gets == 1
    fetcher.close()


def test_an_error_ahead_takes_no_room() -> None:
    store, entries = CountedObjects(2), entries_of(2)
    fetcher = store.fetcher = Fetcher(store, 4 * MIB, 1, 16 * EXTENT_BYTES)
    store.delete("pack-0")
    fetcher.ahead(entries[:16])
    with pytest.raises(Exception, match="pack-0"):
        fetcher.start([entries[17]]).wait()  # After those: one thread fetches.
    assert fetcher.ahead(entries[64:80]) == 16
    fetcher.close()
