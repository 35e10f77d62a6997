"""Every error table of the protos, walked: the status, the reason, and that nothing was changed."""

from collections.abc import Callable
from typing import Any

import pytest

from holdfast.api.attachment.v1 import attachment_pb2 as ab
from holdfast.api.grant.v1 import grant_pb2 as gb
from holdfast.api.host.v1 import host_pb2 as hb
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot.v1 import snapshot_pb2 as sb
from holdfast.api.volume.v1 import volume_pb2 as vb
from holdfast.base.limits import GIB, LIMIT_MIN_BYTES_S, LIMIT_MIN_IOPS, TIB, VOLUME_MAX_BYTES
from holdfast.metadata import attachment_decisions, keys, snapshot_decisions
from holdfast.metadata.client import Client
from holdfast.metadata.records import decode
from holdfast.metadata.refusals import refused
from holdfast.metadata.snapshotter_actions import SnapshotterActions
from holdfast.metadata.testing import RunningMetadata, StandInHost
from holdfast.metadata.testing_users import available, made_snapshot, made_volume

IQN = "iqn.2026-01.com.example:compute1"
BAD_IDS = ["", "A", "a/b", ".a", "-a", "a b", "a" * 64, "ä", "a\n", "../x"]
BAD_IQNS = [
    "",
    "nonsense",
    "iqn.2026-13.com.example:x",
    "IQN.2026-01.com.example:x",
    "iqn.2026-01.com.e:" + "x" * 223,
    "eui.123",
    "naa.zz",
    "iqn.2026-01.com.example:a b",
]
MakeHost = Callable[..., StandInHost]


@pytest.mark.parametrize("bad", BAD_IDS)
def test_malformed_ids(metadata: RunningMetadata, bad: str) -> None:
    alice, etcd = metadata.client("alice"), metadata.etcd
    refuse = [
        (alice.volumes.CreateVolume, vb.CreateVolumeRequest(volume_id=bad, size_bytes=GIB)),
        (alice.snapshots.CreateSnapshot, sb.CreateSnapshotRequest(snapshot_id=bad, volume_id="v")),
        (
            alice.attachments.CreateAttachment,
            ab.CreateAttachmentRequest(attachment_id=bad, volume_id="v", initiator_iqn=IQN),
        ),
    ]
    for method, request in refuse:
        refused(etcd, method, request, "INVALID_ARGUMENT", "BAD_ID")
    look = [
        (alice.volumes.GetVolume, vb.GetVolumeRequest(volume_id=bad)),
        (alice.volumes.WatchVolume, vb.WatchVolumeRequest(volume_id=bad)),
        (alice.volumes.DeleteVolume, vb.DeleteVolumeRequest(volume_id=bad)),
        (alice.snapshots.GetSnapshot, sb.GetSnapshotRequest(snapshot_id=bad, owner=bad)),
        (alice.snapshots.CreateSnapshot, sb.CreateSnapshotRequest(snapshot_id="s", volume_id=bad)),
        (alice.attachments.GetAttachment, ab.GetAttachmentRequest(attachment_id=bad)),
        (metadata.client("olga", "operator").hosts.GetHost, hb.GetHostRequest(host_id=bad)),
        (metadata.client("olga", "operator").hosts.DeleteHost, hb.DeleteHostRequest(host_id=bad)),
    ]
    for method, request in look:
        refused(etcd, method, request, "NOT_FOUND", "NOT_FOUND")


def test_create_volume_sizes(metadata: RunningMetadata, make_host: MakeHost) -> None:
    make_host("host-a", capacity_bytes=10 * GIB)
    make_host("host-b", capacity_bytes=4 * GIB)
    alice, etcd = metadata.client("alice"), metadata.etcd
    create = alice.volumes.CreateVolume
    for size, reason in [
        (0, "BAD_SIZE"),
        (-4096, "BAD_SIZE"),
        (-(1 << 63), "BAD_SIZE"),
        (4097, "BAD_SIZE"),
        (VOLUME_MAX_BYTES + 4096, "SIZE_TOO_LARGE"),
        ((1 << 63) - 4096, "SIZE_TOO_LARGE"),
        (TIB, "SIZE_TOO_LARGE"),
        (10 * GIB + 4096, "SIZE_TOO_LARGE"),
    ]:
        request = vb.CreateVolumeRequest(volume_id="v", size_bytes=size)
        message = refused(etcd, create, request, "INVALID_ARGUMENT", reason)
        assert str(size) in message, "the offending number is in the message"
    request = vb.CreateVolumeRequest(volume_id="v", size_bytes=5 * GIB)
    refused(etcd, create, request, "RESOURCE_EXHAUSTED", "NO_ROOM")


