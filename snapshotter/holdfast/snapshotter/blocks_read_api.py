"""The half of BlockService that reads: see blocks.proto for each method's contract and errors."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.api.blocks.v1 import blocks_pb2 as pb
from holdfast.base.errors import BadInput, DataLoss
from holdfast.base.limits import SNAPSHOT_BLOCK_BYTES
from holdfast.metadata.caller import Caller
from holdfast.metadata.pages import make_token, page_size, read_number
from holdfast.metadata.rpc import stream, unary
from holdfast.snapshotter import blocks
from holdfast.snapshotter.block_access import BlockAccess, Leave
from holdfast.snapshotter.block_tokens import VALID_S, BlockTokens
from holdfast.snapshotter.calls import serving
from holdfast.snapshotter.quotas import Quotas
from holdfast.snapshotter.reader import SnapshotReader
from holdfast.snapshotter.serve import Readers

PAGE_DEFAULT_BLOCKS = 1000
PAGE_MAX_BLOCKS = 10_000
GET_MAX_BLOCKS = 1024
_AtEnd = Callable[[Callable[[], None]], bool]


class ReadMethods:
    """Args:
    readers: of guests, apart from those of hosts that hydrate.
    """

    def __init__(
        self,
        access: BlockAccess,
        readers: Readers,
        tokens: BlockTokens,
        quotas: Quotas,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._access = access
        self._readers = readers
        self._tokens = tokens
        self._quotas = quotas
        self._clock = clock

    @unary
    def ListSnapshotBlocks(
        self, request: pb.ListSnapshotBlocksRequest, caller: Caller
    ) -> pb.ListSnapshotBlocksResponse:
        with serving(self._quotas, caller):
            return self._listed(request, caller)

    @stream
    def StreamSnapshotBlocks(
        self, request: pb.ListSnapshotBlocksRequest, caller: Caller, at_end: _AtEnd
    ) -> Iterator[pb.ListSnapshotBlocksResponse]:
        with serving(self._quotas, caller):
            while True:
                page = self._listed(request, caller)
                yield page
                if not page.next_page_token:
                    return
                request.page_token = page.next_page_token

    @unary
    def ListChangedBlocks(
        self, request: pb.ListChangedBlocksRequest, caller: Caller
    ) -> pb.ListChangedBlocksResponse:
        with serving(self._quotas, caller):
            return self._changed(request, caller)

    @stream
    def StreamChangedBlocks(
        self, request: pb.ListChangedBlocksRequest, caller: Caller, at_end: _AtEnd
    ) -> Iterator[pb.ListChangedBlocksResponse]:
        with serving(self._quotas, caller):
            while True:
                page = self._changed(request, caller)
                yield page
                if not page.next_page_token:
                    return
                request.page_token = page.next_page_token

    @unary
    def GetBlock(self, request: pb.GetBlockRequest, caller: Caller) -> pb.GetBlockResponse:
        with serving(self._quotas, caller):
            data = self._block(request.snapshot, request.block, caller)
        return pb.GetBlockResponse(data=data, sha256=hashlib.sha256(data).digest())

    @stream
    def GetBlocks(
        self, request: pb.GetBlocksRequest, caller: Caller, at_end: _AtEnd
    ) -> Iterator[pb.GetBlocksResponse]:
        if len(request.blocks) > GET_MAX_BLOCKS:
            raise BadInput(
                "TOO_MANY_BLOCKS",
                f"{len(request.blocks)} blocks are more than {GET_MAX_BLOCKS}: ask in parts.",
            )
        with serving(self._quotas, caller):
            for block in request.blocks:
                data = self._block(request.snapshot, block, caller)
                digest = hashlib.sha256(data).digest()
                yield pb.GetBlocksResponse(block_index=block.block_index, data=data, sha256=digest)

    def _listed(self, request: pb.ListSnapshotBlocksRequest, caller: Caller) -> pb.ListSnapshotBlocksResponse:
        leave = self._leave(request.snapshot, caller)
        size, start = _where(request)
        with self._noting(leave):
            page = blocks.changed(None, self._reader(leave).index, start, size)
        expire_s = self._expire_s()
        response = pb.ListSnapshotBlocksResponse(
            next_page_token=_next(page),
            size_bytes=leave.snapshot.size_bytes,
            block_bytes=SNAPSHOT_BLOCK_BYTES,
            expire_time=Timestamp(seconds=expire_s),
        )
        for one in page.blocks:
            response.blocks.add(block_index=one.block, block_token=self._token(leave, one.block, expire_s))
        return response

    def _changed(self, request: pb.ListChangedBlocksRequest, caller: Caller) -> pb.ListChangedBlocksResponse:
        first, second = self._leave(request.first, caller), self._leave(request.second, caller)
        self._access.check_related(first.snapshot, second.snapshot)
        size, start = _where(request)
        with self._noting(first, second):
            page = blocks.changed(self._reader(first).index, self._reader(second).index, start, size)
        expire_s = self._expire_s()
        response = pb.ListChangedBlocksResponse(
            next_page_token=_next(page),
            size_bytes=second.snapshot.size_bytes,
            block_bytes=SNAPSHOT_BLOCK_BYTES,
            expire_time=Timestamp(seconds=expire_s),
        )
        for one in page.blocks:
            response.blocks.add(
                block_index=one.block,
                first_block_token=self._token(first, one.block, expire_s) if one.in_first else b"",
                second_block_token=self._token(second, one.block, expire_s) if one.in_second else b"",
            )
        return response

    def _block(self, name: pb.SnapshotName, block: pb.Block, caller: Caller) -> bytes:
        leave = self._leave(name, caller)
        uid, index = leave.snapshot.uid, block.block_index
        self._tokens.check(block.block_token, uid, index, leave.holder, self._clock())
        with self._noting(leave):
            return self._reader(leave).read(*blocks.byte_range(index, leave.snapshot.size_bytes))

    @contextmanager
    def _noting(self, *read: Leave) -> Iterator[None]:
        """What cannot be read is looked into."""
        try:
            yield
        except DataLoss:
            for leave in read:
                self._readers.on_lost(leave.snapshot.uid)
            raise

    def _leave(self, name: pb.SnapshotName, caller: Caller) -> Leave:
        return self._access.read(caller.name, name.owner, name.snapshot_id)

    def _reader(self, leave: Leave) -> SnapshotReader:
        return self._readers.get(leave.readable)

    def _expire_s(self) -> int:
        return int(self._clock()) + VALID_S

    def _token(self, leave: Leave, block: int, expire_s: int) -> bytes:
        return self._tokens.make(leave.snapshot.uid, block, leave.holder, expire_s)


def _where(request: pb.ListSnapshotBlocksRequest | pb.ListChangedBlocksRequest) -> tuple[int, int]:
    """(most blocks of the page, its first block)."""
    size = page_size(request.page_size, PAGE_DEFAULT_BLOCKS, PAGE_MAX_BLOCKS)
    start = read_number(request.page_token)
    return size, request.first_block_index if start is None else start


def _next(page: blocks.Page) -> str:
    return "" if page.next_block is None else make_token(str(page.next_block))
