"""`holdfast schedule …`"""

import re

import click

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.schedule.v1 import schedule_pb2 as pb
from holdfast.cli.session import session
from holdfast.cli.show import F, emit, facts, moment, output_option, table
from holdfast.cli.times import DURATION, show_duration

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CLOCK = re.compile(r"(?:([a-z]{3})@)?([01]?\d|2[0-3]):([0-5]\d)", re.IGNORECASE)
_PERIODS = {"hourly": "hours", "daily": "days", "weekly": "weeks", "monthly": "months", "yearly": "years"}
_KINDS = ("last", *_PERIODS)


@click.group("schedule")
def command() -> None:
    """Snapshots at set times, and which of them are kept. All times are UTC."""


def _options(function: F) -> F:
    """What can be set, for `create` and `update`."""
    for kind in reversed(_KINDS):
        what = "the newest ones" if kind == "last" else f"the newest of each of so many {_PERIODS[kind]}"
        option = click.option(
            f"--keep-{kind}", f"keep_{kind}", type=click.IntRange(min=0), metavar="N", help=f"Keep {what}."
        )
        function = option(function)
    for option in (
        click.option("--volume", "volume_ids", multiple=True, help="Of this volume of yours; repeatable."),
        click.option("--all-volumes", is_flag=True, help="Of all that you have, also later."),
        click.option("--every", "every_s", type=DURATION, help="At every multiple of 15m, 6h, 2d."),
        click.option("--daily", metavar="HH:MM", help="Each day, at this time."),
        click.option("--weekly", metavar="DAY@HH:MM", help="Each week: sun@03:00."),
        click.option(
            "--by-hand-too/--not-by-hand",
            default=None,
            help="Delete also snapshots of these volumes that no schedule made.",
        ),
    ):
        function = option(function)
    return function


@command.command()
@click.argument("schedule_id")
@_options
@output_option
def create(schedule_id: str, **given: object) -> None:
    """Make a schedule. Without a --keep option, it deletes nothing.

    \b
    holdfast schedule create nightly --all-volumes --daily 03:00 \\
        --keep-last 3 --keep-daily 7 --keep-weekly 4 --keep-monthly 12
    """
    schedule, _ = _wanted(schedule_id, given)
    with session() as at:
        made = at.call(
            at.client.schedules.CreateSchedule, pb.CreateScheduleRequest(schedule=schedule)
        ).schedule
    emit(made, lambda: _show(made))


@command.command()
@click.argument("schedule_id")
@_options
@click.option("--pause/--resume", "paused", default=None, help="It makes and deletes nothing while paused.")
@output_option
def update(schedule_id: str, paused: bool | None, **given: object) -> None:
    """Change a schedule. One --keep option given, the others count as 0; so with the volumes."""
    schedule, paths = _wanted(schedule_id, given)
    if paused is not None:
        schedule.paused = paused
        paths.append("paused")
    if not paths:
        raise click.UsageError("Say what to change.")
    request = pb.UpdateScheduleRequest(schedule=schedule)
    request.update_mask.paths.extend(paths)
    with session() as at:
        changed = at.call(at.client.schedules.UpdateSchedule, request).schedule
    emit(changed, lambda: _show(changed))


@command.command("list")
@output_option
def list_() -> None:
    """List your schedules."""
    with session() as at:
        response = at.pages(at.client.schedules.ListSchedules, pb.ListSchedulesRequest())
    rows = [
        [
            one.schedule_id,
            _volumes(one),
            _when(one.timing),
            _keeps(one.keep),
            moment(one.last_run_time),
            "paused" if one.paused else moment(one.next_run_time),
            one.last_error,
        ]
        for one in response.schedules
    ]
    heads = ["SCHEDULE", "VOLUMES", "WHEN (UTC)", "KEEPS", "LAST RUN", "NEXT RUN", "LAST ERROR"]
    emit(response, lambda: table(heads, rows, "There are none."))


