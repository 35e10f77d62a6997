"""Making snapshots through BlockService on real processes: the error tables, the bytes, and SIGKILL."""

import hashlib
import threading
from collections.abc import Iterator
from random import Random

import grpc
import pytest

from holdfast.api.blocks.v1 import blocks_pb2 as pb
from holdfast.api.blocks.v1.blocks_pb2_grpc import BlockServiceStub
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import Unavailable
from holdfast.base.limits import EXTENT_BYTES, MIB, SNAPSHOT_BLOCK_BYTES, VOLUME_MAX_BYTES
from holdfast.lab.snapshotters import LONGEST_S, Running, World
from holdfast.metadata import keys
from holdfast.metadata.cas import Draft
from holdfast.metadata.direct_changes import UNDER_WAY_MAX
from holdfast.metadata.permissions import MAKE_VOLUMES
from holdfast.metadata.records import decode
from holdfast.metadata.refusals import refused
from holdfast.metadata.statuses import error_of
from holdfast.snapshotter.testing import ModelVolume, differing_extents

SIZE_BYTES = 100 * MIB + 4096
BLOCKS = 201


def data_of(block: int, seed: int = 0) -> bytes:
    length = min(SNAPSHOT_BLOCK_BYTES, SIZE_BYTES - block * SNAPSHOT_BLOCK_BYTES)
    return Random((seed, block).__repr__()).randbytes(length)


def put_of(block: int, data: bytes | None = None, snapshot_id: str = "new") -> pb.PutBlockRequest:
    data = data_of(block) if data is None else data
    return pb.PutBlockRequest(
        snapshot_id=snapshot_id, block_index=block, data=data, sha256=hashlib.sha256(data).digest()
    )


def start_of(
    snapshot_id: str = "new", size_bytes: int = SIZE_BYTES, **more: object
) -> pb.StartSnapshotRequest:
    return pb.StartSnapshotRequest(snapshot_id=snapshot_id, size_bytes=size_bytes, **more)  # type: ignore[arg-type]


def complete_of(count: int, snapshot_id: str = "new") -> pb.CompleteSnapshotRequest:
    return pb.CompleteSnapshotRequest(snapshot_id=snapshot_id, put_block_count=count)


def put_indexes(stub: BlockServiceStub, snapshot_id: str = "new") -> list[int]:
    request = pb.ListPutBlocksRequest(snapshot_id=snapshot_id, page_size=2)
    found: list[int] = []
    while True:
        page = stub.ListPutBlocks(request)
        found += [one for run in page.runs for one in range(run.first_block_index, run.end_block_index)]
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


@pytest.fixture
def running(world: World) -> Running:
    return world.start()


@pytest.fixture
def alice(running: Running) -> Iterator[BlockServiceStub]:
    with running.blocks("alice") as stub:
        yield stub


def read_all(stub: BlockServiceStub, snapshot_id: str) -> dict[int, bytes]:
    name = pb.SnapshotName(snapshot_id=snapshot_id)
    blocks = stub.ListSnapshotBlocks(pb.ListSnapshotBlocksRequest(snapshot=name)).blocks
    answers = stub.GetBlocks(pb.GetBlocksRequest(snapshot=name, blocks=blocks))
    return {one.block_index: one.data for one in answers}


