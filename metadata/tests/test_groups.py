"""Groups of snapshots: the service on a real etcd, and what agents do to them, decision by decision."""

from dataclasses import replace

import pytest

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot.v1 import snapshot_pb2 as sb
from holdfast.api.snapshot_group.v1 import snapshot_group_pb2 as pb
from holdfast.api.volume.v1 import volume_pb2 as vb
from holdfast.base.errors import StaleEpoch
from holdfast.base.limits import GIB
from holdfast.metadata import (
    group_changes,
    group_decisions,
    keeping_decisions,
    keys,
    replica_changes,
    replica_decisions,
    snapshot_changes,
)
from holdfast.metadata.cas import run
from holdfast.metadata.fixtures import MakeHost
from holdfast.metadata.group_changes import ATTEMPTS_MAX, Word
from holdfast.metadata.refusals import refused
from holdfast.metadata.testing import RunningMetadata, StandInHost
from holdfast.metadata.testing_cluster import OWNER, Cluster
from holdfast.metadata.testing_users import completed, made_snapshot, made_volume

PREPARE, CLOSE, OPEN = r.FREEZE_STEP_PREPARE, r.FREEZE_STEP_CLOSE, r.FREEZE_STEP_OPEN


def request_of(group_id: str, *volumes: str, key: str = "") -> pb.CreateSnapshotGroupRequest:
    named = [pb.GroupVolume(volume_id=one) for one in volumes]
    return pb.CreateSnapshotGroupRequest(group_id=group_id, volumes=named, encryption_key=key)


def test_a_group_lives_and_goes(metadata: RunningMetadata, two_hosts: list[StandInHost]) -> None:
    alice, bob = metadata.client("alice"), metadata.client("bob")
    for volume in ("db", "log"):
        made_volume(alice, volume)
    made = alice.groups.CreateSnapshotGroup(request_of("g", "log", "db"))
    assert made.created and [one.snapshot_id for one in made.group.members] == ["g-db", "g-log"]
    again = alice.groups.CreateSnapshotGroup(request_of("g", "db", "log"))
    assert not again.created and again.group.uid == made.group.uid
    for answer in alice.groups.WatchSnapshotGroup(pb.WatchSnapshotGroupRequest(group_id="g"), timeout=20):
        if answer.group.state == r.SNAPSHOT_GROUP_STATE_FROZEN:
            break
    for one in made.group.members:
        assert completed(metadata, alice, one.snapshot_id).group_id == "g"
    group = alice.groups.GetSnapshotGroup(pb.GetSnapshotGroupRequest(group_id="g")).group
    assert group.state == r.SNAPSHOT_GROUP_STATE_COMPLETED and group.HasField("complete_time")
    assert not metadata.etcd.range(keys.gates(group.uid))[0]
    listed = alice.groups.ListSnapshotGroups(pb.ListSnapshotGroupsRequest()).groups
    assert [one.group_id for one in listed] == ["g"]

    get = pb.GetSnapshotGroupRequest(group_id="g")
    refused(metadata.etcd, bob.groups.GetSnapshotGroup, get, "NOT_FOUND", "NOT_FOUND")
    assert not bob.groups.ListSnapshotGroups(pb.ListSnapshotGroupsRequest()).groups

    # A member goes its own way, and the group tells.
    alice.snapshots.DeleteSnapshot(sb.DeleteSnapshotRequest(snapshot_id="g-db"))
    group = alice.groups.GetSnapshotGroup(get).group
    assert group.state == r.SNAPSHOT_GROUP_STATE_COMPLETED
    assert [one.state for one in group.members] == [r.SNAPSHOT_STATE_RECYCLED, r.SNAPSHOT_STATE_COMPLETED]
    alice.groups.DeleteSnapshotGroup(pb.DeleteSnapshotGroupRequest(group_id="g", now=True))
    refused(metadata.etcd, alice.groups.GetSnapshotGroup, get, "NOT_FOUND", "NOT_FOUND")
    assert not alice.snapshots.ListSnapshots(sb.ListSnapshotsRequest()).snapshots
    assert not metadata.etcd.range(keys.SNAPSHOT_GROUPS)[0]


