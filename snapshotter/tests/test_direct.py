"""Snapshots made from outside, against a model: puts in any order, by several at once, with what fails."""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import DataLoss, HoldfastError, Precondition
from holdfast.base.limits import EXTENT_BYTES, KIB, MIB
from holdfast.metadata import direct_changes, keys
from holdfast.metadata.cas import run
from holdfast.metadata.direct_changes import AllPut, NewDirect
from holdfast.metadata.memory_store import MemoryStore
from holdfast.metadata.records import decode
from holdfast.snapshotter import staged, staging
from holdfast.snapshotter.assemble import Assembly, NotWhatWasSaid
from holdfast.snapshotter.base import Base
from holdfast.snapshotter.blocks import BLOCK_EXTENTS, SHARD_BLOCKS, blocks_of, byte_range
from holdfast.snapshotter.idle import IdleDirects
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.objects_directory import DirectoryStore
from holdfast.snapshotter.objects_faults import Fault, FaultyStore, Killed, Rule
from holdfast.snapshotter.patient import PatientStore
from holdfast.snapshotter.pipeline import cut
from holdfast.snapshotter.staged import BlockSet, StagedList
from holdfast.snapshotter.staging import Stager
from holdfast.snapshotter.testing import SMALL, ModelVolume, differing_extents, index_of, upload
from holdfast.snapshotter.upload import Job, Result

UID, LINEAGE, PARENT = "d" * 24, "e" * 24, "f" * 24
SIZE_BYTES = 2 * SHARD_BLOCKS * BLOCK_EXTENTS * EXTENT_BYTES + 7 * EXTENT_BYTES + 12 * KIB
BLOCKS = blocks_of(SIZE_BYTES)
CONTENT = {
    "zeros": b"\0" * (4 * EXTENT_BYTES),
    "noise": Random(1).randbytes(4 * EXTENT_BYTES),
    "other": Random(2).randbytes(EXTENT_BYTES) + bytes(2 * EXTENT_BYTES) + b"x" * EXTENT_BYTES,
    "text": b"the same again. " * (EXTENT_BYTES // 4),
}


def content(block: int, what: str) -> bytes:
    return CONTENT[what][: byte_range(block, SIZE_BYTES)[1]]


@dataclass
class World:
    """One snapshot in the making, on etcd in memory; and what it should become."""

    store: ObjectStore
    etcd: MemoryStore = field(default_factory=MemoryStore)
    model: ModelVolume = field(default_factory=lambda: ModelVolume(SIZE_BYTES))
    put: dict[int, bytes] = field(default_factory=dict)
    """What counts of what was acknowledged, by block."""
    parent: str = ""
    puts: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2))

    def start(self) -> None:
        new = NewDirect("u", "s", SIZE_BYTES, "", "", 60, UID, LINEAGE, 1.0)
        run(self.etcd, lambda draft: direct_changes.start(draft, new))

    def stager(self, pack_bytes: int = 2 * MIB) -> Stager:
        base = Base(index_of(self.store, self.parent)) if self.parent else None
        return Stager(UID, self.etcd, self.store, base, self.puts, pack_bytes)

    def acknowledged(self, block: int, data: bytes) -> None:
        self.put[block] = data
        self.model.write(byte_range(block, SIZE_BYTES)[0], data)

    def records(self) -> list[r.StagedRecord]:
        return [decode(r.StagedRecord, one.value) for one in self.etcd.range(keys.staged(UID))[0]]

    def put_blocks(self) -> list[int]:
        return list(staged.put_blocks(self.store, self.records(), BLOCKS).ascending())

    def checksum(self) -> str:
        """As blocks.proto says it."""
        digest = hashlib.sha256()
        for block in sorted(self.put):
            for extent in cut(self.put[block]):
                digest.update(hashlib.sha256(extent).digest())
        return digest.hexdigest()

    def assemble(self, count: int, sha256: str = "", store: ObjectStore | None = None) -> Result:
        stop = threading.Event()
        base = Base(index_of(self.store, self.parent)) if self.parent else None
        job = Job(UID, LINEAGE, SIZE_BYTES, 1_700_000_000_000, base, self.parent)
        direct = r.DirectUpload(put_blocks=count, sha256=sha256)
        patient = PatientStore(store or self.store, stop, lambda _: None)
        return Assembly(job, direct, self.records(), patient, stop, SMALL, lambda _d, _t: None).run()


@contextmanager
def a_world(store: ObjectStore) -> Iterator[World]:
    world = World(store)
    world.start()
    yield world
    world.puts.shutdown()


