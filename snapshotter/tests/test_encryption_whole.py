"""Encryption through the real interfaces: metadata service, snapshotters, etcd, S3; hosts are stand-ins."""

import base64
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from holdfast.api.blocks.v1 import blocks_pb2 as bb
from holdfast.api.encryption.v1 import encryption_pb2 as eb
from holdfast.api.grant.v1 import grant_pb2 as gb
from holdfast.api.key.v1 import key_pb2, key_pb2_grpc
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot.v1 import snapshot_pb2 as sb
from holdfast.api.volume.v1 import volume_pb2 as vb
from holdfast.base.errors import Unavailable
from holdfast.base.limits import EXTENT_BYTES, GIB, MIB
from holdfast.lab.snapshotters import Running, World, volume_of
from holdfast.metadata import keys, snapshot_changes
from holdfast.metadata.cas import Draft, run
from holdfast.metadata.client import Client, open_channel
from holdfast.metadata.permissions import MAKE_VOLUMES, READ_BLOCKS
from holdfast.metadata.refusals import refused
from holdfast.metadata.statuses import error_of
from holdfast.metadata.testing import RunningMetadata, StandInHost
from holdfast.snapshotter import keys as data_keys
from holdfast.snapshotter.cipher import DataKey
from holdfast.snapshotter.index import load_manifest
from holdfast.snapshotter.keys_file import FileKeys
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.testing import ModelView, ModelVolume, differing_extents, index_of

AWAY = grpc.StatusCode.UNAVAILABLE
STATE = grpc.StatusCode.FAILED_PRECONDITION


@dataclass
class Cluster:
    world: World
    metadata: RunningMetadata
    keys: Path
    generation: int = 0
    volumes: dict[str, vb.Volume] = field(default_factory=dict)

    def write_key(self, user: str, name: str) -> None:
        path = self.keys / user / f"{name}.key"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(base64.b64encode(os.urandom(32)))
        path.chmod(0o600)

    def start(self, name: str = "s1") -> Running:
        return self.world.start(
            name, "--pack-mib", "2", "--checkpoint-s", "1", "--keys", f"file://{self.keys}"
        )

    def client(self, user: str) -> Client:
        return self.metadata.client(user)

    def volume(self, client: Client, volume_id: str, **fields: object) -> vb.Volume:
        client.volumes.CreateVolume(vb.CreateVolumeRequest(volume_id=volume_id, size_bytes=GIB, **fields))  # type: ignore[arg-type]
        for answer in client.volumes.WatchVolume(vb.WatchVolumeRequest(volume_id=volume_id), timeout=60):
            if answer.volume.state == r.VOLUME_STATE_AVAILABLE:
                self.volumes[volume_id] = answer.volume
                return answer.volume
        raise AssertionError("the watch ended")

    def take(self, client: Client, snapshot_id: str, volume_id: str, view: ModelView, key: str = "") -> str:
        """The uid of a snapshot that is FROZEN now, with this content."""
        request = sb.CreateSnapshotRequest(snapshot_id=snapshot_id, volume_id=volume_id, encryption_key=key)
        uid = client.snapshots.CreateSnapshot(request).snapshot.uid
        host, volume_uid = self.world.hosts[0], self.volumes[volume_id].uid
        host.serve(volume_uid, uid, view)
        self.generation += 1

        def freeze(draft: Draft) -> None:
            replica = draft.need(keys.replica(volume_uid), r.ReplicaRecord)
            primary, generation = replica.primary_host_id, self.generation
            snapshot_changes.frozen(
                draft, volume_uid, uid, primary, replica.epoch, generation, time.time(), [host.host_id]
            )
            record = draft.need(keys.snapshot(uid), r.SnapshotRecord)
            record.frozen_on[0].nbd_port = host.port
            draft.put(keys.snapshot(uid), record)

        run(self.metadata.etcd, freeze)
        return uid

    def data_key(self, record: r.SnapshotRecord) -> DataKey:
        wrapped = data_keys.from_record(record.data_key)
        return data_keys.open_data_key(FileKeys(self.keys), record.uid, wrapped)

    def differs(self, record: r.SnapshotRecord, view: ModelView) -> list[int]:
        return differing_extents(self.world.store(), record.manifest, view, self.data_key(record))


