"""Snapshots as read-only NBD exports, `snapshot:<uid>`.

The loop's thread only hands out; fetching, checking and decompressing is done in the loop's pool.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

from holdfast.base.device import Op, Outcome, Request
from holdfast.base.errors import DataLoss, HoldfastError
from holdfast.base.limits import EXTENT_BYTES, MIB
from holdfast.base.loop import Loop
from holdfast.base.nbd.export import ControlDone, Served, StatusDone
from holdfast.snapshotter.access import Readable
from holdfast.snapshotter.cache import Cache
from holdfast.snapshotter.fetch import EXTENTS_CACHE_BYTES, GETS, Fetcher
from holdfast.snapshotter.frozen import ALLOCATION
from holdfast.snapshotter.index import new_shard_cache, open_index
from holdfast.snapshotter.keys import NO_KEYS, KeyService
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.reader import SHARDS_CACHE_BYTES, SnapshotReader
from holdfast.snapshotter.unlock import Unlocker

_LOG = logging.getLogger(__name__)
MANIFESTS_CACHE_BYTES = 32 * MIB
READ_STEP_BYTES = 2 * MIB
_READER_BYTES = 4096
_REF_BYTES = 256
"""A decoded reference in memory, about."""


class Readers:
    """One reader per snapshot, shared by all connections; opened when first read. For many threads."""

    def __init__(
        self,
        store: ObjectStore,
        gets: int = GETS,
        cache_bytes: int = EXTENTS_CACHE_BYTES,
        keys: KeyService = NO_KEYS,
    ) -> None:
        self.on_lost: Callable[[str], None] = lambda snapshot_uid: None
        """Told of each snapshot of which something cannot be read. Any thread."""
        self._store = store
        self._unlocker = Unlocker(keys)
        self._fetcher = Fetcher(store, cache_bytes, gets)
        self._shards = new_shard_cache(SHARDS_CACHE_BYTES)
        self._readers: Cache[str, SnapshotReader] = Cache(MANIFESTS_CACHE_BYTES)

    def get(self, snapshot: Readable) -> SnapshotReader:
        """Raises DataLoss, Unavailable."""
        return self._readers.get(snapshot.manifest, lambda: self._open(snapshot), _reader_bytes)

    def close(self) -> None:
        self._fetcher.close()

    def _open(self, snapshot: Readable) -> SnapshotReader:
        index = open_index(
            self._store,
            snapshot.manifest,
            snapshot.manifest_sha256,
            self._shards,
            lambda manifest: self._unlocker.data_key(manifest.snapshot_uid, snapshot.keys),
        )
        return SnapshotReader(index, self._fetcher)


def _reader_bytes(reader: SnapshotReader) -> int:
    return _READER_BYTES + _REF_BYTES * reader.shard_count


class SnapshotExport:
    """An Export of one snapshot. It reads in `pool`, or in the loop's.

    Args:
        again: what may be read by now; blocks. A manifest may have been replaced by one that says the same,
            because an object of it was lost, or was repacked.
    """

    read_only = True
    private = False
    lends = True
    contexts: tuple[str, ...] = (ALLOCATION,)

    def __init__(
        self,
        loop: Loop,
        readers: Readers,
        snapshot: Readable,
        again: Callable[[], Readable],
        pool: Executor | None = None,
    ) -> None:
        self._loop = loop
        self._readers = readers
        self._snapshot = snapshot
        self._again = again
        self._pool = pool
        self.size_bytes = snapshot.size_bytes

    def opened(self, connection: Served) -> None:
        """Nothing to prepare."""

    def closed(self) -> None:
        """Reads under way end by themselves."""

    def submit(self, request: Request) -> None:
        if request.op is not Op.READ:
            request.done(Outcome.OK if request.op is Op.FLUSH else Outcome.READ_ONLY)
            return
        self._loop.in_pool(
            partial(self._read, request),
            lambda _nothing: request.done(Outcome.OK),
            lambda error: request.done(self._outcome(error)),
            self._pool,
        )

    def block_status(self, context: str, offset: int, length: int, done: StatusDone) -> None:
        self._loop.in_pool(
            lambda: self._reader().allocation(offset, length),
            done,
            lambda error: done(self._outcome(error)),
            self._pool,
        )

    def control(self, payload: bytes, done: ControlDone) -> None:
        done(Outcome.INVALID, b"")

    def _read(self, request: Request) -> None:
        """A long request in steps: what it waits for at a time is bounded."""
        at, end = request.offset, request.offset + request.length
        while at < end:
            length = min(READ_STEP_BYTES, end - at)
            request.buffers += map(_lent, self._pieces(at, length))
            at += length

    def _pieces(self, offset: int, length: int) -> list[memoryview]:
        try:
            return self._reader().read_pieces(offset, length)
        except DataLoss as error:
            uid = self._snapshot.snapshot_uid
            if not self._is_replaced():
                self._readers.on_lost(uid)
                raise
            _LOG.info("snapshot %s has another manifest by now: %s", uid, error.message)
            return self._reader().read_pieces(offset, length)

    def _is_replaced(self) -> bool:
        """Whether there is another manifest by now, which is used from now on."""
        try:
            now = self._again()
        except HoldfastError:
            return False
        before, self._snapshot = self._snapshot, now
        return now.manifest != before.manifest

    def _reader(self) -> SnapshotReader:
        return self._readers.get(self._snapshot)

    def _outcome(self, error: BaseException) -> Outcome:
        if isinstance(error, HoldfastError):
            _LOG.error("snapshot %s cannot be read: %s", self._snapshot.snapshot_uid, error.message)
            return Outcome.MEDIUM_ERROR if isinstance(error, DataLoss) else Outcome.BUSY
        raise error


def _lent(piece: memoryview) -> memoryview:
    """What a reply may hold on to: of an extent the most part, or a copy of what little is asked for."""
    return piece if 2 * len(piece) > EXTENT_BYTES else memoryview(bytes(piece))
