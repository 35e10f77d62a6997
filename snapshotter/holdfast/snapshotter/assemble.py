"""From what was put to a snapshot: the index and the manifest of one that was made from outside.

    tables of all packs, in the order that counts → sorted by shard, on disk → of each extent the last
    → shards, over the parent's → index objects → manifest, last

The order of writes is an upload's (see upload.py), whose packs are there already. Killed at any point it
is begun again by whoever claims the snapshot next. Memory: a shard's rows and references; the sorted
tables, 56 bytes an extent, are in a folder of the system's for temporary files.
"""

import hashlib
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import DataLoss, HoldfastError
from holdfast.base.limits import EXTENT_BYTES
from holdfast.snapshotter.blocks import blocks_of
from holdfast.snapshotter.checkpoint import Counters
from holdfast.snapshotter.confirm import lost_objects
from holdfast.snapshotter.draft import Draft, Outcome, Segment
from holdfast.snapshotter.envelope import StoredObject, damaged
from holdfast.snapshotter.index import get_range
from holdfast.snapshotter.manifest import extents_of
from holdfast.snapshotter.names import Namer
from holdfast.snapshotter.pack import PackRow, decode_tail, tail_bytes
from holdfast.snapshotter.patient import PatientStore, Stopped
from holdfast.snapshotter.shard import SHARD_EXTENTS, Entry
from holdfast.snapshotter.staged import BlockSet, in_order
from holdfast.snapshotter.staging import PACK_ROWS_MAX, ZERO_DIGEST
from holdfast.snapshotter.upload import Job, Result, Settings, new_draft, write_manifest

_ROW = struct.Struct("<QQII32s")
_CHUNK = struct.Struct("<QHI")
_TAIL_ROWS = PACK_ROWS_MAX + 4


class NotWhatWasSaid(HoldfastError):
    """What is there is not what the caller completed: the snapshot fails, with this message."""


class _Placed(NamedTuple):
    where: StoredObject
    row: PackRow


