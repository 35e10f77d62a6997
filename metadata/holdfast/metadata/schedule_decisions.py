"""Creating, changing and deleting schedules: decisions over a draft (see cas.py)."""

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import AlreadyExists, BadInput, Exhausted
from holdfast.base.ids import check_name
from holdfast.metadata import keys
from holdfast.metadata.assigned import timestamp
from holdfast.metadata.cas import Changed, Draft
from holdfast.metadata.lookups import named, not_found
from holdfast.metadata.retention import COUNT_MAX
from holdfast.metadata.slots import check_timing
from holdfast.metadata.updates import check_etag

VOLUMES_MAX = 100
"""That a schedule names; `all_volumes` knows no limit."""
SCHEDULES_MAX = 100
"""Of one owner."""
SETTABLE = ("volume_ids", "all_volumes", "timing", "keep", "by_hand_too", "paused")


@dataclass(frozen=True)
class ScheduleChange:
    """A validated request: the fields in `paths` as `wanted` has them."""

    owner: str
    schedule_id: str
    wanted: r.ScheduleRecord
    paths: frozenset[str]
    etag: str
    now_s: float


def check(wanted: r.ScheduleRecord) -> None:
    """Raise BadInput unless a schedule could be as `wanted`."""
    count = len(wanted.volume_ids)
    if bool(count) == wanted.all_volumes or count > VOLUMES_MAX or len(set(wanted.volume_ids)) != count:
        raise BadInput(
            "BAD_VOLUMES", f"{count} volumes are named: name 1 to {VOLUMES_MAX}, each once, or ask for all."
        )
    for volume_id in wanted.volume_ids:
        check_name("volume", volume_id)
    check_timing(wanted.timing)
    for field, number in wanted.keep.ListFields():
        if number > COUNT_MAX:
            raise BadInput(
                "BAD_KEEP", f"{field.name} {number} is more than {COUNT_MAX}, the most to be kept."
            )


def create(draft: Draft, uid: str, wanted: r.ScheduleRecord, now_s: float) -> tuple[r.ScheduleRecord, bool]:
    """The schedule, and whether this very request made it. Errors: ScheduleService.CreateSchedule."""
    name_key = keys.name("schedules", wanted.owner, wanted.schedule_id)
    name = draft.get(name_key, r.NameRecord)
    if name is not None:
        existing = draft.get(keys.schedule(name.uid), r.ScheduleRecord)
        if existing is None:
            raise Changed
        if any(getattr(existing, field) != getattr(wanted, field) for field in SETTABLE):
            raise AlreadyExists(
                "ALREADY_EXISTS",
                f"You have a schedule {wanted.schedule_id!r} that differs: update it, or choose another id.",
            )
        return existing, name.uid == uid
    if len(draft.peek_under(keys.names("schedules", wanted.owner), r.NameRecord)) >= SCHEDULES_MAX:
        raise Exhausted("TOO_MANY", f"You have {SCHEDULES_MAX} schedules, the most: delete one.")
    _check_there(draft, wanted.owner, wanted.volume_ids)
    schedule = r.ScheduleRecord(
        uid=uid,
        schedule_id=wanted.schedule_id,
        owner=wanted.owner,
        create_time=timestamp(now_s),
        start_time=timestamp(now_s),
        revision=1,
    )
    _set(schedule, wanted, SETTABLE)
    draft.put(name_key, r.NameRecord(uid=uid))
    draft.put(keys.schedule(uid), schedule)
    return schedule, True


def schedule_of(draft: Draft, owner: str, schedule_id: str) -> r.ScheduleRecord:
    uid = named(draft, "schedule", owner, schedule_id).uid
    schedule = draft.get(keys.schedule(uid), r.ScheduleRecord)
    if schedule is None:
        raise not_found("schedule", schedule_id)
    return schedule


def update(draft: Draft, change: ScheduleChange) -> tuple[r.ScheduleRecord, bool]:
    """The schedule, and whether it differs from before. Errors: ScheduleService.UpdateSchedule."""
    schedule = schedule_of(draft, change.owner, change.schedule_id)
    check_etag(f"Schedule {change.schedule_id!r}", change.etag, schedule.revision)
    before = r.ScheduleRecord.FromString(schedule.SerializeToString())
    _set(schedule, change.wanted, change.paths)
    check(schedule)
    if schedule == before:
        return schedule, False
    if "volume_ids" in change.paths:
        _check_there(draft, change.owner, schedule.volume_ids)
    if schedule.timing != before.timing or (before.paused and not schedule.paused):
        # What would have been due meanwhile, or by the new timing, is not caught up with.
        schedule.start_time.CopyFrom(timestamp(change.now_s))
    schedule.revision += 1
    return schedule, draft.put(keys.schedule(schedule.uid), schedule)


def delete(draft: Draft, owner: str, schedule_id: str) -> bool:
    schedule = schedule_of(draft, owner, schedule_id)
    draft.delete(keys.schedule(schedule.uid))
    draft.delete(keys.name("schedules", owner, schedule_id))
    draft.delete_under(keys.schedule_runs(schedule.uid))
    return True


def _set(schedule: r.ScheduleRecord, wanted: r.ScheduleRecord, paths: Sequence[str] | frozenset[str]) -> None:
    """Give `schedule` what `wanted` has in `paths`."""
    for path in paths:
        schedule.ClearField(path)  # type: ignore[arg-type]
    chosen = r.ScheduleRecord.FromString(wanted.SerializeToString())
    for field, _ in wanted.ListFields():
        if field.name not in paths:
            chosen.ClearField(field.name)  # type: ignore[arg-type]
    schedule.MergeFrom(chosen)


def _check_there(draft: Draft, owner: str, volume_ids: Sequence[str]) -> None:
    for volume_id in volume_ids:
        named(draft, "volume", owner, volume_id)
