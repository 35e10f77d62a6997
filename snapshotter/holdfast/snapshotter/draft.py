"""A snapshot's index in the making: outcomes go in, ascending; shards and references come out.

Pure but for `load`, which fetches a shard of the base. At any moment the draft can say all that it knows
as a checkpoint, and be made again from one. In memory it holds one open shard, the encoded shards that
wait to be stored together, and 64 bytes a shard of references.
"""

import hashlib
from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple

from holdfast.snapshotter import shard as shards
from holdfast.snapshotter.checkpoint import Checkpoint, Counters
from holdfast.snapshotter.envelope import StoredObject
from holdfast.snapshotter.manifest import ShardRef
from holdfast.snapshotter.shard import SHARD_EXTENTS, Entry, Shard

LoadShard = Callable[[ShardRef], Shard]


class Outcome(NamedTuple):
    """The extents [first, end) read as zeros (`entry` is None), or the one extent `first` is at `entry`."""

    first: int
    end: int
    entry: Entry | None


class Segment(NamedTuple):
    """What became of the extents up to `end` that were not dealt with before.

    `outcomes` ascend. Extents that are in none of them are as in the base.
    """

    outcomes: Sequence[Outcome]
    end: int


class _Waiting(NamedTuple):
    shard: int
    entries: int
    data: bytes


class Draft:
    """From the base's references (none for a full snapshot) to a new snapshot's."""

    def __init__(self, base: Sequence[ShardRef], load: LoadShard) -> None:
        self._base = {ref.shard: ref for ref in base}
        self._load = load
        self._done: dict[int, ShardRef] = {}
        self._waiting: list[_Waiting] = []
        self._stored: dict[ShardRef, bytes] = {}
        self._open = -1
        self._entries: dict[int, Entry] = {}
        self._before: dict[int, Entry] = {}
        self.position = 0

    def apply(self, segment: Segment) -> None:
        """Take in the next segment."""
        at = self.position
        for outcome in segment.outcomes:
            if not at <= outcome.first < outcome.end <= segment.end:
                raise AssertionError(f"extents {outcome[:2]} came after {at}, in a segment to {segment.end}")
            at = outcome.end
            if outcome.entry is None:
                self._drop(outcome.first, outcome.end)
            else:
                self._turn_to(outcome.first // SHARD_EXTENTS)
                self._entries[outcome.first] = outcome.entry
        self.position = segment.end

    def finish(self) -> None:
        """No segment follows: close the open shard, and take over the rest of the base's."""
        self._turn_to(1 << 32)

    @property
    def waiting_bytes(self) -> int:
        return sum(len(one.data) for one in self._waiting)

    def waiting_object(self) -> bytes:
        """The shards that wait, one behind the other: an index object."""
        return b"".join(one.data for one in self._waiting)

    def stored(self, where: StoredObject) -> None:
        """`waiting_object` is there now, as `where`."""
        offset = 0
        self._stored.clear()
        for one in self._waiting:
            digest = hashlib.sha256(one.data).digest()
            ref = ShardRef(one.shard, where, offset, len(one.data), one.entries, digest)
            self._done[one.shard] = ref
            self._stored[ref] = one.data
            offset += len(one.data)
        self._waiting.clear()

    def take_packs(self, most: int) -> dict[ShardRef, list[StoredObject]]:
        """The packs that each of the shards names that were `stored` last; of `most` shards."""
        stored, self._stored = self._stored, {}
        taken = islice(stored.items(), max(0, most))
        return {ref: shards.decode(data, ref.where.name).packs for ref, data in taken}

    def refs(self) -> tuple[ShardRef, ...]:
        """Of every shard that is done and stored, ascending."""
        return tuple(self._done[shard] for shard in sorted(self._done))

    def checkpoint(
        self, snapshot_uid: str, base_manifest: str, size_bytes: int, done: Counters
    ) -> Checkpoint:
        """Everything up to `position`, to go on from."""
        open_shard = shards.encode(self._open, self._entries) if self._open >= 0 else b""
        waiting = tuple(one.data for one in self._waiting)
        return Checkpoint(
            snapshot_uid, base_manifest, size_bytes, self.position, done, self.refs(), waiting, open_shard
        )

    def resume(self, checkpoint: Checkpoint, name: str) -> None:
        """Become what the draft was that made `checkpoint` (the object `name`). Only when new."""
        self._done = {ref.shard: ref for ref in checkpoint.shards}
        for data in checkpoint.waiting:
            shard = shards.decode(data, name)
            self._waiting.append(_Waiting(shard.index, len(shard), data))
        if checkpoint.open_shard:
            shard = shards.decode(checkpoint.open_shard, name)
            self._open = shard.index
            self._before = self._base_entries(shard.index)
            self._entries = shard.entries()
        self.position = checkpoint.position

    def _drop(self, first: int, end: int) -> None:
        """Only shards that hold something are opened: a whole volume may have been discarded."""
        last = (end - 1) // SHARD_EXTENTS
        held = (
            {self._open, *self._base}
            if last - first // SHARD_EXTENTS > 8
            else range(first // SHARD_EXTENTS, last + 1)
        )
        for shard in sorted(n for n in held if first // SHARD_EXTENTS <= n <= last):
            if shard != self._open and shard not in self._base:
                continue
            self._turn_to(shard)
            for extent in [one for one in self._entries if first <= one < end]:
                del self._entries[extent]

    def _turn_to(self, shard: int) -> None:
        """Close the open shard if it is another, take over what lies between, open `shard`."""
        if shard == self._open:
            return
        self._close()
        for between in sorted(n for n in self._base if self._open < n < shard):
            self._done[between] = self._base[between]
        self._open = shard
        self._before = self._base_entries(shard)
        self._entries = dict(self._before)

    def _close(self) -> None:
        if self._open < 0:
            return
        if self._entries == self._before:
            if self._open in self._base:
                self._done[self._open] = self._base[self._open]
        elif self._entries:
            data = shards.encode(self._open, self._entries)
            self._waiting.append(_Waiting(self._open, len(self._entries), data))

    def _base_entries(self, shard: int) -> dict[int, Entry]:
        ref = self._base.get(shard)
        return self._load(ref).entries() if ref else {}