def test_create_volume_without_two_hosts(metadata: RunningMetadata, make_host: MakeHost) -> None:
    alice, etcd = metadata.client("alice"), metadata.etcd
    request = vb.CreateVolumeRequest(volume_id="v", size_bytes=GIB)
    refused(etcd, alice.volumes.CreateVolume, request, "FAILED_PRECONDITION", "NO_SECOND_HOST")
    make_host("host-a")
    message = refused(etcd, alice.volumes.CreateVolume, request, "FAILED_PRECONDITION", "NO_SECOND_HOST")
    assert "there is 1" in message
    host = make_host("host-b")
    host.stop()
    refused(etcd, alice.volumes.CreateVolume, request, "FAILED_PRECONDITION", "NO_SECOND_HOST")


def test_limit_volume(metadata: RunningMetadata, two_hosts: list[StandInHost]) -> None:
    alice, olga, etcd = metadata.client("alice"), metadata.client("olga", "operator"), metadata.etcd
    volume = made_volume(alice, "v")
    limit = olga.volumes.LimitVolume
    own = vb.LimitVolumeRequest(volume_id="v", iops=LIMIT_MIN_IOPS)
    refused(etcd, alice.volumes.LimitVolume, own, "PERMISSION_DENIED", "OPERATOR_ONLY")
    for iops, bytes_s in [(-1, 0), (LIMIT_MIN_IOPS - 1, 0), (0, -1), (0, LIMIT_MIN_BYTES_S - 1)]:
        request = vb.LimitVolumeRequest(volume_id="v", owner="alice", iops=iops, bytes_s=bytes_s)
        message = refused(etcd, limit, request, "INVALID_ARGUMENT", "BAD_LIMIT")
        assert str(iops or bytes_s) in message
    stranger = vb.LimitVolumeRequest(volume_id="w", owner="alice", iops=LIMIT_MIN_IOPS)
    refused(etcd, limit, stranger, "NOT_FOUND", "NOT_FOUND")
    request = vb.LimitVolumeRequest(volume_id="v", owner="alice", iops=LIMIT_MIN_IOPS)
    assert [limit(request).changed for _ in range(2)] == [True, False]
    for host in two_hosts:
        (found,) = etcd.range(keys.assignment(host.record.host_id, volume.uid))[0]
        assert decode(r.Assignment, found.value).limits.iops == LIMIT_MIN_IOPS
    hold(two_hosts, "removed")
    alice.volumes.DeleteVolume(vb.DeleteVolumeRequest(volume_id="v"))
    refused(etcd, limit, request, "FAILED_PRECONDITION", "NOT_AVAILABLE")


def test_create_volume_twice(metadata: RunningMetadata, two_hosts: list[StandInHost]) -> None:
    alice, bob, etcd = metadata.client("alice"), metadata.client("bob"), metadata.etcd
    made = made_volume(alice, "v")
    again = alice.volumes.CreateVolume(vb.CreateVolumeRequest(volume_id="v", size_bytes=GIB))
    assert not again.created and again.volume.uid == made.uid
    for other in [
        vb.CreateVolumeRequest(volume_id="v", size_bytes=2 * GIB),
        vb.CreateVolumeRequest(volume_id="v", size_bytes=GIB, multi_attach=True),
        vb.CreateVolumeRequest(
            volume_id="v", size_bytes=GIB, source_snapshot=vb.SnapshotRef(snapshot_id="s")
        ),
    ]:
        refused(etcd, alice.volumes.CreateVolume, other, "ALREADY_EXISTS", "ALREADY_EXISTS")
    bobs = bob.volumes.CreateVolume(vb.CreateVolumeRequest(volume_id="v", size_bytes=2 * GIB))
    assert bobs.created and bobs.volume.uid != made.uid, "another user's id is free to use"


