"""A snapshot into an image file: only blocks that hold data, several at a time, each checked.

The file is sparse, and has its name only when it is whole. With `since` it is the image of another snapshot
already, and only what differs is fetched, into it: interrupted, it is neither; run again, it becomes right.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from holdfast.api.blocks.v1 import blocks_pb2 as pb
from holdfast.api.blocks.v1.blocks_pb2_grpc import BlockServiceStub
from holdfast.base.errors import DataLoss
from holdfast.base.limits import SNAPSHOT_BLOCK_BYTES
from holdfast.cli.block_servers import BlockServers

WORKERS = 4
BATCH_BLOCKS = 64
PAGE_BLOCKS = 4096
CALL_TIMEOUT_S = 300.0
_ZEROS = bytes(SNAPSHOT_BLOCK_BYTES)


@dataclass
class Exported:
    """What was done."""

    size_bytes: int = 0
    fetched_bytes: int = 0


@dataclass
class Export:
    """Of `snapshot` into `path`; `progress` is told (bytes dealt with, of how many)."""

    servers: BlockServers
    snapshot: pb.SnapshotName
    since: pb.SnapshotName | None
    path: Path
    progress: Callable[[int, int], None]

    def run(self) -> Exported:
        """Raises HoldfastError, OSError."""
        if self.since is not None:
            with self.path.open("r+b") as file:
                return self._fill(file.fileno())
        part = self.path.with_name(self.path.name + ".part")
        try:
            with part.open("w+b") as file:
                done = self._fill(file.fileno())
            part.rename(self.path)
        finally:
            part.unlink(missing_ok=True)
        return done

    def _fill(self, fd: int) -> Exported:
        done = Exported()
        with ThreadPoolExecutor(WORKERS) as threads:
            running: set[Future[int]] = set()
            for page, next_block in self._pages(done):
                os.ftruncate(fd, done.size_bytes)
                for start in range(0, len(page), BATCH_BLOCKS):
                    batch = page[start : start + BATCH_BLOCKS]
                    running.add(threads.submit(self._fetch, fd, done.size_bytes, batch))
                    running = _settled(running, 2 * WORKERS, done)
                self.progress(min(next_block * SNAPSHOT_BLOCK_BYTES, done.size_bytes), done.size_bytes)
            _settled(running, 0, done)
        os.fsync(fd)
        self.progress(done.size_bytes, done.size_bytes)
        return done

    def _pages(self, done: Exported) -> Iterator[tuple[Sequence[pb.Block], int]]:
        """Blocks to fetch (an empty token: it is zeros now), and how far the list has come."""
        token = ""
        while True:
            page = self._page(token)
            done.size_bytes = page.size_bytes
            blocks = [_second(one) for one in page.blocks]
            yield blocks, blocks[-1].block_index + 1 if blocks else 0
            token = page.next_page_token
            if not token:
                return

    def _page(self, token: str) -> pb.ListSnapshotBlocksResponse | pb.ListChangedBlocksResponse:
        if self.since is None:
            whole = pb.ListSnapshotBlocksRequest(
                snapshot=self.snapshot, page_size=PAGE_BLOCKS, page_token=token
            )
            return self.servers.call(lambda stub: stub.ListSnapshotBlocks(whole, timeout=CALL_TIMEOUT_S))
        changed = pb.ListChangedBlocksRequest(
            first=self.since, second=self.snapshot, page_size=PAGE_BLOCKS, page_token=token
        )
        return self.servers.call(lambda stub: stub.ListChangedBlocks(changed, timeout=CALL_TIMEOUT_S))

    def _fetch(self, fd: int, size_bytes: int, blocks: Sequence[pb.Block]) -> int:
        """Fetch blocks and write them; how many bytes came."""
        left = {one.block_index: one for one in blocks if one.block_token}
        for one in blocks:
            if not one.block_token:
                offset = one.block_index * SNAPSHOT_BLOCK_BYTES
                _write(fd, _ZEROS[: size_bytes - offset], offset)
        fetched = 0

        def get(stub: BlockServiceStub) -> None:
            nonlocal fetched
            # What has come already is not asked for again.
            request = pb.GetBlocksRequest(snapshot=self.snapshot, blocks=left.values())
            for answer in stub.GetBlocks(request, timeout=CALL_TIMEOUT_S):
                if hashlib.sha256(answer.data).digest() != answer.sha256:
                    raise DataLoss("BAD_CHECKSUM", f"Block {answer.block_index} was damaged on its way.")
                _write(fd, answer.data, answer.block_index * SNAPSHOT_BLOCK_BYTES)
                fetched += len(answer.data)
                del left[answer.block_index]

        if left:
            self.servers.call(get)
        return fetched


def _second(one: pb.Block | pb.ChangedBlock) -> pb.Block:
    if isinstance(one, pb.Block):
        return one
    return pb.Block(block_index=one.block_index, block_token=one.second_block_token)


def _settled(running: "set[Future[int]]", most: int, done: Exported) -> "set[Future[int]]":
    """Wait until no more than `most` run; those that do. Raises what one of the others raised."""
    while len(running) > most:
        ended, running = wait(running, return_when=FIRST_COMPLETED)
        done.fetched_bytes += sum(one.result() for one in ended)
    return running


def _write(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