@command.command()
@click.argument("schedule_id")
@output_option
def show(schedule_id: str) -> None:
    """Show one schedule, and what it last did with each volume."""
    with session() as at:
        request = pb.GetScheduleRequest(schedule_id=schedule_id)
        response = at.call(at.client.schedules.GetSchedule, request)

    def people() -> None:
        _show(response.schedule)
        rows = [[one.volume_id, moment(one.slot_time), one.snapshot_id, one.error] for one in response.runs]
        if rows:
            click.echo("")
            table(["VOLUME", "FOR", "SNAPSHOT", "ERROR"], rows, "")

    emit(response, people)


@command.command()
@click.argument("schedule_id")
def delete(schedule_id: str) -> None:
    """Delete a schedule. The snapshots that it made stay, until you delete them."""
    with session() as at:
        at.call(at.client.schedules.DeleteSchedule, pb.DeleteScheduleRequest(schedule_id=schedule_id))


def _wanted(schedule_id: str, given: dict[str, object]) -> tuple[pb.Schedule, list[str]]:
    """What the options say, and which fields they set."""
    schedule, paths = pb.Schedule(schedule_id=schedule_id), []
    if given["volume_ids"] or given["all_volumes"]:
        schedule.volume_ids.extend(given["volume_ids"])  # type: ignore[arg-type]
        schedule.all_volumes = bool(given["all_volumes"])
        paths += ["volume_ids", "all_volumes"]
    timings = [name for name in ("every_s", "daily", "weekly") if given[name] is not None]
    if len(timings) > 1:
        raise click.UsageError("Give one of --every, --daily and --weekly.")
    if timings:
        schedule.timing.CopyFrom(_timing(timings[0], given[timings[0]]))
        paths.append("timing")
    kept = {kind: given[f"keep_{kind}"] for kind in _KINDS if given[f"keep_{kind}"] is not None}
    if kept:
        schedule.keep.CopyFrom(r.KeepRule(**kept))  # type: ignore[arg-type]
        paths.append("keep")
    if given["by_hand_too"] is not None:
        schedule.by_hand_too = bool(given["by_hand_too"])
        paths.append("by_hand_too")
    return schedule, paths


def _timing(name: str, value: object) -> r.Timing:
    if name == "every_s":
        assert isinstance(value, int)
        return r.Timing(interval_s=value)
    match = _CLOCK.fullmatch(str(value).strip())
    day = match[1].lower() if match and match[1] else ""
    if match is None or bool(day) != (name == "weekly") or (day and day not in _DAYS):
        raise click.UsageError(f"{value!r} is no time: write --daily 03:00, or --weekly sun@03:00.")
    minute = int(match[2]) * 60 + int(match[3])
    if not day:
        return r.Timing(daily=r.DailyTiming(minute_of_day=minute))
    return r.Timing(weekly=r.WeeklyTiming(weekday=_DAYS.index(day) + 1, minute_of_day=minute))


def _when(timing: r.Timing) -> str:
    """As it is written."""
    if timing.HasField("weekly"):
        weekly = timing.weekly
        return f"weekly {_DAYS[weekly.weekday - 1]}@{_clock(weekly.minute_of_day)}"
    if timing.HasField("daily"):
        return f"daily {_clock(timing.daily.minute_of_day)}"
    return f"every {show_duration(timing.interval_s)}"


def _clock(minute_of_day: int) -> str:
    return f"{minute_of_day // 60:02}:{minute_of_day % 60:02}"


def _keeps(rule: r.KeepRule) -> str:
    return " ".join(f"{getattr(rule, kind)} {kind}" for kind in _KINDS if getattr(rule, kind)) or "all"


def _volumes(schedule: pb.Schedule) -> str:
    return "all" if schedule.all_volumes else ",".join(schedule.volume_ids)


def _show(schedule: pb.Schedule) -> None:
    by_hand = ", of those made by hand too" if schedule.by_hand_too else ""
    facts(
        [
            ("Schedule", schedule.schedule_id),
            ("Volumes", _volumes(schedule)),
            ("When", _when(schedule.timing) + " UTC"),
            (
                "Keeps",
                _keeps(schedule.keep) + by_hand,
            ),
            ("Paused", "yes" if schedule.paused else ""),
            ("Last run", moment(schedule.last_run_time)),
            ("Next run", moment(schedule.next_run_time)),
            ("Last error", schedule.last_error),
            ("Error since", moment(schedule.last_error_time)),
            ("Created", moment(schedule.create_time)),
        ]
    )