def test_put_complete_and_read(world: World, alice: BlockServiceStub) -> None:
    started = alice.StartSnapshot(start_of())
    assert started.created and started.block_bytes == SNAPSHOT_BLOCK_BYTES
    again = alice.StartSnapshot(start_of())
    assert (again.created, again.uid) == (False, started.uid)
    assert alice.PutBlocks(put_of(block) for block in (5, 6, 100)).block_count == 3
    alice.PutBlock(put_of(BLOCKS - 1))
    alice.PutBlock(put_of(5, data_of(5, seed=1)))
    alice.PutBlock(put_of(8, bytes(SNAPSHOT_BLOCK_BYTES)))
    assert put_indexes(alice) == [5, 6, 8, 100, BLOCKS - 1]
    wanted = {5: data_of(5, seed=1), 6: data_of(6), 100: data_of(100), BLOCKS - 1: data_of(BLOCKS - 1)}
    digests = hashlib.sha256()
    for block in put_indexes(alice):
        data = wanted.get(block, bytes(SNAPSHOT_BLOCK_BYTES))
        for at in range(0, len(data), EXTENT_BYTES):
            extent = data[at : at + EXTENT_BYTES].ljust(EXTENT_BYTES, b"\0")
            digests.update(hashlib.sha256(extent).digest())
    request = pb.CompleteSnapshotRequest(snapshot_id="new", put_block_count=5, sha256=digests.digest())
    assert alice.CompleteSnapshot(request).changed
    record = world.completed(started.uid)
    assert not alice.CompleteSnapshot(request).changed, "the same request again"
    refused(world.etcd, alice.CompleteSnapshot, complete_of(5), "FAILED_PRECONDITION", "NOT_PENDING")
    assert read_all(alice, "new") == wanted
    model = ModelVolume(SIZE_BYTES)
    for block, data in wanted.items():
        model.write(block * SNAPSHOT_BLOCK_BYTES, data)
    assert differing_extents(world.store(), record.manifest, model.freeze()) == []
    assert world.etcd.range(keys.DIRECT)[0] == [] and world.etcd.range(keys.staged(started.uid))[0] == []

    child = start_of("child", parent=pb.SnapshotName(snapshot_id="new"))
    uid = alice.StartSnapshot(child).uid
    edited = data_of(6)[:EXTENT_BYTES] + b"edited" + data_of(6)[EXTENT_BYTES + 6 :]
    alice.PutBlock(put_of(6, edited, "child"))
    alice.PutBlock(put_of(100, bytes(SNAPSHOT_BLOCK_BYTES), "child"))
    alice.CompleteSnapshot(complete_of(2, "child"))
    record = world.completed(uid)
    assert record.uploaded_bytes == EXTENT_BYTES, "of the block that was edited only the extent"
    del wanted[100]
    assert read_all(alice, "child") == {**wanted, 6: edited}
    ends = (pb.SnapshotName(snapshot_id="new"), pb.SnapshotName(snapshot_id="child"))
    changed = alice.ListChangedBlocks(pb.ListChangedBlocksRequest(first=ends[0], second=ends[1]))
    assert [one.block_index for one in changed.blocks] == [6, 100]