def test_refusals(metadata: RunningMetadata, make_host: MakeHost) -> None:
    for name in ("host-a", "host-b"):
        make_host(name)
    alice, bob, etcd = metadata.client("alice"), metadata.client("bob"), metadata.etcd
    for volume in ("db", "log"):
        made_volume(alice, volume)
    made_volume(bob, "other")
    made_snapshot(metadata, alice, "taken", "db")
    create = alice.groups.CreateSnapshotGroup
    many = [f"v{n}" for n in range(13)]
    for request, code, reason in [
        (request_of("No", "db"), "INVALID_ARGUMENT", "BAD_ID"),
        (request_of("g" * 63, "db"), "INVALID_ARGUMENT", "BAD_ID"),
        (request_of("g", "db", key="Not a name"), "INVALID_ARGUMENT", "BAD_ID"),
        (request_of("g"), "INVALID_ARGUMENT", "BAD_VOLUMES"),
        (request_of("g", "db", "db"), "INVALID_ARGUMENT", "BAD_VOLUMES"),
        (request_of("g", *many), "INVALID_ARGUMENT", "BAD_VOLUMES"),
        (request_of("g", "db", "none"), "NOT_FOUND", "NOT_FOUND"),
        (request_of("g", "db", "other"), "NOT_FOUND", "NOT_FOUND"),
    ]:
        refused(etcd, create, request, code, reason)
    named = pb.CreateSnapshotGroupRequest(
        group_id="g", volumes=[pb.GroupVolume(volume_id="db", snapshot_id="taken")]
    )
    refused(etcd, create, named, "ALREADY_EXISTS", "ALREADY_EXISTS")
    create(request_of("g", "db"))
    completed(metadata, alice, "g-db")
    refused(etcd, create, request_of("g", "db", "log"), "ALREADY_EXISTS", "ALREADY_EXISTS")
    refused(etcd, create, request_of("g", "db", key="k"), "ALREADY_EXISTS", "ALREADY_EXISTS")

    lock = sb.LockSnapshotRequest(snapshot_id="g-db")
    lock.until_time.FromSeconds(int(metadata.clock()) + 1000)
    alice.snapshots.LockSnapshot(lock)
    delete = pb.DeleteSnapshotGroupRequest(group_id="g")
    message = refused(etcd, alice.groups.DeleteSnapshotGroup, delete, "FAILED_PRECONDITION", "LOCKED")
    assert "g-db" in message
    for method in (alice.groups.DeleteSnapshotGroup, bob.groups.DeleteSnapshotGroup):
        nothing = pb.DeleteSnapshotGroupRequest(group_id="none")
        refused(etcd, method, nothing, "NOT_FOUND", "NOT_FOUND")


def test_a_volume_that_is_not_available_or_busy_makes_none(
    metadata: RunningMetadata, make_host: MakeHost
) -> None:
    hosts = [make_host("host-a"), make_host("host-b")]
    alice, etcd = metadata.client("alice"), metadata.etcd
    made_volume(alice, "db")
    for host in hosts:
        host.hold = frozenset(("available", "frozen"))
    alice.volumes.CreateVolume(vb.CreateVolumeRequest(volume_id="log", size_bytes=GIB))
    create = alice.groups.CreateSnapshotGroup
    refused(etcd, create, request_of("g", "db", "log"), "FAILED_PRECONDITION", "NOT_AVAILABLE")
    for number in range(4):
        create(request_of(f"g{number}", "db"))
    refused(etcd, create, request_of("g4", "db"), "RESOURCE_EXHAUSTED", "TOO_MANY")


# What agents do, without a service.


