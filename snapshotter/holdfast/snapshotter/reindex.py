"""A shard whose index object is lost, made again from the tables of packs.

Packs say which extents they hold, so a shard can be guessed: what the packs of the same run of the upload
have of its range, over what the base's shard has. Equal entries give equal bytes, and the manifest has the
shard's SHA-256: so a guess is either the very shard, or thrown away. It fails where the shard had extents
that became zeros, or was made by several runs.
"""

import hashlib
from collections.abc import Callable, Sequence

from holdfast.base.errors import DataLoss, NotFound
from holdfast.snapshotter import shard as shards
from holdfast.snapshotter.envelope import StoredObject
from holdfast.snapshotter.index import Index, get_range
from holdfast.snapshotter.manifest import ShardRef
from holdfast.snapshotter.names import parts_of, prefix
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.pack import PackRow, decode_tail, tail_bytes, tail_of
from holdfast.snapshotter.shard import SHARD_EXTENTS, Entry

NUMBERS_MAX = 20_000
"""Names that are looked for of one run: 600 GiB of packs."""
OpenIndex = Callable[[str], Index | None]
"""The index of a snapshot, by its uid; None if it cannot be had."""
_Rows = dict[int, dict[int, Entry]]


def made_again(lost: Sequence[ShardRef], store: ObjectStore, open_index: OpenIndex) -> dict[int, bytes]:
    """Those of the `lost` shards that could be made again, encoded, by their numbers. Raises Unavailable."""
    by_run: dict[tuple[str, str], list[ShardRef]] = {}
    for ref in lost:
        parts = parts_of(ref.where.name)
        if parts is not None:
            by_run.setdefault((parts.snapshot_uid, parts.writer), []).append(ref)
    found: dict[int, bytes] = {}
    for (uid, writer), refs in by_run.items():
        rows = _rows_of(store, uid, writer, refs)
        base = _base_of(uid, open_index)
        for ref in refs:
            data = _guess(ref, rows.get(ref.shard, {}), base)
            if data is not None:
                found[ref.shard] = data
    return found


def _guess(ref: ShardRef, own: dict[int, Entry], base: Index | None) -> bytes | None:
    guesses = [own]
    try:
        before = base.shard(ref.shard) if base else None
        if before is not None:
            guesses.append({**before.entries(), **own})
    except DataLoss:
        pass
    for entries in guesses:
        data = shards.encode(ref.shard, entries)
        if hashlib.sha256(data).digest() == ref.digest:
            return data
    return None


def _base_of(uid: str, open_index: OpenIndex) -> Index | None:
    index = open_index(uid)
    before = index.manifest.base_snapshot_uid if index else ""
    return open_index(before) if before else None


def _rows_of(store: ObjectStore, uid: str, writer: str, refs: Sequence[ShardRef]) -> _Rows:
    """What the packs of one run hold of the shards of `refs`, by shard. Later packs count."""
    wanted = {ref.shard for ref in refs}
    end = max(int(ref.where.name[-8:]) for ref in refs)
    found: _Rows = {}
    for number in range(min(end, NUMBERS_MAX)):
        name = f"{prefix(uid)}pack-{writer}-{number:08d}"
        try:
            where = StoredObject(name, store.size(name))
            rows = read_table(store, where)
        except (NotFound, DataLoss):
            continue  # The number of another kind of object, or a pack that is lost too.
        for row in rows:
            shard = row.extent // SHARD_EXTENTS
            if shard in wanted and row.stored_bytes:
                found.setdefault(shard, {})[row.extent] = Entry(where, *row[1:])
    return found


def read_table(store: ObjectStore, pack: StoredObject) -> list[PackRow]:
    """The table of a pack, without its extents. Raises DataLoss, Unavailable."""
    least = min(pack.size_bytes, tail_bytes(0))
    end = get_range(store, pack.name, pack.size_bytes - least, least)
    length = min(pack.size_bytes, tail_bytes(tail_of(end, pack.name)))
    data = get_range(store, pack.name, pack.size_bytes - length, length)
    return decode_tail(data, pack.size_bytes, pack.name)