def test_create_volume_from_snapshot(metadata: RunningMetadata, two_hosts: list[StandInHost]) -> None:
    alice, bob, etcd = metadata.client("alice"), metadata.client("bob"), metadata.etcd
    made_volume(alice, "v")
    made_snapshot(metadata, alice, "done", "v")
    hold(two_hosts, "frozen")
    alice.snapshots.CreateSnapshot(sb.CreateSnapshotRequest(snapshot_id="doing", volume_id="v"))

    def request(snapshot_id: str, size_bytes: int = 0, volume_id: str = "copy") -> vb.CreateVolumeRequest:
        source = vb.SnapshotRef(owner="alice", snapshot_id=snapshot_id)
        return vb.CreateVolumeRequest(volume_id=volume_id, size_bytes=size_bytes, source_snapshot=source)

    create = alice.volumes.CreateVolume
    refused(etcd, create, request("doing"), "FAILED_PRECONDITION", "NOT_COMPLETED")
    refused(etcd, create, request("done", GIB - 4096), "INVALID_ARGUMENT", "SIZE_TOO_SMALL")
    refused(etcd, create, request("none"), "NOT_FOUND", "NOT_FOUND")

    theirs = refused(etcd, bob.volumes.CreateVolume, request("done"), "NOT_FOUND", "NOT_FOUND")
    nobodys = refused(etcd, bob.volumes.CreateVolume, request("dont"), "NOT_FOUND", "NOT_FOUND")
    assert theirs.replace("done", "dont") == nobodys, "what is not the caller's looks as if it were not"
    alice.grants.CreateGrant(gb.CreateGrantRequest(snapshot_id="doing", user="bob"))
    refused(etcd, bob.volumes.CreateVolume, request("doing"), "NOT_FOUND", "NOT_FOUND")
    alice.grants.CreateGrant(gb.CreateGrantRequest(snapshot_id="done", user="*"))
    made = bob.volumes.CreateVolume(request("done", 2 * GIB))
    assert made.created and made.volume.size_bytes == 2 * GIB
    available(bob, "copy")
    alice.grants.DeleteGrant(gb.DeleteGrantRequest(snapshot_id="done", user="*"))
    assert not bob.volumes.CreateVolume(request("done", 2 * GIB)).created, "the same request, the same answer"
    refused(etcd, bob.volumes.CreateVolume, request("done", GIB), "ALREADY_EXISTS", "ALREADY_EXISTS")
    refused(etcd, bob.volumes.CreateVolume, request("done", 0, "more"), "NOT_FOUND", "NOT_FOUND")


def test_others_volumes_are_not_found(metadata: RunningMetadata, two_hosts: list[StandInHost]) -> None:
    alice, bob, etcd = metadata.client("alice"), metadata.client("bob"), metadata.etcd
    made_volume(alice, "v")
    for request in (vb.GetVolumeRequest(volume_id="v"), vb.GetVolumeRequest(volume_id="v", owner="alice")):
        refused(etcd, bob.volumes.GetVolume, request, "NOT_FOUND", "NOT_FOUND")
    watch = vb.WatchVolumeRequest(volume_id="v", owner="alice")
    refused(etcd, bob.volumes.WatchVolume, watch, "NOT_FOUND", "NOT_FOUND")
    refused(etcd, bob.volumes.DeleteVolume, vb.DeleteVolumeRequest(volume_id="v"), "NOT_FOUND", "NOT_FOUND")
    olga = metadata.client("olga", "operator")
    seen = olga.volumes.GetVolume(vb.GetVolumeRequest(volume_id="v", owner="alice")).volume
    assert {seen.primary_host_id, *seen.in_sync_host_ids} == {"host-a", "host-b"} and seen.epoch == 1


