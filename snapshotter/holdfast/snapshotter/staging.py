"""Blocks that are put, on their way to being durable: many callers' together in one pack.

    pack put and confirmed → recorded in etcd (`staged/<uid>/<writer>`) → acknowledged

A caller adds blocks to the pack that is being filled and then waits. Whoever waits first sends what there
is, by itself and for all who have come by then; what comes meanwhile makes the next pack. So a caller
alone waits for one small pack, and many share large ones, without a timer.

A crash leaves packs that no record names: garbage under `snapshots/<uid>/`. None of them was acknowledged.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import NotFound, Unavailable
from holdfast.base.extents import runs
from holdfast.base.limits import MIB
from holdfast.metadata import keys
from holdfast.metadata.cas import Store, run
from holdfast.metadata.direct_changes import Folded, stage
from holdfast.snapshotter import blob
from holdfast.snapshotter.blob import CODING_PLAIN, ZERO_EXTENT, Blob, digest_of
from holdfast.snapshotter.blocks import BLOCK_EXTENTS
from holdfast.snapshotter.envelope import StoredObject
from holdfast.snapshotter.index import Index
from holdfast.snapshotter.names import Namer
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.pack import PackBuilder
from holdfast.snapshotter.pipeline import cut
from holdfast.snapshotter.staged import StagedList, encode

PACK_BYTES = 32 * MIB
PACK_ROWS_MAX = 4096
"""So that a pack's table is read with one short GET."""
PACKS_IN_RECORD = 64
"""More are listed in an object: so a record in etcd stays below about 100 kB."""
ZERO_DIGEST = digest_of(ZERO_EXTENT)


def rows_of(block: int, data: bytes, base: Index | None) -> list[tuple[int, Blob]]:
    """The extents of a block as a pack holds them: with no bytes for zeros, and for what is as in `base`.

    Raises DataLoss, Unavailable.
    """
    rows = []
    for extent, plain in enumerate(cut(data), block * BLOCK_EXTENTS):
        digest = digest_of(plain)
        before = base.get(extent) if base else None
        if digest == ZERO_DIGEST or (before is not None and before.digest == digest):
            rows.append((extent, Blob(b"", CODING_PLAIN, digest)))
        else:
            rows.append((extent, blob.encode(plain, digest)))
    return rows


@dataclass
class Group:
    """A pack in the making, and those who wait for it."""

    builder: PackBuilder = field(default_factory=PackBuilder)
    blocks: set[int] = field(default_factory=set)
    stored: "Future[StoredObject] | None" = None
    outcome: "Future[None]" = field(default_factory=Future)

    def pack(self, where: StoredObject, sequence: int) -> r.StagedPack:
        pack = r.StagedPack(name=where.name, size_bytes=where.size_bytes, sequence=sequence)
        for first, end in runs(sorted(self.blocks)):
            pack.block_runs.extend((first, end))
        return pack


