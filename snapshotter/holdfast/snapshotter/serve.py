"""Snapshots as read-only NBD exports, `snapshot:<uid>`.

The loop's thread only hands out; what may wait, such as loading a manifest or a shard, is done in the loop's
pool. Mostly both are in memory: then a read is asked for from the loop's thread, and whoever fetches, checks
and decompresses the last of its extents has it answered. Threads that waited for them instead were a seventh
of what the process took for a restore. What is held for such answers is bounded: beyond it threads wait, few
at a time.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

from holdfast.base.device import Op, Outcome, Request
from holdfast.base.errors import DataLoss, HoldfastError
from holdfast.base.extents import covering
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
from holdfast.snapshotter.reader import SHARDS_CACHE_BYTES, Reading, SnapshotReader
from holdfast.snapshotter.unlock import Unlocker

_LOG = logging.getLogger(__name__)
MANIFESTS_CACHE_BYTES = 32 * MIB
READ_STEP_BYTES = 2 * MIB
PROMISED_MAX_EXTENTS = 64 * MIB // EXTENT_BYTES
"""Asked for at a time without a thread that waits, by all readers of a process that share a fetcher."""
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
        self.promised_extents = 0
        """See PROMISED_MAX_EXTENTS; of the loop's thread."""

    def peek(self, snapshot: Readable) -> SnapshotReader | None:
        """The reader if it is open."""
        return self._readers.peek(snapshot.manifest)

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
        if not self._begin(request):
            self._read_in_pool(request)

    def _begin(self, request: Request) -> bool:
        """Ask for what is to be read, if that takes no wait, and answer when it has come."""
        reader = self._readers.peek(self._snapshot)
        extents = len(covering(request.offset, request.length, EXTENT_BYTES))
        if self._pool is not None or reader is None or request.length > READ_STEP_BYTES:
            return False
        if self._readers.promised_extents + extents > PROMISED_MAX_EXTENTS:
            return False

        def whole() -> None:
            self._loop.call_from_thread(answer)

        def answer() -> None:
            assert reading is not None
            self._readers.promised_extents -= extents
            self._answer(request, reading)

        reading = reader.begin(request.offset, request.length, whole)
        if reading is None:
            return False
        if reading.at_once:
            self._answer(request, reading)
        else:
            self._readers.promised_extents += extents
        return True

    def _answer(self, request: Request, reading: Reading) -> None:
        try:
            pieces = reading.pieces()
        except HoldfastError:
            self._read_in_pool(request)  # Perhaps there is another manifest by now; else it says what it is.
            return
        request.buffers += map(_lent, pieces)
        request.done(Outcome.OK)

    def _read_in_pool(self, request: Request) -> None:
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
