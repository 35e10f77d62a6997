"""Verification and repair by real processes, on a real etcd and a real S3 server that loses objects."""

import time
from pathlib import Path

import pytest

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import DataLoss
from holdfast.base.limits import EXTENT_BYTES, MIB
from holdfast.lab.s3_damage import Damage
from holdfast.lab.snapshotters import World, volume_of
from holdfast.lab.swift import SwiftServer
from holdfast.metadata import keys, verify_changes
from holdfast.metadata.cas import Draft, run
from holdfast.snapshotter.testing import differing_extents, index_of

UIDS = [f"{number:024x}" for number in range(16)]


@pytest.fixture
def damage(swift_server: SwiftServer, s3_url: str) -> Damage:
    return Damage(swift_server.client(), s3_url.removeprefix("s3://").partition("/")[0])


def ask(world: World, uid: str, sample: int = 100) -> int:
    run(world.etcd, lambda draft: verify_changes.ask(draft, "u", f"s{uid}", sample, time.time()))
    record = world.await_record(uid, lambda _: True)
    return record.verify.request


def verified(world: World, uid: str, request: int = 1) -> r.SnapshotRecord:
    ended = (r.SNAPSHOT_VERIFY_STATE_DONE, r.SNAPSHOT_VERIFY_STATE_FAILED)
    return world.await_record(
        uid, lambda record: record.verify.request >= request and record.verify.state in ended
    )


def test_damage_is_found_passed_by_and_repaired(world: World, damage: Damage) -> None:
    world.add_host("host-a")
    volume = volume_of(1, 8)
    first = volume.freeze()
    world.freeze(UIDS[1], first)
    running = world.start()
    base = world.completed(UIDS[1])
    good = verified(world, UIDS[1], ask(world, UIDS[1]))
    assert good.health == r.SNAPSHOT_HEALTH_GOOD and good.verify.asked
    assert good.verify.read_bytes > 7 * MIB and good.HasField("whole_verify_time")

    gone, flipped = sorted(damage.names("pack-"))[:2]
    damage.delete(gone)
    damage.flip(flipped)
    bad = verified(world, UIDS[1], ask(world, UIDS[1]))
    assert bad.health == r.SNAPSHOT_HEALTH_DAMAGED and bad.state == r.SNAPSHOT_STATE_COMPLETED
    problems = {Path(one.name).name: one.problem for one in bad.verify.damaged}
    assert problems == {Path(gone).name: "missing", Path(flipped).name: "damaged"}
    assert bad.verify.damaged_objects == 2
    log = running.log.read_text()
    assert Path(gone).name in log and Path(flipped).name in log

    volume.write(sorted(first.allocated)[0] * EXTENT_BYTES, b"changed since")
    second = volume.freeze()
    world.freeze(UIDS[2], second, base)
    newer = world.completed(UIDS[2])
    assert differing_extents(world.store(), newer.manifest, second) == []
    assert newer.uploaded_bytes < len(second.allocated) * EXTENT_BYTES, "it is an increment"

    mended = world.await_record(UIDS[1], lambda record: record.repair_source_uid == UIDS[2])
    assert mended.manifest != base.manifest and mended.repaired_extents > 8
    lost = mended.verify.damaged_extents
    assert lost <= 1, "all but what was overwritten since"
    assert mended.health == (r.SNAPSHOT_HEALTH_DAMAGED if lost else r.SNAPSHOT_HEALTH_GOOD)
    again = verified(world, UIDS[1], ask(world, UIDS[1]))
    assert again.verify.damaged_extents == lost
    if not lost:
        assert differing_extents(world.store(), again.manifest, first) == []
    assert world.etcd.get(keys.verify_claim(UIDS[1])) is None


def test_a_reader_that_meets_damage_has_it_looked_into_and_reads_on_when_repaired(
    world: World, damage: Damage
) -> None:
    world.add_host("host-a")
    volume = volume_of(2, 4)
    first = volume.freeze()
    world.freeze(UIDS[1], first)
    running = world.start()
    base = world.completed(UIDS[1])
    extent = min(first.allocated)
    entry = index_of(world.store(), base.manifest).get(extent)
    assert entry is not None
    [gone] = damage.names(entry.pack.name)
    damage.delete(gone)
    with running.nbd(UIDS[1], "operator", "operator") as client:
        with pytest.raises(DataLoss):
            client.read(extent * EXTENT_BYTES, 4096)
        assert world.await_record(
            UIDS[1], lambda record: record.health == r.SNAPSHOT_HEALTH_DAMAGED
        ).verify.asked
        verified(world, UIDS[1])
        world.freeze(UIDS[2], volume.freeze(), base)
        world.completed(UIDS[2])
        world.await_record(UIDS[1], lambda record: record.health == r.SNAPSHOT_HEALTH_GOOD)
        # The same connection: it was opened by the manifest before.
        deadline_s = time.monotonic() + 30
        while True:
            try:
                data = client.read(extent * EXTENT_BYTES, 4096)
                break
            except DataLoss:  # What may be read is remembered for some seconds.
                assert time.monotonic() < deadline_s
        assert data == first.read(extent * EXTENT_BYTES, 4096)


def test_what_is_due_is_verified_without_being_asked(world: World) -> None:
    world.add_host("host-a")
    world.freeze(UIDS[1], volume_of(4, 2).freeze())
    world.start()
    world.completed(UIDS[1])

    def long_ago(record: r.SnapshotRecord) -> None:
        record.complete_time.FromSeconds(int(time.time()) - 31 * 86_400)

    world.change(UIDS[1], long_ago)
    record = verified(world, UIDS[1])
    assert record.health == r.SNAPSHOT_HEALTH_GOOD and not record.verify.asked


def test_a_lost_manifest_is_damage_of_everything(world: World, damage: Damage) -> None:
    world.add_host("host-a")
    world.freeze(UIDS[1], volume_of(5, 1).freeze())
    world.start()
    base = world.completed(UIDS[1])
    for name in damage.names("manifest-"):
        damage.delete(name)
    record = verified(world, UIDS[1], ask(world, UIDS[1]))
    assert [one.name for one in record.verify.damaged] == [base.manifest]
    assert record.verify.damaged_extents == 8192
    view = volume_of(5, 1).freeze()
    world.freeze(UIDS[2], view, base)
    newer = world.completed(UIDS[2])
    assert differing_extents(world.store(), newer.manifest, view) == []
    world.await_record(UIDS[1], lambda record: record.repair_source_uid == UIDS[2])


def test_a_claim_that_was_left_ends_with_its_lease(world: World) -> None:
    world.add_host("host-a")
    world.freeze(UIDS[1], volume_of(6, 1).freeze())
    world.start()
    world.completed(UIDS[1])
    lease = world.etcd.grant_lease(2)

    def claim(draft: Draft) -> None:
        draft.put(keys.verify_claim(UIDS[1]), r.SnapshotClaim(snapshot_uid=UIDS[1]), lease)

    run(world.etcd, claim)
    record = verified(world, UIDS[1], ask(world, UIDS[1]))
    assert record.verify.state == r.SNAPSHOT_VERIFY_STATE_DONE
