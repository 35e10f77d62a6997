"""Locks, the recycle bin and its settings: a real server on a real etcd, with a clock of the test's."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.api.grant.v1 import grant_pb2 as gb
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.settings.v1 import settings_pb2 as tb
from holdfast.api.snapshot.v1 import snapshot_pb2 as sb
from holdfast.api.volume.v1 import volume_pb2 as vb
from holdfast.metadata import keys
from holdfast.metadata.client import Client
from holdfast.metadata.etcd import Etcd
from holdfast.metadata.keeper import Keeper
from holdfast.metadata.keeping_decisions import LOCK_MAX_S
from holdfast.metadata.records import decode
from holdfast.metadata.refusals import refused
from holdfast.metadata.settings_decisions import RECYCLE_DEFAULT_S, RECYCLE_MAX_S
from holdfast.metadata.testing import RunningMetadata, SetClock, StandInHost, until
from holdfast.metadata.testing_users import available, made_snapshot, made_volume

DAY_S = 86_400


@pytest.fixture
def clock(metadata: RunningMetadata) -> SetClock:
    metadata.clock = clock = SetClock(1_800_000_000.0)
    return clock


@pytest.fixture
def keepers(metadata: RunningMetadata, clock: SetClock) -> Iterator[list[Keeper]]:
    """Of two copies of the service, in a hurry."""
    made = [Keeper(metadata.etcd, clock, tick_s=0.05) for _ in range(2)]
    for one in made:
        one.start()
    yield made
    for one in made:
        one.stop()


def stamp(unix_s: float) -> Timestamp:
    return Timestamp(seconds=int(unix_s), nanos=round(unix_s % 1 * 1e9))


def lock_of(snapshot_id: str, unix_s: float) -> sb.LockSnapshotRequest:
    return sb.LockSnapshotRequest(snapshot_id=snapshot_id, until_time=stamp(unix_s))


def delete_of(snapshot_id: str, now: bool = False) -> sb.DeleteSnapshotRequest:
    return sb.DeleteSnapshotRequest(snapshot_id=snapshot_id, now=now)


def in_bin(client: Client) -> list[str]:
    listed = client.snapshots.ListSnapshots(sb.ListSnapshotsRequest(deleted=True)).snapshots
    return [one.uid for one in listed]


def shown(client: Client) -> list[str]:
    return [one.snapshot_id for one in client.snapshots.ListSnapshots(sb.ListSnapshotsRequest()).snapshots]


def record(etcd: Etcd, uid: str) -> r.SnapshotRecord:
    entry = etcd.get(keys.snapshot(uid))
    assert entry is not None
    return decode(r.SnapshotRecord, entry.value)


def test_lock(metadata: RunningMetadata, two_hosts: list[StandInHost], clock: SetClock) -> None:
    alice, bob, etcd = metadata.client("alice"), metadata.client("bob"), metadata.etcd
    made_volume(alice, "v")
    made_snapshot(metadata, alice, "s", "v")
    lock = alice.snapshots.LockSnapshot
    for wrong_s in (0, clock.now_s - 1, clock.now_s, clock.now_s + LOCK_MAX_S + 1, -5):
        refused(etcd, lock, lock_of("s", wrong_s), "INVALID_ARGUMENT", "BAD_TIME")
    later_s = clock.now_s + 10 * DAY_S
    for client, own_id in ((bob, "s"), (alice, "none")):
        refused(etcd, client.snapshots.LockSnapshot, lock_of(own_id, later_s), "NOT_FOUND", "NOT_FOUND")
    locked = lock(lock_of("s", later_s - 0.5))
    assert locked.changed and locked.snapshot.lock_until_time.seconds == later_s, "parts of a second count up"
    assert not lock(lock_of("s", later_s)).changed
    for client in (alice, metadata.client("alice", "user")):
        message = refused(
            etcd, client.snapshots.LockSnapshot, lock_of("s", later_s - 1), "FAILED_PRECONDITION", "LOCKED"
        )
        assert "2027-01-25T08:00:00Z" in message
    for now in (False, True):
        message = refused(
            etcd, alice.snapshots.DeleteSnapshot, delete_of("s", now), "FAILED_PRECONDITION", "LOCKED"
        )
        assert "2027-01-25T08:00:00Z" in message
    olga = metadata.client("olga", "operator")
    refused(etcd, olga.snapshots.DeleteSnapshot, delete_of("s"), "NOT_FOUND", "NOT_FOUND")
    alice.volumes.DeleteVolume(vb.DeleteVolumeRequest(volume_id="v"))
    list(alice.volumes.WatchVolume(vb.WatchVolumeRequest(volume_id="v"), timeout=20))
    assert shown(alice) == ["s"], "its volume's end is nothing to it"
    later_s += DAY_S
    assert lock(lock_of("s", later_s)).changed
    clock.now_s = later_s - 0.001
    refused(etcd, alice.snapshots.DeleteSnapshot, delete_of("s"), "FAILED_PRECONDITION", "LOCKED")
    clock.now_s = later_s
    assert alice.snapshots.DeleteSnapshot(delete_of("s")).changed


def test_an_operator_deletes_for_an_owner(
    metadata: RunningMetadata, two_hosts: list[StandInHost], clock: SetClock
) -> None:
    """Such as one that is damaged, and keeps collection from deleting anything."""
    alice, bob, etcd = metadata.client("alice"), metadata.client("bob"), metadata.etcd
    olga = metadata.client("olga", "operator")
    made_volume(alice, "v")
    for name in ("s", "kept"):
        made_snapshot(metadata, alice, name, "v")
    request = sb.DeleteSnapshotRequest(snapshot_id="s", owner="alice", now=True)
    refused(etcd, bob.snapshots.DeleteSnapshot, request, "NOT_FOUND", "NOT_FOUND")
    alice.snapshots.LockSnapshot(lock_of("kept", clock.now_s + DAY_S))
    locked = sb.DeleteSnapshotRequest(snapshot_id="kept", owner="alice", now=True)
    refused(etcd, olga.snapshots.DeleteSnapshot, locked, "FAILED_PRECONDITION", "LOCKED")
    assert olga.snapshots.DeleteSnapshot(request).changed
    assert shown(alice) == ["kept"] and in_bin(alice) == []


def test_what_is_not_completed_is_not_locked(
    metadata: RunningMetadata, two_hosts: list[StandInHost], clock: SetClock
) -> None:
    """Else a snapshot that nothing can finish could keep its volume from being deleted for years."""
    alice = metadata.client("alice")
    made_volume(alice, "v")
    for host in two_hosts:
        host.hold = frozenset({"frozen"})
    alice.snapshots.CreateSnapshot(sb.CreateSnapshotRequest(snapshot_id="s", volume_id="v"))
    request = lock_of("s", clock.now_s + DAY_S)
    refused(metadata.etcd, alice.snapshots.LockSnapshot, request, "FAILED_PRECONDITION", "NOT_COMPLETED")
    assert not alice.snapshots.DeleteSnapshot(delete_of("s")).HasField("recycle_until_time")
    assert not in_bin(alice), "nothing to restore"


def test_recycle_bin(metadata: RunningMetadata, two_hosts: list[StandInHost], clock: SetClock) -> None:
    alice, bob, etcd = metadata.client("alice"), metadata.client("bob"), metadata.etcd
    made_volume(alice, "v")
    first = made_snapshot(metadata, alice, "s", "v")
    for user in ("bob", "*"):
        alice.grants.CreateGrant(gb.CreateGrantRequest(snapshot_id="s", user=user))
    gone = alice.snapshots.DeleteSnapshot(delete_of("s"))
    assert gone.recycle_until_time.seconds == clock.now_s + RECYCLE_DEFAULT_S
    assert not shown(alice) and in_bin(alice) == [first.uid] and not in_bin(bob)
    (binned,) = alice.snapshots.ListSnapshots(sb.ListSnapshotsRequest(deleted=True)).snapshots
    assert binned.state == r.SNAPSHOT_STATE_RECYCLED and binned.delete_time.seconds == clock.now_s
    assert not bob.snapshots.ListSnapshots(sb.ListSnapshotsRequest(granted=True)).snapshots
    copy = vb.CreateVolumeRequest(
        volume_id="c", source_snapshot=vb.SnapshotRef(owner="alice", snapshot_id="s")
    )
    for client, method, wanted in [
        (alice, alice.volumes.CreateVolume, copy),
        (alice, alice.snapshots.GetSnapshot, sb.GetSnapshotRequest(snapshot_id="s")),
        (alice, alice.snapshots.DeleteSnapshot, delete_of("s")),
        (alice, alice.snapshots.LockSnapshot, lock_of("s", clock.now_s + 9)),
        (alice, alice.grants.CreateGrant, gb.CreateGrantRequest(snapshot_id="s", user="bob")),
        (bob, bob.snapshots.RestoreSnapshot, sb.RestoreSnapshotRequest(uid=first.uid)),
        (bob, bob.snapshots.PurgeSnapshot, sb.PurgeSnapshotRequest(uid=first.uid)),
        (alice, alice.snapshots.RestoreSnapshot, sb.RestoreSnapshotRequest(uid="0" * 24)),
        (alice, alice.snapshots.PurgeSnapshot, sb.PurgeSnapshotRequest(uid="../" + first.uid)),
    ]:
        assert client is not None
        refused(etcd, method, wanted, "NOT_FOUND", "NOT_FOUND")
    second = made_snapshot(metadata, alice, "s", "v")
    assert second.uid != first.uid, "its id was free"
    assert record(etcd, second.uid).base_snapshot_uid == first.uid, "what is in the bin is still a base"
    restore = alice.snapshots.RestoreSnapshot
    request = sb.RestoreSnapshotRequest(uid=first.uid)
    refused(etcd, restore, request, "ALREADY_EXISTS", "ALREADY_EXISTS")
    bad = sb.RestoreSnapshotRequest(uid=first.uid, snapshot_id="Bad/Id")
    refused(etcd, restore, bad, "INVALID_ARGUMENT", "BAD_ID")
    request.snapshot_id = "old"
    back = restore(request)
    assert back.changed and back.snapshot.snapshot_id == "old" and not restore(request).changed
    assert shown(alice) == ["old", "s"] and not in_bin(alice)
    refused(
        etcd, alice.snapshots.PurgeSnapshot, sb.PurgeSnapshotRequest(uid=first.uid), "NOT_FOUND", "NOT_FOUND"
    )
    assert not alice.grants.ListGrants(gb.ListGrantsRequest(snapshot_id="old")).grants, "its grants ended"
    look = sb.GetSnapshotRequest(owner="alice", snapshot_id="old")
    refused(etcd, bob.snapshots.GetSnapshot, look, "NOT_FOUND", "NOT_FOUND")
    copy.source_snapshot.snapshot_id = "old"
    assert alice.volumes.CreateVolume(copy).created
    available(alice, "c")

    alice.snapshots.DeleteSnapshot(delete_of("old"))
    purge = sb.PurgeSnapshotRequest(uid=first.uid)
    assert alice.snapshots.PurgeSnapshot(purge).changed and not alice.snapshots.PurgeSnapshot(purge).changed
    assert not in_bin(alice) and record(etcd, first.uid).state == r.SNAPSHOT_STATE_DELETED
    refused(etcd, restore, request, "NOT_FOUND", "NOT_FOUND")
    assert not alice.snapshots.DeleteSnapshot(delete_of("s", now=True)).HasField("recycle_until_time")
    assert not in_bin(alice) and record(etcd, second.uid).state == r.SNAPSHOT_STATE_DELETED
    third = made_snapshot(metadata, alice, "s", "v")
    assert not record(etcd, third.uid).base_snapshot_uid, "what is deleted for good is no base"


def test_a_watch_ends_when_it_goes_to_the_bin(
    metadata: RunningMetadata, two_hosts: list[StandInHost], clock: SetClock
) -> None:
    alice = metadata.client("alice")
    made_volume(alice, "v")
    made_snapshot(metadata, alice, "s", "v")
    alice.snapshots.DeleteSnapshot(delete_of("s"))
    watch = sb.WatchSnapshotRequest(snapshot_id="s")
    refused(metadata.etcd, alice.snapshots.WatchSnapshot, watch, "NOT_FOUND", "NOT_FOUND")


def test_the_keepers_purge_what_is_due(
    metadata: RunningMetadata, two_hosts: list[StandInHost], clock: SetClock, keepers: list[Keeper]
) -> None:
    alice, etcd = metadata.client("alice"), metadata.etcd
    made_volume(alice, "v")
    uids = [made_snapshot(metadata, alice, f"s{number}", "v").uid for number in range(3)]
    for number in range(3):
        alice.snapshots.DeleteSnapshot(delete_of(f"s{number}"))
        clock.now_s += 100
    clock.now_s += RECYCLE_DEFAULT_S - 151
    until(lambda: len(in_bin(alice)) == 1)
    assert in_bin(alice) == [uids[2]]
    assert [record(etcd, uid).state for uid in uids] == [
        r.SNAPSHOT_STATE_DELETED, r.SNAPSHOT_STATE_DELETED, r.SNAPSHOT_STATE_RECYCLED,
    ]  # fmt: skip
    assert alice.snapshots.RestoreSnapshot(sb.RestoreSnapshotRequest(uid=uids[2])).changed
    clock.now_s += 100 * RECYCLE_DEFAULT_S
    made_snapshot(metadata, alice, "more", "v")
    assert shown(alice) == ["more", "s2"]


def test_settings(metadata: RunningMetadata, two_hosts: list[StandInHost], clock: SetClock) -> None:
    alice, olga, etcd = metadata.client("alice"), metadata.client("olga", "operator"), metadata.etcd
    made_volume(alice, "v")
    ids = (f"s{number}" for number in itertools.count())

    def deleted_for_s() -> int:
        own_id = next(ids)
        made_snapshot(metadata, alice, own_id, "v")
        gone = alice.snapshots.DeleteSnapshot(delete_of(own_id))
        return (
            gone.recycle_until_time.seconds - int(clock.now_s) if gone.HasField("recycle_until_time") else 0
        )

    def change(client: Client, recycle_s: int | None, **fields: object) -> tb.UpdateSettingsResponse:
        return client.settings.UpdateSettings(wanted(recycle_s, **fields))

    def wanted(recycle_s: int | None, **fields: object) -> tb.UpdateSettingsRequest:
        settings = tb.Settings() if recycle_s is None else tb.Settings(recycle_s=recycle_s)
        mask = FieldMask(paths=["recycle_s"])
        return tb.UpdateSettingsRequest(settings=settings, update_mask=mask, **fields)  # type: ignore[arg-type]

    update = alice.settings.UpdateSettings
    for recycle_s in (-1, RECYCLE_MAX_S + 1):
        refused(etcd, update, wanted(recycle_s), "INVALID_ARGUMENT", "BAD_DURATION")
    for paths in ([], ["etag"], ["recycle_s", "nonsense"]):
        request = wanted(1)
        request.update_mask.paths[:] = paths
        refused(etcd, update, request, "INVALID_ARGUMENT", "BAD_MASK")
    for request in (wanted(1, cluster=True), wanted(1, owner="bob")):
        refused(etcd, update, request, "PERMISSION_DENIED", "OPERATOR_ONLY")
    for look in (tb.GetSettingsRequest(cluster=True), tb.GetSettingsRequest(owner="bob")):
        refused(etcd, alice.settings.GetSettings, look, "PERMISSION_DENIED", "OPERATOR_ONLY")
    refused(etcd, olga.settings.UpdateSettings, wanted(1, owner="No One"), "INVALID_ARGUMENT", "BAD_USER")

    first = alice.settings.GetSettings(tb.GetSettingsRequest()).settings
    assert not first.HasField("recycle_s") and first.effective_recycle_s == RECYCLE_DEFAULT_S
    assert change(olga, 3 * DAY_S, cluster=True).changed and deleted_for_s() == 3 * DAY_S
    mine = change(alice, 0)
    assert mine.changed and mine.settings.effective_recycle_s == 0 and deleted_for_s() == 0
    assert not change(alice, 0).changed
    refused(etcd, update, wanted(5, etag=first.etag), "FAILED_PRECONDITION", "STALE_ETAG")
    assert change(alice, 5, etag=mine.settings.etag).changed and deleted_for_s() == 5
    seen = olga.settings.GetSettings(tb.GetSettingsRequest(owner="alice")).settings
    assert seen.recycle_s == 5
    assert change(olga, None, owner="alice").settings.effective_recycle_s == 3 * DAY_S
    assert change(olga, None, cluster=True).settings.effective_recycle_s == RECYCLE_DEFAULT_S


def test_two_services_agree(
    metadata: RunningMetadata, two_hosts: list[StandInHost], etcd_server: object, authority: Path
) -> None:
    """What one copy locked or deleted, another knows at once: nothing is kept beside etcd."""
    other = RunningMetadata(authority, metadata.etcd_endpoint).start()
    try:
        here, there = metadata.client("alice"), other.client("alice")
        made_volume(here, "v")
        made = made_snapshot(metadata, here, "s", "v")
        later_s = metadata.clock() + DAY_S
        assert here.snapshots.LockSnapshot(lock_of("s", later_s)).changed
        refused(
            metadata.etcd, there.snapshots.DeleteSnapshot, delete_of("s"), "FAILED_PRECONDITION", "LOCKED"
        )
        other.clock = lambda: later_s + 1
        assert there.snapshots.DeleteSnapshot(delete_of("s")).changed, "the clock of the copy that is asked"
        assert here.snapshots.RestoreSnapshot(sb.RestoreSnapshotRequest(uid=made.uid)).changed
    finally:
        other.stop()
