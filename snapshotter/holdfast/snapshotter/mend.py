"""Repairing a damaged snapshot from a newer one of its volume: what is the very same there is stored again.

Order of writes: packs, index objects, the manifest, each confirmed before what names it; the caller then
replaces the manifest in the record by compare-and-swap. A process that dies leaves garbage under the
damaged snapshot's own name, and the snapshot as it was.

It is copied, and not referred to, so that each extent is under a key that the snapshot's own manifest has:
to give it the newer one's key would open to its grantees what came later.
"""

import hashlib
import threading
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from typing import NamedTuple

from holdfast.base.errors import DataLoss
from holdfast.metadata.verify_changes import Repaired
from holdfast.snapshotter import blob, manifest, ring
from holdfast.snapshotter import shard as shards
from holdfast.snapshotter.blob import digest_of, keyed
from holdfast.snapshotter.check import Bad, Checker, word_for
from holdfast.snapshotter.cipher import DataKey
from holdfast.snapshotter.damage import Damage
from holdfast.snapshotter.draft import Draft, Outcome, Segment
from holdfast.snapshotter.index import Index
from holdfast.snapshotter.manifest import ShardRef, extents_of
from holdfast.snapshotter.names import Namer
from holdfast.snapshotter.pack import PackBuilder
from holdfast.snapshotter.patient import PatientStore, Stopped
from holdfast.snapshotter.reindex import OpenIndex, made_again
from holdfast.snapshotter.ring import KeyMaterial, WrappedKey
from holdfast.snapshotter.shard import SHARD_EXTENTS, Entry, Shard
from holdfast.snapshotter.upload import Settings


class Own(NamedTuple):
    """The data key of the snapshot that is repaired, and as it is wrapped in its record."""

    key: DataKey
    wrapped: WrappedKey


