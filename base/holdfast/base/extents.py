"""Arithmetic on byte ranges and the units that cover them. All ranges are half open."""

from collections.abc import Iterable, Iterator


def covering(offset: int, length: int, unit: int) -> range:
    """Indexes of the units of `unit` bytes that [offset, offset + length) touches; empty if length is 0."""
    if length == 0:
        return range(0)
    return range(offset // unit, (offset + length - 1) // unit + 1)


def inside(offset: int, length: int, unit: int) -> range:
    """Indexes of the units that lie wholly within [offset, offset + length)."""
    return range(-(-offset // unit), max(-(-offset // unit), (offset + length) // unit))


def runs(indexes: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Join ascending indexes into half-open runs (first, end)."""
    first = end = None
    for index in indexes:
        if index == end:
            end += 1
            continue
        if first is not None and end is not None:
            yield first, end
        first, end = index, index + 1
    if first is not None and end is not None:
        yield first, end
