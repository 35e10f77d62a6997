"""Range arithmetic, against sets of bytes."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from holdfast.base.extents import covering, inside, runs

offsets = st.integers(0, 200)
units = st.integers(1, 17)


@given(offsets, offsets, units)
def test_covering_is_every_unit_with_a_byte_in_the_range(offset: int, length: int, unit: int) -> None:
    assert set(covering(offset, length, unit)) == {byte // unit for byte in range(offset, offset + length)}


@given(offsets, offsets, units)
def test_inside_is_every_unit_with_all_its_bytes_in_the_range(offset: int, length: int, unit: int) -> None:
    covered = set(range(offset, offset + length))
    whole = {index for index in range(500) if set(range(index * unit, (index + 1) * unit)) <= covered}
    assert set(inside(offset, length, unit)) == whole


@given(st.sets(st.integers(0, 60)))
def test_runs_are_maximal_and_hold_the_same_indexes(indexes: set[int]) -> None:
    found = list(runs(sorted(indexes)))
    assert [index for first, end in found for index in range(first, end)] == sorted(indexes)
    assert all(end < first for (_, end), (first, _) in pairwise(found))