@pytest.fixture
def cluster(world: World, authority: Path, tmp_path: Path) -> Iterator[Cluster]:
    world.add_host("host-a")
    metadata = RunningMetadata(authority, world.endpoint).start()
    hold = frozenset({"frozen"})
    hosts = [StandInHost(metadata.etcd, authority, name, hold=hold).start() for name in ("host-a", "host-b")]
    (tmp_path / "keys").mkdir(mode=0o700)
    made = Cluster(world, metadata, tmp_path / "keys")
    yield made
    for host in hosts:
        host.stop()
    metadata.stop()


def sees(running: Running, uid: str, name: str, role: str, view: ModelView) -> bool:
    """Whether what is read over NBD is `view`, where it holds data and beside that. Raises Unavailable."""
    with running.nbd(uid, name, role) as client:
        return all(
            client.read(extent * EXTENT_BYTES, 2 * EXTENT_BYTES)
            == view.read(extent * EXTENT_BYTES, 2 * EXTENT_BYTES)
            for extent in sorted(view.allocated)[::7]
        )


def stored(store: ObjectStore, uid: str) -> bytes:
    return b"".join(store.get(one.name) for one in store.list(f"snapshots/{uid}/"))


def test_granted_then_revoked_then_the_owners_key_is_gone(cluster: Cluster) -> None:
    alice, bob, etcd = cluster.client("alice"), cluster.client("bob"), cluster.metadata.etcd
    cluster.write_key("alice", "main")
    cluster.write_key("bob", "default")
    running = cluster.start()
    cluster.volume(alice, "v", encryption_key="main")
    model = volume_of(1, 5)
    model.write(500 * MIB, b"nobody must see this " * 1000)
    first = cluster.world.completed(cluster.take(alice, "s1", "v", model.freeze()))
    model.write(900 * MIB, b"changed".ljust(4096))
    view = model.freeze()
    uid = cluster.take(alice, "s2", "v", view)
    second = cluster.world.completed(uid)
    assert second.base_snapshot_uid == first.uid and second.uploaded_bytes == EXTENT_BYTES
    assert cluster.differs(second, view) == []
    store = cluster.world.store()
    everything = stored(store, first.uid) + stored(store, uid)
    assert b"nobody must see" not in everything
    assert cluster.data_key(first).secret != cluster.data_key(second).secret
    in_etcd = b"".join(entry.value for entry in etcd.range("/")[0])
    for secret in (cluster.data_key(first).secret, cluster.data_key(second).secret):
        for form in (secret, base64.b64encode(secret), secret.hex().encode()):
            assert form not in in_etcd and form not in everything
            assert form not in running.log.read_bytes()

    grant = gb.CreateGrantRequest(snapshot_id="s2", user="carol")
    refused(etcd, alice.grants.CreateGrant, grant, "FAILED_PRECONDITION", "NO_SUCH_KEY")
    grant.user, grant.encryption_key = "bob", "default"
    grant.permissions.extend([MAKE_VOLUMES, READ_BLOCKS])
    assert alice.grants.CreateGrant(grant).created
    with running.blocks("bob") as blocks:
        name = bb.SnapshotName(owner="alice", snapshot_id="s2")
        listed = blocks.ListSnapshotBlocks(bb.ListSnapshotBlocksRequest(snapshot=name))
        got = blocks.GetBlock(bb.GetBlockRequest(snapshot=name, block=listed.blocks[0]))
        start = listed.blocks[0].block_index * listed.block_bytes
        assert got.data == view.read(start, listed.block_bytes)
    assert sees(running, uid, "bob", "user", view)

    clone = cluster.volume(bob, "copy", source_snapshot=vb.SnapshotRef(owner="alice", snapshot_id="s2"))
    assert clone.encryption_key == "default"
    alice.grants.DeleteGrant(gb.DeleteGrantRequest(snapshot_id="s2", user="bob"))
    shutil.rmtree(cluster.keys / "alice")
    running.process.kill()
    running = cluster.start("s2")
    with pytest.raises(Unavailable):
        sees(running, uid, "operator", "operator", view)
    assert "alice/main.key" in running.log.read_text()
    assert sees(running, uid, "host-a", "host", view), "by bob's key, which came with the volume"

    copy = ModelVolume(GIB)
    copy.extents, copy.allocated = dict(view.extents), set(view.allocated)
    copy.write(3 * MIB, b"bob's own".ljust(4096))
    uid = cluster.take(bob, "b1", "copy", copy.freeze())
    record = cluster.world.completed(uid)
    assert record.uploaded_bytes == EXTENT_BYTES, "incremental from another's snapshot, whose key is gone"
    assert set(index_of(store, record.manifest, key=cluster.data_key(record)).keys.keys) == {
        first.uid, second.uid, record.uid,
    }  # fmt: skip


