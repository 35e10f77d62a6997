"""Reading a snapshot: bytes by offset, every one of them checked against the checksums of its upload.

How much is fetched ahead follows from how the reads come. A random read fetches what it needs. Reads that
follow each other fetch ever more beyond what they need, from AHEAD_FIRST_EXTENTS to AHEAD_MAX_EXTENTS: each
GET costs a server as much as some MiB do, so a long sequence is best fetched in long ones.
"""

from holdfast.base.extents import covering, runs
from holdfast.base.limits import EXTENT_BYTES, MIB
from holdfast.snapshotter.blob import ZERO_EXTENT
from holdfast.snapshotter.fetch import Fetcher
from holdfast.snapshotter.index import Index
from holdfast.snapshotter.shard import SHARD_EXTENTS, Entry

AHEAD_FIRST_EXTENTS = 16
"""2 MiB; doubled each time that half of what was fetched ahead has been used."""
AHEAD_MAX_EXTENTS = 256
"""32 MiB: two of the longest GETs, so that one is on its way while the other is used."""
NEAR_EXTENTS = 8
"""A read that starts so near the end of the last one goes on from it."""
SHARDS_CACHE_BYTES = 64 * MIB
FLAGS_DATA = 0
FLAGS_HOLE = 3
"""NBD's base:allocation: a hole, which reads as zeros."""


class SnapshotReader:
    """Reads one snapshot; for many threads. The fetcher may be shared with other readers."""

    def __init__(self, index: Index, fetcher: Fetcher) -> None:
        self.index = index
        self._fetcher = fetcher
        # A hint, and changed without a lock: at worst something is fetched too early or too late.
        self._expected = -1000
        self._ahead_to = 0
        self._ahead = AHEAD_FIRST_EXTENTS

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
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise ValueError(
                f"[{offset}, {offset + length}) is outside a snapshot of {self.size_bytes} bytes"
            )
        wanted = covering(offset, length, EXTENT_BYTES)
        pieces = [memoryview(data) for data in self._extents(wanted)]
        if pieces:
            # The end first: the first piece may be the last one too.
            pieces[-1] = pieces[-1][: offset + length - (wanted.stop - 1) * EXTENT_BYTES]
            pieces[0] = pieces[0][offset - wanted.start * EXTENT_BYTES :]
        return pieces

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

    def _extents(self, wanted: range) -> list[bytes]:
        entries = [self.index.get(extent) for extent in wanted]
        coming = self._fetcher.start((entry for entry in entries if entry), self.index.keys)
        # Apart, and after: what is waited for must not wait for what comes with it.
        self._fetcher.start(self._ahead_of(wanted), self.index.keys)
        return [coming[entry].result() if entry else ZERO_EXTENT for entry in entries]

    def _ahead_of(self, wanted: range) -> list[Entry]:
        """What to fetch beyond `wanted`, if it goes on where the last read ended."""
        if not wanted:
            return []
        # Several threads share a sequence, so it comes a little out of order.
        if abs(wanted.start - self._expected) > NEAR_EXTENTS:
            self._expected = self._ahead_to = wanted.stop
            self._ahead = AHEAD_FIRST_EXTENTS
            return []
        if wanted.stop <= self._expected:
            return []
        self._expected = wanted.stop
        # Not past this shard: a damaged one further on must not fail a read that does not need it.
        shard_end = ((wanted.stop - 1) // SHARD_EXTENTS + 1) * SHARD_EXTENTS
        end = min(wanted.stop + self._ahead, shard_end)
        first = max(wanted.stop, self._ahead_to)
        if first > wanted.stop + self._ahead // 2 or first >= end:
            return []
        self._ahead_to = end
        self._ahead = min(2 * self._ahead, AHEAD_MAX_EXTENTS)
        entries = (self.index.get(extent) for extent in range(first, end))
        return [entry for entry in entries if entry]
