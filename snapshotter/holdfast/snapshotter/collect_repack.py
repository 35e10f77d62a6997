"""Repacking: what is in use of packs and index objects that are mostly dead is copied together.

    rewrites/<writer> → packs → index objects → manifests, each in the place of one that says the same (I-9)

docs/collection.md has the order of the writes and what a crash leaves. Extents stay as they are stored, also
sealed ones; they and their shards only move. Memory: a pack, an index object, a manifest, and what is in use
of the packs that are copied.
"""

import hashlib
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import DataLoss, HoldfastError, Precondition
from holdfast.base.limits import MIB
from holdfast.metadata import collection_changes as changes
from holdfast.metadata import keys as etcd_keys
from holdfast.metadata.cas import Store, run
from holdfast.metadata.collection_changes import Moment, Replacement
from holdfast.metadata.records import decode
from holdfast.metadata.snapshot_changes import Claimant
from holdfast.snapshotter import blob, keys, manifest, shard
from holdfast.snapshotter.blob import Blob
from holdfast.snapshotter.cipher import DataKey
from holdfast.snapshotter.collect_mark import Marked
from holdfast.snapshotter.collect_roots import Root
from holdfast.snapshotter.fetch import plan_fetches
from holdfast.snapshotter.index import fetch_shard, get, get_range
from holdfast.snapshotter.keys import KeyService
from holdfast.snapshotter.manifest import Manifest, ShardRef
from holdfast.snapshotter.names import Namer, snapshot_of
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.pack import ROW_BYTES, PackBuilder
from holdfast.snapshotter.patient import Stopped
from holdfast.snapshotter.ring import Ring
from holdfast.snapshotter.shard import Entry
from holdfast.snapshotter.staging import put_confirmed

PACK_BYTES = 32 * MIB
INDEX_BYTES = 4 * MIB


class Repacked(NamedTuple):
    objects: int = 0
    written_bytes: int = 0
    dead_bytes: int = 0


class _Place(NamedTuple):
    """Where a shard is, or a stored extent."""

    name: str
    offset: int


@dataclass
class _Plan:
    """What must be copied, of one family."""

    extents: dict[str, dict[Entry, int]] = field(default_factory=dict)
    """By pack: what is in use of it, and which extent of the volume that is."""
    shards: dict[_Place, ShardRef] = field(default_factory=dict)
    """That lead to any of it, or lie in an index object that is mostly dead."""
    manifests_bytes: int = 0

    @property
    def written_bytes(self) -> int:
        stored = sum(entry.stored_bytes + ROW_BYTES for pack in self.extents.values() for entry in pack)
        return stored + sum(ref.length for ref in self.shards.values()) + self.manifests_bytes


