"""What a schedule does when it is due: decisions over a draft (see cas.py), each looking again.

A slot of a schedule makes one snapshot of a volume, whoever of several copies of the service takes it, and
whatever became of that snapshot since: the run that says so is written in the transaction that makes it.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import AlreadyExists
from holdfast.metadata import keys, snapshot_decisions
from holdfast.metadata.assigned import timestamp
from holdfast.metadata.cas import Draft
from holdfast.metadata.keeping_decisions import is_locked, remove


@dataclass(frozen=True)
class Slot:
    """One volume's turn, by a schedule as it was in that revision."""

    schedule_uid: str
    revision: int
    volume_id: str
    slot_s: int


@dataclass(frozen=True)
class Note:
    """Why a slot's snapshot is not made; or that it failed, then with its uid."""

    slot: Slot
    error: str
    failed_uid: str = ""


@dataclass(frozen=True)
class Trim:
    """A snapshot that a schedule, as it was in that revision, need not keep; and the newest that it keeps."""

    schedule_uid: str
    revision: int
    snapshot_uid: str
    newest_uid: str


def snapshot_id_of(schedule: r.ScheduleRecord, volume_id: str, slot_s: int) -> str:
    """The id of the snapshot that a slot makes: to be read by people, and never two for one slot."""
    at = datetime.fromtimestamp(slot_s, UTC).strftime("%Y%m%dt%H%M%Sz")
    word = hashlib.sha256(f"{schedule.uid}/{volume_id}".encode()).hexdigest()[:6]
    return f"{schedule.schedule_id[:16]}-{volume_id[:16]}-{at}-{word}"


def take(draft: Draft, slot: Slot, snapshot_uid: str, now_s: float) -> bool:
    """Make the slot's snapshot. False if the slot is over, or was dealt with.

    Raises what SnapshotService.CreateSnapshot does.
    """
    schedule = _of_revision(draft, slot.schedule_uid, slot.revision)
    if schedule is None:
        return False
    run_key = keys.schedule_run(slot.schedule_uid, slot.volume_id)
    run = draft.get(run_key, r.ScheduleRun) or r.ScheduleRun(volume_id=slot.volume_id)
    if is_done(run, slot.slot_s):
        return False
    new = snapshot_decisions.NewSnapshot(
        schedule.owner,
        snapshot_id_of(schedule, slot.volume_id, slot.slot_s),
        slot.volume_id,
        snapshot_uid,
        now_s,
    )
    snapshot, created = snapshot_decisions.create(draft, new)
    if not created:
        raise AlreadyExists("ALREADY_EXISTS", f"There is another snapshot {new.snapshot_id!r}: delete it.")
    snapshot.schedule_uid, snapshot.schedule_id = schedule.uid, schedule.schedule_id
    snapshot.slot_time.CopyFrom(timestamp(slot.slot_s))
    draft.put(keys.snapshot(snapshot.uid), snapshot)
    run.slot_time.CopyFrom(timestamp(slot.slot_s))
    run.snapshot_uid, run.snapshot_id, run.error = snapshot.uid, snapshot.snapshot_id, ""
    run.ClearField("error_slot_time")
    run.update_time.CopyFrom(timestamp(now_s))
    schedule.last_run_time.CopyFrom(timestamp(now_s))
    draft.put(keys.schedule(schedule.uid), schedule)
    return draft.put(run_key, run)


def is_done(run: r.ScheduleRun | None, slot_s: int) -> bool:
    """Whether the snapshot of the slot, or of a later one, was made."""
    return run is not None and run.slot_time.seconds >= slot_s


def note(draft: Draft, wanted: Note, now_s: float) -> bool:
    """Record an error; once for each sentence. False if it is no longer so."""
    slot = wanted.slot
    schedule = _of_revision(draft, slot.schedule_uid, slot.revision)
    if schedule is None:
        return False
    run_key = keys.schedule_run(slot.schedule_uid, slot.volume_id)
    run = draft.get(run_key, r.ScheduleRun) or r.ScheduleRun(volume_id=slot.volume_id)
    if is_done(run, slot.slot_s) and run.snapshot_uid != wanted.failed_uid:
        return False
    if is_said(run, wanted) or run.error_slot_time.seconds > slot.slot_s:
        return False
    run.error = wanted.error
    run.error_slot_time.CopyFrom(timestamp(slot.slot_s))
    run.update_time.CopyFrom(timestamp(now_s))
    schedule.last_error = f"Volume {slot.volume_id!r}: {wanted.error}"
    schedule.last_error_time.CopyFrom(timestamp(now_s))
    draft.put(keys.schedule(schedule.uid), schedule)
    return draft.put(run_key, run)


def is_said(run: r.ScheduleRun | None, wanted: Note) -> bool:
    """Whether that is what is recorded."""
    return run is not None and (run.error, run.error_slot_time.seconds) == (wanted.error, wanted.slot.slot_s)


def trim(draft: Draft, wanted: Trim, now_s: float) -> bool:
    """Delete what the schedule need not keep. False if it is held by now, or the newest is gone itself."""
    schedule = _of_revision(draft, wanted.schedule_uid, wanted.revision)
    snapshot = draft.get(keys.snapshot(wanted.snapshot_uid), r.SnapshotRecord)
    newest = draft.get(keys.snapshot(wanted.newest_uid), r.SnapshotRecord)
    if schedule is None or snapshot is None or newest is None:
        return False
    if not may_trim(snapshot, now_s) or newest.state != r.SNAPSHOT_STATE_COMPLETED:
        return False
    remove(draft, snapshot, at_once=False, now_s=now_s)
    return True


def may_trim(snapshot: r.SnapshotRecord, now_s: float) -> bool:
    """Whether a schedule may delete it: it has ended, is not locked, and nobody took it out of the bin."""
    ended = snapshot.state in (r.SNAPSHOT_STATE_COMPLETED, r.SNAPSHOT_STATE_FAILED)
    return ended and not is_locked(snapshot, now_s) and not snapshot.HasField("restore_time")


def _of_revision(draft: Draft, uid: str, revision: int) -> r.ScheduleRecord | None:
    schedule = draft.get(keys.schedule(uid), r.ScheduleRecord)
    if schedule is None or schedule.revision != revision or schedule.paused:
        return None
    return schedule
