"""Each transition of a volume's membership: what it does, what it refuses, and that twice is once."""

from collections.abc import Callable

import pytest

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import HoldfastError, NotFound, Precondition, StaleEpoch
from holdfast.base.limits import CRASH_MOVE_MIN_S
from holdfast.metadata import attachment_changes, keys, replica_changes, snapshot_changes, volume_changes
from holdfast.metadata.seal import unseal
from holdfast.metadata.testing_cluster import HOST_KEY, Cluster


@pytest.fixture
def at() -> Cluster:
    """Volume on a (primary) and b, available, in epoch 1; c and d are free."""
    cluster = Cluster()
    cluster.make_volume()
    return cluster


def members(at: Cluster) -> dict[str, str]:
    at.check()
    return {one.host_id: one.boot_id for one in at.replica().in_sync}


def where(at: Cluster) -> tuple[int, str, list[str]]:
    """Epoch, primary, hosts in sync."""
    return at.replica().epoch, at.replica().primary_host_id, sorted(members(at))


def degrade(at: Cluster) -> None:
    at.do(replica_changes.leave_out, "a", 1, ["b"])


def test_creation(at: Cluster) -> None:
    assert where(at) == (1, "a", ["a", "b"])
    a, b = at.assignment("a"), at.assignment("b")
    assert (a.role, b.role, a.portal_group, b.portal_group) == (r.ROLE_PRIMARY, r.ROLE_MIRROR, 1, 2)
    (peer,) = a.peers
    assert (peer.host_id, peer.boot_id, peer.address, peer.nbd_port) == ("b", "b.1", "10.0.0.b", b.nbd_port)
    assert a.initialized and b.initialized and a.primary_host_id == b.primary_host_id == "a"


def test_policy_goes_to_every_host() -> None:
    at = Cluster()
    at.make_volume(needs_mirror=True)
    degrade(at)
    at.do(replica_changes.replace, "b", at.new_replica("c"))
    assert at.assignment("a").needs_mirror and at.assignment("c").needs_mirror


def test_leave_out_and_join(at: Cluster) -> None:
    degrade(at)
    assert where(at) == (2, "a", ["a"])
    assert at.assignment("b").role == r.ROLE_JOINER and at.replica().joining[0].boot_id == "b.1"
    at.reboot("b")
    assert at.do(replica_changes.join, "a", 2, "b", "b.2")
    assert where(at) == (3, "a", ["a", "b"]) and members(at)["b"] == "b.2"
    assert at.assignment("b").role == r.ROLE_MIRROR and not at.replica().joining


def test_leaving_out_nobody_fences(at: Cluster) -> None:
    degrade(at)
    assert at.do(replica_changes.leave_out, "a", 2, ["b"])
    assert where(at) == (3, "a", ["a"])
    with pytest.raises(StaleEpoch):
        at.do(replica_changes.join, "a", 2, "b", "b.1")


def test_renouncing_fences_a_join(at: Cluster) -> None:
    degrade(at)
    assert at.do(replica_changes.renounce, "b", 2)
    assert where(at) == (3, "a", ["a"])
    with pytest.raises(StaleEpoch):
        at.do(replica_changes.join, "a", 2, "b", "b.1")
    assert at.do(replica_changes.join, "a", 3, "b", "b.1")


def test_take_over(at: Cluster) -> None:
    at.go("a")
    assert at.do(replica_changes.take_over, "b", "b.1", 1)
    assert where(at) == (2, "b", ["b"])
    assert at.assignment("a").role == r.ROLE_JOINER
    at.come("a")
    with pytest.raises(StaleEpoch):
        at.do(replica_changes.leave_out, "a", 1, ["b"])
    assert at.do(replica_changes.join, "b", 2, "a", "a.1")
    assert where(at) == (3, "b", ["a", "b"])


def test_take_over_after_a_fast_reboot(at: Cluster) -> None:
    at.reboot("a")
    assert at.do(replica_changes.take_over, "b", "b.1", 1)
    assert where(at) == (2, "b", ["b"])