@dataclass
class Repacker:
    etcd: Store
    store: ObjectStore
    by: Claimant
    stop: threading.Event
    key_service: KeyService
    now: Moment

    def repack(self, roots: list[Root], objects: list[Marked]) -> Repacked:
        """Copy what is in use of `objects`, which only `roots` lead to, if that pays. What was done.

        Raises DataLoss, Unavailable, KeyUnavailable, Precondition REWRITE_LOST, Stopped: then what was
        recorded so far is right, and the rest is garbage.
        """
        sizes = {one.name: self.store.size(one.name) for one in objects}
        dead_bytes = sum(sizes[one.name] - one.live_bytes for one in objects)
        plan = self._plan(roots, set(sizes))
        if not plan.shards or dead_bytes <= plan.written_bytes:
            return Repacked()
        rings = self._rings(roots)
        namers = _Namers()
        run(self.etcd, partial(changes.begin_rewrite, writer=namers.writer, by=self.by))
        try:
            moved = self._copy_packs(plan, rings, namers)
            refs = self._copy_shards(plan, moved, namers)
            for root in roots:
                self._replace(root, refs, rings, namers)
        finally:
            with suppress(HoldfastError):
                run(self.etcd, partial(changes.end_rewrite, writer=namers.writer))
        return Repacked(len(objects), plan.written_bytes, dead_bytes)

    def _plan(self, roots: list[Root], objects: set[str]) -> _Plan:
        plan = _Plan()
        seen: set[_Place] = set()
        for root in roots:
            data = get(self.store, root.manifest)
            concerned = False
            for ref in manifest.decode(data, root.manifest).shards:
                self._check()
                place = _Place(ref.where.name, ref.offset)
                if place not in seen:
                    seen.add(place)
                    if self._look(ref, objects, plan):
                        plan.shards[place] = ref
                concerned = concerned or place in plan.shards
            plan.manifests_bytes += len(data) if concerned else 0
        return plan

    def _look(self, ref: ShardRef, objects: set[str], plan: _Plan) -> bool:
        """Whether the shard must be copied; what of it, to the plan."""
        found = fetch_shard(self.store, ref)
        concerned = ref.where.name in objects
        if any(pack.name in objects for pack in found.packs):
            for extent, entry in found.entries().items():
                if entry.pack.name in objects:
                    plan.extents.setdefault(entry.pack.name, {})[entry] = extent
                    concerned = True
        return concerned

    def _rings(self, roots: list[Root]) -> dict[str, Ring]:
        """The keys of the encrypted ones, by manifest. Raises KeyUnavailable, Precondition."""
        rings = {}
        for root in roots:
            data = get(self.store, root.manifest)
            made = manifest.decode(data, root.manifest)
            if made.keys is not None:
                key = self._data_key(root)
                rings[root.manifest] = manifest.open_keys(data, made, key, root.manifest)
        return rings

    def _data_key(self, root: Root) -> DataKey:
        entry = self.etcd.get(etcd_keys.snapshot(root.snapshot_uid))
        if entry is None:
            raise Precondition("REWRITE_LOST", f"Snapshot {root.snapshot_uid} is gone.")
        record = decode(r.SnapshotRecord, entry.value)
        return keys.open_data_key(self.key_service, root.snapshot_uid, keys.from_record(record.data_key))

    def _copy_packs(self, plan: _Plan, rings: dict[str, Ring], namers: "_Namers") -> dict[Entry, Entry]:
        """Where each extent is now. A pack that is damaged is left where it is."""
        known = {uid: key for ring in rings.values() for uid, key in ring.keys.items()}
        moved: dict[Entry, Entry] = {}
        by_uid: dict[str, list[str]] = {}
        for pack in sorted(plan.extents):
            by_uid.setdefault(snapshot_of(pack), []).append(pack)
        for uid, packs in by_uid.items():
            copy = _PackCopy(self.store, namers.of(uid), moved)
            for pack in packs:
                self._check()
                # Under the key of the snapshot in the pack's name, if it is encrypted.
                with suppress(DataLoss):
                    copy.add_all(list(self._read(plan.extents[pack], known.get(uid))))
            copy.flush()
        return moved

    def _read(self, extents: dict[Entry, int], key: DataKey | None) -> Iterator[tuple[int, Entry, Blob]]:
        """Each extent as it is stored, when it has been checked. Raises DataLoss."""
        for fetch in plan_fetches(extents):
            data = get_range(self.store, fetch.pack, fetch.offset, fetch.end - fetch.offset)
            for entry in fetch.entries:
                at = entry.offset - fetch.offset
                one = Blob(data[at : at + entry.stored_bytes], entry.coding, entry.digest)
                blob.decode(one, fetch.pack, entry.offset, key)
                yield extents[entry], entry, one

    def _copy_shards(
        self, plan: _Plan, moved: dict[Entry, Entry], namers: "_Namers"
    ) -> dict[_Place, ShardRef]:
        """Where each shard is now."""
        refs: dict[_Place, ShardRef] = {}
        by_uid: dict[str, list[_Place]] = {}
        for place in sorted(plan.shards):
            by_uid.setdefault(snapshot_of(place.name), []).append(place)
        for uid, places in by_uid.items():
            copy = _IndexCopy(self.store, namers.of(uid), refs)
            for place in places:
                self._check()
                ref = plan.shards[place]
                before = fetch_shard(self.store, ref).entries()
                after = {extent: moved.get(entry, entry) for extent, entry in before.items()}
                _check_same(before, after)
                copy.add(place, ref, shard.encode(ref.shard, after))
            copy.flush()
        return refs

    def _replace(
        self, root: Root, refs: dict[_Place, ShardRef], rings: dict[str, Ring], namers: "_Namers"
    ) -> None:
        self._check()
        before = manifest.decode(get(self.store, root.manifest), root.manifest)
        shards = tuple(refs.get(_Place(ref.where.name, ref.offset), ref) for ref in before.shards)
        if shards == before.shards:
            return
        ring = rings.get(root.manifest)
        data = manifest.encode(replace(before, shards=shards), ring.keys[root.snapshot_uid] if ring else None)
        where = put_confirmed(self.store, namers.of(root.snapshot_uid).manifest(), data)
        _check_manifest(before, manifest.decode(data, where.name))
        made = Replacement(root.snapshot_uid, root.manifest, where.name, hashlib.sha256(data).hexdigest())
        run(
            self.etcd,
            lambda draft: changes.replace_manifest(draft, namers.writer, made, self.now),
        )

    def _check(self) -> None:
        if self.stop.is_set():
            raise Stopped


