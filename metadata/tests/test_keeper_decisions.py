"""What the keeper decides on what it sees, and what becomes of it when that was seen too late."""

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.metadata import keeper_decisions as due
from holdfast.metadata import keeping_decisions, keys, schedule_decisions, schedule_runs, snapshot_changes
from holdfast.metadata.cas import run
from holdfast.metadata.keeper import carry_out
from holdfast.metadata.keeper_decisions import SCHEDULED_UNDER_WAY_MAX, Sight, decide
from holdfast.metadata.schedule_runs import Slot, Trim
from holdfast.metadata.testing_cluster import OWNER, VOLUME, Cluster

HOUR_S = 3600
NOW_S = 100 * HOUR_S + 1.0


def scheduled(cluster: Cluster, **fields: object) -> r.ScheduleRecord:
    """A schedule of the cluster's volume, made an hour and a half before NOW_S."""
    wanted = r.ScheduleRecord(
        schedule_id="s", owner=OWNER, volume_ids=[VOLUME], timing=r.Timing(interval_s=HOUR_S), **fields
    )  # type: ignore[arg-type]
    uid = cluster.new_uid()
    return run(
        cluster.store, lambda draft: schedule_decisions.create(draft, uid, wanted, NOW_S - 1.5 * HOUR_S)[0]
    )


def sight(cluster: Cluster, now_s: float = NOW_S) -> Sight:
    """What a keeper sees, without any delay."""
    schedules = cluster.all(keys.SCHEDULES, r.ScheduleRecord)
    runs = cluster.store.range(keys.SCHEDULE_RUNS)[0]
    return Sight(
        now_s,
        {one.uid: one for one in cluster.all(keys.SNAPSHOTS, r.SnapshotRecord)},
        {one.uid: one for one in schedules},
        {one.key.removeprefix(keys.SCHEDULE_RUNS): cluster.read(one.key, r.ScheduleRun) for one in runs},
        {one.uid: one for one in cluster.all(keys.VOLUMES, r.VolumeRecord)},
    )


def completed(cluster: Cluster) -> list[r.SnapshotRecord]:
    """Whatever was under way, is."""
    for one in cluster.all(keys.SNAPSHOTS, r.SnapshotRecord):
        if one.state == r.SNAPSHOT_STATE_PENDING:

            def finish(snapshot: r.SnapshotRecord) -> None:
                snapshot.state = r.SNAPSHOT_STATE_COMPLETED

            run(cluster.store, lambda draft, uid=one.uid: snapshot_changes.fail(draft, uid, ""))  # type: ignore[misc]
            cluster.edit(keys.snapshot(one.uid), r.SnapshotRecord, finish)
    return cluster.all(keys.SNAPSHOTS, r.SnapshotRecord)


def test_a_lost_answer_makes_no_second_snapshot() -> None:
    cluster = Cluster()
    cluster.make_volume()
    scheduled(cluster)
    (slot,) = decide(sight(cluster))
    cluster.store.lose_answer = True
    carry_out(cluster.store, slot, NOW_S)
    assert not carry_out(cluster.store, slot, NOW_S), "another copy, with the same sight"
    assert len(cluster.all(keys.SNAPSHOTS, r.SnapshotRecord)) == 1
    assert not decide(sight(cluster))


def test_seen_before_it_was_changed_counts_no_more() -> None:
    cluster = Cluster()
    cluster.make_volume()
    schedule = scheduled(cluster)
    (slot,) = decide(sight(cluster))
    paused = r.ScheduleRecord(paused=True)
    change = schedule_decisions.ScheduleChange(OWNER, "s", paused, frozenset(["paused"]), "", NOW_S)
    run(cluster.store, lambda draft: schedule_decisions.update(draft, change))
    assert isinstance(slot, Slot)
    assert not carry_out(cluster.store, slot, NOW_S)
    assert not carry_out(cluster.store, schedule_runs.Note(slot, "why"), NOW_S)
    assert not cluster.all(keys.SNAPSHOTS, r.SnapshotRecord)
    assert schedule.revision == 1


