"""ScheduleService: see schedule.proto for each method's contract and errors."""

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.schedule.v1 import schedule_pb2 as pb
from holdfast.api.schedule.v1 import schedule_pb2_grpc
from holdfast.base.ids import check_name, new_uid
from holdfast.base.limits import PAGE_MAX_ITEMS
from holdfast.metadata import keys, schedule_decisions, slots
from holdfast.metadata.caller import Caller
from holdfast.metadata.pages import page_size, read_token
from holdfast.metadata.records import decode
from holdfast.metadata.rpc import unary
from holdfast.metadata.schedule_decisions import SETTABLE, ScheduleChange, schedule_of
from holdfast.metadata.service import Service
from holdfast.metadata.updates import check_mask, etag_of


class ScheduleServicer(schedule_pb2_grpc.ScheduleServiceServicer):
    def __init__(self, service: Service) -> None:
        self._service = service

    @unary
    def CreateSchedule(self, request: pb.CreateScheduleRequest, caller: Caller) -> pb.CreateScheduleResponse:
        check_name("schedule", request.schedule.schedule_id)
        wanted = _wanted(request.schedule, caller.name)
        schedule_decisions.check(wanted)
        uid, now_s = new_uid(), self._service.clock()
        schedule, created = self._service.run(
            lambda draft: schedule_decisions.create(draft, uid, wanted, now_s)
        )
        return pb.CreateScheduleResponse(schedule=schedule_view(schedule, now_s), created=created)

    @unary
    def GetSchedule(self, request: pb.GetScheduleRequest, caller: Caller) -> pb.GetScheduleResponse:
        schedule = self._service.look(lambda draft: schedule_of(draft, caller.name, request.schedule_id))
        entries, _ = self._service.etcd.range(keys.schedule_runs(schedule.uid), PAGE_MAX_ITEMS)
        return pb.GetScheduleResponse(
            schedule=schedule_view(schedule, self._service.clock()),
            runs=[decode(r.ScheduleRun, one.value) for one in entries],
        )

    @unary
    def ListSchedules(self, request: pb.ListSchedulesRequest, caller: Caller) -> pb.ListSchedulesResponse:
        def resolve(named: list[tuple[str, r.NameRecord]]) -> list[r.ScheduleRecord | None]:
            return self._service.records([keys.schedule(name.uid) for _, name in named], r.ScheduleRecord)

        size, after = page_size(request.page_size), read_token(request.page_token)
        schedules, token = self._service.page(keys.names("schedules", caller.name), size, after, resolve)
        now_s = self._service.clock()
        return pb.ListSchedulesResponse(
            schedules=[schedule_view(one, now_s) for one in schedules], next_page_token=token
        )

    @unary
    def UpdateSchedule(self, request: pb.UpdateScheduleRequest, caller: Caller) -> pb.UpdateScheduleResponse:
        now_s = self._service.clock()
        change = ScheduleChange(
            owner=caller.name,
            schedule_id=request.schedule.schedule_id,
            wanted=_wanted(request.schedule, caller.name),
            paths=check_mask(request.update_mask, SETTABLE),
            etag=request.etag,
            now_s=now_s,
        )
        schedule, changed = self._service.run(lambda draft: schedule_decisions.update(draft, change))
        return pb.UpdateScheduleResponse(schedule=schedule_view(schedule, now_s), changed=changed)

    @unary
    def DeleteSchedule(self, request: pb.DeleteScheduleRequest, caller: Caller) -> pb.DeleteScheduleResponse:
        changed = self._service.run(
            lambda draft: schedule_decisions.delete(draft, caller.name, request.schedule_id)
        )
        return pb.DeleteScheduleResponse(changed=changed)


def _wanted(schedule: pb.Schedule, owner: str) -> r.ScheduleRecord:
    """What a caller may set, as a record."""
    wanted = r.ScheduleRecord(
        schedule_id=schedule.schedule_id,
        owner=owner,
        volume_ids=schedule.volume_ids,
        all_volumes=schedule.all_volumes,
        timing=schedule.timing,
        by_hand_too=schedule.by_hand_too,
        paused=schedule.paused,
    )
    wanted.keep.CopyFrom(schedule.keep)
    return wanted


def schedule_view(schedule: r.ScheduleRecord, now_s: float) -> pb.Schedule:
    view = pb.Schedule(
        schedule_id=schedule.schedule_id,
        uid=schedule.uid,
        owner=schedule.owner,
        etag=etag_of(schedule.revision),
        create_time=schedule.create_time,
        last_error=schedule.last_error,
        volume_ids=schedule.volume_ids,
        all_volumes=schedule.all_volumes,
        timing=schedule.timing,
        keep=schedule.keep,
        by_hand_too=schedule.by_hand_too,
        paused=schedule.paused,
    )
    for name in ("last_run_time", "last_error_time"):
        if schedule.HasField(name):
            getattr(view, name).CopyFrom(getattr(schedule, name))
    if not schedule.paused:
        view.next_run_time.FromSeconds(slots.following(schedule.timing, now_s))
    return view