def test_lists(metadata: RunningMetadata, two_hosts: list[StandInHost]) -> None:
    hold(two_hosts, "available")
    alice, bob, etcd = metadata.client("alice"), metadata.client("bob"), metadata.etcd
    for number in range(5):
        alice.volumes.CreateVolume(vb.CreateVolumeRequest(volume_id=f"v{number}", size_bytes=GIB))
    bob.volumes.CreateVolume(vb.CreateVolumeRequest(volume_id="w", size_bytes=GIB))
    names, token = [], ""
    while True:
        page = alice.volumes.ListVolumes(vb.ListVolumesRequest(page_size=2, page_token=token))
        names += [one.volume_id for one in page.volumes]
        assert len(page.volumes) <= 2
        token = page.next_page_token
        if not token:
            break
    assert names == [f"v{number}" for number in range(5)]
    for bad in ("x", "aGVsbG8=", "é", "a" * 2000):
        request = vb.ListVolumesRequest(page_token=bad)
        refused(etcd, alice.volumes.ListVolumes, request, "INVALID_ARGUMENT", "BAD_PAGE_TOKEN")
    request = vb.ListVolumesRequest(page_size=-1)
    refused(etcd, alice.volumes.ListVolumes, request, "INVALID_ARGUMENT", "BAD_PAGE_SIZE")
    everybodys = vb.ListVolumesRequest(all_owners=True)
    refused(etcd, alice.volumes.ListVolumes, everybodys, "PERMISSION_DENIED", "OPERATOR_ONLY")
    olga = metadata.client("olga", "operator")
    assert len(olga.volumes.ListVolumes(everybodys).volumes) == 6


def test_delete_volume(metadata: RunningMetadata, make_host: MakeHost) -> None:
    for host_id in ("host-a", "host-b"):
        make_host(host_id, hold=frozenset({"ready", "frozen", "removed"}))
    alice, etcd = metadata.client("alice"), metadata.etcd
    made_volume(alice, "v")
    delete = vb.DeleteVolumeRequest(volume_id="v")
    attach = ab.CreateAttachmentRequest(attachment_id="a", volume_id="v", initiator_iqn=IQN)
    alice.attachments.CreateAttachment(attach)
    refused(etcd, alice.volumes.DeleteVolume, delete, "FAILED_PRECONDITION", "ATTACHED")
    alice.attachments.DeleteAttachment(ab.DeleteAttachmentRequest(attachment_id="a"))
    wait_attachment_gone(alice, "a")
    alice.snapshots.CreateSnapshot(sb.CreateSnapshotRequest(snapshot_id="s", volume_id="v"))
    refused(etcd, alice.volumes.DeleteVolume, delete, "FAILED_PRECONDITION", "FROZEN")
    alice.snapshots.DeleteSnapshot(sb.DeleteSnapshotRequest(snapshot_id="s"))
    assert alice.volumes.DeleteVolume(delete).changed
    assert not alice.volumes.DeleteVolume(delete).changed, "it was already being deleted"
    again = vb.CreateVolumeRequest(volume_id="v", size_bytes=GIB)
    refused(etcd, alice.volumes.CreateVolume, again, "ALREADY_EXISTS", "ALREADY_EXISTS")
    for method, request in [
        (alice.attachments.CreateAttachment, attach),
        (alice.snapshots.CreateSnapshot, sb.CreateSnapshotRequest(snapshot_id="s", volume_id="v")),
    ]:
        refused(etcd, method, request, "FAILED_PRECONDITION", "NOT_AVAILABLE")


def hold(hosts: list[StandInHost], step: str) -> None:
    """From now on they leave that undone, so that nothing changes of itself while refusals are checked."""
    for host in hosts:
        host.hold = frozenset({step})


def wait_attachment_gone(client: Client, attachment_id: str) -> None:
    watch = client.attachments.WatchAttachment(
        ab.WatchAttachmentRequest(attachment_id=attachment_id), timeout=20
    )
    try:
        list(watch)
    except Exception as error:
        assert "NOT_FOUND" in str(error)