def test_the_newest_is_never_trimmed_away() -> None:
    """Whoever deletes the newest between the look and the deed saves the one before from being deleted."""
    cluster = Cluster()
    cluster.make_volume()
    schedule = scheduled(cluster, keep=r.KeepRule(last=1))
    for hour in (0, 1):
        (slot,) = [one for one in decide(sight(cluster, NOW_S + hour * HOUR_S)) if isinstance(one, Slot)]
        assert carry_out(cluster.store, slot, NOW_S + hour * HOUR_S)
        completed(cluster)
    older, newer = sorted(completed(cluster), key=lambda one: one.create_time.seconds)
    (trim,) = decide(sight(cluster, NOW_S + HOUR_S))
    assert trim == Trim(schedule.uid, 1, older.uid, newer.uid)
    run(
        cluster.store,
        lambda draft: keeping_decisions.delete(draft, OWNER, newer.snapshot_id, False, NOW_S),
    )
    assert not carry_out(cluster.store, trim, NOW_S)
    assert not [one for one in decide(sight(cluster, NOW_S + HOUR_S)) if isinstance(one, Trim)]


def test_a_lock_that_came_meanwhile_counts() -> None:
    cluster = Cluster()
    cluster.make_volume()
    scheduled(cluster, keep=r.KeepRule(last=1))
    for hour in (0, 1):
        for one in decide(sight(cluster, NOW_S + hour * HOUR_S)):
            carry_out(cluster.store, one, NOW_S + hour * HOUR_S)
        completed(cluster)
    (trim,) = decide(sight(cluster, NOW_S + HOUR_S))
    assert isinstance(trim, Trim)
    locked = cluster.read(keys.snapshot(trim.snapshot_uid), r.SnapshotRecord)
    until_s = int(NOW_S) + 9 * HOUR_S
    run(cluster.store, lambda draft: keeping_decisions.lock(draft, OWNER, locked.snapshot_id, until_s))
    assert not carry_out(cluster.store, trim, NOW_S + HOUR_S)
    assert not decide(sight(cluster, NOW_S + HOUR_S)), "and it is not asked for again"
    assert decide(sight(cluster, until_s))


def test_no_storm_after_an_outage() -> None:
    volumes = {
        f"{number:024x}": r.VolumeRecord(
            uid=f"{number:024x}", volume_id=f"v{number}", owner=OWNER, state=r.VOLUME_STATE_AVAILABLE
        )
        for number in range(100)
    }
    schedule = r.ScheduleRecord(
        uid="s", owner=OWNER, all_volumes=True, timing=r.Timing(interval_s=HOUR_S), revision=1
    )
    under_way = {
        f"u{number}": r.SnapshotRecord(
            uid=f"u{number}", schedule_uid="other", state=r.SNAPSHOT_STATE_FROZEN, owner=OWNER
        )
        for number in range(12)
    }
    seen = Sight(NOW_S, under_way, {"s": schedule}, {}, volumes)
    slots = decide(seen)
    assert len(slots) == SCHEDULED_UNDER_WAY_MAX - 12 and all(isinstance(one, Slot) for one in slots)
    assert {one.slot_s for one in slots if isinstance(one, Slot)} == {100 * HOUR_S}, (
        "one each, for the newest"
    )


def test_schedules_leave_each_others_snapshots_alone() -> None:
    volume = r.VolumeRecord(uid="v", volume_id=VOLUME, owner=OWNER, state=r.VOLUME_STATE_DELETING)
    rule = r.KeepRule(last=1)
    greedy = r.ScheduleRecord(
        uid="g",
        owner=OWNER,
        all_volumes=True,
        timing=r.Timing(interval_s=HOUR_S),
        keep=rule,
        by_hand_too=True,
    )
    modest = r.ScheduleRecord(uid="m", owner=OWNER, volume_ids=["w"], timing=r.Timing(interval_s=HOUR_S))
    snapshots = {}
    for number, made_by in enumerate(["g", "m", "", "gone", "m", "g"]):
        one = r.SnapshotRecord(
            uid=f"s{number}",
            owner=OWNER,
            volume_uid="v",
            schedule_uid=made_by,
            state=r.SNAPSHOT_STATE_COMPLETED,
        )
        one.create_time.FromSeconds(number)
        snapshots[one.uid] = one
    theirs = r.SnapshotRecord(uid="t", owner="bob", volume_uid="v", state=r.SNAPSHOT_STATE_COMPLETED)
    snapshots["t"] = theirs
    seen = Sight(NOW_S, snapshots, {"g": greedy, "m": modest}, {}, {"v": volume})
    trims = [one.snapshot_uid for one in decide(seen) if isinstance(one, due.Trim)]
    assert trims == ["s0", "s2", "s3"]
