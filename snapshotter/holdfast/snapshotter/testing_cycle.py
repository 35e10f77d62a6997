"""The whole cycle of snapshots in one process, against a plain model: for tests.

Real are all decisions over records, uploads, assembly, reading and collection. In memory are etcd, the object
store, and the volumes, which are dictionaries of extents. `must_stay` is the judge: it is written from the
meaning of records and the model, and knows nothing of how collection marks.
"""

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random

from google.protobuf.message import Message

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import HoldfastError
from holdfast.base.limits import EXTENT_BYTES
from holdfast.metadata import (
    direct_changes,
    host_actions,
    keeping_decisions,
    keys,
    snapshot_changes,
    snapshot_decisions,
    volume_changes,
    volume_decisions,
)
from holdfast.metadata.cas import Draft, run
from holdfast.metadata.memory_store import MemoryStore
from holdfast.metadata.records import M, decode
from holdfast.metadata.seal import public_key
from holdfast.metadata.snapshot_changes import UNDER_WAY, Claimant
from holdfast.metadata.snapshotter_actions import SnapshotterActions
from holdfast.snapshotter import collect_owner, index, manifest, staged
from holdfast.snapshotter.blob import ZERO_EXTENT
from holdfast.snapshotter.blocks import BLOCK_EXTENTS
from holdfast.snapshotter.collect_clock import LEFT_BEHIND_S
from holdfast.snapshotter.collector import Collector
from holdfast.snapshotter.fetch import Fetcher
from holdfast.snapshotter.keys import NO_KEYS, KeyService, from_record
from holdfast.snapshotter.objects_faults import Killed
from holdfast.snapshotter.objects_memory import MemoryObjects
from holdfast.snapshotter.patient import Stopped
from holdfast.snapshotter.reader import SnapshotReader
from holdfast.snapshotter.shard import SHARD_EXTENTS
from holdfast.snapshotter.staging import Stagers
from holdfast.snapshotter.task import Task
from holdfast.snapshotter.testing import SMALL, ModelView, index_of
from holdfast.snapshotter.testing_steps import SteppedEtcd, SteppedObjects, Steps
from holdfast.snapshotter.unlock import Unlocker

OWNER = "alice"
HOSTS = ("h1", "h2")
SIZE_BYTES = (SHARD_EXTENTS + 64) * EXTENT_BYTES
PLACES = (*range(24), *range(SHARD_EXTENTS, SHARD_EXTENTS + 8))
"""The extents that are written: of two shards."""
GRACE_S = 100.0
ROUNDS_MAX = 20
Content = dict[int, bytes]


_known: dict[tuple[type[Message], bytes], Message] = {}


def _decoded(message_type: type[M], value: bytes) -> M:
    """As `decode`, once for each value; nobody here changes what it returns."""
    found = _known.get((message_type, value))
    if not isinstance(found, message_type):
        if len(_known) > 10_000:
            _known.clear()
        found = _known[message_type, value] = decode(message_type, value)
    return found


@dataclass
class ModelDisk:
    """A volume: what it must read as, and what of that is still at its origin."""

    uid: str
    own_id: str
    content: Content = field(default_factory=dict)
    missing: set[int] = field(default_factory=set)
    origin: str = ""
    changed: dict[int, set[int]] = field(default_factory=dict)
    """By generation."""
    generation: int = 0

    def write(self, extent: int, data: bytes) -> None:
        self.missing.discard(extent)
        self.changed.setdefault(self.generation, set()).add(extent)
        if data == ZERO_EXTENT:
            self.content.pop(extent, None)
        else:
            self.content[extent] = data

    def changed_since(self, generation: int, end: int) -> set[int]:
        return {one for at in range(generation, end) for one in self.changed.get(at, ())}