def test_every_refusal_of_making(world: World, running: Running, alice: BlockServiceStub) -> None:
    etcd = world.etcd
    for request, code, reason in [
        (start_of(""), "INVALID_ARGUMENT", "BAD_ID"),
        (start_of("A/b"), "INVALID_ARGUMENT", "BAD_ID"),
        (start_of(size_bytes=0), "INVALID_ARGUMENT", "BAD_SIZE"),
        (start_of(size_bytes=4097), "INVALID_ARGUMENT", "BAD_SIZE"),
        (start_of(size_bytes=VOLUME_MAX_BYTES + 4096), "INVALID_ARGUMENT", "SIZE_TOO_LARGE"),
        (start_of(idle_timeout_s=59), "INVALID_ARGUMENT", "BAD_TIMEOUT"),
        (start_of(idle_timeout_s=4 * 24 * 3600), "INVALID_ARGUMENT", "BAD_TIMEOUT"),
        (start_of(parent=pb.SnapshotName(snapshot_id="none")), "NOT_FOUND", "NOT_FOUND"),
        (start_of(parent=pb.SnapshotName(owner="u", snapshot_id="old")), "NOT_FOUND", "NOT_FOUND"),
    ]:
        refused(etcd, alice.StartSnapshot, request, code, reason)
    uid = alice.StartSnapshot(start_of()).uid
    waiting = start_of("later", parent=pb.SnapshotName(snapshot_id="new"))
    refused(etcd, alice.StartSnapshot, waiting, "FAILED_PRECONDITION", "NOT_COMPLETED")
    for other in (start_of(size_bytes=4096), start_of(idle_timeout_s=60), start_of(parent=waiting.parent)):
        code = "FAILED_PRECONDITION" if other.HasField("parent") else "ALREADY_EXISTS"
        refused(etcd, alice.StartSnapshot, other, code, code.replace("FAILED_PRECONDITION", "NOT_COMPLETED"))

    short = put_of(0, b"x" * 100)
    long = put_of(BLOCKS - 1, bytes(SNAPSHOT_BLOCK_BYTES))
    wrong = put_of(0)
    wrong.sha256 = bytes(32)
    for put, reason in [
        (put_of(BLOCKS, b"x"), "BAD_BLOCK_INDEX"),
        (short, "BAD_BLOCK_LENGTH"),
        (long, "BAD_BLOCK_LENGTH"),
        (wrong, "BAD_CHECKSUM"),
    ]:
        refused(etcd, alice.PutBlock, put, "INVALID_ARGUMENT", reason)
        assert _reason_of_stream(alice, [put]) == reason
    assert _reason_of_stream(alice, [put_of(0), put_of(1, snapshot_id="other")]) == "SNAPSHOTS_MIXED"
    bad = pb.CompleteSnapshotRequest(snapshot_id="new", sha256=b"short")
    refused(etcd, alice.CompleteSnapshot, bad, "INVALID_ARGUMENT", "BAD_CHECKSUM")
    refused(etcd, alice.CompleteSnapshot, complete_of(7), "FAILED_PRECONDITION", "BLOCKS_MISSING")
    page = pb.ListPutBlocksRequest(snapshot_id="new", page_token="!")
    refused(etcd, alice.ListPutBlocks, page, "INVALID_ARGUMENT", "BAD_PAGE_TOKEN")

    with running.blocks("mallory") as mallory:
        for stub, snapshot_id in ((mallory, "new"), (alice, "none")):
            for method, ask in [
                (stub.PutBlock, put_of(0, snapshot_id=snapshot_id)),
                (stub.ListPutBlocks, pb.ListPutBlocksRequest(snapshot_id=snapshot_id)),
                (stub.CompleteSnapshot, complete_of(0, snapshot_id)),
            ]:
                refused(etcd, method, ask, "NOT_FOUND", "NOT_FOUND")
            assert _reason_of_stream(stub, [put_of(0, snapshot_id=snapshot_id)]) == "NOT_FOUND"

    count = len(put_indexes(alice))
    assert alice.CompleteSnapshot(complete_of(count)).changed
    world.completed(uid)
    # What etcd said a second ago no longer counts.
    patience = threading.Event()
    for _ in range(100):
        try:
            alice.ListPutBlocks(pb.ListPutBlocksRequest(snapshot_id="new"))
            patience.wait(0.1)
        except grpc.RpcError:
            break
    for method, ask in [
        (alice.PutBlock, put_of(0)),
        (alice.ListPutBlocks, pb.ListPutBlocksRequest(snapshot_id="new")),
        (alice.CompleteSnapshot, complete_of(99)),
    ]:
        refused(etcd, method, ask, "FAILED_PRECONDITION", "NOT_PENDING")
    smaller = start_of("small", size_bytes=4096, parent=pb.SnapshotName(snapshot_id="new"))
    refused(etcd, alice.StartSnapshot, smaller, "INVALID_ARGUMENT", "SIZE_TOO_SMALL")
    world.grant(uid, "carol", [MAKE_VOLUMES])
    with running.blocks("carol") as carol:
        theirs = start_of(parent=pb.SnapshotName(owner="alice", snapshot_id="new"))
        refused(etcd, carol.StartSnapshot, theirs, "PERMISSION_DENIED", "NOT_GRANTED")
        for number in range(UNDER_WAY_MAX):
            assert carol.StartSnapshot(start_of(f"many-{number}")).created
        refused(etcd, carol.StartSnapshot, start_of("more"), "RESOURCE_EXHAUSTED", "TOO_MANY")
    # One of a volume cannot be put to, and an id that a volume's has is taken.
    _from_a_volume(world, "old")
    refused(etcd, alice.PutBlock, put_of(0, snapshot_id="old"), "FAILED_PRECONDITION", "NOT_PENDING")
    refused(etcd, alice.StartSnapshot, start_of("old"), "ALREADY_EXISTS", "ALREADY_EXISTS")


def test_too_many_blocks_in_one_call(world: World, alice: BlockServiceStub) -> None:
    alice.StartSnapshot(start_of(size_bytes=4096))
    tiny = put_of(0, b"x" * 4096)
    assert _reason_of_stream(alice, [tiny] * 1025) == "TOO_MANY_BLOCKS"
    assert alice.PutBlocks(iter([tiny] * 1024)).block_count == 1024
    assert alice.PutBlocks(iter([])).block_count == 0


