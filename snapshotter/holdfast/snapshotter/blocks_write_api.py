"""The half of BlockService that makes snapshots: see blocks.proto for each method's contract and errors."""

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator

from holdfast.api.blocks.v1 import blocks_pb2 as pb
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import BadInput, Precondition
from holdfast.base.ids import check_name, new_uid
from holdfast.base.limits import BLOCK_BYTES, MIB, SNAPSHOT_BLOCK_BYTES, VOLUME_MAX_BYTES
from holdfast.metadata import direct_changes, keys
from holdfast.metadata.caller import Caller
from holdfast.metadata.cas import Draft, run
from holdfast.metadata.direct_changes import AllPut, NewDirect
from holdfast.metadata.etcd import Etcd
from holdfast.metadata.pages import make_token, page_size, read_number
from holdfast.metadata.records import decode
from holdfast.metadata.rpc import collect, unary
from holdfast.snapshotter.access import Readable
from holdfast.snapshotter.block_access import BlockAccess
from holdfast.snapshotter.blocks import blocks_of, byte_range
from holdfast.snapshotter.calls import serving
from holdfast.snapshotter.index import Index
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.quotas import Quotas
from holdfast.snapshotter.serve import Readers
from holdfast.snapshotter.staged import put_blocks
from holdfast.snapshotter.staging import Group, Stager, Stagers

IDLE_TIMEOUT_MIN_S = 60
IDLE_TIMEOUT_MAX_S = 3 * 24 * 3600
IDLE_TIMEOUT_DEFAULT_S = 3600
PUT_MAX_BLOCKS = 1024
UNSETTLED_BYTES = 16 * MIB
"""Of one call, before it waits for them to be durable: bounds what calls hold in memory."""
PAGE_DEFAULT_RUNS = 1000
PAGE_MAX_RUNS = 10_000
_SHA256_BYTES = 32


