"""Reading a snapshot: bytes by offset, every one of them checked against the checksums of its upload.

A random read fetches what it needs; of reads that follow each other, what comes next is fetched ahead (see
ahead.py), as far as the fetcher has room for it.
"""

from collections.abc import Callable, Mapping, Sequence

from holdfast.base.extents import covering, runs
from holdfast.base.limits import EXTENT_BYTES, MIB
from holdfast.snapshotter.ahead import Sequences, whole_packs
from holdfast.snapshotter.blob import ZERO_EXTENT
from holdfast.snapshotter.fetch import Asked, Fetcher
from holdfast.snapshotter.index import Index
from holdfast.snapshotter.shard import SHARD_EXTENTS, Entry

SHARDS_CACHE_BYTES = 32 * MIB
FLAGS_DATA = 0
FLAGS_HOLE = 3
"""NBD's base:allocation: a hole, which reads as zeros."""


class Reading:
    """A read whose extents have been asked for: `pieces`, once they have come."""

    __slots__ = ("_asked", "_end", "_entries", "_start")

    def __init__(self, asked: Asked, entries: Sequence[Entry | None], start: int, length: int) -> None:
        self._asked = asked
        self._entries = entries
        self._start = start
        self._end = start + length
        """Of the bytes of all these extents."""

    @property
    def at_once(self) -> bool:
        """They are here already."""
        return self._asked.at_once

    def wait(self) -> list[memoryview]:
        """As `pieces`, when they have come."""
        return self._cut(self._asked.wait())

    def pieces(self) -> list[memoryview]:
        """One piece an extent. Raises DataLoss with the object's name, or Unavailable."""
        return self._cut(self._asked.result())

    def _cut(self, found: Mapping[Entry, bytes]) -> list[memoryview]:
        pieces = [memoryview(found[entry] if entry else ZERO_EXTENT) for entry in self._entries]
        if pieces:
            # The end first: the first piece may be the last one too.
            pieces[-1] = pieces[-1][: self._end - (len(pieces) - 1) * EXTENT_BYTES]
            pieces[0] = pieces[0][self._start :]
        return pieces


class SnapshotReader:
    """Reads one snapshot; for many threads. The fetcher may be shared with other readers."""

    def __init__(self, index: Index, fetcher: Fetcher) -> None:
        self.index = index
        self._fetcher = fetcher
        self._sequences = Sequences()

    @property
    def size_bytes(self) -> int:
        return self.index.manifest.size_bytes

    @property
    def shard_count(self) -> int:
        return len(self.index.manifest.shards)

    def read(self, offset: int, length: int) -> bytes:
        """As `read_pieces`, in one."""
        return b"".join(self.read_pieces(offset, length))

    def read_pieces(self, offset: int, length: int) -> list[memoryview]:
        """The bytes of [offset, offset + length), which must be inside the snapshot, one piece an extent.

        Raises DataLoss with the object's name (missing, cut or damaged), or Unavailable.
        """
        wanted = self._wanted(offset, length)
        return self._ask(offset, length, wanted, self.index.among(wanted)).wait()

    def begin(self, offset: int, length: int, whole: Callable[[], None]) -> Reading | None:
        """As `read_pieces`, but waits for nothing. None: a shard that it needs is not in memory.

        Args:
            whole: called from any thread when all has come, unless it is there `at_once`.
        """
        wanted = self._wanted(offset, length)
        entries = self.index.at_hand(wanted)
        return None if entries is None else self._ask(offset, length, wanted, entries, whole)

    def _wanted(self, offset: int, length: int) -> range:
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise ValueError(
                f"[{offset}, {offset + length}) is outside a snapshot of {self.size_bytes} bytes"
            )
        return covering(offset, length, EXTENT_BYTES)

    def _ask(
        self,
        offset: int,
        length: int,
        wanted: range,
        entries: Sequence[Entry | None],
        whole: Callable[[], None] | None = None,
    ) -> Reading:
        asked = self._fetcher.start((entry for entry in entries if entry), self.index.keys, whole)
        # Apart, and after: what is waited for must not wait for what comes with it.
        self._fetch_ahead(wanted)
        return Reading(asked, entries, offset - wanted.start * EXTENT_BYTES, length)

    def allocation(self, offset: int, length: int) -> list[tuple[int, int]]:
        """Runs (length, flags) that follow each other from `offset` on and cover `length` bytes.

        It may be less than asked for: at most one shard is looked at, so that an answer is bounded.
        """
        shard_bytes = SHARD_EXTENTS * EXTENT_BYTES
        end = min(offset + length, (offset // shard_bytes + 1) * shard_bytes)
        shard = self.index.shard(offset // shard_bytes)
        if shard is None:
            return self._absent_run(offset, length)
        wanted = covering(offset, end - offset, EXTENT_BYTES)
        answer: list[tuple[int, int]] = []
        at = offset
        for first, stop in runs(shard.extents(wanted.start, wanted.stop)):
            start = max(at, first * EXTENT_BYTES)
            if start > at:
                answer.append((start - at, FLAGS_HOLE))
            at = min(end, stop * EXTENT_BYTES)
            answer.append((at - start, FLAGS_DATA))
        if at < end:
            answer.append((end - at, FLAGS_HOLE))
        return answer

    def _absent_run(self, offset: int, length: int) -> list[tuple[int, int]]:
        """One hole from a shard that is not there up to the next that is."""
        shard_bytes = SHARD_EXTENTS * EXTENT_BYTES
        for ref in self.index.manifest.shards:
            if ref.shard * shard_bytes > offset:
                return [(min(length, ref.shard * shard_bytes - offset), FLAGS_HOLE)]
        return [(length, FLAGS_HOLE)]

    def _fetch_ahead(self, wanted: range) -> None:
        sequence = self._sequences.follow(wanted) if wanted else None
        if sequence is None:
            return
        first, end = sequence.due()
        coming = range(first, end)
        # They are of the same shard as the read: it is in memory, unless it has been dropped just now.
        found = self.index.at_hand(coming) or ()
        placed = [(extent, entry) for extent, entry in zip(coming, found, strict=False) if entry]
        entries = [entry for _, entry in placed]
        most = whole_packs(entries)
        asked = self._fetcher.ahead(entries[:most], self.index.keys)
        sequence.asked(placed[asked][0] if asked < len(placed) else end)