def test_attachments(metadata: RunningMetadata, two_hosts: list[StandInHost]) -> None:
    hold(two_hosts, "ready")
    alice, bob, etcd = metadata.client("alice"), metadata.client("bob"), metadata.etcd
    made_volume(alice, "v")
    made_volume(alice, "several", multi_attach=True)

    def request(attachment_id: str, volume_id: str = "v", iqn: str = IQN) -> ab.CreateAttachmentRequest:
        return ab.CreateAttachmentRequest(attachment_id=attachment_id, volume_id=volume_id, initiator_iqn=iqn)

    create = alice.attachments.CreateAttachment
    for bad in BAD_IQNS:
        refused(etcd, create, request("a", iqn=bad), "INVALID_ARGUMENT", "BAD_IQN")
    refused(etcd, create, request("a", "none"), "NOT_FOUND", "NOT_FOUND")
    refused(etcd, bob.attachments.CreateAttachment, request("a"), "NOT_FOUND", "NOT_FOUND")
    first = create(request("a"))
    again = create(request("a"))
    assert first.created and not again.created
    assert first.attachment.chap_secret == again.attachment.chap_secret != ""
    refused(etcd, create, request("a", iqn=IQN + "2"), "ALREADY_EXISTS", "ALREADY_EXISTS")
    refused(etcd, create, request("b", iqn=IQN + "2"), "FAILED_PRECONDITION", "ALREADY_ATTACHED")
    for number in range(attachment_decisions.ATTACHMENTS_MAX):
        assert create(request(f"s{number}", "several", f"{IQN}-{number}")).created
    refused(etcd, create, request("t", "several", f"{IQN}-0"), "FAILED_PRECONDITION", "ALREADY_ATTACHED")
    refused(etcd, create, request("t", "several", f"{IQN}-x"), "RESOURCE_EXHAUSTED", "TOO_MANY")
    for method, wanted in [
        (bob.attachments.GetAttachment, ab.GetAttachmentRequest(attachment_id="a")),
        (bob.attachments.WatchAttachment, ab.WatchAttachmentRequest(attachment_id="a")),
        (bob.attachments.DeleteAttachment, ab.DeleteAttachmentRequest(attachment_id="a")),
    ]:
        refused(etcd, method, wanted, "NOT_FOUND", "NOT_FOUND")
    listed = alice.attachments.ListAttachments(ab.ListAttachmentsRequest(volume_id="several", page_size=5))
    assert len(listed.attachments) == 5 and listed.next_page_token
    assert not any(one.chap_secret for one in listed.attachments)


def test_attaching_what_is_not_available(metadata: RunningMetadata, make_host: MakeHost) -> None:
    for host_id in ("host-a", "host-b"):
        make_host(host_id, hold=frozenset({"available"}))
    alice, etcd = metadata.client("alice"), metadata.etcd
    alice.volumes.CreateVolume(vb.CreateVolumeRequest(volume_id="v", size_bytes=GIB))
    attach = ab.CreateAttachmentRequest(attachment_id="a", volume_id="v", initiator_iqn=IQN)
    refused(etcd, alice.attachments.CreateAttachment, attach, "FAILED_PRECONDITION", "NOT_AVAILABLE")
    freeze = sb.CreateSnapshotRequest(snapshot_id="s", volume_id="v")
    refused(etcd, alice.snapshots.CreateSnapshot, freeze, "FAILED_PRECONDITION", "NOT_AVAILABLE")


def test_snapshots(metadata: RunningMetadata, two_hosts: list[StandInHost]) -> None:
    hold(two_hosts, "frozen")
    alice, bob, etcd = metadata.client("alice"), metadata.client("bob"), metadata.etcd
    made_volume(alice, "v")
    made_volume(alice, "w")

    def request(snapshot_id: str, volume_id: str = "v") -> sb.CreateSnapshotRequest:
        return sb.CreateSnapshotRequest(snapshot_id=snapshot_id, volume_id=volume_id)

    create = alice.snapshots.CreateSnapshot
    refused(etcd, create, request("s", "none"), "NOT_FOUND", "NOT_FOUND")
    refused(etcd, bob.snapshots.CreateSnapshot, request("s"), "NOT_FOUND", "NOT_FOUND")
    for number in range(snapshot_decisions.UNDER_WAY_MAX):
        assert create(request(f"s{number}")).created
    assert not create(request("s0")).created
    refused(etcd, create, request("s0", "w"), "ALREADY_EXISTS", "ALREADY_EXISTS")
    refused(etcd, create, request("more"), "RESOURCE_EXHAUSTED", "TOO_MANY")
    for method, wanted in [
        (bob.snapshots.GetSnapshot, sb.GetSnapshotRequest(snapshot_id="s0", owner="alice")),
        (bob.snapshots.WatchSnapshot, sb.WatchSnapshotRequest(snapshot_id="s0", owner="alice")),
        (bob.snapshots.DeleteSnapshot, sb.DeleteSnapshotRequest(snapshot_id="s0")),
        (alice.snapshots.DeleteSnapshot, sb.DeleteSnapshotRequest(snapshot_id="none")),
    ]:
        refused(etcd, method, wanted, "NOT_FOUND", "NOT_FOUND")
    assert alice.snapshots.DeleteSnapshot(sb.DeleteSnapshotRequest(snapshot_id="s0")).changed
    deleted = sb.GetSnapshotRequest(snapshot_id="s0")
    refused(etcd, alice.snapshots.GetSnapshot, deleted, "NOT_FOUND", "NOT_FOUND")
    assert create(request("s0", "w")).created, "its name is free, and there is room"


