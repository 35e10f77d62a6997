"""The real process, on a real etcd and a real S3 server, against stand-in storage hosts."""

import signal
from pathlib import Path
from random import Random

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.device import Outcome
from holdfast.base.errors import DataLoss, HoldfastError, NotFound
from holdfast.base.limits import EXTENT_BYTES, GIB, MIB
from holdfast.base.nbd.client import Client
from holdfast.lab.snapshotters import LONGEST_S, World, volume_of
from holdfast.lab.swift import SwiftServer
from holdfast.metadata import keys
from holdfast.metadata.cas import Draft, run
from holdfast.metadata.records import decode
from holdfast.snapshotter import checkpoint
from holdfast.snapshotter.main import STOP_GRACE_S
from holdfast.snapshotter.testing import differing_extents

UIDS = [f"{number:024x}" for number in range(16)]


def test_full_then_incremental_then_read_over_nbd(world: World) -> None:
    world.add_host("host-a")
    volume = volume_of(1, 6)
    first = volume.freeze()
    world.freeze(UIDS[1], first)
    running = world.start()
    base = world.completed(UIDS[1])
    assert differing_extents(world.store(), base.manifest, first) == []
    assert base.uploaded_bytes == base.progress_total_bytes == base.progress_done_bytes
    assert base.stored_bytes > 4 * MIB and len(base.manifest_sha256) == 64

    volume.write(900 * MIB, b"changed".ljust(4096))
    second = volume.freeze()
    world.freeze(UIDS[2], second, base)
    record = world.completed(UIDS[2])
    assert differing_extents(world.store(), record.manifest, second) == []
    assert record.uploaded_bytes == 128 * 1024 and record.stored_bytes < MIB
    assert len(second.reads) == 1

    with running.nbd(UIDS[2], "operator", "operator") as client:
        assert client.read_only and client.size_bytes == GIB
        chance = Random(3)
        for _ in range(30):
            length = chance.randrange(1, 3 * MIB)
            offset = chance.randrange(0, GIB - length)
            assert client.read(offset, length) == second.read(offset, length)
        found = client.block_status("base:allocation", 0, GIB)
        assert allocated(found) == allocated(second.block_status("base:allocation", 0, GIB))


