"""Which keys are recorded where, and who is refused what; the keys themselves are snapshotters'."""

from collections.abc import Callable

import grpc
import pytest

from holdfast.api.encryption.v1 import encryption_pb2 as eb
from holdfast.api.grant.v1 import grant_pb2 as gb
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot.v1 import snapshot_pb2 as sb
from holdfast.api.volume.v1 import volume_pb2 as vb
from holdfast.base.limits import GIB
from holdfast.metadata import encryption_decisions, keys, snapshot_changes
from holdfast.metadata.cas import Draft, run
from holdfast.metadata.client import Client
from holdfast.metadata.encryption_decisions import Rewrapped, Wanted
from holdfast.metadata.etcd import Etcd
from holdfast.metadata.records import decode
from holdfast.metadata.refusals import refused
from holdfast.metadata.snapshot_changes import Claimant, Uploaded
from holdfast.metadata.testing import RunningMetadata, StandInHost


class StandInRewrapper:
    """Answers as a snapshotter does that has every key; what it wraps says for whom."""

    def __init__(self) -> None:
        self.wanted: list[Wanted] = []
        self.before: Callable[[], None] = lambda: None

    def rewrap(self, wanted: Wanted) -> Rewrapped:
        self.wanted.append(wanted)
        self.before()
        data = f"{wanted.data_key.ciphertext.decode()} for {wanted.to_user}/{wanted.to_name}".encode()
        made = r.WrappedKey(user=wanted.to_user, name=wanted.to_name, ciphertext=data)
        return Rewrapped(wanted.snapshot_uid, made)


@pytest.fixture
def rewrapper(metadata: RunningMetadata, monkeypatch: pytest.MonkeyPatch) -> StandInRewrapper:
    made = StandInRewrapper()
    monkeypatch.setattr(
        "holdfast.metadata.rewrapping.Rewrapper.rewrap", lambda _, wanted: made.rewrap(wanted)
    )
    return made


def volume(client: Client, volume_id: str, **fields: object) -> vb.Volume:
    client.volumes.CreateVolume(vb.CreateVolumeRequest(volume_id=volume_id, size_bytes=GIB, **fields))  # type: ignore[arg-type]
    for answer in client.volumes.WatchVolume(vb.WatchVolumeRequest(volume_id=volume_id), timeout=30):
        if answer.volume.state == r.VOLUME_STATE_AVAILABLE:
            return answer.volume
    raise AssertionError("the watch ended")


def record(etcd: Etcd, uid: str) -> r.SnapshotRecord:
    entry = etcd.get(keys.snapshot(uid))
    assert entry is not None
    return decode(r.SnapshotRecord, entry.value)


def snapshot(
    client: Client, etcd: Etcd, snapshot_id: str, volume_id: str, key: str = "", end: bool = True
) -> str:
    """The uid of a snapshot; COMPLETED unless `end` is false."""
    request = sb.CreateSnapshotRequest(snapshot_id=snapshot_id, volume_id=volume_id, encryption_key=key)
    uid = client.snapshots.CreateSnapshot(request).snapshot.uid
    for answer in client.snapshots.WatchSnapshot(
        sb.WatchSnapshotRequest(snapshot_id=snapshot_id), timeout=30
    ):
        if answer.snapshot.state == r.SNAPSHOT_STATE_FROZEN:
            break
    if end:
        upload(etcd, uid)
    return uid


def upload(etcd: Etcd, uid: str) -> None:
    lease = etcd.grant_lease(60)
    by = Claimant("s", lease)
    assert run(etcd, lambda draft: snapshot_changes.claim(draft, uid, by))
    one = record(etcd, uid)
    if one.encryption_key:
        made = r.WrappedKey(user=one.owner, name=one.encryption_key, ciphertext=uid[-4:].encode())
        assert run(etcd, lambda draft: snapshot_changes.set_data_key(draft, uid, by, made)) == made
        other = r.WrappedKey(user=one.owner, name=one.encryption_key, ciphertext=b"other")
        assert run(etcd, lambda draft: snapshot_changes.set_data_key(draft, uid, by, other)) == made
    assert run(
        etcd, lambda draft: snapshot_changes.complete(draft, uid, by, Uploaded(f"m{uid}", "00", 1, 1), 9.0)
    )
    etcd.revoke_lease(lease)