def test_hand_over_and_resign(at: Cluster) -> None:
    assert at.do(replica_changes.request_switch, "b")
    assert where(at) == (1, "a", ["a", "b"]) and at.assignment("a").yield_to_host_id == "b"
    assert at.do(replica_changes.hand_over, "a", 1, "b")
    assert where(at) == (2, "b", ["a", "b"]) and not at.replica().wanted_primary_host_id
    assert at.do(replica_changes.resign, "b", 2, "a")
    assert where(at) == (3, "a", ["a"])


def test_release(at: Cluster) -> None:
    """The primary lives, and a mirror takes over all the same: in that epoch only."""
    assert at.do(replica_changes.release, "a", 1)
    assert where(at) == (1, "a", ["a", "b"])
    assert [at.assignment(one).released_epoch for one in "ab"] == [1, 1]
    assert not at.do(replica_changes.release, "a", 1)
    degrade(at)
    at.do(replica_changes.join, "a", 2, "b", "b.1")
    with pytest.raises(Precondition, match="holds its lease"):
        at.do(replica_changes.take_over, "b", "b.1", 3)
    assert at.do(replica_changes.release, "a", 3)
    assert at.do(replica_changes.take_over, "b", "b.1", 3)
    assert where(at) == (4, "b", ["b"])


def test_a_wish_ends_with_its_host(at: Cluster) -> None:
    at.do(replica_changes.request_switch, "b")
    degrade(at)
    assert not at.replica().wanted_primary_host_id and not at.assignment("a").yield_to_host_id


def test_cold_start(at: Cluster) -> None:
    for host_id in "ab":
        at.reboot(host_id)
    assert at.do(replica_changes.cold_start, "b", "b.2", 1)
    assert where(at) == (2, "b", ["b"]) and at.assignment("b").cold_epoch == 2 and members(at) == {"b": "b.2"}
    with pytest.raises(StaleEpoch):
        at.do(replica_changes.cold_start, "a", "a.2", 1)
    at.do(replica_changes.join, "b", 2, "a", "a.2")


def test_what_began_cold_is_never_forgotten(at: Cluster) -> None:
    """Nobody may have read it yet; and whoever has acts on the number once."""
    for host_id in "ab":
        at.reboot(host_id)
    at.do(replica_changes.cold_start, "b", "b.2", 1)
    at.do(replica_changes.replace, "a", at.new_replica("c"))
    at.do(replica_changes.join, "b", 3, "c", "c.1")
    assert at.replica().epoch == 4
    assert [at.replica().cold_epoch, *(at.assignment(one).cold_epoch for one in "bc")] == [2, 2, 2]


def test_force_start(at: Cluster) -> None:
    at.do(replica_changes.leave_out, "a", 1, ["b"])
    at.go("a")
    at.store.lose_answer = True
    assert at.do(replica_changes.force_start, "b", "root", "All since noon.", True, 5.0)
    assert where(at) == (3, "b", ["b"])
    b = at.assignment("b")
    assert b.cold_epoch == 3 and b.accept_half_synced
    at.do(replica_changes.leave_out, "b", 3, [])
    assert at.assignment("b").accept_half_synced, "it may not have read that yet"
    (forced,) = at.replica().forced
    assert (forced.by, forced.host_id, forced.loss, forced.epoch) == ("root", "b", "All since noon.", 3)
    at.come("a")
    assert at.assignment("a").role == r.ROLE_JOINER, "its good copy is good no more"


def test_path_move(at: Cluster) -> None:
    assert at.do(replica_changes.path_move, "a", 1, "b", 1000.0)
    assert not at.do(replica_changes.path_move, "a", 1, "b", 1001.0), "asked already"
    assert at.assignment("a").yield_to_host_id == "b"
    at.do(replica_changes.hand_over, "a", 1, "b")
    with pytest.raises(Precondition, match="stays where it is") as refused:
        at.do(replica_changes.path_move, "b", 2, "a", 1119.0)
    assert refused.value.reason == "TOO_SOON"
    assert at.do(replica_changes.path_move, "b", 2, "a", 1120.0)
    assert at.replica().path_move_time.seconds == 1120


