"""Which snapshots of one volume a schedule keeps. Pure.

As restic's `forget`: time is cut into hours, days, weeks, months and years of the calendar (UTC), and the
newest snapshot of each of the newest so-many periods that have one is kept. Nothing that was once given up
is ever wanted again: a snapshot that is not the newest of its period never becomes it by newer ones, and a
period that was overtaken by enough others stays so. So it may be applied as often as one likes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from holdfast.api.records.v1 import records_pb2 as r

COUNT_MAX = 1000
"""Of each kind of period."""
_HOUR_S, _DAY_S = 3600, 86_400
_MONDAY_DAYS = 4
"""1970 began on a Thursday: the first Monday is its fifth day."""
_PERIODS: dict[str, Callable[[float], int]] = {
    "hourly": lambda time_s: int(time_s // _HOUR_S),
    "daily": lambda time_s: int(time_s // _DAY_S),
    "weekly": lambda time_s: int(time_s // _DAY_S - _MONDAY_DAYS) // 7,
    "monthly": lambda time_s: _month(time_s),
    "yearly": lambda time_s: _month(time_s) // 12,
}


@dataclass(frozen=True, order=True)
class Taken:
    """A COMPLETED snapshot, and when it was taken. `held`: it must stay, whatever a rule says."""

    time_s: float
    uid: str
    held: bool = False


@dataclass(frozen=True)
class Verdict:
    """Both newest first."""

    keep: list[Taken]
    delete: list[Taken]


def keep(snapshots: Iterable[Taken], rule: r.KeepRule) -> Verdict:
    """What of one volume's snapshots to keep and what to delete. A rule without a number keeps all."""
    newest_first = sorted(snapshots, reverse=True)
    wanted = {one for one in newest_first if one.held} | set(newest_first[: max(1, rule.last)])
    for name, period_of in _PERIODS.items():
        wanted |= _newest_of_each(newest_first, period_of, getattr(rule, name))
    if rule == r.KeepRule():
        wanted = set(newest_first)
    return Verdict(
        [one for one in newest_first if one in wanted], [one for one in newest_first if one not in wanted]
    )


def _newest_of_each(newest_first: list[Taken], period_of: Callable[[float], int], count: int) -> set[Taken]:
    """The newest of each of the `count` newest periods that have any."""
    found: dict[int, Taken] = {}
    for one in newest_first:
        period = period_of(one.time_s)
        if period not in found and len(found) == count:
            break
        found.setdefault(period, one)
    return set(found.values())


def _month(time_s: float) -> int:
    at = datetime.fromtimestamp(time_s, UTC)
    return at.year * 12 + at.month - 1
