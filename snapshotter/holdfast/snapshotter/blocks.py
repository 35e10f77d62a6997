"""Which blocks of a snapshot hold data, and in which two snapshots differ: what an index says, page by page.

A block is SNAPSHOT_BLOCK_BYTES, four extents, so none is in two shards. A page loads few shards, so that
its work is bounded whatever is asked for: it may be short, or empty, and still not be the last.
"""

from collections.abc import Iterator
from typing import NamedTuple

from holdfast.base.limits import EXTENT_BYTES, SNAPSHOT_BLOCK_BYTES
from holdfast.snapshotter.index import Index
from holdfast.snapshotter.shard import SHARD_EXTENTS, Shard

BLOCK_EXTENTS = SNAPSHOT_BLOCK_BYTES // EXTENT_BYTES
SHARD_BLOCKS = SHARD_EXTENTS // BLOCK_EXTENTS
PAGE_SHARDS = 64
"""Shards that one page loads at most, of each snapshot: 32 GiB of a full one."""


class Listed(NamedTuple):
    """A block: whether it holds data in the first and in the second snapshot (of one alone: in that)."""

    block: int
    in_first: bool
    in_second: bool


class Page(NamedTuple):
    blocks: list[Listed]
    next_block: int | None
    """Where the next page begins; None after the last."""


def blocks_of(size_bytes: int) -> int:
    return -(-size_bytes // SNAPSHOT_BLOCK_BYTES)


def byte_range(block: int, size_bytes: int) -> tuple[int, int]:
    """(offset, length) of a block: the last one ends where the snapshot does."""
    offset = block * SNAPSHOT_BLOCK_BYTES
    return offset, min(SNAPSHOT_BLOCK_BYTES, size_bytes - offset)


def changed(
    first: Index | None, second: Index, start: int, limit: int, most_shards: int = PAGE_SHARDS
) -> Page:
    """The blocks from `start` on in which the two differ, at most `limit`.

    Without a `first`, those of the second that hold data. Raises DataLoss, Unavailable.
    """
    found: list[Listed] = []
    loaded = 0
    for number in _shards(first, second, start // SHARD_BLOCKS):
        ref_a, ref_b = first.ref(number) if first else None, second.ref(number)
        if ref_a and ref_b and ref_a.digest == ref_b.digest:
            continue
        if loaded == most_shards:
            return Page(found, max(start, number * SHARD_BLOCKS))
        loaded += 1
        shard_a, shard_b = first.shard(number) if first else None, second.shard(number)
        for listed in _differing(shard_a, shard_b):
            if listed.block < start:
                continue
            if len(found) == limit:
                return Page(found, listed.block)
            found.append(listed)
    return Page(found, None)


def _shards(first: Index | None, second: Index, start: int) -> list[int]:
    """The numbers, from `start` on, of shards that either has."""
    refs = [*(first.manifest.shards if first else ()), *second.manifest.shards]
    return sorted({ref.shard for ref in refs if ref.shard >= start})


def _differing(first: Shard | None, second: Shard | None) -> Iterator[Listed]:
    before, after = _digests(first), _digests(second)
    extents = sorted(
        {extent for extent in before.keys() | after.keys() if before.get(extent) != after.get(extent)}
    )
    in_first = {extent // BLOCK_EXTENTS for extent in before}
    in_second = {extent // BLOCK_EXTENTS for extent in after}
    last = -1
    for extent in extents:
        block = extent // BLOCK_EXTENTS
        if block != last:
            yield Listed(block, block in in_first, block in in_second)
        last = block


def _digests(shard: Shard | None) -> dict[int, bytes]:
    return {extent: entry.digest for extent, entry in shard.entries().items()} if shard else {}