def test_what_crashes_everywhere_does_not_go_back_and_forth(at: Cluster) -> None:
    assert at.do(replica_changes.crash_move, "a", 1, 1000.0)
    assert where(at) == (1, "a", ["a", "b"]) and at.replica().crash_move_time.seconds == 1000
    assert not at.do(replica_changes.crash_move, "a", 1, 1001.0)
    assert at.do(replica_changes.take_over, "b", "b.1", 1) and where(at) == (2, "b", ["b"])
    at.do(replica_changes.join, "b", 2, "a", "a.1")
    with pytest.raises(Precondition, match="stays where it is") as refused:
        at.do(replica_changes.crash_move, "b", 3, 1000.0 + CRASH_MOVE_MIN_S - 1)
    assert refused.value.reason == "TOO_SOON" and at.assignment("a").released_epoch == 1
    assert at.do(replica_changes.crash_move, "b", 3, 1000.0 + CRASH_MOVE_MIN_S)
    assert at.do(replica_changes.take_over, "a", "a.1", 3) and where(at) == (4, "a", ["a"])


def test_replace_a_host_that_is_gone(at: Cluster) -> None:
    attachment = at.attach()
    at.go("b")
    degrade(at)
    assert at.do(replica_changes.replace, "b", at.new_replica("c"))
    assert where(at) == (3, "a", ["a"]) and list(at.replica().host_ids) == ["a", "c"]
    assert at.assignment("c").portal_group == 3, "paths to the old one may still be known"
    assert not at.assignment("c").initialized and at.assignment("b").deleting
    (assigned,) = at.assignment("c").attachments
    assert unseal(assigned.secret, HOST_KEY, attachment) == b"secret"
    assert not at.do(replica_changes.replace, "b", at.new_replica("c")), "done"
    at.do(replica_changes.join, "a", 3, "c", "c.1")
    assert where(at) == (4, "a", ["a", "c"]) and at.assignment("c").initialized
    at.come("b")
    assert at.do(volume_changes.store_removed, "b")
    at.check()
    assert at.volume().state == r.VOLUME_STATE_AVAILABLE


def test_replace_a_host_that_is_in_sync(at: Cluster) -> None:
    at.do(replica_changes.replace, "b", at.new_replica("c"))
    assert where(at) == (2, "a", ["a", "b"]) and at.replica().leaving_host_id == "b"
    at.do(replica_changes.join, "a", 2, "c", "c.1")
    assert where(at) == (3, "a", ["a", "c"]) and at.assignment("b").deleting
    assert not at.replica().leaving_host_id


def test_the_primary_leaves_when_it_has_handed_over(at: Cluster) -> None:
    at.do(replica_changes.replace, "b", at.new_replica("c"))
    at.do(replica_changes.request_switch, "b")
    at.do(replica_changes.hand_over, "a", 2, "b")
    at.do(replica_changes.join, "b", 3, "c", "c.1")
    assert where(at) == (4, "b", ["a", "b", "c"]), "b is to leave, and is the primary"
    at.do(replica_changes.hand_over, "b", 4, "c")
    assert where(at) == (5, "c", ["a", "c"]) and at.assignment("b").deleting


def test_the_one_that_was_to_leave_joins_again(at: Cluster) -> None:
    at.do(replica_changes.replace, "b", at.new_replica("c"))
    at.do(replica_changes.leave_out, "a", 2, ["b"])
    at.do(replica_changes.join, "a", 3, "b", "b.1")
    assert where(at) == (4, "a", ["a", "b"]) and at.replica().leaving_host_id == "b"


def freeze(at: Cluster, snapshot_id: str, on: list[str]) -> str:
    uid = at.take_snapshot(snapshot_id)
    at.do(snapshot_changes.frozen, uid, "a", at.replica().epoch, 1, 2.0, on)
    return uid


def views(at: Cluster, uid: str) -> list[str]:
    return [one.host_id for one in at.read(keys.snapshot(uid), r.SnapshotRecord).frozen_on]


def test_the_only_view_keeps_its_host(at: Cluster) -> None:
    uid = freeze(at, "s", ["b"])
    at.do(replica_changes.replace, "b", at.new_replica("c"))
    at.do(replica_changes.join, "a", 2, "c", "c.1")
    assert where(at) == (3, "a", ["a", "b", "c"]) and views(at, uid) == ["b"]
    assert not at.do(replica_changes.let_go)
    assert at.do(lambda draft, _: snapshot_changes.fail(draft, uid, "Enough."))
    assert at.do(replica_changes.let_go)
    assert where(at) == (4, "a", ["a", "c"])


