"""What the keeper does next: decided from what etcd says, and nothing else. Pure.

Every copy of the service decides the same; `keeper.carry_out` looks again before anything is changed.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.metadata import retention, slots
from holdfast.metadata.keeping_decisions import is_due
from holdfast.metadata.schedule_runs import Note, Slot, Trim, is_done, is_said, may_trim
from holdfast.metadata.snapshot_changes import UNDER_WAY

SCHEDULED_UNDER_WAY_MAX = 32
"""Snapshots made by schedules and not yet uploaded, in the cluster: after an outage all of them are due at
once, and each costs copy-before-write. The rest waits its turn."""


@dataclass(frozen=True)
class Sight:
    """What there is: records by their uids (runs by "schedule uid/volume id"); of snapshots all but those
    DELETED."""

    now_s: float
    snapshots: Mapping[str, r.SnapshotRecord]
    schedules: Mapping[str, r.ScheduleRecord]
    runs: Mapping[str, r.ScheduleRun]
    volumes: Mapping[str, r.VolumeRecord]


@dataclass(frozen=True)
class Purge:
    """Its time in the recycle bin is over."""

    snapshot_uid: str


Action = Purge | Slot | Note | Trim


def decide(sight: Sight) -> list[Action]:
    """What is due, in the order in which it is best done."""
    return [*_purges(sight), *_scheduled(sight), *_trims(sight)]


def _purges(sight: Sight) -> list[Action]:
    due = [one for one in sight.snapshots.values() if is_due(one, sight.now_s)]
    return [Purge(one.uid) for one in sorted(due, key=lambda one: one.recycle_until_time.ToMilliseconds())]


def _scheduled(sight: Sight) -> list[Action]:
    """Notes, and as many slots as may be taken: the oldest first."""
    by_owner: dict[str, dict[str, r.VolumeRecord]] = defaultdict(dict)
    for volume in sight.volumes.values():
        by_owner[volume.owner][volume.volume_id] = volume
    notes: list[Action] = []
    due: list[Slot] = []
    for schedule in sight.schedules.values():
        if schedule.paused:
            continue
        volumes = by_owner[schedule.owner]
        for volume_id in _all_of(volumes) if schedule.all_volumes else schedule.volume_ids:
            found = _volume_due(sight, schedule, volume_id, volumes.get(volume_id))
            if isinstance(found, Slot):
                due.append(found)
            elif found is not None:
                notes.append(found)
    under_way = sum(1 for one in sight.snapshots.values() if one.schedule_uid and one.state in UNDER_WAY)
    room = max(0, SCHEDULED_UNDER_WAY_MAX - under_way)
    return [*notes, *sorted(due, key=lambda one: (one.slot_s, one.schedule_uid, one.volume_id))[:room]]


def _volume_due(
    sight: Sight, schedule: r.ScheduleRecord, volume_id: str, volume: r.VolumeRecord | None
) -> Slot | Note | None:
    """The newest slot of a volume, if it is to be taken now; or what there is to say. Slots that were missed
    before it are not made up for."""
    run = sight.runs.get(f"{schedule.uid}/{volume_id}")
    last = sight.snapshots.get(run.snapshot_uid) if run is not None else None
    slot = Slot(schedule.uid, schedule.revision, volume_id, slots.latest(schedule.timing, sight.now_s))
    if is_done(run, slot.slot_s):
        if run is None or last is None or last.state != r.SNAPSHOT_STATE_FAILED or run.error:
            return None
        done = replace(slot, slot_s=run.slot_time.seconds)
        return Note(done, f"Snapshot {last.snapshot_id!r} failed: {last.reason}", last.uid)
    begin_s = schedule.start_time.ToMilliseconds() / 1000
    if volume is not None:
        begin_s = max(begin_s, volume.create_time.ToMilliseconds() / 1000)
    if slot.slot_s <= begin_s:
        return None
    error = _hindrance(volume, last)
    if not error:
        return slot
    note = Note(slot, error)
    return None if is_said(run, note) else note


def _all_of(volumes: Mapping[str, r.VolumeRecord]) -> list[str]:
    alive = (r.VOLUME_STATE_CREATING, r.VOLUME_STATE_AVAILABLE)
    return sorted(volume_id for volume_id, one in volumes.items() if one.state in alive)


def _hindrance(volume: r.VolumeRecord | None, last: r.SnapshotRecord | None) -> str:
    """Why a slot cannot be taken now, as far as can be seen; empty if nothing hinders."""
    if volume is None or volume.state == r.VOLUME_STATE_DELETING:
        return "There is no such volume any more: take it out of the schedule."
    if volume.state != r.VOLUME_STATE_AVAILABLE:
        return "The volume is not AVAILABLE."
    if last is not None and last.state in UNDER_WAY:
        return f"Snapshot {last.snapshot_id!r}, the one before, is still under way."
    return ""


def _trims(sight: Sight) -> list[Action]:
    """What schedules need not keep, the oldest first."""
    actions: list[Action] = []
    by_volume: dict[str, list[r.SnapshotRecord]] = defaultdict(list)
    if not any(_is_trimming(one) for one in sight.schedules.values()):
        return actions
    for snapshot in sight.snapshots.values():
        by_volume[snapshot.volume_uid].append(snapshot)
    for schedule in sight.schedules.values():
        if _is_trimming(schedule):
            for snapshots in by_volume.values():
                actions += _trims_of_volume(sight, schedule, snapshots)
    return actions


def _is_trimming(schedule: r.ScheduleRecord) -> bool:
    return not schedule.paused and schedule.keep != r.KeepRule()


def _trims_of_volume(
    sight: Sight, schedule: r.ScheduleRecord, snapshots: list[r.SnapshotRecord]
) -> list[Action]:
    own = [one for one in snapshots if _is_its(sight, schedule, one)]
    completed = [
        # Not the time of the freeze: that is the host's clock.
        retention.Taken(one.create_time.ToMilliseconds() / 1000, one.uid, held=not may_trim(one, sight.now_s))
        for one in own
        if one.state == r.SNAPSHOT_STATE_COMPLETED
    ]
    if not completed:
        return []
    verdict = retention.keep(completed, schedule.keep)
    newest = verdict.keep[0]
    failed = [
        one.uid
        for one in own
        if one.state == r.SNAPSHOT_STATE_FAILED
        and one.schedule_uid == schedule.uid
        and one.create_time.ToMilliseconds() / 1000 < newest.time_s
    ]
    superfluous = [one.uid for one in reversed(verdict.delete)]
    return [Trim(schedule.uid, schedule.revision, uid, newest.uid) for uid in [*sorted(failed), *superfluous]]


def _is_its(sight: Sight, schedule: r.ScheduleRecord, snapshot: r.SnapshotRecord) -> bool:
    """Whether the schedule decides about a snapshot: it made it; or it was told to decide about those that
    no other schedule does, of the volumes that are its own now.
    """
    if snapshot.schedule_uid == schedule.uid:
        return True
    if (
        not schedule.by_hand_too
        or snapshot.owner != schedule.owner
        or snapshot.schedule_uid in sight.schedules
    ):
        return False
    volume = sight.volumes.get(snapshot.volume_uid)
    if volume is None:
        return False
    return schedule.all_volumes or volume.volume_id in schedule.volume_ids
