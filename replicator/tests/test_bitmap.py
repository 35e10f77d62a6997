"""A bitmap is a set of small numbers."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.base.limits import EXTENT_BYTES, KIB, TIB
from holdfast.replicator.bitmap import MAPPED_MAX_BYTES, Bitmap
from holdfast.replicator.files import Files

# More than two pages of 4096 bytes, and not a multiple of eight.
BITS = 4096 * 8 * 2 + 13
LARGE_BITS = 8 * (MAPPED_MAX_BYTES + 64 * KIB) + 13
"""Not mapped as a whole; most is far from what is."""
Step = tuple[Callable[[Bitmap], object], Callable[[set[int]], object]]


def filled(bits: int, indexes: set[int]) -> Bitmap:
    bitmap = Bitmap.in_memory(bits)
    for index in indexes:
        bitmap.set(index)
    return bitmap


def indexes_of(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, bits - 1)


def ranges_of(bits: int) -> st.SearchStrategy[tuple[int, int]]:
    pairs = st.tuples(indexes_of(bits), st.integers(0, 200))
    return pairs.map(lambda pair: (pair[0], min(bits, pair[0] + pair[1])))


def steps_of(bits: int) -> st.SearchStrategy[Step]:
    indexes, some = indexes_of(bits), st.sets(indexes_of(bits), max_size=20)
    return st.one_of(
        indexes.map(lambda i: (lambda b: b.set(i), lambda s: s.add(i))),
        indexes.map(lambda i: (lambda b: b.clear(i), lambda s: s.discard(i))),
        ranges_of(bits).map(lambda r: (lambda b: b.set_range(*r), lambda s: s.update(range(*r)))),
        some.map(lambda o: (lambda b: b.or_with(filled(bits, o)), lambda s: s.update(o))),
        st.tuples(some, some).map(
            lambda p: (
                lambda b: b.or_with(filled(bits, p[0]), filled(bits, p[1])),
                lambda s: s.update(p[0] - p[1]),
            )
        ),
        st.just((lambda b: b.clear_all(), lambda s: s.clear())),
    )


@pytest.mark.parametrize("bits", [BITS, LARGE_BITS])
@given(st.data())
def test_it_is_a_set(bits: int, data: st.DataObject) -> None:
    some = data.draw(ranges_of(bits))
    bitmap, model = Bitmap.in_memory(bits), set[int]()
    for on_bitmap, on_model in data.draw(st.lists(steps_of(bits), max_size=30)):
        on_bitmap(bitmap)
        on_model(model)
    assert list(bitmap.set_bits()) == sorted(model)
    assert list(bitmap.set_bits(*some)) == sorted(i for i in model if some[0] <= i < some[1])
    assert bitmap.count() == len(model)
    assert bitmap.any() == bool(model)
    assert all(bitmap.get(i) == (i in model) for i in (0, 7, 8, bits - 1, some[0]))
    other = data.draw(st.sets(indexes_of(bits), max_size=20))
    pages = filled(bits, other).every_page()
    assert [i for page in pages for i in bitmap.set_but(*page)] == sorted(model - other)


@pytest.mark.parametrize(
    ("at", "length"), [(0, 0), (0, 4095), (1, 4096), (4096, 4097), (8192, 1), (12288, 0)]
)
def test_what_is_no_page_of_it_is_refused(at: int, length: int) -> None:
    with pytest.raises(ValueError, match="no page"):
        list(filled(BITS, {1}).set_but(at, bytes(length)))


def test_bits_in_a_file_are_there_when_it_is_opened_again(directory: Path) -> None:
    files = Files(directory)
    bitmap = Bitmap(files.bits("folder/bits", Bitmap.bytes_for(BITS), make=True), BITS)
    bitmap.set(0)
    bitmap.set(BITS - 1)
    bitmap.sync()
    bitmap.close()
    again = Bitmap(files.bits("folder/bits", Bitmap.bytes_for(BITS)), BITS)
    assert list(again.set_bits()) == [0, BITS - 1]
    assert (directory / "folder" / "bits").read_bytes()[0] == 1
    again.close()


def test_an_empty_bitmap_takes_a_byte() -> None:
    assert Bitmap.bytes_for(0) == 1
    assert Bitmap.bytes_for(8) == 1
    assert Bitmap.bytes_for(9) == 2


def test_a_large_one_is_looked_through_without_becoming_memory(directory: Path) -> None:
    bits = 1 << 27  # of a volume of 16 TiB
    bitmap = Bitmap(Files(directory).bits("b", Bitmap.bytes_for(bits), make=True), bits)
    bitmap.set(5)
    bitmap.set(bits - 1)
    assert list(bitmap.set_bits()) == [5, bits - 1]
    assert bitmap.count() == 2
    assert _mapped_kib(directory / "b") < 256
    bitmap.clear_all()
    assert not bitmap.any()
    bitmap.close()


def _mapped_kib(path: Path) -> int:
    """How much of a mapped file is a part of this process's memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    assert any(line.endswith(str(path)) for line in lines)
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))


def test_of_a_large_one_only_little_is_mapped(directory: Path) -> None:
    """Bits all over it: what is let go of is in the file all the same."""
    bits, chance = 15 * TIB // EXTENT_BYTES, Random(0)
    bitmap = Bitmap(Files(directory).bits("bits", Bitmap.bytes_for(bits), make=True), bits)
    wanted, most_bytes = set[int](), 0
    for number in range(3000):
        index = chance.randrange(bits)
        wanted |= {index, index ^ 1}
        bitmap.set(index)
        bitmap.set(index ^ 1)
        assert bitmap.get(index) and bitmap.get(index ^ 1)
        if number % 50 == 0:
            most_bytes = max(most_bytes, resident_bytes(directory / "bits"))
    bitmap.set_range(bits - 1000, bits)
    assert 0 < most_bytes <= MAPPED_MAX_BYTES
    assert set(bitmap.set_bits(0, bits - 1000)) == wanted - set(range(bits - 1000, bits))
    assert all(map(bitmap.get, wanted)) and bitmap.any_in(bits - 1, bits)
    for index in wanted:
        bitmap.clear(index)
    assert resident_bytes(directory / "bits") <= MAPPED_MAX_BYTES
    bitmap.clear_range(bits - 1000, bits)
    assert not bitmap.any()


def resident_bytes(path: Path) -> int:
    """Of the mappings of a file, in this process."""
    found, counts = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            counts = words[-1] == str(path)
        elif counts and words[0] == "Rss:":
            found += int(words[1]) * KIB
    return found