def test_views_go_with_the_members(at: Cluster) -> None:
    one = freeze(at, "one", ["a", "b"])
    degrade(at)
    assert views(at, one) == ["a"]
    at.do(replica_changes.join, "a", 2, "b", "b.1")
    two = freeze(at, "two", ["a", "b"])
    at.go("a")
    at.do(replica_changes.take_over, "b", "b.1", 3)
    assert views(at, two) == ["b"]
    failed = at.read(keys.snapshot(one), r.SnapshotRecord)
    assert failed.state == r.SNAPSHOT_STATE_FAILED and "take another" in failed.reason
    assert [item.uid for item in at.assignment("b").snapshots] == [two]


def test_attachments_follow_the_primary(at: Cluster) -> None:
    uid = at.attach()
    key = keys.attachment(at.uid, uid)
    assert list(at.read(key, r.AttachmentRecord).portals) == ["a:3260", "b:3260"]
    assert at.do(attachment_changes.path_ready, uid, "b", True)
    assert not at.do(attachment_changes.path_ready, uid, "b", True)
    assert not at.do(attachment_changes.path_ready, uid, "d", True), "it is not assigned"
    assert at.read(key, r.AttachmentRecord).state == r.ATTACHMENT_STATE_PENDING
    at.go("a")
    at.do(replica_changes.take_over, "b", "b.1", 1)
    record = at.read(key, r.AttachmentRecord)
    assert record.state == r.ATTACHMENT_STATE_READY and list(record.portals) == ["b:3260", "a:3260"]
    assert at.do(attachment_changes.path_ready, uid, "b", False)
    assert not at.read(key, r.AttachmentRecord).ready_host_ids


def test_stay(at: Cluster) -> None:
    at.do(replica_changes.replace, "b", at.new_replica("c"))
    assert at.do(replica_changes.stay, "b")
    assert list(at.replica().host_ids) == ["a", "b"] and at.assignment("c").deleting
    assert where(at) == (3, "a", ["a", "b"]) and not at.do(replica_changes.stay, "b")


def test_drop_and_add(at: Cluster) -> None:
    degrade(at)
    assert at.do(replica_changes.drop, "b") and not at.do(replica_changes.drop, "b")
    assert list(at.replica().host_ids) == ["a"]
    with pytest.raises(Precondition, match="older replica"):
        at.do(replica_changes.replace, "", at.new_replica("b"))
    assert at.do(replica_changes.replace, "", at.new_replica("c"))
    assert list(at.replica().host_ids) == ["a", "c"]


def test_a_retired_host_never_counts(at: Cluster) -> None:
    """Not even for a volume that is being deleted: its last host drops the records, it goes by itself."""
    degrade(at)
    at.do(replica_changes.replace, "b", at.new_replica("c"))
    for host_id in "ac":
        at.edit(keys.assignment(host_id, at.uid), r.Assignment, lambda one: setattr(one, "deleting", True))
    at.edit(keys.volume(at.uid), r.VolumeRecord, lambda one: setattr(one, "state", r.VOLUME_STATE_DELETING))
    assert at.do(volume_changes.store_removed, "a") and at.do(volume_changes.store_removed, "c")
    assert at.store.get(keys.replica(at.uid)) is None and at.store.get(keys.volume(at.uid)) is None
    assert at.do(volume_changes.store_removed, "b") and not at.do(volume_changes.store_removed, "b")
    assert all(at.host(host_id).allocated_bytes == 0 for host_id in "abcd")


Refusal = tuple[str, Callable[[Cluster], object], Callable[..., object], tuple[object, ...]]
STALE, MISSING = "STALE_EPOCH", "NOT_FOUND"
c = replica_changes


def nothing(_: Cluster) -> None:
    pass


def both_reboot(at: Cluster) -> None:
    at.reboot("a")
    at.reboot("b")


def last_copy(at: Cluster) -> None:
    degrade(at)
    at.go("a")


