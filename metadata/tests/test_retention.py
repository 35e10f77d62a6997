"""Retention and slots, over all that Hypothesis can think of; and one year told in plain numbers."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import BadInput
from holdfast.metadata import slots
from holdfast.metadata.retention import Taken, Verdict, keep

DAY_S = 86_400
BEGIN_S = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
KINDS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
FORMATS = {
    "hourly": "%Y-%m-%d %H",
    "daily": "%Y-%m-%d",
    "weekly": "%G-%V",
    "monthly": "%Y-%m",
    "yearly": "%Y",
}

times = some.integers(BEGIN_S - 400 * DAY_S, BEGIN_S + 400 * DAY_S)
clustered = some.one_of(times, some.integers(BEGIN_S, BEGIN_S + 3 * DAY_S))
taken = some.lists(
    some.builds(Taken, clustered, some.uuids().map(lambda one: one.hex[:24]), some.booleans()), max_size=40
)
rules = some.builds(r.KeepRule, **{kind: some.integers(0, 5) for kind in KINDS})  # type: ignore[arg-type]


def period(kind: str, one: Taken) -> str:
    """As a calendar names it."""
    return datetime.fromtimestamp(one.time_s, UTC).strftime(FORMATS[kind])


def uids(some_taken: list[Taken]) -> list[str]:
    return [one.uid for one in some_taken]


@given(taken, rules)
def test_every_one_is_kept_or_deleted(snapshots: list[Taken], rule: r.KeepRule) -> None:
    verdict = keep(snapshots, rule)
    assert sorted(verdict.keep + verdict.delete) == sorted(snapshots)
    assert verdict.keep == sorted(verdict.keep, reverse=True)
    assert not [one for one in verdict.delete if one.held], "what is locked stays"
    if snapshots:
        assert max(snapshots) in verdict.keep, "the newest is always kept"
    if rule == r.KeepRule():
        assert not verdict.delete


@given(taken, rules)
def test_what_is_kept_is_what_was_asked_for(snapshots: list[Taken], rule: r.KeepRule) -> None:
    """Against the words of the rule: the newest of each of the newest so-many periods that have one."""
    verdict = keep(snapshots, rule)
    wanted = {max(snapshots)} if snapshots else set()
    wanted |= set(sorted(snapshots, reverse=True)[: rule.last])
    for kind in FORMATS:
        names = sorted({period(kind, one) for one in snapshots}, reverse=True)[: getattr(rule, kind)]
        wanted |= {max(one for one in snapshots if period(kind, one) == name) for name in names}
    wanted |= {one for one in snapshots if one.held}
    if rule != r.KeepRule():
        assert set(verdict.keep) == wanted, "nothing more is deleted, and nothing less"


@given(taken, rules, some.sampled_from(KINDS))
def test_a_larger_number_keeps_no_less(snapshots: list[Taken], rule: r.KeepRule, kind: str) -> None:
    larger = r.KeepRule()
    larger.CopyFrom(rule)
    setattr(larger, kind, getattr(rule, kind) + 1)
    if rule != r.KeepRule():
        assert set(keep(snapshots, rule).keep) <= set(keep(snapshots, larger).keep)


@settings(max_examples=50)
@given(taken, rules, some.sets(some.integers(0, 39)))
def test_it_may_be_applied_at_any_time(snapshots: list[Taken], rule: r.KeepRule, moments: set[int]) -> None:
    """Applied again and again while snapshots are made, or once at the end: the same is left."""
    there: list[Taken] = []
    for number, one in enumerate(sorted(snapshots)):
        there.append(one)
        if number in moments:
            there = keep(there, rule).keep
    assert keep(there, rule).keep == keep(snapshots, rule).keep
    again = keep(keep(snapshots, rule).keep, rule)
    assert not again.delete


@given(taken, rules, taken)
def test_what_is_given_up_is_never_wanted_again(
    snapshots: list[Taken], rule: r.KeepRule, more: list[Taken]
) -> None:
    newest_s = max((one.time_s for one in snapshots), default=0)
    newer = [one for one in more if one.time_s > newest_s]
    lost = set(keep(snapshots, rule).delete)
    assert lost <= set(keep(snapshots + newer, rule).delete)


def test_one_year() -> None:
    """Four a day for a year: 6 last, 7 days, 4 weeks, 12 months."""
    snapshots = [Taken(BEGIN_S + number * DAY_S // 4, f"{number:024x}") for number in range(365 * 4)]
    verdict = keep(snapshots, r.KeepRule(last=6, daily=7, weekly=4, monthly=12))
    days = [datetime.fromtimestamp(one.time_s, UTC).strftime("%m-%d %H") for one in verdict.keep]
    assert days == [
        "12-31 18", "12-31 12", "12-31 06", "12-31 00", "12-30 18", "12-30 12", "12-29 18", "12-28 18",
        "12-27 18", "12-26 18", "12-25 18", "12-20 18", "12-13 18", "11-30 18", "10-31 18", "09-30 18",
        "08-31 18", "07-31 18", "06-30 18", "05-31 18", "04-30 18", "03-31 18", "02-28 18", "01-31 18",
    ]  # fmt: skip


def test_nothing_of_nothing() -> None:
    assert keep([], r.KeepRule(last=3)) == Verdict([], [])


timings = some.one_of(
    some.builds(r.Timing, interval_s=some.integers(slots.INTERVAL_MIN_S, slots.INTERVAL_MAX_S)),
    some.builds(r.Timing, daily=some.builds(r.DailyTiming, minute_of_day=some.integers(0, 1439))),
    some.builds(
        r.Timing,
        weekly=some.builds(r.WeeklyTiming, weekday=some.integers(1, 7), minute_of_day=some.integers(0, 1439)),
    ),
)


@given(timings, times, some.floats(0, 1))
def test_slots(timing: r.Timing, whole_s: int, part_s: float) -> None:
    slots.check_timing(timing)
    now_s = whole_s + part_s
    slot_s, next_s = slots.latest(timing, now_s), slots.following(timing, now_s)
    assert slot_s <= now_s < next_s
    assert slots.latest(timing, slot_s) == slot_s == slots.latest(timing, next_s - 1)
    at = datetime.fromtimestamp(slot_s, UTC)
    when = timing.WhichOneof("when")
    if when == "interval_s":
        assert slot_s % timing.interval_s == 0 and next_s - slot_s == timing.interval_s
        return
    minute = timing.daily.minute_of_day if when == "daily" else timing.weekly.minute_of_day
    assert at.hour * 60 + at.minute == minute and at.second == 0
    assert when == "daily" or at.isoweekday() == timing.weekly.weekday


@pytest.mark.parametrize(
    "timing",
    [
        r.Timing(),
        r.Timing(interval_s=0),
        r.Timing(interval_s=59),
        r.Timing(interval_s=slots.INTERVAL_MAX_S + 1),
        r.Timing(daily=r.DailyTiming(minute_of_day=1440)),
        r.Timing(weekly=r.WeeklyTiming(weekday=0)),
        r.Timing(weekly=r.WeeklyTiming(weekday=8)),
        r.Timing(weekly=r.WeeklyTiming(weekday=1, minute_of_day=1440)),
    ],
)
def test_no_such_timing(timing: r.Timing) -> None:
    with pytest.raises(BadInput):
        slots.check_timing(timing)