def allocated(runs: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    return [(offset, length) for offset, length, flags in runs if not flags]


def test_who_may_read_what(world: World) -> None:
    world.add_host("host-a")
    world.freeze(UIDS[1], volume_of(4, 1).freeze())
    running = world.start()
    world.completed(UIDS[1])

    def assign(draft: Draft) -> None:
        assignment = r.Assignment(host_id="host-a", volume_uid=UIDS[9], origin_snapshot_uid=UIDS[1])
        draft.put(keys.assignment("host-a", UIDS[9]), assignment)

    with pytest.raises(NotFound):
        running.nbd(UIDS[1], "host-a", "host")
    run(world.etcd, assign)
    with running.nbd(UIDS[1], "host-a", "host") as client:
        client.read(0, 4096)
    for uid, name, role in (
        (UIDS[1], "host-b", "host"),
        (UIDS[1], "somebody", "user"),
        (UIDS[2], "operator", "operator"),
        ("nonsense", "operator", "operator"),
    ):
        with pytest.raises(NotFound):
            running.nbd(uid, name, role)
    with pytest.raises(HoldfastError):
        Client(("127.0.0.1", running.nbd_port), f"snapshot:{UIDS[1]}")
    # A deleted snapshot is no longer shown, and its volumes go on.
    world.change(UIDS[1], lambda record: setattr(record, "state", r.SNAPSHOT_STATE_DELETED))
    with running.nbd(UIDS[1], "host-a", "host") as client:
        client.read(0, 4096)


def test_killed_in_the_middle_another_goes_on(world: World, tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    world.objects = f"file://{tmp_path}/objects"
    host = world.add_host("host-a")
    view = volume_of(5, 24).freeze()
    allocated = sorted(view.allocated)
    [export] = world.freeze(UIDS[1], view)
    export.hold_from = allocated[150]
    first = world.start("first", "--pack-mib", "1", "--checkpoint-s", "0")
    assert export.held.wait(LONGEST_S)
    store = world.store()

    def far_enough(record: r.SnapshotRecord) -> bool:
        names = record.checkpoints[-1:]
        try:
            return any(checkpoint.decode(store.get(name), name).position > allocated[60] for name in names)
        except NotFound:  # It has just been replaced.
            return False

    assert world.await_record(UIDS[1], far_enough).state == r.SNAPSHOT_STATE_FROZEN
    first.process.kill()
    assert export.left.wait(LONGEST_S)
    export.release()
    world.start("second")
    record = world.completed(UIDS[1])
    assert differing_extents(store, record.manifest, view) == []
    assert record.progress_done_bytes == record.progress_total_bytes == len(allocated) * EXTENT_BYTES
    assert not set(allocated[:60]) & {one for one in allocated if view.reads.count(one) > 1}
    assert [peer.name for peer in host.peers if peer] == ["snapshotter"] * len(host.peers)


def test_the_object_store_goes_away_and_comes_back(world: World, swift_server: SwiftServer) -> None:
    world.add_host("host-a")
    view = volume_of(6, 4).freeze()
    world.start()
    swift_server.stop()
    try:
        world.freeze(UIDS[1], view)
        record = world.await_record(UIDS[1], lambda record: record.reason != "")
        assert "object store" in record.reason and record.state == r.SNAPSHOT_STATE_FROZEN
    finally:
        swift_server.start()
    record = world.completed(UIDS[1])
    assert record.reason == ""
    assert differing_extents(world.store(), record.manifest, view) == []


def test_a_host_that_is_lost_is_passed_over(world: World) -> None:
    gone, bad, good = (world.add_host(f"host-{letter}") for letter in "abc")
    view = volume_of(7, 4).freeze()
    _, failing, _ = world.freeze(UIDS[1], view)
    failing.fail = Outcome.MEDIUM_ERROR
    world.hosts.remove(gone)
    gone.close()
    world.start()
    record = world.completed(UIDS[1])
    assert differing_extents(world.store(), record.manifest, view) == []
    assert good.peers and bad.peers


def test_an_impostor_is_not_read(world: World) -> None:
    """A host that holds a good certificate, of another name than recorded."""
    impostor = world.add_host("host-x")
    view = volume_of(8, 2).freeze()
    [export] = world.freeze(UIDS[1], view)
    world.change(UIDS[1], lambda record: setattr(record.frozen_on[0], "host_id", "host-a"))
    world.start()
    record = world.await_record(UIDS[1], lambda record: record.reason != "")
    assert "host-x" in record.reason
    assert view.reads == [] and impostor.peers == []
    assert not export.held.is_set()


def test_a_snapshot_deleted_meanwhile_is_left(world: World) -> None:
    world.add_host("host-a")
    view = volume_of(9, 4).freeze()
    [export] = world.freeze(UIDS[1], view)
    export.hold_from = sorted(view.allocated)[16]
    world.start()
    assert export.held.wait(LONGEST_S)
    export.left.clear()
    world.change(UIDS[1], lambda record: setattr(record, "state", r.SNAPSHOT_STATE_DELETED))
    export.release()
    assert export.left.wait(LONGEST_S)
    record = world.await_record(UIDS[1], lambda record: True)
    assert record.state == r.SNAPSHOT_STATE_DELETED and not record.manifest


def test_sigterm_in_the_middle_gives_the_work_back(world: World) -> None:
    world.add_host("host-a")
    view = volume_of(12, 4).freeze()
    [export] = world.freeze(UIDS[1], view)
    export.hold_from = sorted(view.allocated)[16]
    running = world.start()
    assert export.held.wait(LONGEST_S)
    running.process.signal(signal.SIGTERM)
    assert running.process.wait(STOP_GRACE_S + LONGEST_S) == 0
    assert world.etcd.get(keys.claim(UIDS[1])) is None
    assert world.await_record(UIDS[1], lambda _: True).state == r.SNAPSHOT_STATE_FROZEN


def test_a_damaged_base_makes_the_upload_a_full_one(world: World, tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    world.objects = f"file://{tmp_path}/objects"
    world.add_host("host-a")
    volume = volume_of(13, 2)
    world.freeze(UIDS[1], volume.freeze())
    world.start()
    base = world.completed(UIDS[1])
    for index in (tmp_path / "objects" / "snapshots" / UIDS[1]).glob("index-*"):
        index.unlink()
    volume.write(5 * MIB, b"new")
    view = volume.freeze()
    world.freeze(UIDS[2], view, base)
    record = world.completed(UIDS[2])
    assert differing_extents(world.store(), record.manifest, view) == []
    assert record.uploaded_bytes == len(view.allocated) * EXTENT_BYTES


def test_a_lost_lease_stops_the_upload_and_it_starts_again(world: World) -> None:
    world.add_host("host-a")
    view = volume_of(10, 4).freeze()
    [export] = world.freeze(UIDS[1], view)
    export.hold_from = sorted(view.allocated)[16]
    world.start()
    assert export.held.wait(LONGEST_S)
    claim = world.etcd.get(keys.claim(UIDS[1]))
    assert claim is not None
    world.etcd.revoke_lease(claim.lease_id)
    export.release()
    record = world.completed(UIDS[1])
    assert differing_extents(world.store(), record.manifest, view) == []


def test_damage_is_an_error_with_the_objects_name(world: World, tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    world.objects = f"file://{tmp_path}/objects"
    world.add_host("host-a")
    view = volume_of(11, 3).freeze()
    world.freeze(UIDS[1], view)
    running = world.start()
    world.completed(UIDS[1])
    packs = sorted((tmp_path / "objects" / "snapshots" / UIDS[1]).glob("pack-*"))
    for pack in packs:
        data = bytearray(pack.read_bytes())
        data[len(data) // 3] ^= 1
        pack.write_bytes(data)
    wrong, failed = 0, 0
    with running.nbd(UIDS[1], "operator", "operator") as client:
        for extent in sorted(view.allocated):
            try:
                wrong += client.read(extent << 17, 1 << 17) != view.read(extent << 17, 1 << 17)
            except DataLoss:
                failed += 1
    assert wrong == 0 and failed == len(packs)
    text = running.log.read_text()
    assert all(pack.name in text for pack in packs)


def test_health_reflection_and_a_good_end(world: World) -> None:
    running = world.start()
    files = world.tls("operator", "operator")
    credentials = grpc.ssl_channel_credentials(
        files.ca.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
    )
    address = f"127.0.0.1:{running.grpc_port}"
    with grpc.secure_channel(address, credentials) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for answer in stub.Watch(health_pb2.HealthCheckRequest(), timeout=LONGEST_S):
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                break
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        answer = next(
            reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]), timeout=10)
        )
        names = {service.name for service in answer.list_services_response.service}
        assert {"grpc.health.v1.Health", "holdfast.api.blocks.v1.BlockService"} <= names
    stranger = grpc.ssl_channel_credentials(files.ca.read_bytes())
    with grpc.secure_channel(address, stranger) as channel, pytest.raises(grpc.RpcError):
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    lease = world.etcd.get(keys.snapshotter_lease("s1"))
    assert lease is not None
    record = decode(r.SnapshotterLease, lease.value)
    assert (record.nbd_address, record.nbd_port) == ("127.0.0.1", running.nbd_port)
    assert record.grpc_port == running.grpc_port
    running.process.signal(signal.SIGTERM)
    assert running.process.wait(LONGEST_S) == 0
    assert world.etcd.get(keys.snapshotter_lease("s1")) is None
