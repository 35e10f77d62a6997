"""A bitmap is a set of small numbers."""

from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from holdfast.replicator.bitmap import Bitmap
from holdfast.replicator.files import Files

# More than two pages of 4096 bytes, and not a multiple of eight.
BITS = 4096 * 8 * 2 + 13
indexes = st.integers(0, BITS - 1)
ranges = st.tuples(indexes, st.integers(0, 200)).map(lambda pair: (pair[0], min(BITS, pair[0] + pair[1])))
Step = tuple[Callable[[Bitmap], object], Callable[[set[int]], object]]


def filled(bits: set[int]) -> Bitmap:
    bitmap = Bitmap.in_memory(BITS)
    for index in bits:
        bitmap.set(index)
    return bitmap


steps = st.one_of(
    indexes.map(lambda i: (lambda b: b.set(i), lambda s: s.add(i))),
    indexes.map(lambda i: (lambda b: b.clear(i), lambda s: s.discard(i))),
    ranges.map(lambda r: (lambda b: b.set_range(*r), lambda s: s.update(range(*r)))),
    st.sets(indexes, max_size=20).map(lambda o: (lambda b: b.or_with(filled(o)), lambda s: s.update(o))),
    st.tuples(st.sets(indexes, max_size=20), st.sets(indexes, max_size=20)).map(
        lambda p: (lambda b: b.or_with(filled(p[0]), filled(p[1])), lambda s: s.update(p[0] - p[1]))
    ),
    st.just((lambda b: b.clear_all(), lambda s: s.clear())),
)


@given(st.lists(steps, max_size=30), ranges)
def test_it_is_a_set(taken: list[Step], some: tuple[int, int]) -> None:
    bitmap, model = Bitmap.in_memory(BITS), set[int]()
    for on_bitmap, on_model in taken:
        on_bitmap(bitmap)
        on_model(model)
    assert list(bitmap.set_bits()) == sorted(model)
    assert list(bitmap.set_bits(*some)) == sorted(i for i in model if some[0] <= i < some[1])
    assert bitmap.count() == len(model)
    assert bitmap.any() == bool(model)
    assert all(bitmap.get(i) == (i in model) for i in (0, 7, 8, BITS - 1, some[0]))


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
