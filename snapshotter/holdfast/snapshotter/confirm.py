"""Whether what a snapshot wrote is in the object store: asked last, before it may be COMPLETED.

A put that was acknowledged is not yet an object that is there. Some of what a snapshot consists of was put
hours ago, and by a process that is dead: so all that it wrote is asked for at the end, whoever put it.

It is asked for with a listing of `snapshots/<uid>/`, a request for a thousand objects; whatever that does
not have, or has in another length, is asked for by itself, several times. So a listing that lags behind, or
that the process may not have, costs requests and nothing else. Asking for each object by itself was turned
down: it doubled the requests of an upload and took a tenth of its time. What it would see beyond this is an
object that somebody else deleted since it was put, on a server whose listings go on naming it; and that
says as little of the moment after. The answers to the puts alone were turned down too, although servers
check each body against the SHA-256 that its request is signed with: that is said before the object is kept.

Index objects of another process are read, since only they lead to its packs. What the base wrote is not
asked for: that was confirmed then, and scrubs look after it.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from holdfast.base.errors import DataLoss, NotFound, Unavailable
from holdfast.snapshotter import shard as shards
from holdfast.snapshotter.envelope import StoredObject
from holdfast.snapshotter.manifest import ShardRef
from holdfast.snapshotter.names import prefix, snapshot_of
from holdfast.snapshotter.patient import PatientStore

LOOKS = 3
"""So often is an object looked for that may only be late, with growing pauses."""
NAMES_MAX = 65_536
"""Of names held at a time; beyond it there is a listing for each so many, and some are asked for twice."""


def lost_objects(
    store: PatientStore,
    snapshot_uid: str,
    refs: Sequence[ShardRef],
    threads: ThreadPoolExecutor,
    written: Mapping[ShardRef, Sequence[StoredObject]],
) -> set[str]:
    """The names of those objects of the snapshot's own, among all that `refs` lead to, that are not there
    as they were put. Raises Stopped.

    Args:
        written: the packs that shards name, of which this process knows that.
    """
    lost: set[str] = set()
    known: set[str] = set()
    due: dict[str, StoredObject] = {}
    for where, of_it in _by_object(refs):
        if snapshot_of(where.name) != snapshot_uid:
            continue
        if all(ref in written for ref in of_it):
            due[where.name] = where
            packs = [one for ref in of_it for one in written[ref]]
        elif (read := _packs_of(store, where, of_it)) is not None:
            packs = read
        else:
            lost.add(where.name)
            continue
        due.update((one.name, one) for one in packs if snapshot_of(one.name) == snapshot_uid)
        if len(due) >= NAMES_MAX:
            lost |= _not_there(store, snapshot_uid, due, known, threads)
            due.clear()
    return lost | _not_there(store, snapshot_uid, due, known, threads)


def _not_there(
    store: PatientStore,
    snapshot_uid: str,
    due: Mapping[str, StoredObject],
    known: set[str],
    threads: ThreadPoolExecutor,
) -> set[str]:
    """Which of `due` are not there, those aside that are `known` to have been asked for."""
    fresh = [one for one in due.values() if one.name not in known]
    if len(known) > NAMES_MAX:
        known.clear()
    known.update(one.name for one in fresh)
    doubtful = _not_listed(store, snapshot_uid, fresh)
    there = threads.map(lambda one: _is_there(store, one), doubtful)
    return {one.name for one, found in zip(doubtful, there, strict=True) if not found}


def _not_listed(store: PatientStore, snapshot_uid: str, wanted: Iterable[StoredObject]) -> list[StoredObject]:
    """What a listing does not have as it was put; all that is left if it cannot be had."""
    left = {one.name: one.size_bytes for one in wanted}
    if left:
        try:
            for found in store.list(prefix(snapshot_uid)):
                if left.get(found.name) == found.size_bytes:
                    del left[found.name]
                    if not left:
                        break
        except Unavailable:
            pass  # Each is asked for by itself, which waits for the store.
    return [StoredObject(name, size_bytes) for name, size_bytes in left.items()]


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