PUTS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.one_of(
            st.integers(0, 5),
            st.integers(SHARD_BLOCKS - 2, SHARD_BLOCKS + 2),
            st.integers(BLOCKS - 2, BLOCKS - 1),
        ),
        st.sampled_from(sorted(CONTENT)),
        st.booleans(),
    ),
    max_size=25,
)
"""(which snapshotter, block, content, whether to wait for all so far)"""


@given(
    puts=PUTS,
    parent=st.dictionaries(
        st.sampled_from([0, 3, SHARD_BLOCKS, BLOCKS - 1]), st.sampled_from(sorted(CONTENT))
    ),
    fold=st.sampled_from([1, 2, 64]),
)
def test_what_is_put_is_what_is_read(
    directory: DirectoryStore, puts: Sequence[tuple[int, int, str, bool]], parent: dict[int, str], fold: int
) -> None:
    with a_world(directory) as world, pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "PACKS_IN_RECORD", fold)
        for block, what in parent.items():
            world.model.write(byte_range(block, SIZE_BYTES)[0], content(block, what))
        if parent:
            world.parent = upload(directory, PARENT, world.model.freeze()).manifest
        stagers = [world.stager() for _ in range(3)]
        waiting = []
        for which, block, what, wait in puts:
            # One after the other, by whichever: what is acknowledged before counts less than what follows.
            waiting.append((stagers[which], stagers[which].put(block, content(block, what))))
            world.acknowledged(block, content(block, what))
            if wait or which != waiting[0][0]:
                for stager, group in waiting:
                    stager.settle(group)
                waiting.clear()
        for stager, group in waiting:
            stager.settle(group)
        assert world.put_blocks() == sorted(world.put)
        result = world.assemble(len(world.put), world.checksum())
        assert differing_extents(directory, result.manifest, world.model.freeze()) == []
        base = index_of(directory, world.parent) if parent else None
        index = index_of(directory, result.manifest, result.manifest_sha256)
        for extent in [one for ref in index.manifest.shards for one in index.load(ref).extents()]:
            entry, before = index.get(extent), base.get(extent) if base else None
            assert entry and entry.digest != staging.ZERO_DIGEST, "zeros are absent"
            if before and before.digest == entry.digest:
                assert entry == before, "what is as in the parent is the parent's"


def test_a_checksum_or_a_count_that_differs_is_refused(directory: DirectoryStore) -> None:
    with a_world(directory) as world:
        stager = world.stager()
        stager.settle(stager.put(1, content(1, "noise")))
        world.acknowledged(1, content(1, "noise"))
        with pytest.raises(NotWhatWasSaid) as raised:
            world.assemble(1, "0" * 64)
        assert raised.value.reason == "BAD_CHECKSUM" and world.checksum() in raised.value.message
        with pytest.raises(NotWhatWasSaid):
            world.assemble(2)
        world.assemble(1, world.checksum())


def test_lost_packs_are_told_with_their_blocks(directory: DirectoryStore) -> None:
    with a_world(directory) as world:
        stager = world.stager()
        for block in (3, 4, 5, 9):
            group = stager.put(block, content(block, "noise"))
        stager.settle(group)
        for damage in ("cut", "gone"):
            for pack in world.records()[0].packs:
                data = directory.get(pack.name)
                directory.delete(pack.name)
                if damage == "cut":
                    directory.put(pack.name, data[:-1])
            with pytest.raises(NotWhatWasSaid) as raised:
                world.assemble(4)
            assert raised.value.reason == "BLOCKS_LOST" and "[3, 6), [9, 10)" in raised.value.message


@pytest.mark.parametrize("fault", [Fault.UNREACHABLE, Fault.LOST_ANSWER, Fault.FORGET, Fault.KILL])
def test_whatever_is_acknowledged_is_there_when_one_call_fails(
    directory: DirectoryStore, fault: Fault
) -> None:
    """The n-th call to the store goes wrong, for all n; another snapshotter goes on."""
    for number in range(1000):
        with a_world(FaultyStore(directory)) as world, pytest.MonkeyPatch.context() as patch:
            patch.setattr(staging, "PACKS_IN_RECORD", 2)
            faulty = world.store
            assert isinstance(faulty, FaultyStore)
            faulty.rules.append(Rule("", "", fault, after=number, times=1))
            stager, failed = world.stager(), 0
            for block in (7, 8, 7, 20, 7, 21):
                data = Random((number, block, len(world.put)).__repr__()).randbytes(4 * EXTENT_BYTES)
                try:
                    stager.settle(stager.put(block, data))
                except (HoldfastError, Killed):
                    failed += 1
                    stager = world.stager()
                    stager.settle(stager.put(block, data))
                world.acknowledged(block, data)
            spared = faulty.rules[0].seen <= number
            faulty.rules.clear()
            assert failed <= 1
            assert spared or failed or fault not in (Fault.UNREACHABLE, Fault.KILL)
            assert world.put_blocks() == sorted(world.put)
            result = world.assemble(len(world.put), world.checksum())
            assert differing_extents(directory, result.manifest, world.model.freeze()) == []
            if spared:
                assert number > 10
                return
    raise AssertionError("it never went without the fault")