class HalfView(ModelView):
    """A frozen view of a volume some of whose extents are fetched from its origin when they are read."""

    missing: dict[int, Callable[[], bytes]]

    def read(self, offset: int, length: int) -> bytes:
        for extent in range(offset // EXTENT_BYTES, -(-(offset + length) // EXTENT_BYTES)):
            if extent in self.missing:
                self.extents[extent] = self.missing.pop(extent)()
        return super().read(offset, length)


@dataclass
class Process:
    """A snapshotter: what it sees, and its claims' lease."""

    by: Claimant
    steps: Steps
    objects: SteppedObjects
    etcd: SteppedEtcd


class Cycle:
    def __init__(self, seed: int = 0, key_service: KeyService = NO_KEYS) -> None:
        self.chance = Random(seed)
        self.key_service = key_service
        self.now_s, self.store_s, self.true_s = 1_000_000_000.0, 77_000_000.0, 0.0
        """By the collectors' clocks, by the object store's, and in truth."""
        self.ended: dict[str, tuple[float, str]] = {}
        """Snapshots that were deleted for good: when, and their manifest."""
        self.replaced: list[tuple[float, str]] = []
        """Manifests that were replaced, and when."""
        self.etcd = MemoryStore()
        self.objects = MemoryObjects(lambda: self.store_s)
        self.disks: dict[str, ModelDisk] = {}
        self.contents: dict[str, Content] = {}
        """What each snapshot must read as."""
        self.views: dict[str, HalfView] = {}
        self._count = 0
        self._closures: dict[str, frozenset[str]] = {}
        for number, host_id in enumerate(HOSTS):
            host = r.HostRecord(
                host_id=host_id, boot_id="b", address=host_id, portal=f"{host_id}:3260",
                capacity_bytes=1 << 50, seal_public_key=public_key(bytes(range(32))), exports=True,
            )  # fmt: skip
            run(self.etcd, partial(host_actions.register, host=host, lease_id=7 + number))

    # What there is.

    def records(self, prefix: str, message_type: type[M]) -> list[M]:
        return [_decoded(message_type, entry.value) for entry in self.etcd.range(prefix)[0]]

    def snapshots(self, *states: int) -> list[r.SnapshotRecord]:
        found = self.records(keys.SNAPSHOTS, r.SnapshotRecord)
        return [one for one in found if not states or one.state in states]

    def snapshot(self, uid: str) -> r.SnapshotRecord:
        entry = self.etcd.get(keys.snapshot(uid))
        assert entry is not None, f"snapshot {uid} has no record"
        return _decoded(r.SnapshotRecord, entry.value)

    def left(self) -> set[str]:
        """Objects of snapshots."""
        return {name for name in self.objects.objects if name.startswith("snapshots/")}

    def new_uid(self) -> str:
        self._count += 1
        return f"{self._count:024x}"

    def data(self) -> bytes:
        """An extent unlike any other: noise, text, or now and then zeros."""
        kind = self.chance.random()
        if kind < 0.1:
            return ZERO_EXTENT
        if kind < 0.6:
            return self.chance.randbytes(EXTENT_BYTES)
        return (b"%d " % self.chance.getrandbits(60)).ljust(64, b".") * (EXTENT_BYTES // 64)

    # What users, hosts and time do.

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        self.store_s += seconds
        self.true_s += seconds

    def new_disk(self, source: str = "", key: str = "") -> ModelDisk:
        uid = self.new_uid()
        source_id = self.snapshot(source).snapshot_id if source else ""
        new = volume_decisions.NewVolume(
            OWNER, f"v{uid}", 0 if source else SIZE_BYTES, OWNER, source_id, False, uid, self.now_s, 1.0,
            encryption_key=key,
        )  # fmt: skip
        run(self.etcd, lambda draft: volume_decisions.create(draft, new))
        disk = ModelDisk(uid, new.volume_id, origin=source)
        if source:
            disk.content = dict(self.contents[source])
            disk.missing = set(disk.content)
        self.disks[uid] = disk
        run(self.etcd, lambda draft: volume_changes.became_available(draft, uid, self._primary(uid), 1))
        self.report(disk)
        return disk

    def report(self, disk: ModelDisk) -> None:
        """As the primary's agent does."""
        health = r.VolumeHealth(state=r.HEALTH_STATE_HEALTHY)
        left = len(disk.missing) * EXTENT_BYTES
        run(
            self.etcd,
            lambda draft: volume_changes.report_health(
                draft, disk.uid, self._primary(disk.uid), 1, health, left, SIZE_BYTES, 0, self.now_s
            ),
        )

    def hydrate(self, disk: ModelDisk, most: int) -> None:
        for extent in sorted(disk.missing)[:most]:
            assert self.read(disk.origin, [extent])[extent] == disk.content[extent], "a wrong byte"
            disk.missing.discard(extent)
        self.report(disk)

    def delete_disk(self, disk: ModelDisk) -> None:
        run(self.etcd, lambda draft: volume_decisions.delete(draft, OWNER, disk.own_id))
        for host_id in HOSTS:
            run(self.etcd, partial(volume_changes.store_removed, volume_uid=disk.uid, host_id=host_id))
        del self.disks[disk.uid]

    def freeze(self, disk: ModelDisk) -> str:
        uid = self.new_uid()
        new = snapshot_decisions.NewSnapshot(OWNER, f"s{uid}", disk.own_id, uid, self.now_s)
        record, _ = run(self.etcd, lambda draft: snapshot_decisions.create(draft, new))
        self.contents[uid] = dict(disk.content)
        disk.generation += 1
        changed = disk.changed_since(record.base_generation, disk.generation)
        view = HalfView(SIZE_BYTES, dict(disk.content), changed, set(disk.content))
        for extent in disk.missing:
            del view.extents[extent]
        view.missing = {
            extent: partial(lambda at, origin: self.read(origin, [at])[at], extent, disk.origin)
            for extent in disk.missing
        }
        self.views[uid] = view
        run(
            self.etcd,
            lambda draft: snapshot_changes.frozen(
                draft, disk.uid, uid, self._primary(disk.uid), 1, disk.generation, self.now_s, HOSTS
            ),
        )
        return uid

    def delete(self, uid: str, at_once: bool = True) -> None:
        own_id = self.snapshot(uid).snapshot_id
        run(self.etcd, lambda draft: keeping_decisions.delete(draft, OWNER, own_id, at_once, self.now_s))
        self._note_end(uid)

    def restore(self, uid: str) -> None:
        run(self.etcd, lambda draft: keeping_decisions.restore(draft, OWNER, uid, "", self.now_s))

    def purge(self, uid: str) -> None:
        run(self.etcd, lambda draft: keeping_decisions.purge(draft, OWNER, uid))
        self._note_end(uid)

    def _note_end(self, uid: str) -> None:
        record = self.snapshot(uid)
        if record.state == r.SNAPSHOT_STATE_DELETED:
            self.ended[uid] = (self.true_s, record.manifest)

    def _primary(self, volume_uid: str) -> str:
        entry = self.etcd.get(keys.replica(volume_uid))
        assert entry is not None
        return decode(r.ReplicaRecord, entry.value).primary_host_id

    # What snapshotters do.

    def process(self) -> Process:
        """A new one."""
        self._count += 1
        steps = Steps()
        by = Claimant(f"s{self._count}", 1000 + self._count)
        objects, etcd = SteppedObjects(self.objects, steps), SteppedEtcd(self.etcd, steps)
        return Process(by, steps, objects, etcd)

    def expire(self, process: Process) -> None:
        """Its lease has ended: it died, or was paused for too long."""
        for entry in self.etcd.range(keys.PREFIX)[0]:
            if entry.lease_id == process.by.lease_id:
                draft = Draft(self.etcd)
                draft.entry(entry.key)
                draft.delete(entry.key)
                assert draft.commit()

    def upload(self, uid: str, process: Process | None = None) -> bool:
        """Whether it is COMPLETED by this. Raises Killed, or what a task raises."""
        process = process or self.process()
        if not run(process.etcd, lambda draft: snapshot_changes.claim(draft, uid, process.by)):
            return False
        actions = SnapshotterActions(
            process.etcd,  # type: ignore[arg-type]
            process.by.snapshotter_id, "127.0.0.1", 1, clock=lambda: self.now_s,
        )  # fmt: skip
        task = Task(
            actions, process.objects, lambda record, host: self.views[record.uid], SMALL, uid, process.by,
            threading.Event(), self.key_service,
        )  # fmt: skip
        return task.run()

    def collect(self, process: Process | None = None, grace_s: float = GRACE_S) -> r.CollectionCounts:
        """One collection; whatever it deletes must not be needed. Raises Killed."""
        process = process or self.process()
        process.objects.deleting = self._check_deletable
        collector = Collector(
            process.etcd, process.objects, process.by, threading.Event(), grace_s, self.key_service,
            lambda: self.now_s,
        )  # fmt: skip
        before = {one.uid: one.manifest for one in self.snapshots()}
        began_s = self.true_s
        try:
            return collector.collect()
        finally:
            for one in self.snapshots():
                if before.get(one.uid, "") not in ("", one.manifest):
                    self.replaced.append((began_s, before[one.uid]))

    def direct(self, parent: str = "", blocks: int = 2) -> str:
        """A snapshot from outside, with some blocks put; it is PENDING."""
        uid = self.new_uid()
        parent_id = self.snapshot(parent).snapshot_id if parent else ""
        new = direct_changes.NewDirect(
            OWNER, f"s{uid}", SIZE_BYTES, OWNER if parent else "", parent_id, 3600, uid, self.new_uid(),
            self.now_s,
        )  # fmt: skip
        run(self.etcd, lambda draft: direct_changes.start(draft, new))
        self.contents[uid] = dict(self.contents[parent]) if parent else {}
        self.put_blocks(uid, blocks)
        return uid

    def put_blocks(self, uid: str, blocks: int) -> None:
        base = self.snapshot(uid).base_manifest
        stagers = Stagers(self.etcd, self.objects)
        try:
            stager = stagers.get(uid, lambda: index_of(self.objects, base) if base else None)
            for block in self.chance.sample(range(8), blocks):
                extents = [self.data() for _ in range(BLOCK_EXTENTS)]
                stager.settle(stager.put(block, b"".join(extents)))
                for extent, data in enumerate(extents, block * BLOCK_EXTENTS):
                    self.contents[uid].pop(extent, None)
                    if data != ZERO_EXTENT:
                        self.contents[uid][extent] = data
        finally:
            stagers.close()

    def complete_direct(self, uid: str) -> None:
        records = self.records(keys.staged(uid), r.StagedRecord)
        put = len(staged.put_blocks(self.objects, records, SIZE_BYTES // EXTENT_BYTES // BLOCK_EXTENTS))
        said = direct_changes.AllPut(put, "", records)
        own_id = self.snapshot(uid).snapshot_id
        run(
            self.etcd,
            lambda draft: direct_changes.content_is_fixed(draft, OWNER, own_id, said, self.now_s),
        )

    # The judge.

    def read(self, uid: str, extents: Iterable[int]) -> Content:
        """Through the manifest that is recorded now."""
        record = self.snapshot(uid)
        found = index.open_index(
            self.objects, record.manifest, record.manifest_sha256, index.new_shard_cache(1 << 20),
            lambda made: Unlocker(self.key_service).data_key(uid, [from_record(record.data_key)]),
        )  # fmt: skip
        fetcher = Fetcher(self.objects)
        try:
            reader = SnapshotReader(found, fetcher)
            return {one: reader.read(one * EXTENT_BYTES, EXTENT_BYTES) for one in extents}
        finally:
            fetcher.close()

    def check_readable(self) -> None:
        """Every snapshot that stands reads as it must, and so does every disk."""
        for record in self.snapshots(r.SNAPSHOT_STATE_COMPLETED, r.SNAPSHOT_STATE_RECYCLED):
            self._check_content(record.uid, PLACES)
        for disk in self.disks.values():
            if disk.missing:
                read = self.read(disk.origin, disk.missing)
                assert all(read[one] == disk.content[one] for one in disk.missing), f"disk {disk.uid}"

    def _check_content(self, uid: str, places: Iterable[int]) -> None:
        content = self.contents[uid]
        for extent, data in self.read(uid, places).items():
            assert data == content.get(extent, ZERO_EXTENT), f"snapshot {uid}, extent {extent}"

    def must_stay(self) -> set[str]:
        """Objects that something needs now, or may need."""
        needed: set[str] = set()
        for record in self.snapshots():
            if record.state in (r.SNAPSHOT_STATE_COMPLETED, r.SNAPSHOT_STATE_RECYCLED):
                needed |= self._closure(record.manifest)
            elif record.state in UNDER_WAY:
                needed |= {name for name in self.objects.objects if name.startswith(_prefix(record.uid))}
                if record.base_manifest:
                    needed |= self._closure(record.base_manifest)
                disk = self.disks.get(record.volume_uid)
                if disk and record.uid in self.views and self.views[record.uid].missing:
                    needed |= self._closure(self.snapshot(disk.origin).manifest)
        for disk in self.disks.values():
            if disk.missing:
                needed |= self._closure(self.snapshot(disk.origin).manifest)
        return needed | self._in_grace()

    def _in_grace(self) -> set[str]:
        needed: set[str] = set()
        for uid, (ended_s, name) in self.ended.items():
            if self.true_s < ended_s + GRACE_S:
                kept = {one for one in self.objects.objects if one.startswith(_prefix(uid))}
                needed |= self._closure(name) if name else kept
        for replaced_s, name in self.replaced:
            if self.true_s < replaced_s + GRACE_S:
                needed |= self._closure(name)
        return needed

    def _closure(self, name: str) -> frozenset[str]:
        if name not in self._closures:
            found = {name}
            made = manifest.decode(self.objects.get(name), name)
            for ref in made.shards:
                found.add(ref.where.name)
                found |= {pack.name for pack in index.fetch_shard(self.objects, ref).packs}
            self._closures[name] = frozenset(found)
        return self._closures[name]

    def _check_deletable(self, name: str) -> None:
        if name.startswith("snapshots/"):
            assert name not in self.must_stay(), f"{name} is deleted, and is needed"

    def settle(self) -> None:
        """Give everything its grace, and collect what is left; then there is what must be, and no more."""
        quiet = 0
        for _ in range(ROUNDS_MAX):
            self.pass_time(max(GRACE_S, LEFT_BEHIND_S) + 1)
            counts = self.collect()
            did = counts.freed_objects + counts.condemned + counts.forgotten + counts.repacked_objects
            # A manifest that was replaced goes in the round after the next.
            quiet = 0 if did else quiet + 1
            if quiet == 3:
                break
        assert quiet == 3, "it never comes to an end"
        self.check_nothing_left_over()

    def check_nothing_left_over(self) -> None:
        self.check_readable()
        extra = self.objects.objects.keys() - self.must_stay()
        extra -= {name for name in extra if name.startswith(collect_owner.PREFIX)}
        assert not extra, f"kept past their grace: {sorted(extra)[:5]} of {len(extra)}"
        origins = {one.origin for one in self.disks.values()}
        for record in self.snapshots(r.SNAPSHOT_STATE_DELETED):
            assert record.uid in origins or self._is_base(record.uid), f"tombstone {record.uid}"
        uids = {record.uid for record in self.snapshots()}
        for prefix in (keys.CONDEMNED, keys.SIZES):
            left = {entry.key.removeprefix(prefix) for entry in self.etcd.range(prefix)[0]}
            assert left <= uids, f"{prefix} of what is no more"
        assert not self.etcd.range(keys.REWRITES)[0]

    def _is_base(self, uid: str) -> bool:
        return any(one.base_snapshot_uid == uid for one in self.snapshots(*UNDER_WAY))


def quietly(call: Callable[[], object]) -> object:
    """What `call` returns; None if it was refused, stopped or killed."""
    with suppress(HoldfastError, Stopped, Killed):
        return call()
    return None


def _prefix(uid: str) -> str:
    return f"snapshots/{uid}/"
