"""Whether what a snapshot wrote is in the object store: asked last, before it may be COMPLETED.

A put that was acknowledged is not yet an object that is there. Some of what a snapshot consists of was put
hours ago, and by a process that is dead: so every object that it wrote is asked for at the end, whoever
put it. Packs are asked for their length; index objects are read, since they lead to the packs.

What its base wrote is not asked for: that was confirmed then, and scrubs look after it.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from holdfast.base.errors import DataLoss, NotFound
from holdfast.snapshotter import shard as shards
from holdfast.snapshotter.envelope import StoredObject
from holdfast.snapshotter.manifest import ShardRef
from holdfast.snapshotter.names import snapshot_of
from holdfast.snapshotter.patient import PatientStore

LOOKS = 3
"""So often is an object looked for that may only be late, with growing pauses."""
_KNOWN_MAX = 65_536
"""Of names that were asked for already; beyond it some are asked for twice."""


def lost_objects(
    store: PatientStore, snapshot_uid: str, refs: Sequence[ShardRef], threads: ThreadPoolExecutor
) -> set[str]:
    """The names of those objects of the snapshot's own, among all that `refs` lead to, that are not there
    as they were put. Raises Stopped.
    """
    lost: set[str] = set()
    known: set[str] = set()
    for where, of_it in _by_object(refs):
        if snapshot_of(where.name) != snapshot_uid:
            continue
        packs = _packs_of(store, where, of_it)
        if packs is None:
            lost.add(where.name)
            continue
        fresh = [one for one in packs if one.name not in known and snapshot_of(one.name) == snapshot_uid]
        if len(known) + len(fresh) > _KNOWN_MAX:
            known.clear()
        known.update(one.name for one in fresh)
        there = threads.map(lambda one: _is_there(store, one), fresh)
        lost.update(one.name for one, found in zip(fresh, there, strict=True) if not found)
    return lost


def _by_object(refs: Iterable[ShardRef]) -> Iterator[tuple[StoredObject, list[ShardRef]]]:
    by_object: dict[StoredObject, list[ShardRef]] = {}
    for ref in refs:
        by_object.setdefault(ref.where, []).append(ref)
    yield from by_object.items()


def _is_there(store: PatientStore, one: StoredObject) -> bool:
    for look in range(1, LOOKS + 1):
        try:
            if store.size(one.name) == one.size_bytes:
                return True
        except NotFound:
            pass
        if look < LOOKS:
            store.pause(look, f"The object store does not have object {one.name} as it was put.")
    return False


def _packs_of(
    store: PatientStore, where: StoredObject, refs: Iterable[ShardRef]
) -> list[StoredObject] | None:
    """The packs that an index object names; None if that is not there, or not as it was put."""
    if not _is_there(store, where):
        return None
    packs: dict[StoredObject, None] = {}
    try:
        data = store.get(where.name)
        for ref in refs:
            piece = data[ref.offset : ref.offset + ref.length]
            if hashlib.sha256(piece).digest() != ref.digest:
                return None
            packs.update(dict.fromkeys(shards.decode(piece, where.name).packs))
    except (NotFound, DataLoss):
        return None
    return list(packs)
