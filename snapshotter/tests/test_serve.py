"""What a reply to a read holds on to until it has left."""

from holdfast.base.limits import EXTENT_BYTES
from holdfast.snapshotter.serve import _lent


def test_most_of_an_extent_is_lent_and_little_of_it_is_copied() -> None:
    extent = bytes(EXTENT_BYTES)
    most, little = memoryview(extent)[1:], memoryview(extent)[: EXTENT_BYTES // 2]
    assert _lent(most).obj is extent
    assert _lent(little) == little
    assert _lent(little).obj is not extent, "4 KiB would keep 128 KiB in memory"