class _Namers:
    """Names of one writer, under the uids of several snapshots."""

    def __init__(self) -> None:
        self.writer = Namer("").writer
        self._of: dict[str, Namer] = {}

    def of(self, snapshot_uid: str) -> Namer:
        return self._of.setdefault(snapshot_uid, Namer(snapshot_uid, self.writer))


class _PackCopy:
    """Extents of one snapshot's packs, together in new ones. `moved` gets where they are."""

    def __init__(self, store: ObjectStore, namer: Namer, moved: dict[Entry, Entry]) -> None:
        self._store = store
        self._namer = namer
        self._moved = moved
        self._builder = PackBuilder()
        self._entries: list[Entry] = []

    def add_all(self, extents: Iterable[tuple[int, Entry, Blob]]) -> None:
        for extent, entry, one in extents:
            self._builder.add(extent, one)
            self._entries.append(entry)
            if self._builder.size_bytes >= PACK_BYTES:
                self.flush()

    def flush(self) -> None:
        if not self._entries:
            return
        rows = list(self._builder.rows)
        where = put_confirmed(self._store, self._namer.pack(), self._builder.build())
        for entry, row in zip(self._entries, rows, strict=True):
            self._moved[entry] = Entry(where, *row[1:])
        self._builder, self._entries = PackBuilder(), []


class _IndexCopy:
    """Shards together in new index objects. `refs` gets where they are."""

    def __init__(self, store: ObjectStore, namer: Namer, refs: dict[_Place, ShardRef]) -> None:
        self._store = store
        self._namer = namer
        self._refs = refs
        self._waiting: list[tuple[_Place, ShardRef, bytes]] = []

    def add(self, place: _Place, before: ShardRef, data: bytes) -> None:
        self._waiting.append((place, before, data))
        if sum(len(one[2]) for one in self._waiting) >= INDEX_BYTES:
            self.flush()

    def flush(self) -> None:
        if not self._waiting:
            return
        data = b"".join(one[2] for one in self._waiting)
        where = put_confirmed(self._store, self._namer.index(), data)
        offset = 0
        for place, before, one in self._waiting:
            digest = hashlib.sha256(one).digest()
            self._refs[place] = ShardRef(before.shard, where, offset, len(one), before.entries, digest)
            offset += len(one)
        self._waiting = []


def _check_same(before: dict[int, Entry], after: dict[int, Entry]) -> None:
    """I-9: the same bytes, in other places."""
    said = [(extent, one.stored_bytes, one.coding, one.digest) for extent, one in before.items()]
    if said != [(extent, one.stored_bytes, one.coding, one.digest) for extent, one in after.items()]:
        raise AssertionError("a shard that was copied does not say the same")


def _check_manifest(before: Manifest, after: Manifest) -> None:
    said = [(ref.shard, ref.entries) for ref in before.shards]
    same = replace(before, shards=()) == replace(after, shards=())
    if not same or said != [(ref.shard, ref.entries) for ref in after.shards]:
        raise AssertionError(f"the manifest of {before.snapshot_uid} that was copied does not say the same")
