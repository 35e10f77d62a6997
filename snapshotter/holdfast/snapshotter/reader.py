"""Reading a snapshot: bytes by offset, every one of them checked against the checksums of its upload.

A random read fetches what it needs; of reads that follow each other, what comes next is fetched ahead (see
ahead.py), as far as the fetcher has room for it.
"""

from holdfast.base.extents import covering, runs
from holdfast.base.limits import EXTENT_BYTES, MIB
from holdfast.snapshotter.ahead import Sequences, whole_packs
from holdfast.snapshotter.blob import ZERO_EXTENT
from holdfast.snapshotter.fetch import Fetcher
from holdfast.snapshotter.index import Index
from holdfast.snapshotter.shard import SHARD_EXTENTS

SHARDS_CACHE_BYTES = 32 * MIB
FLAGS_DATA = 0
FLAGS_HOLE = 3
"""NBD's base:allocation: a hole, which reads as zeros."""


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
        entries = self.index.among(wanted)
        coming = self._fetcher.start((entry for entry in entries if entry), self.index.keys)
        # Apart, and after: what is waited for must not wait for what comes with it.
        self._fetch_ahead(wanted)
        return [coming[entry].result() if entry else ZERO_EXTENT for entry in entries]

    def _fetch_ahead(self, wanted: range) -> None:
        sequence = self._sequences.follow(wanted) if wanted else None
        if sequence is None:
            return
        first, end = sequence.due()
        coming = range(first, end)
        placed = [
            (extent, entry) for extent, entry in zip(coming, self.index.among(coming), strict=True) if entry
        ]
        entries = [entry for _, entry in placed]
        most = whole_packs(entries)
        asked = self._fetcher.ahead(entries[:most], self.index.keys)
        sequence.asked(placed[asked][0] if asked < len(placed) else end)