def deleted(at: Cluster) -> None:
    at.edit(keys.volume(at.uid), r.VolumeRecord, lambda one: setattr(one, "state", r.VOLUME_STATE_DELETING))


def third(at: Cluster) -> None:
    at.do(c.replace, "b", at.new_replica("c"))


def old_one(at: Cluster) -> None:
    third(at)
    at.do(c.stay, "b")


def full(at: Cluster) -> None:
    at.edit(keys.host("c"), r.HostRecord, lambda one: setattr(one, "capacity_bytes", 1))


def draining(at: Cluster) -> None:
    at.edit(keys.host("c"), r.HostRecord, lambda one: setattr(one, "draining", True))


NEW = Cluster(()).new_replica("c")
FORCE = ("root", "All.", False, 5.0)
REFUSALS: dict[str, Refusal] = {
    "leave out: old epoch": (STALE, degrade, c.leave_out, ("a", 1, ["b"])),
    "leave out: epoch to come": (STALE, nothing, c.leave_out, ("a", 2, ["b"])),
    "leave out: by a mirror": (STALE, nothing, c.leave_out, ("b", 1, ["a"])),
    "leave out: by another boot": (STALE, lambda at: at.reboot("a"), c.leave_out, ("a", 1, ["b"])),
    "leave out: itself": ("IS_PRIMARY", nothing, c.leave_out, ("a", 1, ["a", "b"])),
    "join: old epoch": (STALE, degrade, c.join, ("a", 1, "b", "b.1")),
    "join: by a joiner": (STALE, degrade, c.join, ("b", 2, "b", "b.1")),
    "join: a member": ("STILL_IN_SYNC", nothing, c.join, ("a", 1, "b", "b.1")),
    "join: a member's other boot": (
        "STILL_IN_SYNC",
        lambda at: at.reboot("b"),
        c.join,
        ("a", 1, "b", "b.2"),
    ),
    "join: a stranger": ("NOT_ASSIGNED", degrade, c.join, ("a", 2, "c", "c.1")),
    "join: another boot": ("NOT_LIVE", degrade, c.join, ("a", 2, "b", "b.0")),
    "join: no boot": ("NOT_LIVE", lambda at: (degrade(at), at.go("b")), c.join, ("a", 2, "b", "")),
    "join: dead": ("NOT_LIVE", lambda at: (degrade(at), at.go("b")), c.join, ("a", 2, "b", "b.1")),
    "take over: old epoch": (STALE, lambda at: (degrade(at), at.go("a")), c.take_over, ("b", "b.1", 1)),
    "take over: primary lives": ("PRIMARY_LIVES", nothing, c.take_over, ("b", "b.1", 1)),
    "take over: a joiner": ("NOT_IN_SYNC", last_copy, c.take_over, ("b", "b.1", 2)),
    "take over: another boot": ("NOT_IN_SYNC", lambda at: at.go("a"), c.take_over, ("b", "b.2", 1)),
    "take over: no boot": ("NOT_IN_SYNC", last_copy, c.take_over, ("b", "", 2)),
    "take over: itself": ("NOT_IN_SYNC", lambda at: at.go("a"), c.take_over, ("a", "a.1", 1)),
    "take over: a stranger": ("NOT_IN_SYNC", lambda at: at.go("a"), c.take_over, ("c", "c.1", 1)),
    "hand over: old epoch": (STALE, degrade, c.hand_over, ("a", 1, "b")),
    "hand over: by a mirror": (STALE, nothing, c.hand_over, ("b", 1, "b")),
    "hand over: to itself": ("IS_PRIMARY", nothing, c.hand_over, ("a", 1, "a")),
    "hand over: to a joiner": ("NOT_IN_SYNC", degrade, c.hand_over, ("a", 2, "b")),
    "hand over: to the dead": ("NOT_LIVE", lambda at: at.go("b"), c.hand_over, ("a", 1, "b")),
    "hand over: to another boot": ("NOT_LIVE", lambda at: at.reboot("b"), c.hand_over, ("a", 1, "b")),
    "resign: old epoch": (STALE, degrade, c.resign, ("a", 1, "b")),
    "resign: to a joiner": ("NOT_IN_SYNC", degrade, c.resign, ("a", 2, "b")),
    "resign: to the dead": ("NOT_LIVE", lambda at: at.go("b"), c.resign, ("a", 1, "b")),
    "release: old epoch": (STALE, degrade, c.release, ("a", 1)),
    "release: by a mirror": (STALE, nothing, c.release, ("b", 1)),
    "cold start: old epoch": (STALE, lambda at: (degrade(at), at.reboot("a")), c.cold_start, ("a", "a.2", 1)),
    "cold start: memory kept": ("MEMORY_KEPT", lambda at: at.reboot("b"), c.cold_start, ("b", "b.2", 1)),
    "cold start: not all back": (
        "MEMORY_KEPT",
        lambda at: (both_reboot(at), at.go("a")),
        c.cold_start,
        ("b", "b.2", 1),
    ),
    "cold start: same boot": ("NOT_IN_SYNC", nothing, c.cold_start, ("b", "b.1", 1)),
    "cold start: a joiner": (
        "NOT_IN_SYNC",
        lambda at: (degrade(at), both_reboot(at)),
        c.cold_start,
        ("b", "b.2", 2),
    ),
    "cold start: a boot that is not": ("NOT_LIVE", both_reboot, c.cold_start, ("b", "b.9", 1)),
    "renounce: old epoch": (STALE, degrade, c.renounce, ("b", 1)),
    "renounce: a member": ("IN_SYNC", nothing, c.renounce, ("b", 1)),
    "renounce: a stranger": ("NOT_ASSIGNED", degrade, c.renounce, ("c", 2)),
    "force: a member lives": ("GOOD_COPY_LIVES", degrade, c.force_start, ("b", *FORCE)),
    "force: it starts cold by itself": ("GOOD_COPY_LIVES", both_reboot, c.force_start, ("b", *FORCE)),
    "force: a stranger": ("NOT_ASSIGNED", last_copy, c.force_start, ("c", *FORCE)),
    "force: the dead": ("NOT_LIVE", lambda at: (last_copy(at), at.go("b")), c.force_start, ("b", *FORCE)),
    "force: being deleted": (
        "NOT_AVAILABLE",
        lambda at: (last_copy(at), deleted(at)),
        c.force_start,
        ("b", *FORCE),
    ),
    "switch: to a stranger": ("NOT_ASSIGNED", nothing, c.request_switch, ("c",)),
    "switch: to a joiner": ("NOT_IN_SYNC", degrade, c.request_switch, ("b",)),
    "switch: to the dead": ("NOT_LIVE", lambda at: at.go("b"), c.request_switch, ("b",)),
    "switch: being deleted": ("NOT_AVAILABLE", deleted, c.request_switch, ("b",)),
    "crash move: old epoch": (STALE, degrade, c.crash_move, ("a", 1, 9.0)),
    "crash move: by a mirror": (STALE, nothing, c.crash_move, ("b", 1, 9.0)),
    "path move: old epoch": (STALE, degrade, c.path_move, ("a", 1, "b", 9.0)),
    "path move: by a mirror": (STALE, nothing, c.path_move, ("b", 1, "a", 9.0)),
    "path move: to a joiner": ("NOT_IN_SYNC", degrade, c.path_move, ("a", 2, "b", 9.0)),
    "replace: the primary": ("IS_PRIMARY", nothing, c.replace, ("a", NEW)),
    "replace: a stranger": ("NOT_ASSIGNED", nothing, c.replace, ("d", NEW)),
    "replace: nobody": ("BEING_REPLACED", nothing, c.replace, ("", NEW)),
    "replace: a second one": ("BEING_REPLACED", third, c.replace, ("c", Cluster(()).new_replica("d"))),
    "replace: by a holder": ("ALREADY_ASSIGNED", nothing, c.replace, ("b", Cluster(()).new_replica("a"))),
    "replace: by one that still removes": ("STILL_REMOVING", old_one, c.replace, ("b", NEW)),
    "replace: by one that is drained": ("DRAINING", draining, c.replace, ("b", NEW)),
    "replace: by the dead": ("NOT_LIVE", lambda at: at.go("c"), c.replace, ("b", NEW)),
    "replace: by a full one": ("NO_ROOM", full, c.replace, ("b", NEW)),
    "replace: being deleted": ("NOT_AVAILABLE", deleted, c.replace, ("b", NEW)),
    "replace: by one that is not": (MISSING, nothing, c.replace, ("b", Cluster(()).new_replica("z"))),
    "drop: a member": ("IN_SYNC", nothing, c.drop, ("b",)),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(at: Cluster, name: str) -> None:
    reason, before, change, arguments = REFUSALS[name]
    before(at)
    entries = dict(at.store.entries)
    with pytest.raises(HoldfastError) as refused:
        at.do(change, *arguments)
    assert refused.value.reason == reason
    assert refused.value.message.endswith(".") and len(refused.value.message) > 15
    assert at.store.entries == entries


@pytest.mark.parametrize("change", [c.leave_out, c.join, c.take_over, c.hand_over, c.resign, c.cold_start])
def test_no_such_volume(change: Callable[..., object]) -> None:
    arguments = {c.leave_out: ("a", 1, ["b"]), c.join: ("a", 1, "b", "b.1"), c.hand_over: ("a", 1, "b")}
    arguments |= {c.take_over: ("a", "a.1", 1), c.cold_start: ("a", "a.1", 1), c.resign: ("a", 1, "b")}
    at = Cluster()
    at.uid = "0" * 24
    with pytest.raises(NotFound):
        at.do(change, *arguments[change])


def test_verify_reports(at: Cluster) -> None:
    running = r.VerifyStatus(request=3, state=r.VERIFY_STATE_RUNNING, done_bytes=5, total_bytes=10)
    assert not at.do(volume_changes.report_verify, "a", 1, running, 2.0), "nobody asked for it"


def test_a_host_says_what_ails_its_copy(at: Cluster) -> None:
    degrade(at)
    say = volume_changes.report_replica_trouble
    assert at.do(say, "b", "WRONG_STORE", "another volume's", 5.0)
    assert not at.do(say, "b", "WRONG_STORE", "another volume's", 6.0)
    assert at.do(say, "b", "WRONG_STORE", "still another's", 7.0)
    (one,) = at.volume().replica_troubles
    assert (one.host_id, one.reason, one.message) == ("b", "WRONG_STORE", "still another's")
    assert one.since_time.ToSeconds() == 5, "since it began"
    assert at.do(say, "b", "DISK_FAILED", "", 8.0)
    assert at.volume().replica_troubles[0].since_time.ToSeconds() == 8
    assert at.do(say, "b", "", "", 9.0) and not at.volume().replica_troubles
    assert not at.do(say, "b", "", "", 9.0)
    assert not at.do(say, "stranger", "DISK_FAILED", "", 9.0)
    at.do(say, "b", "DISK_FAILED", "", 9.0)
    at.do(replica_changes.join, "a", 2, "b", "b.1")
    assert not at.volume().replica_troubles, "it has joined: nothing ails it"


def test_sync_is_forgotten_when_the_last_has_joined(at: Cluster) -> None:
    degrade(at)
    at.do(volume_changes.report_sync, "a", 2, 5, 10, 1)
    assert at.volume().sync_remaining_bytes == 5
    at.do(replica_changes.join, "a", 2, "b", "b.1")
    assert at.volume().sync_total_bytes == at.volume().sync_rate_bytes_s == 0


def test_how_much_is_still_to_be_copied_stays_while_nobody_knows(at: Cluster) -> None:
    good = r.VolumeHealth(state=r.HEALTH_STATE_DEGRADED, reason="HYDRATING")
    down = r.VolumeHealth(state=r.HEALTH_STATE_UNAVAILABLE, reason="WORKER_DOWN")

    def told() -> tuple[int, int, int]:
        volume = at.volume()
        return volume.hydrate_remaining_bytes, volume.hydrate_total_bytes, volume.hydrate_rate_bytes_s

    at.do(volume_changes.report_health, "a", 1, good, 5, 9, 2, 1.0)
    assert told() == (5, 9, 2)
    at.do(volume_changes.report_health, "a", 1, down, 0, 0, 0, 2.0)
    assert told() == (5, 9, 0)
    at.do(volume_changes.report_health, "a", 1, good, 0, 9, 0, 3.0)
    assert told() == (0, 9, 0)
