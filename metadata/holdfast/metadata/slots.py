"""The moments at which a schedule makes snapshots: its slots, in whole seconds since 1970. Pure.

Every slot is a multiple of a period, shifted: so all copies of the service know each by the same number.
"""

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import BadInput

INTERVAL_MIN_S = 60
INTERVAL_MAX_S = 366 * 86_400
_DAY_S, _WEEK_S = 86_400, 7 * 86_400
_MONDAY_S = 4 * _DAY_S
"""The first Monday since 1970."""


def check_timing(timing: r.Timing) -> r.Timing:
    """Raises BadInput BAD_TIMING unless it has slots."""
    when = timing.WhichOneof("when")
    if when == "interval_s" and not INTERVAL_MIN_S <= timing.interval_s <= INTERVAL_MAX_S:
        raise BadInput(
            "BAD_TIMING",
            f"An interval of {timing.interval_s} s is not within {INTERVAL_MIN_S} and {INTERVAL_MAX_S}.",
        )
    minute = timing.weekly.minute_of_day if when == "weekly" else timing.daily.minute_of_day
    if minute >= 24 * 60 or (when == "weekly" and not 1 <= timing.weekly.weekday <= 7):
        raise BadInput(
            "BAD_TIMING", "There is no such time of the day, or no such weekday (1 to 7): correct it."
        )
    if when is None:
        raise BadInput("BAD_TIMING", "Say when: at an interval, daily, or weekly.")
    return timing


def latest(timing: r.Timing, now_s: float) -> int:
    """The newest slot that is not after `now_s`."""
    period_s, shift_s = _period(timing)
    return int((now_s - shift_s) // period_s) * period_s + shift_s


def following(timing: r.Timing, now_s: float) -> int:
    """The first slot after `now_s`."""
    return latest(timing, now_s) + _period(timing)[0]


def _period(timing: r.Timing) -> tuple[int, int]:
    when = timing.WhichOneof("when")
    if when == "daily":
        return _DAY_S, timing.daily.minute_of_day * 60
    if when == "weekly":
        weekly = timing.weekly
        return _WEEK_S, _MONDAY_S + (weekly.weekday - 1) * _DAY_S + weekly.minute_of_day * 60
    return timing.interval_s, 0
