"""An image file into a snapshot: what is not zeros is put, several batches at a time, and one can go on.

Blocks are read in order, so that the checksum of all is at hand in the end: whether the file changed since
an interrupted import began, or a block went to another place, is found by that.
"""

import errno
import hashlib
import heapq
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.api.blocks.v1 import blocks_pb2 as pb
from holdfast.base.limits import BLOCK_BYTES, EXTENT_BYTES, SNAPSHOT_BLOCK_BYTES
from holdfast.cli.block_servers import BlockServers

WORKERS = 4
BATCH_BLOCKS = 32
CALL_TIMEOUT_S = 300.0
PAGE_ITEMS = 4096
_ZEROS = bytes(SNAPSHOT_BLOCK_BYTES)
_DATA, _PARENT, _THERE = "data", "parent", "there"


@dataclass
class Imported:
    """What was done, or was there."""

    blocks: int = 0
    sent_blocks: int = 0
    there_blocks: int = 0
    """Put by an import that was interrupted."""


@dataclass
class Import:
    """Of the image at `path` into the snapshot `snapshot_id`, which `started` has begun; `progress` is told
    (bytes dealt with, of how many)."""

    servers: BlockServers
    snapshot_id: str
    parent: pb.SnapshotName | None
    path: Path
    progress: Callable[[int, int], None]
    _digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def start(self, idle_timeout_s: int) -> None:
        """Begin the snapshot, or find the one that was begun. Raises HoldfastError, OSError."""
        request = pb.StartSnapshotRequest(
            snapshot_id=self.snapshot_id, size_bytes=self.size_bytes, idle_timeout_s=idle_timeout_s
        )
        if self.parent is not None:
            request.parent.CopyFrom(self.parent)
        self.servers.call(lambda stub: stub.StartSnapshot(request, timeout=CALL_TIMEOUT_S))

    @property
    def size_bytes(self) -> int:
        """Of the snapshot: the file's, filled up to whole blocks of the volume."""
        with self.path.open("rb") as file:
            return -(-os.lseek(file.fileno(), 0, os.SEEK_END) // BLOCK_BYTES) * BLOCK_BYTES

    def run(self) -> Imported:
        """Put what is not there yet, and complete. Raises HoldfastError, OSError."""
        done, size_bytes = Imported(), self.size_bytes
        with self.path.open("rb") as file, ThreadPoolExecutor(WORKERS) as threads:
            batch: list[pb.PutBlockRequest] = []
            running: set[Future[object]] = set()
            for block, why in self._candidates(file.fileno(), size_bytes):
                data = _read(file.fileno(), block, size_bytes)
                if why == {_DATA} and data == _ZEROS[: len(data)]:
                    continue
                done.blocks += 1
                self._count_in(data)
                self.progress(block * SNAPSHOT_BLOCK_BYTES, size_bytes)
                if _THERE in why:
                    done.there_blocks += 1
                    continue
                done.sent_blocks += 1
                batch.append(_put(self.snapshot_id, block, data))
                if len(batch) == BATCH_BLOCKS:
                    running.add(threads.submit(self._send, batch))
                    running, batch = _settled(running, WORKERS), []
            if batch:
                running.add(threads.submit(self._send, batch))
            _settled(running, 0)
        self.progress(size_bytes, size_bytes)
        self._complete(done)
        return done

    def _candidates(self, fd: int, size_bytes: int) -> Iterator[tuple[int, set[str]]]:
        """Blocks that may have to be put, ascending, and why: zeros, too, where something else would be."""
        tagged = heapq.merge(
            ((block, _DATA) for block in _data_blocks(fd, size_bytes)),
            ((block, _PARENT) for block in self._parent_blocks()),
            ((block, _THERE) for block in self._put_blocks()),
        )
        for block, group in itertools.groupby(tagged, key=lambda one: one[0]):
            yield block, {why for _, why in group}

    def _parent_blocks(self) -> Iterator[int]:
        if self.parent is None:
            return
        request = pb.ListSnapshotBlocksRequest(snapshot=self.parent, page_size=PAGE_ITEMS)
        while True:
            page = self.servers.call(lambda stub: stub.ListSnapshotBlocks(request, timeout=CALL_TIMEOUT_S))
            yield from (one.block_index for one in page.blocks)
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    def _put_blocks(self) -> Iterator[int]:
        """What an interrupted import has put: all of it as it is now, before anything is added."""
        request = pb.ListPutBlocksRequest(snapshot_id=self.snapshot_id, page_size=PAGE_ITEMS)
        runs: list[pb.BlockRun] = []
        while True:
            page = self.servers.call(lambda stub: stub.ListPutBlocks(request, timeout=CALL_TIMEOUT_S))
            runs += page.runs
            request.page_token = page.next_page_token
            if not request.page_token:
                break
        return (block for run in runs for block in range(run.first_block_index, run.end_block_index))

    def _count_in(self, data: bytes) -> None:
        """What the checksum of all is made of: each extent's, the last one filled up with zeros."""
        for at in range(0, len(data), EXTENT_BYTES):
            extent = data[at : at + EXTENT_BYTES]
            self._digest.update(hashlib.sha256(extent.ljust(EXTENT_BYTES, b"\0")).digest())

    def _send(self, batch: list[pb.PutBlockRequest]) -> None:
        self.servers.call(lambda stub: stub.PutBlocks(iter(batch), timeout=CALL_TIMEOUT_S))

    def _complete(self, done: Imported) -> None:
        request = pb.CompleteSnapshotRequest(
            snapshot_id=self.snapshot_id, put_block_count=done.blocks, sha256=self._digest.digest()
        )
        self.servers.call(lambda stub: stub.CompleteSnapshot(request, timeout=CALL_TIMEOUT_S))


def _data_blocks(fd: int, size_bytes: int) -> Iterator[int]:
    """The blocks of a file that are not wholly in holes, ascending."""
    next_block, at = 0, 0
    while at < size_bytes:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        at = os.lseek(fd, start, os.SEEK_HOLE)
        first = max(next_block, start // SNAPSHOT_BLOCK_BYTES)
        next_block = max(next_block, -(-at // SNAPSHOT_BLOCK_BYTES))
        yield from range(first, next_block)


def _read(fd: int, block: int, size_bytes: int) -> bytes:
    """A block of the snapshot: where the file ends before that, zeros."""
    offset = block * SNAPSHOT_BLOCK_BYTES
    length = min(SNAPSHOT_BLOCK_BYTES, size_bytes - offset)
    pieces = []
    while length and (piece := os.pread(fd, length, offset)):
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
    return b"".join([*pieces, bytes(length)])


def _put(snapshot_id: str, block: int, data: bytes) -> pb.PutBlockRequest:
    return pb.PutBlockRequest(
        snapshot_id=snapshot_id, block_index=block, data=data, sha256=hashlib.sha256(data).digest()
    )


def _settled(running: "set[Future[object]]", most: int) -> "set[Future[object]]":
    """Wait until no more than `most` run; those that do. Raises what one of the others raised."""
    while len(running) > most:
        ended, running = wait(running, return_when=FIRST_COMPLETED)
        for one in ended:
            one.result()
    return running