def test_an_assembly_killed_anywhere_is_made_again(directory: DirectoryStore) -> None:
    with a_world(directory) as world:
        stager = world.stager()
        for block in (0, SHARD_BLOCKS, BLOCKS - 1):
            stager.settle(stager.put(block, content(block, "noise")))
            world.acknowledged(block, content(block, "noise"))
        for number in range(1000):
            faulty = FaultyStore(directory)
            faulty.rules.append(Rule("", "", Fault.KILL, after=number, times=1))
            with suppress(Killed):
                result = world.assemble(3, world.checksum(), faulty)
                assert differing_extents(directory, result.manifest, world.model.freeze()) == []
                assert number > 5
                return
    raise AssertionError("it never ended")


def test_many_at_once_share_packs(directory: DirectoryStore) -> None:
    with a_world(directory) as world, ThreadPoolExecutor(16) as callers:
        stager = world.stager(pack_bytes=64 * MIB)

        def put(block: int) -> None:
            data = Random(block).randbytes(4 * EXTENT_BYTES)
            stager.settle(stager.put(block, data))
            world.acknowledged(block, data)

        list(callers.map(put, range(64)))
        packs = [pack for record in world.records() for pack in record.packs]
        assert len(packs) < 32, "each has waited for the pack before, and most of them in company"
        result = world.assemble(64, world.checksum())
        assert differing_extents(directory, result.manifest, world.model.freeze()) == []


def test_nothing_is_acknowledged_once_it_is_complete(directory: DirectoryStore) -> None:
    with a_world(directory) as world:
        stager = world.stager()
        stager.settle(stager.put(1, content(1, "noise")))
        records = world.records()
        late = stager.put(2, content(2, "noise"))

        def fix(said: Sequence[r.StagedRecord]) -> bool:
            return run(
                world.etcd,
                lambda draft: direct_changes.content_is_fixed(draft, "u", "s", AllPut(1, "", said), 2.0),
            )

        with pytest.raises(Precondition):
            fix([])
        assert fix(records) and not fix(records)
        with pytest.raises(Precondition) as raised:
            stager.settle(late)
        assert raised.value.reason == "NOT_PENDING"
        assert world.records() == records


def test_the_abandoned_are_given_up_and_only_they(directory: DirectoryStore) -> None:
    now_s = [0.0]
    with a_world(directory) as world:
        idle = IdleDirects(world.etcd, clock=lambda: now_s[0])
        stager = world.stager()

        def state() -> int:
            entry = world.etcd.get(keys.snapshot(UID))
            assert entry is not None
            return decode(r.SnapshotRecord, entry.value).state

        for step in range(4):
            idle.look()
            now_s[0] += 59.0
            stager.settle(stager.put(step, content(step, "text")))
        idle.look()
        now_s[0] += 59.0
        idle.look()
        assert state() == r.SNAPSHOT_STATE_PENDING
        now_s[0] += 1.0
        idle.look()
        assert state() == r.SNAPSHOT_STATE_FAILED
        assert world.records() == [] and world.etcd.range(keys.DIRECT)[0] == []
        with pytest.raises(Precondition) as raised:
            stager.settle(stager.put(9, content(9, "text")))
        assert "No block was put for 60 s" in raised.value.message
        idle.look()


def test_a_list_says_what_it_was_told_or_that_it_is_damaged() -> None:
    packs = [
        r.StagedPack(name=f"snapshots/{UID}/pack-a-{n}", size_bytes=n, sequence=n, block_runs=range(2 * n))
        for n in range(4)
    ]
    data = staged.encode(UID, StagedList("before", packs))
    assert staged.decode(data, "x") == StagedList("before", packs)
    for at in range(0, len(data), 7):
        with pytest.raises(DataLoss):
            staged.decode(data[:at], "x")
        with pytest.raises(DataLoss):
            staged.decode(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], "x")


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99))), st.integers(0, 100))
def test_a_set_of_blocks(ranges: list[tuple[int, int]], start: int) -> None:
    blocks, model = BlockSet(100), set()
    for first, end in ranges:
        blocks.add(first, end)
        model |= set(range(first, end))
    assert len(blocks) == len(model)
    assert list(blocks.ascending(start)) == sorted(one for one in model if one >= start)
    assert [one for first, end in blocks.runs() for one in range(first, end)] == sorted(model)