def test_an_upload_waits_for_its_key_and_a_read_says_so(cluster: Cluster) -> None:
    alice = cluster.client("alice")
    running = cluster.start()
    cluster.volume(alice, "v")
    view = volume_of(2, 2).freeze()
    uid = cluster.take(alice, "s", "v", view, "main")
    waiting = cluster.world.await_record(uid, lambda record: record.reason != "")
    assert waiting.state == r.SNAPSHOT_STATE_FROZEN and "alice/main.key" in waiting.reason
    assert not list(cluster.world.store().list(f"snapshots/{uid}/")), "nothing is stored without a key"
    cluster.write_key("alice", "main")
    record = cluster.world.completed(uid)
    assert not record.reason and cluster.differs(record, view) == []

    path = cluster.keys / "alice" / "main.key"
    path.chmod(0o644)
    with running.blocks("alice") as blocks:
        name = bb.SnapshotName(snapshot_id="s")
        asked = bb.ListSnapshotBlocksRequest(snapshot=name)
        with pytest.raises(grpc.RpcError) as raised:
            blocks.ListSnapshotBlocks(asked)
        error = error_of(raised.value)
        assert (raised.value.code(), error.reason) == (AWAY, "KEY_UNAVAILABLE") and "chmod" in error.message
        with pytest.raises(Unavailable):
            sees(running, uid, "operator", "operator", view)
        path.chmod(0o600)
        # What was refused is not asked for again for a moment.
        deadline_s = time.monotonic() + 60
        while True:
            try:
                assert blocks.ListSnapshotBlocks(asked).blocks
                break
            except grpc.RpcError:
                assert time.monotonic() < deadline_s
    assert sees(running, uid, "operator", "operator", view)


def test_another_key_takes_the_place_of_the_first(cluster: Cluster) -> None:
    alice = cluster.client("alice")
    cluster.write_key("alice", "main")
    running = cluster.start()
    cluster.volume(alice, "v", encryption_key="main")
    model = volume_of(3, 2)
    view = model.freeze()
    record = cluster.world.completed(cluster.take(alice, "s1", "v", view))
    objects = {one.name for one in cluster.world.store().list("")}
    rekey = eb.RekeySnapshotRequest(snapshot_id="s1", encryption_key="second")
    etcd = cluster.metadata.etcd
    refused(etcd, alice.encryption.RekeySnapshot, rekey, "FAILED_PRECONDITION", "NO_SUCH_KEY")
    cluster.write_key("alice", "second")
    answer = alice.encryption.RekeySnapshot(rekey)
    assert answer.encryption_key == "second"
    assert {one.name for one in cluster.world.store().list("")} == objects
    (cluster.keys / "alice" / "main.key").unlink()
    assert sees(running, record.uid, "operator", "operator", view)
    # The base's key is known by its new name; the volume's own is gone, and another is put in its place.
    alice.encryption.SetVolumeKey(eb.SetVolumeKeyRequest(volume_id="v", encryption_key="second"))
    model.write(7 * MIB, b"more")
    view = model.freeze()
    second = cluster.world.completed(cluster.take(alice, "s2", "v", view))
    assert second.uploaded_bytes == EXTENT_BYTES and cluster.differs(second, view) == []