class WriteMethods:
    """Args:
    readers: of guests, for parents.
    """

    def __init__(
        self,
        etcd: Etcd,
        access: BlockAccess,
        store: ObjectStore,
        readers: Readers,
        stagers: Stagers,
        quotas: Quotas,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._etcd = etcd
        self._may = access
        self._objects = store
        self._parents = readers
        self._stagers = stagers
        self._quota = quotas
        self._time = clock

    @unary
    def StartSnapshot(self, request: pb.StartSnapshotRequest, caller: Caller) -> pb.StartSnapshotResponse:
        with serving(self._quota, caller):
            new = _validated(request, caller, self._time())
            if new.parent_id:
                self._check_parent(new)
            snapshot, created = run(self._etcd, lambda draft: direct_changes.start(draft, new))
        return pb.StartSnapshotResponse(uid=snapshot.uid, block_bytes=SNAPSHOT_BLOCK_BYTES, created=created)

    @unary
    def PutBlock(self, request: pb.PutBlockRequest, caller: Caller) -> pb.PutBlockResponse:
        with serving(self._quota, caller):
            stager = self._stager(request.snapshot_id, caller)
            stager.settle(self._put(stager, request.snapshot_id, request, caller))
        return pb.PutBlockResponse()

    @collect
    def PutBlocks(self, requests: Iterator[pb.PutBlockRequest], caller: Caller) -> pb.PutBlocksResponse:
        count, unsettled_bytes = 0, 0
        groups: dict[int, Group] = {}
        with serving(self._quota, caller):
            first = next(requests, None)
            if first is None:
                return pb.PutBlocksResponse()
            stager = self._stager(first.snapshot_id, caller)
            for request in itertools.chain([first], requests):
                count += 1
                _check_of_stream(request, first.snapshot_id, count)
                group = self._put(stager, first.snapshot_id, request, caller)
                groups[id(group)] = group
                unsettled_bytes += len(request.data)
                if unsettled_bytes >= UNSETTLED_BYTES:
                    _settle(stager, groups)
                    unsettled_bytes = 0
            _settle(stager, groups)
        return pb.PutBlocksResponse(block_count=count)

    @unary
    def ListPutBlocks(self, request: pb.ListPutBlocksRequest, caller: Caller) -> pb.ListPutBlocksResponse:
        with serving(self._quota, caller):
            size = page_size(request.page_size, PAGE_DEFAULT_RUNS, PAGE_MAX_RUNS)
            start = read_number(request.page_token) or 0
            snapshot = self._may.put(caller.name, request.snapshot_id)
            found = put_blocks(self._objects, self._staged(snapshot.uid), blocks_of(snapshot.size_bytes))
        response = pb.ListPutBlocksResponse(size_bytes=snapshot.size_bytes)
        for first, end in found.runs(start):
            if len(response.runs) == size:
                response.next_page_token = make_token(str(first))
                break
            response.runs.add(first_block_index=first, end_block_index=end)
        return response

    @unary
    def CompleteSnapshot(
        self, request: pb.CompleteSnapshotRequest, caller: Caller
    ) -> pb.CompleteSnapshotResponse:
        if len(request.sha256) not in (0, _SHA256_BYTES):
            raise BadInput("BAD_CHECKSUM", f"A SHA-256 is 32 bytes, not {len(request.sha256)}.")
        with serving(self._quota, caller):
            said = self._all_put(request, caller)
            now_s = self._time()
            changed = run(
                self._etcd,
                lambda draft: direct_changes.content_is_fixed(
                    draft, caller.name, request.snapshot_id, said, now_s
                ),
            )
        return pb.CompleteSnapshotResponse(changed=changed)

    def _all_put(self, request: pb.CompleteSnapshotRequest, caller: Caller) -> AllPut:
        """What the caller says, compared with what was staged unless it is completed already."""
        draft = Draft(self._etcd)
        snapshot = direct_changes.fixed_or_open(draft, caller.name, request.snapshot_id)
        count, sha256 = request.put_block_count, request.sha256.hex()
        if snapshot.state != r.SNAPSHOT_STATE_PENDING:
            return AllPut(count, sha256, ())
        records = self._staged(snapshot.uid)
        there = len(put_blocks(self._objects, records, blocks_of(snapshot.size_bytes)))
        if there != count:
            raise Precondition(
                "BLOCKS_MISSING", f"{there} blocks were put, and you say {count}: ListPutBlocks says which."
            )
        return AllPut(count, sha256, records)

    def _staged(self, snapshot_uid: str) -> list[r.StagedRecord]:
        entries, _ = self._etcd.range(keys.staged(snapshot_uid))
        return [decode(r.StagedRecord, entry.value) for entry in entries]

    def _stager(self, snapshot_id: str, caller: Caller) -> Stager:
        snapshot = self._may.put(caller.name, snapshot_id)
        return self._stagers.get(snapshot.uid, lambda: self._parent(snapshot))

    def _parent(self, snapshot: r.SnapshotRecord) -> Index | None:
        if not snapshot.base_manifest:
            return None
        base = Readable(snapshot.base_snapshot_uid, snapshot.size_bytes, snapshot.base_manifest, "")
        return self._parents.get(base).index

    def _check_parent(self, new: NewDirect) -> None:
        parent = self._may.read(new.owner, new.parent_owner, new.parent_id)
        if parent.snapshot.encryption_key:
            raise Precondition(
                "PARENT_ENCRYPTED",
                f"Snapshot {new.parent_id!r} is encrypted: start without a parent, and put every block.",
            )

    def _put(self, stager: Stager, snapshot_id: str, request: pb.PutBlockRequest, caller: Caller) -> Group:
        # Asked anew for each block of a stream: it may be deleted meanwhile.
        snapshot = self._may.put(caller.name, snapshot_id)
        block, data = request.block_index, request.data
        if block >= blocks_of(snapshot.size_bytes):
            raise BadInput(
                "BAD_BLOCK_INDEX", f"Block {block} is outside a snapshot of {snapshot.size_bytes} bytes."
            )
        _, length = byte_range(block, snapshot.size_bytes)
        if len(data) != length:
            raise BadInput("BAD_BLOCK_LENGTH", f"Block {block} is {length} bytes, and you sent {len(data)}.")
        if hashlib.sha256(data).digest() != request.sha256:
            raise BadInput("BAD_CHECKSUM", f"Block {block} is not what its checksum is of: send it again.")
        return stager.put(block, data)


def _validated(request: pb.StartSnapshotRequest, caller: Caller, now_s: float) -> NewDirect:
    check_name("snapshot", request.snapshot_id)
    size_bytes = request.size_bytes
    if size_bytes == 0 or size_bytes % BLOCK_BYTES:
        raise BadInput("BAD_SIZE", f"{size_bytes} bytes is not a positive multiple of {BLOCK_BYTES}.")
    if size_bytes > VOLUME_MAX_BYTES:
        raise BadInput("SIZE_TOO_LARGE", f"{size_bytes} bytes is more than {VOLUME_MAX_BYTES}.")
    idle_timeout_s = request.idle_timeout_s or IDLE_TIMEOUT_DEFAULT_S
    if not IDLE_TIMEOUT_MIN_S <= idle_timeout_s <= IDLE_TIMEOUT_MAX_S:
        raise BadInput(
            "BAD_TIMEOUT", f"{idle_timeout_s} s is not from {IDLE_TIMEOUT_MIN_S} to {IDLE_TIMEOUT_MAX_S} s."
        )
    return NewDirect(
        owner=caller.name,
        snapshot_id=request.snapshot_id,
        size_bytes=size_bytes,
        parent_owner=request.parent.owner,
        parent_id=request.parent.snapshot_id,
        idle_timeout_s=idle_timeout_s,
        uid=new_uid(),
        lineage_uid=new_uid(),
        now_s=now_s,
    )


def _check_of_stream(request: pb.PutBlockRequest, snapshot_id: str, count: int) -> None:
    if request.snapshot_id not in ("", snapshot_id):
        raise BadInput("SNAPSHOTS_MIXED", "Blocks of two snapshots came in one call: send them apart.")
    if count > PUT_MAX_BLOCKS:
        raise BadInput("TOO_MANY_BLOCKS", f"More than {PUT_MAX_BLOCKS} blocks came in one call: send fewer.")


def _settle(stager: Stager, groups: dict[int, Group]) -> None:
    """Wait for all, then forget them."""
    for group in groups.values():
        stager.settle(group)
    groups.clear()
