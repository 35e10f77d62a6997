"""The calls about verifying and copying, each with its refusals: a real server on a real etcd."""

from holdfast.api.grant.v1 import grant_pb2 as gb
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot.v1 import snapshot_pb2 as sb
from holdfast.metadata import copy_changes, keys, verify_changes
from holdfast.metadata.cas import run
from holdfast.metadata.copy_changes import Progress
from holdfast.metadata.refusals import refused
from holdfast.metadata.snapshotter_actions import SnapshotterActions
from holdfast.metadata.testing import RunningMetadata, StandInHost
from holdfast.metadata.testing_users import made_snapshot, made_volume
from holdfast.metadata.verify_changes import Found

GOOD = Found(100, 90, 1, (), 0, 0)


def verify_of(snapshot_id: str, owner: str = "", sample: int = 0) -> sb.VerifySnapshotRequest:
    return sb.VerifySnapshotRequest(snapshot_id=snapshot_id, owner=owner, sample_percent=sample)


def test_verify_is_asked_followed_and_refused(
    metadata: RunningMetadata, two_hosts: list[StandInHost]
) -> None:
    alice, bob, olga = metadata.client("alice"), metadata.client("bob"), metadata.client("olga", "operator")
    etcd = metadata.etcd
    made_volume(alice, "v")
    uid = made_snapshot(metadata, alice, "s", "v").uid
    verify = alice.snapshots.VerifySnapshot
    refused(etcd, verify, verify_of("s", sample=101), "INVALID_ARGUMENT", "BAD_SAMPLE")
    refused(etcd, verify, verify_of("none"), "NOT_FOUND", "NOT_FOUND")
    alice.grants.CreateGrant(gb.CreateGrantRequest(snapshot_id="s", user="bob"))
    refused(etcd, bob.snapshots.VerifySnapshot, verify_of("s", "alice"), "NOT_FOUND", "NOT_FOUND")
    first = verify(verify_of("s", sample=5))
    assert first.changed and first.snapshot.verify.request == 1
    assert not verify(verify_of("s", sample=5)).changed
    more = olga.snapshots.VerifySnapshot(verify_of("s", "alice"))
    assert more.changed and more.snapshot.verify.sample_percent == 100

    snapshotter = SnapshotterActions(etcd, "s1", "127.0.0.1", 1)
    snapshotter.start()
    assert snapshotter.keeper.wait_attached(10)
    by = snapshotter.claimant()
    run(etcd, lambda draft: verify_changes.claim(draft, uid, by))
    number = run(etcd, lambda draft: verify_changes.begin(draft, uid, by, 100, 1000.0)).request
    request = sb.WatchSnapshotRequest(snapshot_id="s", owner="alice", until_verified=number)
    watch = olga.snapshots.WatchSnapshot(request, timeout=20)
    assert next(watch).snapshot.verify.state == r.SNAPSHOT_VERIFY_STATE_RUNNING
    run(etcd, lambda draft: verify_changes.end(draft, uid, by, number, GOOD, 2000.0))
    assert [answer.snapshot.health for answer in watch][-1] == r.SNAPSHOT_HEALTH_GOOD
    granted = bob.snapshots.GetSnapshot(sb.GetSnapshotRequest(snapshot_id="s", owner="alice")).snapshot
    assert granted.health == r.SNAPSHOT_HEALTH_GOOD and not granted.HasField("verify")
    snapshotter.stop()


def test_copies_are_asked_followed_and_refused(
    metadata: RunningMetadata, two_hosts: list[StandInHost]
) -> None:
    alice, bob, etcd = metadata.client("alice"), metadata.client("bob"), metadata.etcd
    made_volume(alice, "v")
    made_snapshot(metadata, alice, "s", "v")
    copy = alice.snapshots.CopySnapshot

    def of(target: str, snapshot_id: str = "s") -> sb.CopySnapshotRequest:
        return sb.CopySnapshotRequest(snapshot_id=snapshot_id, target=target)

    refused(etcd, copy, of("No/Name"), "INVALID_ARGUMENT", "BAD_ID")
    refused(etcd, copy, of("dr", "none"), "NOT_FOUND", "NOT_FOUND")
    refused(etcd, bob.snapshots.CopySnapshot, of("dr"), "NOT_FOUND", "NOT_FOUND")
    refused(etcd, copy, of("dr"), "FAILED_PRECONDITION", "NO_SUCH_TARGET")
    snapshotter = SnapshotterActions(etcd, "s1", "127.0.0.1", 1, targets=["dr"])
    snapshotter.start()
    assert snapshotter.keeper.wait_attached(10)
    made = copy(of("dr"))
    uid = made.copy.uid
    assert made.created and not copy(of("dr")).created
    [listed] = alice.snapshots.ListSnapshotCopies(sb.ListSnapshotCopiesRequest()).copies
    assert listed.uid == uid and not bob.snapshots.ListSnapshotCopies(sb.ListSnapshotCopiesRequest()).copies
    watched = sb.WatchSnapshotCopyRequest(uid=uid)
    delete = sb.DeleteSnapshotCopyRequest(uid=uid)
    refused(etcd, bob.snapshots.DeleteSnapshotCopy, delete, "NOT_FOUND", "NOT_FOUND")
    for wrong in (uid[:-1], "../" + uid, "f" * 24):
        refused(
            etcd, alice.snapshots.DeleteSnapshotCopy, sb.DeleteSnapshotCopyRequest(uid=wrong), "NOT_FOUND",
            "NOT_FOUND",
        )  # fmt: skip

    by = snapshotter.claimant()
    watch = alice.snapshots.WatchSnapshotCopy(watched, timeout=20)
    assert next(watch).copy.state == r.COPY_STATE_WAITING
    run(etcd, lambda draft: copy_changes.claim(draft, "alice", uid, by))
    run(etcd, lambda draft: copy_changes.begin(draft, "alice", uid, by))
    run(etcd, lambda draft: copy_changes.copied(draft, "alice", uid, by, Progress(1, 2, 1, 1)))
    run(etcd, lambda draft: copy_changes.complete(draft, "alice", uid, by, 2000.0))
    assert [answer.copy.state for answer in watch][-1] == r.COPY_STATE_COMPLETED
    assert alice.snapshots.DeleteSnapshotCopy(delete).changed
    assert not alice.snapshots.DeleteSnapshotCopy(delete).changed
    run(etcd, lambda draft: copy_changes.claim(draft, "alice", uid, by))
    run(etcd, lambda draft: copy_changes.gone(draft, "alice", uid, by))
    assert etcd.get(keys.copy("alice", uid)) is None
    snapshotter.stop()
