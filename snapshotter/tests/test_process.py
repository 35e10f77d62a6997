"""The real process, on a real etcd and a real S3 server, against stand-in storage hosts."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
from holdfast.base.tls import TlsFiles, client_context
from holdfast.lab.etcd import EtcdServer
from holdfast.lab.host_process import HostProcess
from holdfast.lab.servers import LocalHost, Starting, free_port
from holdfast.lab.swift import SwiftServer
from holdfast.metadata import keys, pki
from holdfast.metadata.cas import Draft, run
from holdfast.metadata.etcd import Etcd
from holdfast.metadata.follow import follow
from holdfast.metadata.records import decode
from holdfast.snapshotter import checkpoint
from holdfast.snapshotter.main import STOP_GRACE_S
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.objects_url import open_store
from holdfast.snapshotter.testing import VOLUME_UID, ModelView, ModelVolume, differing_extents
from holdfast.snapshotter.testing_host import FrozenHost, ViewExport

UIDS = [f"{number:024x}" for number in range(16)]
LONGEST_S = 40.0


@dataclass
class World:
    """etcd, an authority, two stand-in hosts, a bucket; and snapshotters as they are started."""

    etcd: Etcd
    endpoint: str
    pki: Path
    objects: str
    local_host: LocalHost
    folder: Path
    hosts: list[FrozenHost] = field(default_factory=list)
    snapshotters: list[HostProcess] = field(default_factory=list)

    def tls(self, name: str, role: str) -> TlsFiles:
        pki.issue(self.pki, role, name, ["127.0.0.1"] if role in pki.SERVING_ROLES else [])
        return pki.Identity(self.pki, name).tls

    def add_host(self, host_id: str) -> FrozenHost:
        self.hosts.append(FrozenHost(host_id, self.tls(host_id, "host")))
        return self.hosts[-1]

    def start(self, name: str = "s1", *options: str) -> "Running":
        own = self.tls("snapshotter", "service")
        nbd, rpc = free_port(self.local_host, "127.0.0.1"), free_port(self.local_host, "127.0.0.1")
        log = self.folder / f"{name}.log"
        words = [sys.executable, "-m", "holdfast.snapshotter.main", "--id", name, "--address", "127.0.0.1"]
        words += ["--listen-nbd", f"127.0.0.1:{nbd}", "--grpc-listen", f"127.0.0.1:{rpc}"]
        words += ["--objects", self.objects, "--etcd", self.endpoint, "--lease-ttl-s", "2"]
        words += ["--ca", str(own.ca), "--cert", str(own.certificate), "--key", str(own.key)]
        words += options or ["--pack-mib", "2", "--checkpoint-s", "1"]
        process = Starting(self.local_host, words, name=f"snapshotter-{name}", log=log).finish()
        self.snapshotters.append(process)
        return Running(self, process, nbd, rpc, log)

    def freeze(
        self,
        uid: str,
        view: ModelView,
        base: r.SnapshotRecord | None = None,
        hosts: list[FrozenHost] | None = None,
    ) -> list[ViewExport]:
        """Record a snapshot as FROZEN, and serve its view on the hosts."""
        record = r.SnapshotRecord(
            uid=uid, snapshot_id="s", owner="u", volume_uid=VOLUME_UID, volume_id="v",
            size_bytes=view.size_bytes, state=r.SNAPSHOT_STATE_FROZEN, generation=2,
        )  # fmt: skip
        if base is not None:
            record.base_snapshot_uid, record.base_manifest = base.uid, base.manifest
        exports = []
        for host in self.hosts:
            exports.append(host.serve(VOLUME_UID, uid, view))
            record.frozen_on.add(
                host_id=host.host_id, boot_id="b", nbd_address="127.0.0.1", nbd_port=host.port
            )
        record.freeze_time.FromMilliseconds(1_700_000_000_000)
        self.change(uid, lambda _: record)
        return exports

    def change(self, uid: str, change: Callable[[r.SnapshotRecord], r.SnapshotRecord | None]) -> None:
        def decide(draft: Draft) -> None:
            record = draft.get(keys.snapshot(uid), r.SnapshotRecord) or r.SnapshotRecord()
            changed = change(record)
            draft.put(keys.snapshot(uid), record if changed is None else changed)

        run(self.etcd, decide)

    def await_record(self, uid: str, holds: Callable[[r.SnapshotRecord], bool]) -> r.SnapshotRecord:
        """The record as soon as it is so."""
        stop = threading.Event()
        timer = threading.Timer(LONGEST_S, stop.set)
        timer.start()
        record = r.SnapshotRecord()
        try:
            for events in follow(self.etcd, keys.snapshot(uid), stop):
                for event in events:
                    record = (
                        decode(r.SnapshotRecord, event.entry.value) if event.entry else r.SnapshotRecord()
                    )
                    if holds(record):
                        return record
        finally:
            timer.cancel()
            stop.set()
        raise AssertionError(f"it did not become so: {record}")

    def completed(self, uid: str) -> r.SnapshotRecord:
        return self.await_record(uid, lambda record: record.state == r.SNAPSHOT_STATE_COMPLETED)

    def store(self) -> ObjectStore:
        return open_store(self.objects)


@dataclass
class Running:
    """One snapshotter process."""

    world: World
    process: HostProcess
    nbd_port: int
    grpc_port: int
    log: Path

    def nbd(self, uid: str, name: str, role: str) -> Client:
        return Client(
            ("127.0.0.1", self.nbd_port),
            f"snapshot:{uid}",
            contexts=("base:allocation",),
            tls=client_context(self.world.tls(name, role)),
        )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    pki.init(folder)
    return folder


@pytest.fixture
def world(
    etcd: Etcd, etcd_server: EtcdServer, authority: Path, s3_url: str, local_host: LocalHost, tmp_path: Path
) -> Iterator[World]:
    made = World(etcd, etcd_server.endpoint, authority, s3_url, local_host, tmp_path)
    yield made
    for process in made.snapshotters:
        process.kill()
    for host in made.hosts:
        host.close()


def volume_of(seed: int, mib: int) -> ModelVolume:
    """A volume of a GiB with `mib` of noise in places."""
    chance, volume = Random(seed), ModelVolume(GIB)
    for _ in range(mib):
        volume.write(chance.randrange(0, 1023) * MIB, chance.randbytes(MIB))
    return volume


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
        assert "grpc.health.v1.Health" in names
    stranger = grpc.ssl_channel_credentials(files.ca.read_bytes())
    with grpc.secure_channel(address, stranger) as channel, pytest.raises(grpc.RpcError):
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    lease = world.etcd.get(keys.snapshotter_lease("s1"))
    assert lease is not None
    record = decode(r.SnapshotterLease, lease.value)
    assert (record.nbd_address, record.nbd_port) == ("127.0.0.1", running.nbd_port)
    running.process.signal(signal.SIGTERM)
    assert running.process.wait(LONGEST_S) == 0
    assert world.etcd.get(keys.snapshotter_lease("s1")) is None