def test_grants(metadata: RunningMetadata, two_hosts: list[StandInHost]) -> None:
    alice, bob, etcd = metadata.client("alice"), metadata.client("bob"), metadata.etcd
    made_volume(alice, "v")
    made_snapshot(metadata, alice, "s", "v")
    for bad in ("", "B", "b/c", "**", "b" * 64):
        request = gb.CreateGrantRequest(snapshot_id="s", user=bad)
        refused(etcd, alice.grants.CreateGrant, request, "INVALID_ARGUMENT", "BAD_USER")
    for client, snapshot_id in ((alice, "none"), (bob, "s")):
        for method, wanted in [
            (client.grants.CreateGrant, gb.CreateGrantRequest(snapshot_id=snapshot_id, user="bob")),
            (client.grants.ListGrants, gb.ListGrantsRequest(snapshot_id=snapshot_id)),
            (client.grants.DeleteGrant, gb.DeleteGrantRequest(snapshot_id=snapshot_id, user="bob")),
        ]:
            refused(etcd, method, wanted, "NOT_FOUND", "NOT_FOUND")
    strange: Any = gb.CreateGrantRequest(snapshot_id="s", user="bob")
    strange.permissions.append(99)
    refused(etcd, alice.grants.CreateGrant, strange, "INVALID_ARGUMENT", "BAD_PERMISSION")
    grant = gb.CreateGrantRequest(snapshot_id="s", user="bob")
    assert alice.grants.CreateGrant(grant).created and not alice.grants.CreateGrant(grant).created
    alice.grants.CreateGrant(gb.CreateGrantRequest(snapshot_id="s", user="*"))
    users = [one.user for one in alice.grants.ListGrants(gb.ListGrantsRequest(snapshot_id="s")).grants]
    assert users == ["*", "bob"]
    granted = bob.snapshots.ListSnapshots(sb.ListSnapshotsRequest(granted=True, page_size=1))
    assert [one.snapshot_id for one in granted.snapshots] == ["s"] and not granted.next_page_token
    assert not alice.snapshots.ListSnapshots(sb.ListSnapshotsRequest(granted=True)).snapshots
    revoke = gb.DeleteGrantRequest(snapshot_id="s", user="*")
    assert alice.grants.DeleteGrant(revoke).changed and not alice.grants.DeleteGrant(revoke).changed
    assert bob.snapshots.GetSnapshot(sb.GetSnapshotRequest(snapshot_id="s", owner="alice")).snapshot.uid
    alice.snapshots.DeleteSnapshot(sb.DeleteSnapshotRequest(snapshot_id="s"))
    assert not bob.snapshots.ListSnapshots(sb.ListSnapshotsRequest(granted=True)).snapshots
    look = sb.GetSnapshotRequest(snapshot_id="s", owner="alice")
    refused(etcd, bob.snapshots.GetSnapshot, look, "NOT_FOUND", "NOT_FOUND")