class Assembly:
    """Of one claimed snapshot.

    Args:
        direct: what the caller said of everything that they put.
        records: what was staged.
        progress: told (bytes done, bytes in all) of packs.
    """

    def __init__(
        self,
        job: Job,
        direct: r.DirectUpload,
        records: Sequence[r.StagedRecord],
        store: PatientStore,
        stop: threading.Event,
        settings: Settings,
        progress: Callable[[int, int], None],
    ) -> None:
        self._job = job
        self._direct = direct
        self._records = records
        self._store = store
        self._stop = stop
        self._settings = settings
        self._progress = progress
        self._namer = Namer(job.snapshot_uid)
        self._draft: Draft = new_draft(job.base)
        self._blocks = BlockSet(blocks_of(job.size_bytes))
        self._checksum = hashlib.sha256()
        self._stored_bytes = 0
        self._used_extents = 0

    def run(self) -> Result:
        """Raises Stopped, NotWhatWasSaid, or DataLoss of the parent or of what was staged."""
        with tempfile.TemporaryDirectory(prefix="holdfast-assemble-") as folder:
            shards = self._sort(Path(folder))
            self._check_count()
            for shard in sorted(shards):
                self._go_on()
                self._apply(shard, _last_of_each(Path(folder) / str(shard)))
        self._draft.apply(Segment((), extents_of(self._job.size_bytes)))
        self._draft.finish()
        self._store_waiting()
        self._check_sum()
        self._confirm()
        where, digest = write_manifest(self._job, self._draft.refs(), self._store, self._namer.manifest())
        counters = Counters(
            self._stored_bytes,
            self._used_extents * EXTENT_BYTES,
            self._stored_bytes + where.size_bytes,
        )
        return Result(where.name, digest, counters)

    def _sort(self, folder: Path) -> set[int]:
        """The rows of all packs into one file a shard; the shards that there are any of."""
        shards: set[int] = set()
        total = self._direct.put_blocks * EXTENT_BYTES * 4
        for pack in in_order(self._store, self._records):
            self._go_on()
            for at in range(0, len(pack.block_runs), 2):
                self._blocks.add(pack.block_runs[at], pack.block_runs[at + 1])
            by_shard: dict[int, list[PackRow]] = {}
            for row in self._table(pack):
                by_shard.setdefault(row.extent // SHARD_EXTENTS, []).append(row)
            for shard, rows in by_shard.items():
                _append(folder / str(shard), pack, rows)
            shards |= by_shard.keys()
            self._stored_bytes += pack.size_bytes
            self._progress(min(self._stored_bytes, total), total)
        return shards

    def _table(self, pack: r.StagedPack) -> list[PackRow]:
        length = min(pack.size_bytes, tail_bytes(_TAIL_ROWS))
        try:
            data = get_range(self._store, pack.name, pack.size_bytes - length, length)
            return decode_tail(data, pack.size_bytes, pack.name)
        except DataLoss as error:
            pairs = zip(pack.block_runs[::2], pack.block_runs[1::2], strict=True)
            which = ", ".join(f"[{first}, {end})" for first, end in pairs)
            raise NotWhatWasSaid(
                "BLOCKS_LOST",
                f"Blocks {which[:200]} were put, and are lost: {error.message}",
            ) from error

    def _check_count(self) -> None:
        if len(self._blocks) != self._direct.put_blocks:
            raise NotWhatWasSaid(
                "BLOCKS_MISSING", f"{len(self._blocks)} blocks are there of {self._direct.put_blocks}."
            )

    def _apply(self, shard: int, rows: dict[int, _Placed]) -> None:
        outcomes = []
        for extent in sorted(rows):
            placed = rows[extent]
            self._checksum.update(placed.row.digest)
            outcome = self._outcome(extent, placed)
            if outcome is not None:
                outcomes.append(outcome)
        end = min((shard + 1) * SHARD_EXTENTS, extents_of(self._job.size_bytes))
        self._draft.apply(Segment(outcomes, end))
        if self._draft.waiting_bytes >= self._settings.index_bytes:
            self._store_waiting()

    def _outcome(self, extent: int, placed: _Placed) -> Outcome | None:
        """What becomes of an extent that was put; None: it is as in the parent."""
        row = placed.row
        before = self._job.base.get(extent) if self._job.base else None
        if row.digest == ZERO_DIGEST:
            return Outcome(extent, extent + 1, None) if before else None
        if before is not None and before.digest == row.digest and not self._is_lost(before):
            return None
        if not row.stored_bytes:
            raise damaged(placed.where.name, f"extent {extent} is neither in it nor in the parent")
        self._used_extents += 1
        return Outcome(extent, extent + 1, Entry(placed.where, *row[1:]))

    def _is_lost(self, entry: Entry) -> bool:
        return self._job.base is not None and self._job.base.is_lost(entry)

    def _confirm(self) -> None:
        """What was put hours ago, by others too, must be there now. Nobody could put it again."""
        with ThreadPoolExecutor(self._settings.uploads, "confirm") as threads:
            lost = lost_objects(self._store, self._job.snapshot_uid, self._draft.refs(), threads, {})
        if lost:
            raise NotWhatWasSaid(
                "BLOCKS_LOST", f"{len(lost)} objects that were put are lost, e.g. object {min(lost)}."
            )

    def _store_waiting(self) -> None:
        data = self._draft.waiting_object()
        if data:
            self._draft.stored(self._store.put_confirmed(self._namer.index(), data))
            self._stored_bytes += len(data)

    def _check_sum(self) -> None:
        said, found = self._direct.sha256, self._checksum.hexdigest()
        if said and said != found:
            raise NotWhatWasSaid("BAD_CHECKSUM", f"The blocks' checksum is {found}, and {said} was said.")

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise Stopped


def _append(path: Path, pack: r.StagedPack, rows: Sequence[PackRow]) -> None:
    name = pack.name.encode("ascii")
    with path.open("ab") as file:
        file.write(_CHUNK.pack(pack.size_bytes, len(name), len(rows)) + name)
        file.write(b"".join(_ROW.pack(*row) for row in rows))


def _last_of_each(path: Path) -> dict[int, _Placed]:
    """Of each extent in the file the last row."""
    return {placed.row.extent: placed for placed in _rows(path.read_bytes())}


def _rows(data: bytes) -> Iterator[_Placed]:
    at = 0
    while at < len(data):
        size_bytes, length, count = _CHUNK.unpack_from(data, at)
        at += _CHUNK.size
        where = StoredObject(data[at : at + length].decode("ascii"), size_bytes)
        at += length
        end = at + count * _ROW.size
        for fields in _ROW.iter_unpack(data[at:end]):
            yield _Placed(where, PackRow(*fields))
        at = end