def test_the_base_is_of_the_same_kind(metadata: RunningMetadata, two_hosts: list[StandInHost]) -> None:
    alice, etcd = metadata.client("alice"), metadata.etcd
    volume(alice, "v")
    plain = snapshot(alice, etcd, "s1", "v")
    assert not record(etcd, plain).encryption_key
    asked = snapshot(alice, etcd, "s2", "v", "main")
    assert record(etcd, asked).encryption_key == "main" and not record(etcd, asked).base_snapshot_uid
    assert alice.encryption.SetVolumeKey(
        eb.SetVolumeKeyRequest(volume_id="v", encryption_key="other")
    ).changed
    assert not alice.encryption.SetVolumeKey(
        eb.SetVolumeKeyRequest(volume_id="v", encryption_key="other")
    ).changed
    by_volume = snapshot(alice, etcd, "s3", "v")
    assert record(etcd, by_volume).encryption_key == "other"
    assert record(etcd, by_volume).base_snapshot_uid == asked, "another key, and still an increment"
    assert (
        alice.snapshots.GetSnapshot(sb.GetSnapshotRequest(snapshot_id="s3")).snapshot.encryption_key
        == "other"
    )
    assert alice.encryption.SetVolumeKey(eb.SetVolumeKeyRequest(volume_id="v")).changed
    off = snapshot(alice, etcd, "s4", "v")
    assert not record(etcd, off).base_snapshot_uid and not record(etcd, off).encryption_key


def test_the_same_request_again(metadata: RunningMetadata, two_hosts: list[StandInHost]) -> None:
    alice, etcd = metadata.client("alice"), metadata.etcd
    volume(alice, "v", encryption_key="main")
    again = vb.CreateVolumeRequest(volume_id="v", size_bytes=GIB, encryption_key="main")
    assert not alice.volumes.CreateVolume(again).created
    again.encryption_key = "other"
    refused(etcd, alice.volumes.CreateVolume, again, "ALREADY_EXISTS", "ALREADY_EXISTS")
    snapshot(alice, etcd, "s1", "v")
    request = sb.CreateSnapshotRequest(snapshot_id="s1", volume_id="v")
    assert not alice.snapshots.CreateSnapshot(request).created
    request.encryption_key = "main"
    assert not alice.snapshots.CreateSnapshot(request).created
    request.encryption_key = "other"
    refused(etcd, alice.snapshots.CreateSnapshot, request, "ALREADY_EXISTS", "ALREADY_EXISTS")


def test_refusals(metadata: RunningMetadata, two_hosts: list[StandInHost]) -> None:
    alice, bob, etcd = metadata.client("alice"), metadata.client("bob"), metadata.etcd
    volume(alice, "v")
    snapshot(alice, etcd, "plain", "v")
    snapshot(alice, etcd, "s", "v", "main")
    snapshot(alice, etcd, "early", "v", "main", end=False)
    state, away, bad, none = "FAILED_PRECONDITION", "UNAVAILABLE", "INVALID_ARGUMENT", "NOT_FOUND"

    def grant(snapshot_id: str, user: str, key: str = "") -> gb.CreateGrantRequest:
        return gb.CreateGrantRequest(snapshot_id=snapshot_id, user=user, encryption_key=key)

    for grant_request, code, reason in (
        (grant("s", "*"), state, "ENCRYPTED"),
        (grant("early", "bob"), state, "KEY_PENDING"),
        (grant("s", "bob"), away, "KEY_UNAVAILABLE"),
        (grant("s", "bob", "A"), bad, "BAD_ID"),
        (grant("plain", "bob", "k"), state, "NOT_ENCRYPTED"),
    ):
        refused(etcd, alice.grants.CreateGrant, grant_request, code, reason)
    for snapshot_id, key, code, reason in (
        ("plain", "", state, "NOT_ENCRYPTED"),
        ("early", "", state, "KEY_PENDING"),
        ("s", "", away, "KEY_UNAVAILABLE"),
        ("s", "A", bad, "BAD_ID"),
        ("none", "", none, "NOT_FOUND"),
    ):
        rekey = eb.RekeySnapshotRequest(snapshot_id=snapshot_id, encryption_key=key)
        refused(etcd, alice.encryption.RekeySnapshot, rekey, code, reason)
        refused(etcd, bob.encryption.RekeySnapshot, rekey, *((bad, reason) if code == bad else (none, none)))
    for volume_id, key, code, reason in (("none", "k", none, "NOT_FOUND"), ("v", "A", bad, "BAD_ID")):
        set_key = eb.SetVolumeKeyRequest(volume_id=volume_id, encryption_key=key)
        refused(etcd, alice.encryption.SetVolumeKey, set_key, code, reason)
    new_volume = vb.CreateVolumeRequest(volume_id="x", size_bytes=GIB, encryption_key="A")
    refused(etcd, alice.volumes.CreateVolume, new_volume, bad, "BAD_ID")
    new_snapshot = sb.CreateSnapshotRequest(snapshot_id="x", volume_id="v", encryption_key="A")
    refused(etcd, alice.snapshots.CreateSnapshot, new_snapshot, bad, "BAD_ID")