def test_what_a_grant_permits(metadata: RunningMetadata, two_hosts: list[StandInHost]) -> None:
    alice, bob, etcd = metadata.client("alice"), metadata.client("bob"), metadata.etcd
    made_volume(alice, "v")
    made_snapshot(metadata, alice, "s", "v")
    create = vb.CreateVolumeRequest(
        volume_id="copy", source_snapshot=vb.SnapshotRef(owner="alice", snapshot_id="s")
    )
    both = [r.GRANT_PERMISSION_READ_BLOCKS, r.GRANT_PERMISSION_MAKE_VOLUMES]
    only = gb.CreateGrantRequest(snapshot_id="s", user="bob", permissions=both[:1])
    assert alice.grants.CreateGrant(only).grant.permissions == both[:1]
    assert not alice.grants.CreateGrant(only).created
    plain = gb.CreateGrantRequest(snapshot_id="s", user="bob")
    refused(etcd, alice.grants.CreateGrant, plain, "ALREADY_EXISTS", "ALREADY_EXISTS")
    refused(etcd, bob.volumes.CreateVolume, create, "PERMISSION_DENIED", "NOT_GRANTED")
    everyone = gb.CreateGrantRequest(snapshot_id="s", user="*")
    assert alice.grants.CreateGrant(everyone).grant.permissions == both[1:]
    assert bob.volumes.CreateVolume(create).created, "both grants together permit both"
    alice.grants.DeleteGrant(gb.DeleteGrantRequest(snapshot_id="s", user="bob"))
    wide = gb.CreateGrantRequest(snapshot_id="s", user="bob", permissions=[*both, *both])
    assert alice.grants.CreateGrant(wide).grant.permissions == sorted(both)


def test_block_servers(metadata: RunningMetadata) -> None:
    alice, etcd = metadata.client("alice"), metadata.etcd
    ask = alice.snapshots.ListBlockServers
    assert not ask(sb.ListBlockServersRequest()).servers
    running = []
    for name, address, grpc_port in (("a", "10.0.0.7", 7410), ("b", "::1", 7410), ("old", "10.0.0.9", 0)):
        running.append(SnapshotterActions(metadata.etcd, name, address, 7411, grpc_port=grpc_port))
        running[-1].start()
        assert running[-1].keeper.wait_attached(10)
    first = ask(sb.ListBlockServersRequest(page_size=1))
    second = ask(sb.ListBlockServersRequest(page_size=1, page_token=first.next_page_token))
    found = [(one.blocks, one.nbd) for page in (first, second) for one in page.servers]
    assert found == [("10.0.0.7:7410", "10.0.0.7:7411"), ("[::1]:7410", "[::1]:7411")]
    assert not second.next_page_token, "one of before there was a block API is left out"
    bad = sb.ListBlockServersRequest(page_token="!")
    refused(etcd, ask, bad, "INVALID_ARGUMENT", "BAD_PAGE_TOKEN")
    for one in running:
        one.stop()
    assert not ask(sb.ListBlockServersRequest()).servers


def test_hosts(metadata: RunningMetadata, two_hosts: list[StandInHost]) -> None:
    alice, olga, etcd = metadata.client("alice"), metadata.client("olga", "operator"), metadata.etcd
    for method, request in [
        (alice.hosts.GetHost, hb.GetHostRequest(host_id="host-a")),
        (alice.hosts.ListHosts, hb.ListHostsRequest()),
        (alice.hosts.WatchHost, hb.WatchHostRequest(host_id="host-a")),
        (alice.hosts.DeleteHost, hb.DeleteHostRequest(host_id="host-a")),
    ]:
        refused(etcd, method, request, "PERMISSION_DENIED", "OPERATOR_ONLY")
    none = hb.DeleteHostRequest(host_id="none")
    refused(etcd, olga.hosts.DeleteHost, none, "NOT_FOUND", "NOT_FOUND")
    refused(etcd, olga.hosts.WatchHost, hb.WatchHostRequest(host_id="none"), "NOT_FOUND", "NOT_FOUND")
    delete = hb.DeleteHostRequest(host_id="host-a")
    refused(etcd, olga.hosts.DeleteHost, delete, "FAILED_PRECONDITION", "ALIVE")
    made_volume(alice, "v")
    (one, two) = olga.hosts.ListHosts(hb.ListHostsRequest()).hosts
    assert one.live and two.live and one.volume_count == two.volume_count == 1
    assert one.allocated_bytes == two.allocated_bytes == GIB
    two_hosts[0].stop()
    assert not olga.hosts.GetHost(hb.GetHostRequest(host_id="host-a")).host.live
    refused(etcd, olga.hosts.DeleteHost, delete, "FAILED_PRECONDITION", "IN_USE")