def test_a_snapshotter_is_killed_in_the_middle_of_puts(world: World, running: Running) -> None:
    """What was acknowledged is there, from whatever snapshotter, and it ends as one snapshot."""
    acknowledged: set[int] = set()
    turn = threading.Event()

    def put_on(server: Running, blocks: list[int]) -> None:
        with server.blocks("alice") as stub:
            for block in blocks:
                try:
                    stub.PutBlock(put_of(block), timeout=LONGEST_S)
                except grpc.RpcError as error:
                    assert isinstance(error_of(error), Unavailable)
                    return
                acknowledged.add(block)
                if len(acknowledged) >= 12:
                    turn.set()

    with running.blocks("alice") as alice:
        uid = alice.StartSnapshot(start_of()).uid
    threads = [
        threading.Thread(target=put_on, args=(running, list(range(first, 200, 4)))) for first in range(4)
    ]
    for thread in threads:
        thread.start()
    assert turn.wait(LONGEST_S)
    running.process.kill()
    for thread in threads:
        thread.join()
    assert 12 <= len(acknowledged) < 200
    second = world.start("s2")
    with second.blocks("alice") as alice:
        there = set(put_indexes(alice))
        assert acknowledged <= there, "what was acknowledged is there"
        missing = [block for block in range(BLOCKS) if block not in there]
        refused(
            world.etcd, alice.CompleteSnapshot, complete_of(BLOCKS), "FAILED_PRECONDITION", "BLOCKS_MISSING"
        )
        for start in range(0, len(missing), 64):
            alice.PutBlocks(put_of(block) for block in missing[start : start + 64])
        assert alice.CompleteSnapshot(complete_of(BLOCKS)).changed
        # And in the middle of the assembly, too.
        second.process.kill()
    third = world.start("s3")
    record = world.completed(uid)
    model = ModelVolume(SIZE_BYTES)
    for block in range(BLOCKS):
        model.write(block * SNAPSHOT_BLOCK_BYTES, data_of(block))
    assert differing_extents(world.store(), record.manifest, model.freeze()) == []
    with third.nbd(uid, "alice", "user") as client:
        assert client.read(7 * SNAPSHOT_BLOCK_BYTES, SNAPSHOT_BLOCK_BYTES) == data_of(7)


def test_a_wrong_checksum_fails_it_with_a_reason(world: World, alice: BlockServiceStub) -> None:
    uid = alice.StartSnapshot(start_of()).uid
    alice.PutBlock(put_of(0))
    said = pb.CompleteSnapshotRequest(snapshot_id="new", put_block_count=1, sha256=b"x" * 32)
    assert alice.CompleteSnapshot(said).changed
    record = world.await_record(uid, lambda one: one.state == r.SNAPSHOT_STATE_FAILED)
    assert "checksum" in record.reason
    assert world.etcd.range(keys.staged(uid))[0] == []


def test_the_store_is_away(world: World, running: Running, alice: BlockServiceStub) -> None:
    folder = world.folder / "objects"
    folder.mkdir()
    world.objects = f"file://{folder}"
    with world.start("s2").blocks("bob") as bob:
        bob.StartSnapshot(start_of())
        bob.PutBlock(put_of(0))
        folder.chmod(0)
        folder.rename(world.folder / "elsewhere")
        (world.folder / "objects").write_bytes(b"not a directory")
        refused(world.etcd, bob.PutBlock, put_of(1), "UNAVAILABLE", "OBJECT_STORE_UNREACHABLE")
        folder.unlink()
        (world.folder / "elsewhere").rename(folder)
        folder.chmod(0o755)
        bob.PutBlock(put_of(1))
        assert put_indexes(bob) == [0, 1]


def _reason_of_stream(stub: BlockServiceStub, puts: list[pb.PutBlockRequest]) -> str:
    with pytest.raises(grpc.RpcError) as raised:
        stub.PutBlocks(iter(puts), timeout=LONGEST_S)
    return error_of(raised.value).reason


def _from_a_volume(world: World, snapshot_id: str) -> None:
    record = r.SnapshotRecord(
        uid="9" * 24, snapshot_id=snapshot_id, owner="alice", volume_uid="8" * 24, volume_id="v",
        size_bytes=SIZE_BYTES, state=r.SNAPSHOT_STATE_PENDING,
    )  # fmt: skip
    draft = Draft(world.etcd)
    draft.put(keys.snapshot(record.uid), record)
    draft.put(keys.name("snapshots", "alice", snapshot_id), r.NameRecord(uid=record.uid))
    assert draft.commit()
    entry = world.etcd.get(keys.snapshot(record.uid))
    assert entry and decode(r.SnapshotRecord, entry.value) == record