class Mend:
    """Of one snapshot, from one source. `run` it once.

    Args:
        damaged, source: the index of the snapshot, and of the newer one.
        damaged must be opened anew: a shard that is in a cache says nothing of the store.
        suspects: names of objects that may be lost; what lies in others is taken to be good. None: all may.
        before: called before so many bytes are read; may wait, or raise.
        open_index: of other snapshots.
    """

    def __init__(
        self,
        damaged: Index,
        source: Index,
        suspects: Set[str] | None,
        store: PatientStore,
        stop: threading.Event,
        settings: Settings,
        before: Callable[[int], None],
        own: Own | None,
        open_index: OpenIndex = lambda snapshot_uid: None,
    ) -> None:
        self._damaged = damaged
        self._source = source
        self._suspects = suspects
        self._store = store
        self._stop = stop
        self._settings = settings
        self._own = own
        self._namer = Namer(damaged.manifest.snapshot_uid)
        self.writer = self._namer.writer
        """In the names of everything that is written."""
        self._there = Checker(store, damaged.keys, before)
        self._newer = Checker(store, source.keys, before)
        self._open_index = open_index
        self._again: dict[int, bytes] = {}
        """Shards whose index objects are lost, made again."""
        self._draft = Draft(damaged.manifest.shards, self._load)
        self._builder = PackBuilder()
        self._damage = Damage()
        self._stored_bytes = 0
        self._extents = 0

    def run(self, before: str, sha256: str, source_uid: str) -> Repaired:
        """What is to be recorded.

        Args:
            before, sha256: the manifest that the snapshot has, and its SHA-256.
            source_uid: of the newer snapshot.
        """
        self._again = made_again(self._lost_shards(), self._store, self._open_index)
        for ref in self._damaged.manifest.shards:
            if self._stop.is_set():
                raise Stopped
            self._mend_shard(ref)
        self._store_pack()
        is_other = self._extents or self._again
        self._extents += sum(ref.entries for ref in self._damaged.manifest.shards if ref.shard in self._again)
        name, digest = self._store_manifest() if is_other else (before, sha256)
        left = self._damage.found(0, 0, 0)
        return Repaired(
            before, name, digest, self._stored_bytes, self._extents, source_uid, left, self.writer
        )

    def _lost_shards(self) -> list[ShardRef]:
        lost = []
        for ref in self._damaged.manifest.shards:
            try:
                self._damaged.load(ref)
            except DataLoss:
                lost.append(ref)
        return lost

    def _load(self, ref: ShardRef) -> Shard:
        if ref.shard in self._again:
            return shards.decode(self._again[ref.shard], ref.where.name)
        return self._damaged.load(ref)

    def _mend_shard(self, ref: ShardRef) -> None:
        try:
            shard = self._load(ref)
        except DataLoss as error:
            first = ref.shard * SHARD_EXTENTS
            end = min(extents_of(self._damaged.manifest.size_bytes), first + SHARD_EXTENTS)
            self._damage.add(ref.where.name, word_for(error), [(first, end)])
            return
        doubtful = {
            extent: entry
            for extent, entry in shard.entries().items()
            if self._suspects is None or entry.pack.name in self._suspects
        }
        hopeless = []
        for bad in self._there.bad_of(doubtful):
            plain = self._same(bad)
            if plain is None:
                hopeless.append(bad)
            else:
                self._store_extent(bad.extent, plain)
        self._damage.add_bad(hopeless)

    def _same(self, bad: Bad) -> bytes | None:
        """The bytes of an extent, if the source has the very same."""
        key = self._damaged.keys.of(bad.entry.pack.name)
        try:
            entry = self._source.get(bad.extent)
            if entry is None:
                return None
            both_plain = key is None and self._source.keys.of(entry.pack.name) is None
            if both_plain and entry.digest != bad.entry.digest:
                return None  # Not even read.
            plain = self._newer.plain(entry)
        except DataLoss:
            return None
        return plain if keyed(digest_of(plain), key) == bad.entry.digest else None

    def _store_extent(self, extent: int, plain: bytes) -> None:
        key = self._own.key if self._own else None
        self._builder.add(extent, blob.encode(plain, keyed(digest_of(plain), key), key))
        self._extents += 1
        if self._builder.size_bytes >= self._settings.pack_bytes:
            self._store_pack()

    def _store_pack(self) -> None:
        rows = list(self._builder.rows)
        if not rows:
            return
        where = self._store.put_confirmed(self._namer.pack(), self._builder.build())
        self._builder = PackBuilder()
        self._stored_bytes += where.size_bytes
        outcomes = [Outcome(row.extent, row.extent + 1, Entry(where, *row[1:])) for row in rows]
        self._draft.apply(Segment(outcomes, rows[-1].extent + 1))
        if self._draft.waiting_bytes >= self._settings.index_bytes:
            self._store_index()

    def _store_index(self) -> None:
        data = self._draft.waiting_object()
        if data:
            self._draft.stored(self._store.put_confirmed(self._namer.index(), data))
            self._stored_bytes += len(data)

    def _store_manifest(self) -> tuple[str, str]:
        self._draft.finish()
        self._store_index()
        refs = self._with_those_made_again(self._draft.refs())
        made = replace(self._damaged.manifest, shards=refs, keys=self._key_material())
        data = manifest.encode(made, self._own.key if self._own else None)
        self._stored_bytes += len(data)
        where = self._store.put_confirmed(self._namer.manifest(), data)
        return where.name, hashlib.sha256(data).hexdigest()

    def _with_those_made_again(self, refs: Sequence[ShardRef]) -> tuple[ShardRef, ...]:
        """Shards that are the same as before, in an object that is there."""
        before = {ref.shard: ref for ref in self._damaged.manifest.shards}
        moved = [ref for ref in refs if ref.shard in self._again and ref == before[ref.shard]]
        if not moved:
            return tuple(refs)
        data = b"".join(self._again[ref.shard] for ref in moved)
        where = self._store.put_confirmed(self._namer.index(), data)
        self._stored_bytes += len(data)
        found, offset = {ref.shard: ref for ref in refs}, 0
        for ref in moved:
            found[ref.shard] = ref._replace(where=where, offset=offset)
            offset += ref.length
        return tuple(found[number] for number in sorted(found))

    def _key_material(self) -> KeyMaterial | None:
        if self._own is None:
            return None
        uid = self._damaged.manifest.snapshot_uid
        return KeyMaterial(self._own.wrapped, ring.seal_ring(uid, self._own.key, self._damaged.keys.keys))