def test_a_grant_carries_its_own_key(
    metadata: RunningMetadata, two_hosts: list[StandInHost], rewrapper: StandInRewrapper
) -> None:
    alice, bob, etcd = metadata.client("alice"), metadata.client("bob"), metadata.etcd
    volume(alice, "v", encryption_key="main")
    uid = snapshot(alice, etcd, "s", "v")
    own = uid[-4:]
    first = alice.grants.CreateGrant(gb.CreateGrantRequest(snapshot_id="s", user="bob"))
    assert first.created and first.grant.encryption_key == "default"
    again = alice.grants.CreateGrant(gb.CreateGrantRequest(snapshot_id="s", user="bob"))
    assert not again.created and len(rewrapper.wanted) == 1, "the same again asks nobody"
    other = alice.grants.CreateGrant(gb.CreateGrantRequest(snapshot_id="s", user="bob", encryption_key="k2"))
    assert not other.created and other.grant.encryption_key == "k2"
    seen = bob.snapshots.GetSnapshot(sb.GetSnapshotRequest(owner="alice", snapshot_id="s")).snapshot
    assert seen.encryption_key == "k2", "his own key, and not the name of hers"

    made = volume(bob, "copy", source_snapshot=vb.SnapshotRef(owner="alice", snapshot_id="s"))
    assert made.encryption_key == "k2"
    alice.grants.DeleteGrant(gb.DeleteGrantRequest(snapshot_id="s", user="bob"))
    entry = etcd.get(keys.volume(made.uid))
    assert entry is not None
    assert decode(r.VolumeRecord, entry.value).origin_key.ciphertext.decode() == f"{own} for bob/k2"

    clone = snapshot(bob, etcd, "b1", "copy", end=False)
    assert record(etcd, clone).base_snapshot_uid == uid and record(etcd, clone).encryption_key == "k2"
    wrapped = encryption_decisions.base_key(Draft(etcd), record(etcd, clone))
    assert wrapped is not None and wrapped.user == "bob", "the base of another, by the volume's key"
    off = eb.SetVolumeKeyRequest(volume_id="copy")
    refused(etcd, bob.encryption.SetVolumeKey, off, "FAILED_PRECONDITION", "ENCRYPTED")
    assert bob.encryption.SetVolumeKey(eb.SetVolumeKeyRequest(volume_id="copy", encryption_key="k3")).changed
    wrapped = encryption_decisions.base_key(Draft(etcd), record(etcd, clone))
    assert wrapped is not None and wrapped.ciphertext.decode() == f"{own} for bob/k2 for bob/k3"
    upload(etcd, clone)
    second = snapshot(bob, etcd, "b2", "copy", end=False)
    wrapped = encryption_decisions.base_key(Draft(etcd), record(etcd, second))
    assert wrapped is not None and wrapped.ciphertext.decode() == clone[-4:], "one's own base, by its own key"


def test_ones_own_volume_follows_its_snapshots_key(
    metadata: RunningMetadata, two_hosts: list[StandInHost], rewrapper: StandInRewrapper
) -> None:
    alice, etcd = metadata.client("alice"), metadata.etcd
    volume(alice, "v", encryption_key="main")
    uid = snapshot(alice, etcd, "s", "v")
    made = volume(alice, "copy", source_snapshot=vb.SnapshotRef(snapshot_id="s"))
    assert made.encryption_key == "main"
    clone = snapshot(alice, etcd, "c", "copy", end=False)
    answer = alice.encryption.RekeySnapshot(eb.RekeySnapshotRequest(snapshot_id="s", encryption_key="new"))
    assert answer.encryption_key == "new"
    assert record(etcd, uid).encryption_key == record(etcd, uid).data_key.name == "new"
    wrapped = encryption_decisions.base_key(Draft(etcd), record(etcd, clone))
    assert wrapped == record(etcd, uid).data_key
    off = eb.SetVolumeKeyRequest(volume_id="copy")
    refused(etcd, alice.encryption.SetVolumeKey, off, "FAILED_PRECONDITION", "ENCRYPTED")
    assert alice.encryption.RekeySnapshot(eb.RekeySnapshotRequest(snapshot_id="s")).encryption_key == "new"


def replace(alice: Client, etcd: Etcd) -> Callable[[], None]:
    def act() -> None:
        alice.snapshots.DeleteSnapshot(sb.DeleteSnapshotRequest(snapshot_id="s"))
        snapshot(alice, etcd, "s", "v")

    return act


def test_a_snapshot_that_is_replaced_meanwhile_gets_no_foreign_key(
    metadata: RunningMetadata, two_hosts: list[StandInHost], rewrapper: StandInRewrapper
) -> None:
    alice, etcd = metadata.client("alice"), metadata.etcd
    volume(alice, "v", encryption_key="main")
    snapshot(alice, etcd, "s", "v")
    for call, request in (
        (alice.grants.CreateGrant, gb.CreateGrantRequest(snapshot_id="s", user="bob")),
        (alice.encryption.RekeySnapshot, eb.RekeySnapshotRequest(snapshot_id="s", encryption_key="new")),
    ):
        rewrapper.before = replace(alice, etcd)
        with pytest.raises(grpc.RpcError, match="replaced by another"):
            call(request, timeout=30)
        rewrapper.before = lambda: None
        call(request, timeout=30)
        alice.grants.DeleteGrant(gb.DeleteGrantRequest(snapshot_id="s", user="bob"))
