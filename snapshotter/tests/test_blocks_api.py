"""BlockService on real processes: every row of its error tables, and the bytes."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from holdfast.api.blocks.v1 import blocks_pb2 as pb
from holdfast.api.blocks.v1.blocks_pb2_grpc import BlockServiceStub
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.limits import EXTENT_BYTES, MIB, SNAPSHOT_BLOCK_BYTES
from holdfast.lab.snapshotters import LONGEST_S, Running, World
from holdfast.metadata.permissions import MAKE_VOLUMES, READ_BLOCKS
from holdfast.metadata.refusals import refused
from holdfast.metadata.statuses import error_of
from holdfast.snapshotter.blocks import byte_range
from holdfast.snapshotter.quotas import CALLS_PER_USER
from holdfast.snapshotter.testing import ModelView, ModelVolume

UIDS = [f"{number:024x}" for number in range(8)]
SIZE_BYTES = 700 * MIB + 4096


def name(number: int, owner: str = "u") -> pb.SnapshotName:
    return pb.SnapshotName(owner=owner, snapshot_id=f"s{UIDS[number]}")


@pytest.fixture
def views(world: World) -> list[ModelView]:
    """Two COMPLETED snapshots of `u`, the second incremental; and a snapshotter, in a local directory."""
    world.objects = f"file://{world.folder}/objects"
    (world.folder / "objects").mkdir()
    world.add_host("host-a")
    volume = ModelVolume(SIZE_BYTES)
    for block in (0, 1, 3, 1024, 1399):
        volume.write(block * SNAPSHOT_BLOCK_BYTES + EXTENT_BYTES, bytes([block % 251 + 1]) * 9000)
    volume.write(SIZE_BYTES - 100, b"the very end".ljust(100))
    first = volume.freeze()
    world.freeze(UIDS[1], first)
    world.start()
    base = world.completed(UIDS[1])
    volume.write(SNAPSHOT_BLOCK_BYTES, b"changed")
    volume.discard(12, 16)
    volume.write(9 * SNAPSHOT_BLOCK_BYTES, b"new")
    second = volume.freeze()
    world.freeze(UIDS[2], second, base)
    world.completed(UIDS[2])
    return [first, first, second]


@pytest.fixture
def running(world: World, views: list[ModelView]) -> Running:
    return world.running[0]


@pytest.fixture
def mine(running: Running) -> Iterator[BlockServiceStub]:
    with running.blocks("u") as stub:
        yield stub


def test_what_is_listed_can_be_read(mine: BlockServiceStub, views: list[ModelView]) -> None:
    listed = mine.ListSnapshotBlocks(pb.ListSnapshotBlocksRequest(snapshot=name(1)))
    assert [one.block_index for one in listed.blocks] == [0, 1, 3, 1024, 1399, 1400]
    assert (listed.size_bytes, listed.block_bytes) == (SIZE_BYTES, SNAPSHOT_BLOCK_BYTES)
    for block in listed.blocks:
        got = mine.GetBlock(pb.GetBlockRequest(snapshot=name(1), block=block))
        assert got.data == views[1].read(*byte_range(block.block_index, SIZE_BYTES))
        assert got.sha256 == hashlib.sha256(got.data).digest()
    many = list(mine.GetBlocks(pb.GetBlocksRequest(snapshot=name(1), blocks=reversed(listed.blocks))))
    assert [one.block_index for one in many] == [1400, 1399, 1024, 3, 1, 0]
    for one in many:
        assert one.data == views[1].read(*byte_range(one.block_index, SIZE_BYTES))
        assert one.sha256 == hashlib.sha256(one.data).digest()


def test_changed_blocks_have_tokens_of_each_side(mine: BlockServiceStub, views: list[ModelView]) -> None:
    request = pb.ListChangedBlocksRequest(first=name(1), second=name(2), page_size=2)
    pages = list(mine.StreamChangedBlocks(request))
    assert len(pages) > 1
    found = [one for page in pages for one in page.blocks]
    assert [one.block_index for one in found] == [1, 3, 9]
    for one in found:
        sides = ((1, one.first_block_token), (2, one.second_block_token))
        for number, token in sides:
            wanted = views[number].read(*byte_range(one.block_index, SIZE_BYTES))
            if not token:
                assert not any(wanted)
                continue
            block = pb.Block(block_index=one.block_index, block_token=token)
            assert mine.GetBlock(pb.GetBlockRequest(snapshot=name(number), block=block)).data == wanted
    assert [bool(one.first_block_token) for one in found] == [True, True, False]
    assert [bool(one.second_block_token) for one in found] == [True, False, True]


def test_pages_follow_each_other(mine: BlockServiceStub) -> None:
    request = pb.ListSnapshotBlocksRequest(snapshot=name(1), page_size=4, first_block_index=1)
    page = mine.ListSnapshotBlocks(request)
    assert [one.block_index for one in page.blocks] == [1, 3, 1024, 1399]
    request.page_token = page.next_page_token
    page = mine.ListSnapshotBlocks(request)
    assert [one.block_index for one in page.blocks] == [1400] and not page.next_page_token
    streamed = mine.StreamSnapshotBlocks(pb.ListSnapshotBlocksRequest(snapshot=name(1), page_size=2))
    assert [one.block_index for page in streamed for one in page.blocks] == [0, 1, 3, 1024, 1399, 1400]


def test_every_refusal_of_reading(world: World, running: Running, mine: BlockServiceStub) -> None:
    etcd = world.etcd
    world.change(UIDS[5], lambda _: _snapshot(5, r.SNAPSHOT_STATE_PENDING, "b" * 24))
    world.change(UIDS[6], lambda _: _snapshot(6, r.SNAPSHOT_STATE_COMPLETED, "b" * 24))
    for number in (5, 6):
        world.name(UIDS[number])
    world.grant(UIDS[1], "carol", [MAKE_VOLUMES])
    blocks = mine.ListSnapshotBlocks(pb.ListSnapshotBlocksRequest(snapshot=name(1))).blocks
    with running.blocks("mallory") as mallory, running.blocks("carol") as carol:
        for stub, number, code, reason in [
            (mallory, 1, "NOT_FOUND", "NOT_FOUND"),
            (mallory, 4, "NOT_FOUND", "NOT_FOUND"),
            (carol, 1, "PERMISSION_DENIED", "NOT_GRANTED"),
            (mine, 4, "NOT_FOUND", "NOT_FOUND"),
            (mine, 5, "FAILED_PRECONDITION", "NOT_COMPLETED"),
        ]:
            one = name(number)
            for method, request in [
                (stub.ListSnapshotBlocks, pb.ListSnapshotBlocksRequest(snapshot=one)),
                (stub.StreamSnapshotBlocks, pb.ListSnapshotBlocksRequest(snapshot=one)),
                (stub.ListChangedBlocks, pb.ListChangedBlocksRequest(first=one, second=one)),
                (stub.StreamChangedBlocks, pb.ListChangedBlocksRequest(first=one, second=one)),
                (stub.GetBlock, pb.GetBlockRequest(snapshot=one, block=blocks[0])),
                (stub.GetBlocks, pb.GetBlocksRequest(snapshot=one, blocks=blocks[:1])),
            ]:
                refused(etcd, method, request, code, reason)
    unrelated = pb.ListChangedBlocksRequest(first=name(1), second=name(6))
    refused(etcd, mine.ListChangedBlocks, unrelated, "INVALID_ARGUMENT", "NOT_RELATED")
    for token in ("!", "aDE6YS9i", "aDE6LTE="):
        asked = pb.ListSnapshotBlocksRequest(snapshot=name(1), page_token=token)
        refused(etcd, mine.ListSnapshotBlocks, asked, "INVALID_ARGUMENT", "BAD_PAGE_TOKEN")
    asked = pb.ListSnapshotBlocksRequest(snapshot=name(1), page_size=-1)
    refused(etcd, mine.ListSnapshotBlocks, asked, "INVALID_ARGUMENT", "BAD_PAGE_SIZE")
    other = pb.Block(block_index=3, block_token=blocks[0].block_token)
    for snapshot, block in ((1, other), (1, pb.Block(block_index=0)), (2, blocks[0])):
        get = pb.GetBlockRequest(snapshot=name(snapshot), block=block)
        refused(etcd, mine.GetBlock, get, "INVALID_ARGUMENT", "BAD_BLOCK_TOKEN")
    many = pb.GetBlocksRequest(snapshot=name(1), blocks=[blocks[0]] * 1025)
    refused(etcd, mine.GetBlocks, many, "INVALID_ARGUMENT", "TOO_MANY_BLOCKS")
    with running.blocks("host-a", "host") as host:
        listing = pb.ListSnapshotBlocksRequest(snapshot=name(1))
        refused(etcd, host.ListSnapshotBlocks, listing, "UNAUTHENTICATED", "BAD_CERTIFICATE")


def test_tokens_are_the_callers_and_their_grants(
    world: World, running: Running, mine: BlockServiceStub
) -> None:
    other = world.start("s2")
    listing = pb.ListSnapshotBlocksRequest(snapshot=name(1))
    patience = threading.Event()
    with running.blocks("bob") as bob, other.blocks("bob") as elsewhere, running.blocks("eve") as eve:
        for user in ("bob", "eve"):
            world.grant(UIDS[1], user, [READ_BLOCKS])
        get = pb.GetBlockRequest(snapshot=name(1), block=bob.ListSnapshotBlocks(listing).blocks[0])
        assert bob.GetBlock(get).data == elsewhere.GetBlock(get).data, "another copy takes the token"
        for stub in (eve, mine):
            refused(world.etcd, stub.GetBlock, get, "INVALID_ARGUMENT", "BAD_BLOCK_TOKEN")
        world.grant(UIDS[1], "bob", None)
        reason = ""
        for _ in range(100):  # What etcd said a second ago still counts.
            try:
                bob.GetBlock(get)
            except grpc.RpcError as error:
                reason = error_of(error).reason
                break
            patience.wait(0.1)
        assert reason == "NOT_FOUND"
        world.grant(UIDS[1], "bob", [READ_BLOCKS])
        refused(world.etcd, bob.GetBlock, get, "INVALID_ARGUMENT", "BAD_BLOCK_TOKEN")
        get = pb.GetBlockRequest(snapshot=name(1), block=bob.ListSnapshotBlocks(listing).blocks[0])
        assert bob.GetBlock(get).data


def test_damage_and_a_lost_store_say_so(world: World, running: Running, mine: BlockServiceStub) -> None:
    objects: Path = world.folder / "objects"
    block = mine.ListSnapshotBlocks(pb.ListSnapshotBlocksRequest(snapshot=name(1))).blocks[0]
    get = pb.GetBlockRequest(snapshot=name(1), block=block)
    packs = sorted((objects / "snapshots" / UIDS[1]).glob("pack-*"))
    for pack in packs:
        pack.unlink()
    refused(world.etcd, mine.GetBlock, get, "DATA_LOSS", "OBJECT_MISSING")
    assert packs[0].name in running.log.read_text()


def test_a_caller_has_so_many_calls(world: World, running: Running, mine: BlockServiceStub) -> None:
    blocks = mine.ListSnapshotBlocks(pb.ListSnapshotBlocksRequest(snapshot=name(1))).blocks
    # Nobody takes what they answer: they stay under way.
    wanted = pb.GetBlocksRequest(snapshot=name(1), blocks=[blocks[0]] * 1024)
    held = [mine.GetBlocks(wanted) for _ in range(CALLS_PER_USER)]
    for call in held:
        next(call)
    refused(
        world.etcd,
        mine.ListSnapshotBlocks,
        pb.ListSnapshotBlocksRequest(snapshot=name(1)),
        "RESOURCE_EXHAUSTED",
        "TOO_MANY_CALLS",
    )
    with running.nbd(UIDS[1], "operator", "operator") as client:
        assert client.read(0, 4096) == bytes(4096)
    for call in held:
        call.cancel()
    patience = threading.Event()
    for _ in range(int(LONGEST_S * 10)):
        try:
            assert mine.ListSnapshotBlocks(pb.ListSnapshotBlocksRequest(snapshot=name(1))).blocks
            return
        except grpc.RpcError:
            patience.wait(0.1)
    raise AssertionError("the places were not given back")


def _snapshot(number: int, state: "r.SnapshotState.ValueType", volume_uid: str) -> r.SnapshotRecord:
    return r.SnapshotRecord(
        uid=UIDS[number],
        snapshot_id=name(number).snapshot_id,
        owner="u",
        volume_uid=volume_uid,
        size_bytes=SIZE_BYTES,
        state=state,
        manifest="snapshots/none" if state == r.SNAPSHOT_STATE_COMPLETED else "",
    )