class Groups:
    """A cluster with two volumes, in one group."""

    def __init__(self) -> None:
        self.cluster = Cluster(("a", "b", "c"))
        self.volumes = [self.cluster.make_volume(volume_id=name) for name in ("v", "w")]
        new = group_decisions.check(OWNER, "g", [("v", ""), ("w", "")], "", self.cluster.new_uid, 1.0)
        self.uid = run(self.cluster.store, lambda draft: group_decisions.create(draft, new)[0].uid)

    @property
    def record(self) -> r.SnapshotGroupRecord:
        return self.cluster.read(keys.snapshot_group(self.uid), r.SnapshotGroupRecord)

    def snapshots(self) -> list[r.SnapshotRecord]:
        members = self.record.members
        return [self.cluster.read(keys.snapshot(one.snapshot_uid), r.SnapshotRecord) for one in members]

    def replica(self, volume: str) -> r.ReplicaRecord:
        return self.cluster.read(keys.replica(volume), r.ReplicaRecord)

    def word(self, volume: str, done: int, **more: object) -> Word:
        word = Word(self.uid, self.record.attempt, done, self.replica(volume).epoch, f"closing of {volume}")
        if done == OPEN:
            on = tuple(self.replica(volume).host_ids)
            word = replace(word, generation=1, freeze_time_s=5.0, frozen_on=on)
        return replace(word, **more)  # type: ignore[arg-type]

    def say(self, volume: str, word: Word, host: str = "") -> bool:
        host = host or self.replica(volume).primary_host_id
        return run(self.cluster.store, lambda draft: group_changes.say(draft, volume, host, word))

    def advance(self, attempt: int = 0) -> bool:
        attempt = attempt or self.record.attempt
        return run(self.cluster.store, lambda draft: group_changes.advance(draft, self.uid, attempt, 9.0))

    def fail(self, volume: str, attempt: int, why: str = "it did not hold.") -> bool:
        replica = self.replica(volume)
        return run(
            self.cluster.store,
            lambda draft: group_changes.attempt_failed(
                draft, volume, replica.primary_host_id, replica.epoch, self.uid, attempt, why
            ),
        )

    def all_do(self, done: int) -> bool:
        for volume in self.volumes:
            self.say(volume, self.word(volume, done))
        return self.advance()

    def told(self, volume: str) -> set[tuple[int, int, str]]:
        """What the volume's hosts are to do."""
        found = self.cluster.all(keys.PREFIX + "assignments/", r.Assignment)
        return {
            (one.snapshots[0].group.attempt, one.snapshots[0].group.step, one.snapshots[0].group.token)
            for one in found
            if one.volume_uid == volume
        }


def test_a_group_counts_when_the_last_has_frozen_and_not_before() -> None:
    groups = Groups()
    first, second = groups.volumes
    for step, following, tokens in [
        (PREPARE, CLOSE, ("", "")),
        (CLOSE, OPEN, (f"closing of {first}", f"closing of {second}")),
    ]:
        assert groups.say(first, groups.word(first, step)) and not groups.say(first, groups.word(first, step))
        assert not groups.advance()
        assert groups.say(second, groups.word(second, step)) and groups.advance() and not groups.advance()
        assert groups.record.step == following
        for volume, token in zip(groups.volumes, tokens, strict=True):
            assert groups.told(volume) == {(1, following, token)}
    groups.say(first, groups.word(first, OPEN))
    assert not groups.advance()
    assert {one.state for one in groups.snapshots()} == {r.SNAPSHOT_STATE_PENDING}
    before = groups.cluster.store.revision
    groups.cluster.store.lose_answer = True
    groups.say(second, groups.word(second, OPEN))
    assert groups.advance() and groups.cluster.store.revision == before + 2
    for one in groups.snapshots():
        assert one.state == r.SNAPSHOT_STATE_FROZEN and one.generation == 1 and len(one.frozen_on) == 2
    assert groups.record.state == r.SNAPSHOT_GROUP_STATE_FROZEN
    assert not groups.cluster.all(keys.gates(groups.uid), r.GateRecord)
    assert not groups.say(first, groups.word(first, OPEN)) and not groups.fail(first, 1)


@pytest.mark.parametrize("step", [PREPARE, CLOSE, OPEN])
def test_nothing_goes_on_by_the_word_of_another_epoch(step: int) -> None:
    groups = Groups()
    for done in range(PREPARE, step):
        assert groups.all_do(done)
    for volume in groups.volumes:
        groups.say(volume, groups.word(volume, step))
    first = groups.volumes[0]
    groups.cluster.uid = first
    replica = groups.replica(first)
    (other,) = set(replica.host_ids) - {replica.primary_host_id}
    groups.cluster.do(replica_changes.hand_over, replica.primary_host_id, replica.epoch, other)
    assert not groups.advance()
    late = groups.word(first, step, epoch=replica.epoch)
    with pytest.raises(StaleEpoch):
        groups.say(first, late, replica.primary_host_id)
    assert groups.fail(first, 1)
    assert groups.record.attempt == 2 and groups.record.step == PREPARE
    assert not groups.cluster.all(keys.gates(groups.uid), r.GateRecord)
    # What belongs to the attempt before is refused.
    second = groups.volumes[1]
    assert not groups.say(second, groups.word(second, step, attempt=1)) and not groups.advance(1)
    assert all(groups.all_do(done) for done in (PREPARE, CLOSE, OPEN))
    assert groups.record.state == r.SNAPSHOT_GROUP_STATE_FROZEN


