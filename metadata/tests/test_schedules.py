"""Schedules: their errors, and two keepers that carry them out on a real etcd by a clock of the test's."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.schedule.v1 import schedule_pb2 as pb
from holdfast.api.snapshot.v1 import snapshot_pb2 as sb
from holdfast.api.volume.v1 import volume_pb2 as vb
from holdfast.metadata import keys, schedule_decisions
from holdfast.metadata.client import Client
from holdfast.metadata.keeper import Keeper
from holdfast.metadata.records import decode
from holdfast.metadata.refusals import refused
from holdfast.metadata.schedule_runs import snapshot_id_of
from holdfast.metadata.snapshot_changes import Uploaded
from holdfast.metadata.snapshotter_actions import SnapshotterActions
from holdfast.metadata.testing import RunningMetadata, SetClock, StandInHost, until
from holdfast.metadata.testing_users import made_volume

HOUR_S, DAY_S = 3600, 86_400
BEGIN_S = datetime(2027, 1, 4, 12, 0, tzinfo=UTC).timestamp()
"""A Monday, at noon."""
HOURLY = r.Timing(interval_s=HOUR_S)


@pytest.fixture
def clock(metadata: RunningMetadata) -> SetClock:
    metadata.clock = clock = SetClock(BEGIN_S)
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


@pytest.fixture
def snapshotter(metadata: RunningMetadata) -> Iterator[SnapshotterActions]:
    made = SnapshotterActions(metadata.etcd, "s", "127.0.0.1", 1, clock=lambda: metadata.clock())
    made.start()
    assert made.keeper.wait_attached(10)
    yield made
    made.stop()


def schedule(schedule_id: str = "nightly", **fields: object) -> pb.Schedule:
    wanted = {"volume_ids": ["v"], "timing": HOURLY, **fields}
    return pb.Schedule(schedule_id=schedule_id, **wanted)  # type: ignore[arg-type]


def created(client: Client, schedule_id: str = "nightly", **fields: object) -> pb.Schedule:
    request = pb.CreateScheduleRequest(schedule=schedule(schedule_id, **fields))
    answer = client.schedules.CreateSchedule(request)
    assert answer.created
    return answer.schedule


def update(schedule_id: str, etag: str = "", **fields: object) -> pb.UpdateScheduleRequest:
    changed = pb.Schedule(schedule_id=schedule_id, **fields)  # type: ignore[arg-type]
    return pb.UpdateScheduleRequest(schedule=changed, update_mask=FieldMask(paths=list(fields)), etag=etag)


def snapshots(client: Client, deleted: bool = False) -> list[sb.Snapshot]:
    """In the order of their slots."""
    listed = client.snapshots.ListSnapshots(sb.ListSnapshotsRequest(deleted=deleted)).snapshots
    return sorted(listed, key=lambda one: one.create_time.seconds)


def hours(found: list[sb.Snapshot]) -> list[int]:
    """When they were made, in hours since the beginning."""
    return [int(one.create_time.seconds - BEGIN_S) // HOUR_S for one in found]


def complete(client: Client, snapshotter: SnapshotterActions) -> None:
    """Whatever is under way."""
    for one in snapshots(client):
        if one.state in (r.SNAPSHOT_STATE_PENDING, r.SNAPSHOT_STATE_FROZEN):
            watch = sb.WatchSnapshotRequest(snapshot_id=one.snapshot_id)
            for answer in client.snapshots.WatchSnapshot(watch, timeout=20):
                if answer.snapshot.state == r.SNAPSHOT_STATE_FROZEN:
                    by = snapshotter.claim(one.uid)
                    if by is not None:
                        snapshotter.complete(one.uid, by, Uploaded("m", "00", 1, 1))


def run_of(client: Client, schedule_id: str = "nightly") -> r.ScheduleRun:
    (run,) = client.schedules.GetSchedule(pb.GetScheduleRequest(schedule_id=schedule_id)).runs
    return run


def test_refusals(metadata: RunningMetadata, two_hosts: list[StandInHost], clock: SetClock) -> None:
    alice, bob, etcd = metadata.client("alice"), metadata.client("bob"), metadata.etcd
    made_volume(alice, "v")
    create, change = alice.schedules.CreateSchedule, alice.schedules.UpdateSchedule
    wrong: list[tuple[dict[str, object], str]] = [
        ({"volume_ids": []}, "BAD_VOLUMES"),
        ({"all_volumes": True}, "BAD_VOLUMES"),
        ({"volume_ids": ["v", "v"]}, "BAD_VOLUMES"),
        ({"volume_ids": [f"v{number}" for number in range(101)]}, "BAD_VOLUMES"),
        ({"volume_ids": ["../v"]}, "BAD_ID"),
        ({"timing": r.Timing()}, "BAD_TIMING"),
        ({"timing": r.Timing(interval_s=1)}, "BAD_TIMING"),
        ({"timing": r.Timing(weekly=r.WeeklyTiming(weekday=8))}, "BAD_TIMING"),
        ({"keep": r.KeepRule(daily=1001)}, "BAD_KEEP"),
    ]
    for fields, reason in wrong:
        request = pb.CreateScheduleRequest(schedule=schedule(**fields))
        refused(etcd, create, request, "INVALID_ARGUMENT", reason)
    bad_id = pb.CreateScheduleRequest(schedule=schedule("Bad"))
    refused(etcd, create, bad_id, "INVALID_ARGUMENT", "BAD_ID")
    of_none = pb.CreateScheduleRequest(schedule=schedule(volume_ids=["none"]))
    refused(etcd, create, of_none, "NOT_FOUND", "NOT_FOUND")
    of_alices = pb.CreateScheduleRequest(schedule=schedule())
    refused(etcd, bob.schedules.CreateSchedule, of_alices, "NOT_FOUND", "NOT_FOUND")

    made = created(alice)
    assert not create(of_alices).created
    other = pb.CreateScheduleRequest(schedule=schedule(by_hand_too=True))
    refused(etcd, create, other, "ALREADY_EXISTS", "ALREADY_EXISTS")
    for client, schedule_id in ((alice, "none"), (bob, "nightly")):
        for method, wanted in [
            (client.schedules.GetSchedule, pb.GetScheduleRequest(schedule_id=schedule_id)),
            (client.schedules.UpdateSchedule, update(schedule_id, paused=True)),
            (client.schedules.DeleteSchedule, pb.DeleteScheduleRequest(schedule_id=schedule_id)),
        ]:
            refused(etcd, method, wanted, "NOT_FOUND", "NOT_FOUND")
    for paths in ([], ["uid"], ["paused", "start_time"]):
        request = update("nightly", paused=True)
        request.update_mask.paths[:] = paths
        refused(etcd, change, request, "INVALID_ARGUMENT", "BAD_MASK")
    refused(etcd, change, update("nightly", volume_ids=[]), "INVALID_ARGUMENT", "BAD_VOLUMES")
    refused(etcd, change, update("nightly", volume_ids=["none"]), "NOT_FOUND", "NOT_FOUND")
    refused(etcd, change, update("nightly", timing=r.Timing()), "INVALID_ARGUMENT", "BAD_TIMING")
    refused(etcd, change, update("nightly", keep=r.KeepRule(last=1001)), "INVALID_ARGUMENT", "BAD_KEEP")
    changed = change(update("nightly", made.etag, keep=r.KeepRule(last=3), paused=True))
    assert changed.changed and changed.schedule.keep.last == 3 and changed.schedule.volume_ids == ["v"]
    assert not changed.schedule.HasField("next_run_time")
    assert not change(update("nightly", keep=r.KeepRule(last=3))).changed
    refused(etcd, change, update("nightly", made.etag, paused=False), "FAILED_PRECONDITION", "STALE_ETAG")
    assert change(update("nightly", keep=r.KeepRule())).schedule.keep == r.KeepRule(), (
        "named and absent is none"
    )

    for number in range(schedule_decisions.SCHEDULES_MAX - 1):
        created(alice, f"s{number}", paused=True)
    more = pb.CreateScheduleRequest(schedule=schedule("more"))
    refused(etcd, create, more, "RESOURCE_EXHAUSTED", "TOO_MANY")
    page = alice.schedules.ListSchedules(pb.ListSchedulesRequest(page_size=60))
    rest = alice.schedules.ListSchedules(pb.ListSchedulesRequest(page_token=page.next_page_token))
    assert (len(page.schedules), len(rest.schedules)) == (60, 40) and not rest.next_page_token


def test_a_slot_makes_one_snapshot(
    metadata: RunningMetadata,
    two_hosts: list[StandInHost],
    clock: SetClock,
    keepers: list[Keeper],
    snapshotter: SnapshotterActions,
) -> None:
    alice = metadata.client("alice")
    made_volume(alice, "v")
    clock.now_s += 60
    made = created(alice)
    assert made.next_run_time.seconds == BEGIN_S + HOUR_S
    clock.now_s = BEGIN_S + HOUR_S - 1
    created(alice, "other", paused=True)
    clock.now_s = BEGIN_S + HOUR_S
    until(lambda: len(snapshots(alice)) == 1)
    (first,) = snapshots(alice)
    assert first.schedule_id == "nightly" and first.snapshot_id.startswith("nightly-v-20270104t130000z-")
    complete(alice, snapshotter)
    alice.snapshots.DeleteSnapshot(sb.DeleteSnapshotRequest(snapshot_id=first.snapshot_id, now=True))
    clock.now_s += HOUR_S - 1
    for one in keepers:
        one.look()
    assert not snapshots(alice), "a slot is done once, whatever became of its snapshot"
    clock.now_s += 5 * HOUR_S
    until(lambda: len(snapshots(alice)) == 1)
    complete(alice, snapshotter)
    for one in keepers:
        one.look()
    assert hours(snapshots(alice)) == [6], "what was missed is made up for by one, not by five"
    shown = alice.schedules.GetSchedule(pb.GetScheduleRequest(schedule_id="nightly"))
    assert shown.schedule.last_run_time.seconds == int(clock.now_s) and not shown.schedule.last_error
    assert shown.runs[0].slot_time.seconds == BEGIN_S + 6 * HOUR_S
    assert alice.schedules.DeleteSchedule(pb.DeleteScheduleRequest(schedule_id="nightly")).changed
    clock.now_s += 5 * HOUR_S
    for one in keepers:
        one.look()
    assert hours(snapshots(alice)) == [6], "its snapshots stay, and there are no more"
    left = metadata.etcd.range(keys.SCHEDULE_RUNS)[0]
    assert not left


def test_one_at_a_time_and_why_not(
    metadata: RunningMetadata,
    two_hosts: list[StandInHost],
    clock: SetClock,
    keepers: list[Keeper],
    snapshotter: SnapshotterActions,
) -> None:
    alice, etcd = metadata.client("alice"), metadata.etcd
    made_volume(alice, "v")
    created(alice)
    clock.now_s += HOUR_S
    until(lambda: len(snapshots(alice)) == 1)
    (first,) = snapshots(alice)
    clock.now_s += HOUR_S
    until(lambda: "still under way" in run_of(alice).error)
    assert len(snapshots(alice)) == 1
    shown = alice.schedules.GetSchedule(pb.GetScheduleRequest(schedule_id="nightly")).schedule
    assert "'v'" in shown.last_error and shown.last_error_time.seconds == int(clock.now_s)
    complete(alice, snapshotter)
    until(lambda: len(snapshots(alice)) == 2)
    assert not run_of(alice).error and run_of(alice).slot_time.seconds == BEGIN_S + 2 * HOUR_S
    second = snapshots(alice)[1]
    assert snapshotter.fail(second.uid, "The disk is gone.")
    until(lambda: run_of(alice).error == f"Snapshot {second.snapshot_id!r} failed: The disk is gone.")
    clock.now_s += HOUR_S
    until(lambda: len(snapshots(alice)) == 3)
    complete(alice, snapshotter)
    alice.volumes.DeleteVolume(vb.DeleteVolumeRequest(volume_id="v"))
    list(alice.volumes.WatchVolume(vb.WatchVolumeRequest(volume_id="v"), timeout=20))
    clock.now_s += HOUR_S
    until(lambda: "no such volume" in run_of(alice).error)
    revision = etcd.range(keys.SCHEDULES)[1]
    for _ in range(5):
        for one in keepers:
            one.look()
    (run,) = etcd.range(keys.SCHEDULE_RUNS)[0]
    assert run.mod_revision <= revision, "the same is not written again and again"
    assert first.uid in [one.uid for one in snapshots(alice)]


def test_a_name_that_is_taken_is_an_error(
    metadata: RunningMetadata, two_hosts: list[StandInHost], clock: SetClock, keepers: list[Keeper]
) -> None:
    alice = metadata.client("alice")
    made_volume(alice, "v")
    made = created(alice)
    (entry,) = metadata.etcd.range(keys.SCHEDULES)[0]
    record = decode(r.ScheduleRecord, entry.value)
    own_id = snapshot_id_of(record, "v", int(BEGIN_S + HOUR_S))
    mine = alice.snapshots.CreateSnapshot(sb.CreateSnapshotRequest(snapshot_id=own_id, volume_id="v"))
    clock.now_s += HOUR_S
    until(lambda: bool(alice.schedules.GetSchedule(pb.GetScheduleRequest(schedule_id="nightly")).runs))
    assert "another snapshot" in run_of(alice).error and not run_of(alice).snapshot_uid
    assert [one.schedule_id for one in snapshots(alice)] == [""] and made.uid != mine.snapshot.uid


def test_all_volumes_and_new_timings(
    metadata: RunningMetadata, two_hosts: list[StandInHost], clock: SetClock, keepers: list[Keeper]
) -> None:
    """What was before a volume, a schedule, a resumption or a timing is not made up for."""
    alice = metadata.client("alice")
    made_volume(alice, "v")
    created(
        alice, volume_ids=[], all_volumes=True, timing=r.Timing(daily=r.DailyTiming(minute_of_day=13 * 60))
    )
    clock.now_s = BEGIN_S + HOUR_S + 60
    until(lambda: len(snapshots(alice)) == 1)
    made_volume(alice, "w")
    for one in keepers:
        one.look()
    assert [one.volume_id for one in snapshots(alice)] == ["v"]
    change = alice.schedules.UpdateSchedule
    change(update("nightly", timing=r.Timing(daily=r.DailyTiming(minute_of_day=12 * 60 + 30))))
    change(update("nightly", paused=True))
    clock.now_s += DAY_S
    for one in keepers:
        one.look()
    change(update("nightly", paused=False))
    for one in keepers:
        one.look()
    assert len(snapshots(alice)) == 1
    clock.now_s += DAY_S
    until(lambda: [one.volume_id for one in snapshots(alice)[1:]] == ["w"])
    assert (
        "still under way" in alice.schedules.ListSchedules(pb.ListSchedulesRequest()).schedules[0].last_error
    )


def test_retention(
    metadata: RunningMetadata,
    two_hosts: list[StandInHost],
    clock: SetClock,
    keepers: list[Keeper],
    snapshotter: SnapshotterActions,
) -> None:
    alice = metadata.client("alice")
    made_volume(alice, "v")
    by_hand = sb.CreateSnapshotRequest(snapshot_id="by-hand", volume_id="v")
    alice.snapshots.CreateSnapshot(by_hand)
    complete(alice, snapshotter)
    created(alice)
    for number in range(1, 7):
        clock.now_s = BEGIN_S + number * HOUR_S
        until(lambda n=number: len(snapshots(alice)) == n + 1)  # type: ignore[misc]
        complete(alice, snapshotter)
    mine = snapshots(alice)
    locked, restored = mine[1], mine[2]
    lock = sb.LockSnapshotRequest(snapshot_id=locked.snapshot_id)
    lock.until_time.FromSeconds(int(clock.now_s) + 2 * HOUR_S)
    alice.snapshots.LockSnapshot(lock)
    alice.snapshots.DeleteSnapshot(sb.DeleteSnapshotRequest(snapshot_id=restored.snapshot_id))
    alice.snapshots.RestoreSnapshot(sb.RestoreSnapshotRequest(uid=restored.uid))
    alice.schedules.UpdateSchedule(update("nightly", keep=r.KeepRule(last=2)))
    until(lambda: hours(snapshots(alice)) == [0, 1, 2, 5, 6])
    assert hours(snapshots(alice, deleted=True)) == [3, 4], "to the recycle bin, as when deleted by hand"
    clock.now_s += 2 * HOUR_S
    until(lambda: 8 in hours(snapshots(alice)))
    complete(alice, snapshotter)
    until(lambda: hours(snapshots(alice)) == [0, 2, 6, 8])
    for own_id in [one.snapshot_id for one in snapshots(alice)[2:]]:
        alice.schedules.UpdateSchedule(update("nightly", paused=True))
        alice.snapshots.DeleteSnapshot(sb.DeleteSnapshotRequest(snapshot_id=own_id))
    alice.schedules.UpdateSchedule(update("nightly", paused=False, by_hand_too=True))
    for one in keepers:
        one.look()
    assert hours(snapshots(alice)) == [0, 2], "two are kept: the one by hand, and the one restored"
    clock.now_s += HOUR_S
    until(lambda: 9 in hours(snapshots(alice)))
    complete(alice, snapshotter)
    until(lambda: hours(snapshots(alice)) == [2, 9])
