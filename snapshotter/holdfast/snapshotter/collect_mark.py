"""Marking: from roots to the names of all objects that they lead to, and what of them is in use.

    manifests → a row for each shard of each root, sorted so that what is the same is together
    → each different shard is fetched once → a row for each object that it leads to, sorted by name

Extents keep their number from a snapshot to the next, so an extent of a pack that several snapshots share is
found in shards of one number: what is in use of a pack is counted there, range by range of a family.
"""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

from holdfast.base.limits import EXTENT_BYTES
from holdfast.snapshotter.collect_roots import Root
from holdfast.snapshotter.envelope import StoredObject
from holdfast.snapshotter.index import fetch_shard, load_manifest
from holdfast.snapshotter.manifest import ShardRef
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.pack import ROW_BYTES
from holdfast.snapshotter.patient import Stopped
from holdfast.snapshotter.shard import Shard
from holdfast.snapshotter.sorted_rows import SortedRows

SHARED = "*"
SHARDS_AHEAD = 64
FETCH_THREADS = 8


@dataclass
class Counted:
    """Of one root."""

    logical_bytes: int = 0
    stored_bytes: int = 0


@dataclass
class Marks:
    """What `mark` found: rows of objects, by name, and sums by the number of the root."""

    rows: SortedRows
    counted: list[Counted] = field(default_factory=list)

    def objects(self) -> Iterator["Marked"]:
        """Every object that any root leads to, ascending by name."""
        for name, rows in groupby(map(_Row.decode, self.rows.sorted()), key=lambda row: row.name):
            owners, live, extents, fixed, family = set(), 0, 0, False, 0
            for row in rows:
                owners.add(row.owner)
                live += row.live_bytes
                extents += row.extents
                fixed = fixed or row.fixed
                family = row.family
            owner = owners.pop() if len(owners) == 1 else SHARED
            yield Marked(name, -1 if owner == SHARED else int(owner), live, extents, fixed, family)


class Marked(NamedTuple):
    """An object that is needed."""

    name: str
    owner: int
    """The number of the only root that leads to it; -1: several do."""
    live_bytes: int
    """Of a pack or index object: what of it is in use, or too much where families have lost their link."""
    extents: int
    """Of a pack: how many are in use."""
    fixed: bool
    """A root leads to it that cannot be replaced."""
    family: int


class _Row(NamedTuple):
    name: str
    owner: str
    live_bytes: int
    extents: int
    fixed: bool
    family: int
    place: str
    """What tells rows apart that would else be taken for one."""

    def encode(self) -> bytes:
        numbers = (self.live_bytes, self.extents, int(self.fixed), self.family)
        return "\t".join((self.name, self.owner, *map(str, numbers), self.place)).encode("ascii")

    @classmethod
    def decode(cls, row: bytes) -> "_Row":
        name, owner, live, extents, fixed, family, place = row.decode("ascii").split("\t")
        return cls(name, owner, int(live), int(extents), fixed == "1", int(family), place)


class _Use(NamedTuple):
    """A shard, as one root leads to it. Sorts by family, then range, then place."""

    family: int
    ref: ShardRef
    root: int

    def encode(self) -> bytes:
        ref = self.ref
        return (
            f"{self.family:010d}\t{ref.shard:08d}\t{ref.where.name}\t{ref.where.size_bytes}\t{ref.offset:016d}"
            f"\t{ref.length}\t{ref.entries}\t{ref.digest.hex()}\t{self.root:010d}"
        ).encode("ascii")

    @classmethod
    def decode(cls, row: bytes) -> "_Use":
        family, shard, name, size, offset, length, entries, digest, root = row.decode("ascii").split("\t")
        where = StoredObject(name, int(size))
        ref = ShardRef(int(shard), where, int(offset), int(length), int(entries), bytes.fromhex(digest))
        return cls(int(family), ref, int(root))


def mark(roots: list[Root], store: ObjectStore, folder: Path, stop: threading.Event) -> Marks:
    """Raises DataLoss if a manifest or shard cannot be read, Unavailable, Stopped."""
    marks = Marks(SortedRows(folder, "marks"), [Counted() for _ in roots])
    uses = SortedRows(folder, "shards")
    for number, root in enumerate(roots):
        _check(stop)
        _mark_manifest(number, root, store, marks, uses)
    with ThreadPoolExecutor(FETCH_THREADS, "mark") as threads:
        every = map(_Use.decode, uses.sorted())
        for _, group in groupby(every, key=lambda use: (use.family, use.ref.shard)):
            _mark_range(_fetched(group, store, threads, stop), roots, marks)
    return marks


def _mark_manifest(number: int, root: Root, store: ObjectStore, marks: Marks, uses: SortedRows) -> None:
    manifest = load_manifest(store, root.manifest, root.sha256)
    counted = marks.counted[number]
    counted.logical_bytes = min(manifest.extents * EXTENT_BYTES, manifest.size_bytes)
    counted.stored_bytes = store.size(root.manifest)
    marks.rows.add(_Row(root.manifest, str(number), 0, 0, root.fixed, root.family, "").encode())
    for ref in manifest.shards:
        uses.add(_Use(root.family, ref, number).encode())


class _Fetched(NamedTuple):
    shard: Shard
    uses: list[_Use]
    """By each root that leads to it."""


def _fetched(
    group: Iterator[_Use], store: ObjectStore, threads: ThreadPoolExecutor, stop: threading.Event
) -> Iterator[_Fetched]:
    """Each different shard once, some on their way at a time."""
    different = groupby(group, key=lambda use: (use.ref.where.name, use.ref.offset))
    each = (list(uses) for _, uses in different)
    while some := list(islice(each, SHARDS_AHEAD)):
        _check(stop)
        shards = threads.map(lambda uses: fetch_shard(store, uses[0].ref), some)
        for shard, uses in zip(shards, some, strict=True):
            yield _Fetched(shard, uses)


@dataclass
class _PackUse:
    owners: set[int] = field(default_factory=set)
    fixed: bool = False
    extents: dict[int, int] = field(default_factory=dict)
    """Stored bytes by offset, with what the pack's table says of them."""


def _mark_range(shards: Iterable[_Fetched], roots: list[Root], marks: Marks) -> None:
    """All shards of one number of one family."""
    packs: dict[str, _PackUse] = {}
    family = number = 0
    for shard, uses in shards:
        owners = {use.root for use in uses}
        fixed = any(roots[owner].fixed for owner in owners)
        ref, family = uses[0].ref, uses[0].family
        number = ref.shard
        stored_bytes = ref.length
        for entry in shard.entries().values():
            pack = packs.setdefault(entry.pack.name, _PackUse())
            pack.extents[entry.offset] = entry.stored_bytes + ROW_BYTES
            stored_bytes += entry.stored_bytes
        for name in {where.name for where in shard.packs}:
            pack = packs.setdefault(name, _PackUse())
            pack.owners |= owners
            pack.fixed = pack.fixed or fixed
        for owner in owners:
            marks.counted[owner].stored_bytes += stored_bytes
        row = _Row(
            ref.where.name, _owner(owners), ref.length, 0, fixed, family, f"{family}/{number}/{ref.offset}"
        )
        marks.rows.add(row.encode())
    for name, pack in packs.items():
        live_bytes, extents = sum(pack.extents.values()), len(pack.extents)
        row = _Row(name, _owner(pack.owners), live_bytes, extents, pack.fixed, family, f"{family}/{number}")
        marks.rows.add(row.encode())


def _owner(owners: set[int]) -> str:
    return str(next(iter(owners))) if len(owners) == 1 else SHARED


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise Stopped