def test_a_base_whose_key_is_lost_makes_the_next_one_full(cluster: Cluster) -> None:
    alice = cluster.client("alice")
    cluster.write_key("alice", "main")
    cluster.write_key("alice", "second")
    cluster.start()
    cluster.volume(alice, "v", encryption_key="main")
    model = volume_of(4, 2)
    cluster.world.completed(cluster.take(alice, "s1", "v", model.freeze()))
    (cluster.keys / "alice" / "main.key").unlink()
    alice.encryption.SetVolumeKey(eb.SetVolumeKeyRequest(volume_id="v", encryption_key="second"))
    model.write(7 * MIB, b"more")
    view = model.freeze()
    second = cluster.world.completed(cluster.take(alice, "s2", "v", view))
    assert second.uploaded_bytes == len(view.allocated) * EXTENT_BYTES
    assert load_manifest(cluster.world.store(), second.manifest).base_snapshot_uid == ""
    assert cluster.differs(second, view) == []


def test_two_snapshotters_agree_on_one_key(cluster: Cluster) -> None:
    """One is stopped in the middle, and the other goes on with the key that is recorded."""
    alice = cluster.client("alice")
    cluster.write_key("alice", "main")
    cluster.volume(alice, "v", encryption_key="main")
    view = volume_of(5, 12).freeze()
    uid = cluster.take(alice, "s", "v", view)
    [export] = [one for name, one in cluster.world.hosts[0]._exports.items() if name.endswith(uid)]
    export.hold_from = sorted(view.allocated)[60]
    first = cluster.start("first")
    assert export.held.wait(60)
    before = cluster.world.await_record(uid, lambda record: len(record.checkpoints) > 0)
    first.process.kill()
    assert export.left.wait(60)
    export.release()
    cluster.start("second")
    record = cluster.world.completed(uid)
    assert record.data_key == before.data_key
    assert cluster.differs(record, view) == []
    assert [one for one in view.allocated if view.reads.count(one) == 1], "it went on, and did not start anew"


@pytest.mark.parametrize(("name", "role"), [("alice", "user"), ("operator", "operator"), ("host-a", "host")])
def test_keys_are_wrapped_for_services_only(cluster: Cluster, name: str, role: str) -> None:
    cluster.write_key("alice", "main")
    running = cluster.start()
    uid = "c" * 24
    wrapped = data_keys.new_data_key(FileKeys(cluster.keys), uid, "alice", "main")
    request = key_pb2.RewrapRequest(
        snapshot_uid=uid, data_key=data_keys.to_record(wrapped), to_user="alice", to_name="main"
    )
    address = f"127.0.0.1:{running.grpc_port}"
    with open_channel(address, cluster.world.tls(name, role)) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            key_pb2_grpc.KeyServiceStub(channel).Rewrap(request, timeout=30)
        assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert error_of(raised.value).reason == "BAD_CERTIFICATE"
    with open_channel(address, cluster.world.tls("snapshotter", "service")) as channel:
        stub = key_pb2_grpc.KeyServiceStub(channel)
        again = data_keys.from_record(stub.Rewrap(request, timeout=30).data_key)
        assert again != wrapped
        assert data_keys.unwrap(FileKeys(cluster.keys), uid, again) == (
            data_keys.unwrap(FileKeys(cluster.keys), uid, wrapped)
        )
        for change, code, reason in (
            ({"to_name": "none"}, STATE, "NO_SUCH_KEY"),
            ({"to_user": "../x"}, grpc.StatusCode.INVALID_ARGUMENT, "BAD_ID"),
            ({"to_name": ""}, grpc.StatusCode.INVALID_ARGUMENT, "BAD_ID"),
            ({"snapshot_uid": "x"}, grpc.StatusCode.INVALID_ARGUMENT, "BAD_ID"),
            ({"snapshot_uid": "d" * 24}, AWAY, "KEY_UNAVAILABLE"),
        ):
            bad = key_pb2.RewrapRequest.FromString(request.SerializeToString())
            for field_name, value in change.items():
                setattr(bad, field_name, value)
            with pytest.raises(grpc.RpcError) as raised:
                stub.Rewrap(bad, timeout=30)
            assert (raised.value.code(), error_of(raised.value).reason) == (code, reason)
