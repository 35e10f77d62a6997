"""Dates and durations as people write and read them: 2027-01-31, 2027-01-31T12:00, 30d, 12h."""

import re
from datetime import UTC, datetime

import click

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_DURATION = re.compile(r"(\d{1,12})\s*([smhdw])", re.IGNORECASE)


def parse_duration(text: str) -> int:
    """Seconds. Raises ValueError."""
    match = _DURATION.fullmatch(text.strip())
    if match is None and text.strip() != "0":
        raise ValueError(f"{text!r} is not a duration: write 30m, 12h, 7d or 2w")
    return int(match[1]) * _UNITS_S[match[2].lower()] if match else 0


def show_duration(seconds: int) -> str:
    """In the largest unit that divides it: 7d, 36h, 90s."""
    unit = max((one for one in _UNITS_S if seconds % _UNITS_S[one] == 0), key=lambda one: _UNITS_S[one])
    return f"{seconds // _UNITS_S[unit]}{unit}" if seconds else "0"


def parse_moment(text: str, now: datetime) -> datetime:
    """A date (its first moment), a date and time, both in UTC unless they say otherwise; or a duration from
    `now` on. Raises ValueError."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        try:
            return datetime.fromtimestamp(now.timestamp() + parse_duration(text), UTC)
        except (ValueError, OverflowError, OSError):
            raise ValueError(
                f"{text!r} is not a date: write 2027-01-31, 2027-01-31T12:00 (UTC), or 30d from now"
            ) from None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


class DurationType(click.ParamType[int]):
    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


class MomentType(click.ParamType[datetime]):
    name = "date"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return parse_moment(str(value), datetime.now(UTC))
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


DURATION, MOMENT = DurationType(), MomentType()
