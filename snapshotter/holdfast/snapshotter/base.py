"""What an upload starts from: another snapshot's index, without what is known to be lost of it.

An object that is lost (missing, cut, damaged) must not be used again: a snapshot that shares it would be
lost too, and say that it is not. So every extent of the base that lies in such a pack, and every extent
that a lost index object covers, is read from the frozen view as if it had changed. The base's own entry
for it is still there to compare with, but never to keep.
"""

from collections.abc import Set

from holdfast.base.extents import runs
from holdfast.snapshotter.index import Index
from holdfast.snapshotter.manifest import Manifest, ShardRef
from holdfast.snapshotter.names import snapshot_of
from holdfast.snapshotter.plan import Runs, clip
from holdfast.snapshotter.ring import Ring
from holdfast.snapshotter.shard import SHARD_EXTENTS, Entry, Shard


class Base:
    """For several threads.

    Args:
        lost: names of objects that must not be used, of this or of any snapshot.
        fixed: nothing has changed since: only what is lost is dealt with, whatever the view says.
    """

    def __init__(self, index: Index, lost: Set[str] = frozenset(), fixed: bool = False) -> None:
        self._index = index
        self._lost = frozenset(lost)
        self.fixed = fixed
        self.refs: tuple[ShardRef, ...] = tuple(
            ref for ref in index.manifest.shards if ref.where.name not in self._lost
        )
        """Of the shards that can be read."""

    @property
    def manifest(self) -> Manifest:
        return self._index.manifest

    @property
    def keys(self) -> Ring:
        return self._index.keys

    def get(self, extent: int) -> Entry | None:
        """Where the extent is, or was; None if it reads as zeros, or nobody knows."""
        ref = self._index.ref(extent // SHARD_EXTENTS)
        return self.load(ref).get(extent) if ref and ref.where.name not in self._lost else None

    def is_lost(self, entry: Entry) -> bool:
        return entry.pack.name in self._lost

    def load(self, ref: ShardRef) -> Shard:
        return self._index.load(ref)

    def lost_runs(self, first: int, end: int) -> Runs:
        """The extents of [first, end) that must be read again."""
        found: list[tuple[int, int]] = []
        numbers = range(first // SHARD_EXTENTS, -(-end // SHARD_EXTENTS)) if self._lost else ()
        for number in numbers:
            ref = self._index.ref(number)
            if ref is not None and ref.where.name in self._lost:
                found.append((number * SHARD_EXTENTS, (number + 1) * SHARD_EXTENTS))
            elif ref is not None:
                found += self._lost_of(self.load(ref))
        return clip(found, first, end)

    def _lost_of(self, shard: Shard) -> Runs:
        if not any(pack.name in self._lost for pack in shard.packs):
            return []
        return list(runs(extent for extent, entry in sorted(shard.entries().items()) if self.is_lost(entry)))


def writers_of(index: Index) -> set[str]:
    """The uids of the snapshots whose objects this one uses. Reads all of its index."""
    found = set()
    for ref in index.manifest.shards:
        found.add(snapshot_of(ref.where.name))
        found.update(snapshot_of(pack.name) for pack in index.load(ref).packs)
    return found