class Stager:
    """The blocks of one snapshot that this process takes; for many threads.

    Args:
        base: the parent that extents are compared with.
        puts: threads that put packs; shared by all stagers.
    """

    def __init__(
        self,
        snapshot_uid: str,
        etcd: Store,
        store: ObjectStore,
        base: Index | None,
        puts: ThreadPoolExecutor,
        pack_bytes: int = PACK_BYTES,
    ) -> None:
        self._uid = snapshot_uid
        self._etcd = etcd
        self._store = store
        self._base = base
        self._puts = puts
        self._pack_bytes = pack_bytes
        self._namer = Namer(snapshot_uid)
        self._lock = threading.Lock()
        """Of what is being filled, and of names."""
        self._turn = threading.Lock()
        """Of whoever records: one at a time, so that packs are recorded in their order."""
        self._filling = Group()
        self._sealed: list[Group] = []
        self._recorded = r.StagedRecord(snapshot_uid=snapshot_uid, writer=self._namer.writer)

    def put(self, block: int, data: bytes) -> Group:
        """Add a block; it is durable when `settle` of what this returns has returned."""
        rows = rows_of(block, data, self._base)
        with self._lock:
            group = self._filling
            for extent, one in rows:
                group.builder.add(extent, one)
            group.blocks.add(block)
            if group.builder.size_bytes >= self._pack_bytes or len(group.builder.rows) >= PACK_ROWS_MAX:
                self._seal()
        return group

    def settle(self, group: Group) -> None:
        """Wait until the blocks of `group` are durable. Raises Unavailable, or Precondition NOT_PENDING."""
        while not group.outcome.done():
            with self._turn:
                if not group.outcome.done():
                    self._record_all()
        group.outcome.result()

    def _seal(self) -> None:
        """With the lock: no more goes into the group that is being filled; it is sent."""
        group = self._filling
        if group.blocks:
            group.stored = self._puts.submit(self._put_pack, group.builder, self._namer.pack())
            self._sealed.append(group)
            self._filling = Group()

    def _put_pack(self, builder: PackBuilder, name: str) -> StoredObject:
        return put_confirmed(self._store, name, builder.build())

    def _record_all(self) -> None:
        """With the turn: everything that has been added so far, in its order."""
        with self._lock:
            self._seal()
            groups, self._sealed = self._sealed, []
        stored: list[tuple[Group, StoredObject]] = []
        for group in groups:
            assert group.stored is not None
            try:
                stored.append((group, group.stored.result()))
            except BaseException as error:
                group.outcome.set_exception(error)
        if not stored:
            return
        try:
            self._record(stored)
        except BaseException as error:
            for group, _ in stored:
                group.outcome.set_exception(error)
            return
        for group, _ in stored:
            group.outcome.set_result(None)

    def _record(self, stored: Sequence[tuple[Group, StoredObject]]) -> None:
        folded = self._fold()
        # After the last of their blocks has come: so it is higher than that of every pack recorded before.
        sequence = self._etcd.range(keys.staged(self._uid), limit=1)[1]
        packs = [group.pack(where, sequence) for group, where in stored]
        run(self._etcd, lambda draft: stage(draft, self._uid, self._namer.writer, packs, folded))
        if folded:
            del self._recorded.packs[:]
            self._recorded.list = folded.name
        self._recorded.packs.extend(packs)

    def _fold(self) -> Folded | None:
        """When the record is long, list its packs in an object."""
        if len(self._recorded.packs) < PACKS_IN_RECORD:
            return None
        with self._lock:
            name = self._namer.staged()
        data = encode(self._uid, StagedList(self._recorded.list, self._recorded.packs))
        put_confirmed(self._store, name, data)
        return Folded(name, frozenset(pack.name for pack in self._recorded.packs))


def put_confirmed(store: ObjectStore, name: str, data: bytes | bytearray) -> StoredObject:
    """Put, and ask whether it is there. Unlike PatientStore's, it gives up as soon as the store does: the
    caller waits, and tries again. Raises Unavailable."""
    store.put(name, data)
    try:
        found = store.size(name)
    except NotFound:
        found = -1
    if found != len(data):
        raise Unavailable(
            "OBJECT_STORE_FORGETS", f"The object store took object {name} and then has {found} bytes of it."
        )
    return StoredObject(name, found)


class Stagers:
    """The stagers of this process, by snapshot; for many threads."""

    def __init__(self, etcd: Store, store: ObjectStore, most: int = 64, puts: int = 4) -> None:
        self._etcd = etcd
        self._store = store
        self._most = most
        self._puts = ThreadPoolExecutor(puts, thread_name_prefix="stage")
        self._lock = threading.Lock()
        self._stagers: dict[str, Stager] = {}

    def get(self, snapshot_uid: str, open_base: Callable[[], Index | None]) -> Stager:
        """That of one snapshot; `open_base` is asked for its parent when it is new."""
        with self._lock:
            found = self._stagers.get(snapshot_uid)
        if found is not None:
            return found
        made = Stager(snapshot_uid, self._etcd, self._store, open_base(), self._puts)
        with self._lock:
            # The one used first goes: who still uses it goes on, and a new one is another writer.
            while len(self._stagers) >= self._most:
                del self._stagers[next(iter(self._stagers))]
            return self._stagers.setdefault(snapshot_uid, made)

    def close(self) -> None:
        self._puts.shutdown(wait=True, cancel_futures=True)