def test_a_group_is_given_up_after_some_attempts() -> None:
    groups = Groups()
    for attempt in range(1, ATTEMPTS_MAX + 1):
        assert groups.record.attempt == attempt
        assert groups.fail(groups.volumes[attempt % 2], attempt)
        assert not groups.fail(groups.volumes[0], attempt)
    assert groups.record.state == r.SNAPSHOT_GROUP_STATE_FAILED and "'w'" in groups.record.reason
    for one in groups.snapshots():
        assert one.state == r.SNAPSHOT_STATE_FAILED and one.reason == groups.record.reason
    found = groups.cluster.all(keys.PREFIX + "assignments/", r.Assignment)
    assert not any(one.snapshots for one in found)


@pytest.mark.parametrize("how", ["fails", "deleted"])
def test_a_member_that_ends_before_all_are_frozen_takes_the_others_with_it(how: str) -> None:
    groups = Groups()
    assert groups.all_do(PREPARE)
    first, second = groups.snapshots()
    store = groups.cluster.store
    if how == "fails":
        run(store, lambda draft: snapshot_changes.fail(draft, first.uid, "No room."))
    else:
        run(store, lambda draft: keeping_decisions.delete(draft, OWNER, "g-v", False, 3.0))
    first, second = groups.snapshots()
    assert second.state == r.SNAPSHOT_STATE_FAILED and "'g-v'" in second.reason
    assert groups.record.state == r.SNAPSHOT_GROUP_STATE_FAILED
    assert not any(one.snapshots for one in groups.cluster.all(keys.PREFIX + "assignments/", r.Assignment))
    assert not groups.say(groups.volumes[1], groups.word(groups.volumes[1], CLOSE))


def test_once_frozen_each_goes_its_own_way() -> None:
    groups = Groups()
    assert all(groups.all_do(done) for done in (PREPARE, CLOSE, OPEN))
    first, _ = groups.snapshots()
    run(groups.cluster.store, lambda draft: snapshot_changes.fail(draft, first.uid, "Its base is damaged."))
    _, second = groups.snapshots()
    assert second.state == r.SNAPSHOT_STATE_FROZEN
    assert groups.record.state == r.SNAPSHOT_GROUP_STATE_FAILED and "damaged" in groups.record.reason


def test_the_largest_group_is_not_too_large_for_one_transaction() -> None:
    """etcd takes 128 comparisons and 128 operations; every volume here has three hosts."""
    groups = Groups()
    most = [f"x{n}" for n in range(group_decisions.GROUP_VOLUMES_MAX)]
    groups.cluster.room = 100
    for host in ("a", "b", "c"):
        groups.cluster.come(host)
    sizes: list[int] = []
    transact = groups.cluster.store.transact

    def counting(compares, success, failure=()):  # type: ignore[no-untyped-def]
        sizes.append(max(len(compares), len(success)))
        return transact(compares, success, failure)

    groups.volumes = []
    for name in most:
        groups.volumes.append(groups.cluster.make_volume(volume_id=name))
        replica = groups.replica(groups.volumes[-1])
        (third,) = {"a", "b", "c"} - set(replica.host_ids)
        mirror = next(one for one in replica.host_ids if one != replica.primary_host_id)
        groups.cluster.do(replica_decisions.replace, mirror, groups.cluster.new_replica(third))
        assert len(groups.replica(groups.volumes[-1]).host_ids) == 3
    groups.cluster.store.transact = counting  # type: ignore[method-assign]
    new = group_decisions.check(OWNER, "big", [(one, "") for one in most], "", groups.cluster.new_uid, 1.0)
    groups.uid = run(groups.cluster.store, lambda draft: group_decisions.create(draft, new)[0].uid)
    assert groups.fail(groups.volumes[0], 1)
    assert all(groups.all_do(done) for done in (PREPARE, CLOSE, OPEN))
    assert max(sizes) <= 128, max(sizes)
