"""Sharing: what a grant shows and what it does not, what is public, and what revoking stops and does not."""

from holdfast.api.attachment.v1 import attachment_pb2 as ab
from holdfast.api.grant.v1 import grant_pb2 as gb
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot.v1 import snapshot_pb2 as sb
from holdfast.api.volume.v1 import volume_pb2 as vb
from holdfast.metadata import keys
from holdfast.metadata.client import Client
from holdfast.metadata.records import decode
from holdfast.metadata.refusals import refused
from holdfast.metadata.testing import RunningMetadata, StandInHost
from holdfast.metadata.testing_users import available, made_snapshot, made_volume

MAKE, READ = r.GRANT_PERMISSION_MAKE_VOLUMES, r.GRANT_PERMISSION_READ_BLOCKS


def grant(client: Client, snapshot_id: str, user: str, *permissions: "r.GrantPermission.ValueType") -> None:
    request = gb.CreateGrantRequest(snapshot_id=snapshot_id, user=user, permissions=permissions)
    assert client.grants.CreateGrant(request).created


def listed(client: Client, **fields: object) -> list[str]:
    """Page by page, one a page."""
    found, token = [], ""
    while True:
        request = sb.ListSnapshotsRequest(granted=True, page_size=1, page_token=token, **fields)  # type: ignore[arg-type]
        page = client.snapshots.ListSnapshots(request)
        found += [f"{one.owner}/{one.snapshot_id}" for one in page.snapshots]
        token = page.next_page_token
        if not token:
            return sorted(found)


def test_what_is_public_and_what_is_whose(metadata: RunningMetadata, two_hosts: list[StandInHost]) -> None:
    alice, bob, carol = (metadata.client(name) for name in ("alice", "bob", "carol"))
    for client in (alice, carol):
        made_volume(client, "v")
    for own_id in ("both", "mine", "named", "public"):
        made_snapshot(metadata, alice, own_id, "v")
    made_snapshot(metadata, carol, "other", "v")
    for own_id, user in [
        ("both", "bob"),
        ("both", "*"),
        ("named", "bob"),
        ("public", "*"),
        ("mine", "alice"),
    ]:
        grant(alice, own_id, user)
    grant(carol, "other", "*")
    assert listed(bob) == ["alice/both", "alice/named", "alice/public", "carol/other"]
    assert listed(bob, public=True) == ["alice/both", "alice/public", "carol/other"]
    assert listed(bob, owner="alice") == ["alice/both", "alice/named", "alice/public"]
    assert listed(bob, public=True, owner="carol") == ["carol/other"]
    assert listed(bob, owner="nobody") == listed(bob, owner="../alice") == []
    assert listed(alice) == ["carol/other"] and listed(carol) == ["alice/both", "alice/public"]
    alice.grants.DeleteGrant(gb.DeleteGrantRequest(snapshot_id="both", user="*"))
    assert "alice/both" in listed(bob) and "alice/both" not in listed(bob, public=True)
    assert listed(carol) == ["alice/public"]
    alice.snapshots.DeleteSnapshot(sb.DeleteSnapshotRequest(snapshot_id="public"))
    assert not listed(carol)
    left = [entry.key for entry in metadata.etcd.range(keys.granted_to("*"))[0]]
    assert len(left) == 1, "the index forgets what is deleted"


def test_a_grant_shows_no_more_than_the_snapshot(
    metadata: RunningMetadata, two_hosts: list[StandInHost]
) -> None:
    alice, bob = metadata.client("alice"), metadata.client("bob")
    made_volume(alice, "secret-project")
    made_snapshot(metadata, alice, "before", "secret-project")
    made_snapshot(metadata, alice, "s", "secret-project")
    grant(alice, "s", "bob", READ)
    grant(alice, "s", "*", MAKE)
    mine = alice.snapshots.GetSnapshot(sb.GetSnapshotRequest(snapshot_id="s")).snapshot
    assert mine.volume_id == "secret-project" and mine.base_snapshot_uid and mine.manifest
    assert not mine.granted_permissions
    shown = bob.snapshots.GetSnapshot(sb.GetSnapshotRequest(snapshot_id="s", owner="alice")).snapshot
    (in_list,) = bob.snapshots.ListSnapshots(sb.ListSnapshotsRequest(granted=True)).snapshots
    watch = sb.WatchSnapshotRequest(snapshot_id="s", owner="alice")
    (watched,) = bob.snapshots.WatchSnapshot(watch, timeout=20)
    assert shown == in_list == watched.snapshot
    assert (shown.uid, shown.size_bytes, shown.state) == (mine.uid, mine.size_bytes, mine.state)
    assert not (shown.volume_id or shown.base_snapshot_uid or shown.manifest or shown.reason)
    assert list(shown.granted_permissions) == [MAKE, READ], "what is granted to bob and to everyone adds up"
    before = sb.GetSnapshotRequest(snapshot_id="before", owner="alice")
    refused(metadata.etcd, bob.snapshots.GetSnapshot, before, "NOT_FOUND", "NOT_FOUND")
    for wanted in (gb.ListGrantsRequest(snapshot_id="s"), gb.ListGrantsRequest(snapshot_id="none")):
        refused(metadata.etcd, bob.grants.ListGrants, wanted, "NOT_FOUND", "NOT_FOUND")


def test_revoking_stops_new_use_and_harms_no_volume(
    metadata: RunningMetadata, two_hosts: list[StandInHost]
) -> None:
    """The volume is attached, snapshot, and made from that: it is its own owner's altogether."""
    alice, bob, etcd = metadata.client("alice"), metadata.client("bob"), metadata.etcd
    made_volume(alice, "v")
    origin = made_snapshot(metadata, alice, "s", "v")
    grant(alice, "s", "bob")
    source = vb.SnapshotRef(owner="alice", snapshot_id="s")
    bob.volumes.CreateVolume(vb.CreateVolumeRequest(volume_id="copy", source_snapshot=source))
    copy = available(bob, "copy")
    alice.grants.DeleteGrant(gb.DeleteGrantRequest(snapshot_id="s", user="bob"))
    more = vb.CreateVolumeRequest(volume_id="more", source_snapshot=source)
    refused(etcd, bob.volumes.CreateVolume, more, "NOT_FOUND", "NOT_FOUND")
    look = sb.GetSnapshotRequest(snapshot_id="s", owner="alice")
    refused(etcd, bob.snapshots.GetSnapshot, look, "NOT_FOUND", "NOT_FOUND")
    assert not listed(bob)

    alice.snapshots.DeleteSnapshot(sb.DeleteSnapshotRequest(snapshot_id="s"))
    for host in two_hosts:
        entry = etcd.get(keys.assignment(host.record.host_id, copy.uid))
        assert entry is not None
        assert decode(r.Assignment, entry.value).origin_snapshot_uid == origin.uid, "it still copies from it"
    attach = ab.CreateAttachmentRequest(attachment_id="a", volume_id="copy", initiator_iqn="iqn.2026-01.a:b")
    assert bob.attachments.CreateAttachment(attach).created
    mine = made_snapshot(metadata, bob, "mine", "copy")
    assert mine.state == r.SNAPSHOT_STATE_COMPLETED
    again = vb.CreateVolumeRequest(volume_id="again", source_snapshot=vb.SnapshotRef(snapshot_id="mine"))
    assert bob.volumes.CreateVolume(again).created
    available(bob, "again")
