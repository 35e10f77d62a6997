"""Locks, the recycle bin and settings, as people type them; and how they write dates."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from holdfast.cli import failures
from holdfast.cli.times import parse_duration, parse_moment, show_duration
from holdfast.metadata.testing import RunningMetadata, StandInHost
from holdfast.metadata.testing_users import made_snapshot

from .conftest import Person

NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)


def test_lock_and_recycle_bin(
    person: Callable[..., Person], metadata: RunningMetadata, two_hosts: list[StandInHost]
) -> None:
    alice, client = person("alice"), metadata.client("alice")
    alice.types("volume", "create", "disk", "--size", "8192")
    made_snapshot(metadata, client, "s", "disk")
    assert "can be restored until" in alice.types("snapshot", "delete", "s").stdout
    assert "There are none" in alice.types("snapshot", "list").stdout
    assert "disk" in alice.types("snapshot", "list", "--deleted").stdout
    made_snapshot(metadata, client, "s", "disk")
    alice.types("snapshot", "delete", "s")
    several = alice.types("snapshot", "restore", "s", status=failures.REFUSED)
    assert "[AMBIGUOUS]" in several.stderr
    (first, second) = alice.json("snapshot", "list", "--deleted")["snapshots"]  # type: ignore[misc]
    assert "old is there again" in alice.types("snapshot", "restore", first["uid"], "--as", "old").stdout
    alice.types("snapshot", "purge", "s")
    alice.types("snapshot", "restore", second["uid"], status=failures.NOT_FOUND)
    assert "empty" in alice.types("snapshot", "list", "--deleted").stdout

    assert "cannot be deleted before" in alice.types("snapshot", "lock", "old", "--until", "30d").stdout
    assert "Locked until" in alice.types("snapshot", "show", "old").stdout
    assert "[LOCKED]" in alice.types("snapshot", "delete", "old", "--now", status=failures.REFUSED).stderr
    shorter = alice.types("snapshot", "lock", "old", "--until", "2d", status=failures.REFUSED)
    assert "[LOCKED]" in shorter.stderr
    assert "not a date" in alice.types("snapshot", "lock", "old", "--until", "soon", status=2).stderr


def test_settings(person: Callable[..., Person], metadata: RunningMetadata) -> None:
    alice = person("alice")
    assert "1w (the cluster's)" in alice.types("settings", "show").stdout
    assert "36h" in alice.types("settings", "update", "--recycle-for", "36h").stdout
    person("olga", "operator").types("settings", "update", "--cluster", "--recycle-for", "0")
    assert "0 (the cluster's)" in alice.types("settings", "update", "--no-recycle-for").stdout
    assert "--recycle-for" in alice.types("settings", "update", status=2).stderr


def test_schedule(person: Callable[..., Person], two_hosts: list[StandInHost]) -> None:
    alice = person("alice")
    alice.types("volume", "create", "disk", "--size", "8192")
    words = ["schedule", "create", "nightly", "--volume", "disk", "--daily", "03:00", "--keep-daily", "7"]
    made = alice.types(*words).stdout
    assert "daily 03:00 UTC" in made and "7 daily" in made and "Next run" in made
    listed = alice.types("schedule", "list").stdout
    assert "nightly" in listed and "disk" in listed
    changed = alice.types(
        "schedule",
        "update",
        "nightly",
        "--weekly",
        "sun@23:30",
        "--all-volumes",
        "--keep-last",
        "3",
        "--pause",
    ).stdout
    assert "weekly sun@23:30 UTC" in changed and "3 last" in changed and "Next run" not in changed
    assert "every 6h" in alice.types("schedule", "update", "nightly", "--every", "6h", "--by-hand-too").stdout
    assert "made by hand too" in alice.types("schedule", "show", "nightly").stdout
    for wrong in (
        ["update", "nightly"],
        ["update", "nightly", "--daily", "25:00"],
        ["update", "nightly", "--weekly", "03:00"],
        ["update", "nightly", "--weekly", "day@03:00"],
        ["update", "nightly", "--daily", "03:00", "--every", "6h"],
    ):
        alice.types("schedule", *wrong, status=2)
    none = alice.types(
        "schedule", "create", "x", "--volume", "none", "--every", "1h", status=failures.NOT_FOUND
    )
    assert "[NOT_FOUND]" in none.stderr
    alice.types("schedule", "delete", "nightly")
    assert "There are none" in alice.types("schedule", "list").stdout


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2027-01-31", datetime(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31T12:30", datetime(2027, 1, 31, 12, 30, tzinfo=UTC)),
        ("2027-01-31T12:30:00+02:00", datetime(2027, 1, 31, 10, 30, tzinfo=UTC)),
        ("30d", datetime(2026, 12, 23, 8, 0, tzinfo=UTC)),
    ],
)
def test_dates(text: str, expected: datetime) -> None:
    assert parse_moment(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "soon", "31.1.2027", "-1d", "999999999999d", "1y", "2027-13-01"])
def test_what_is_no_date(text: str) -> None:
    with pytest.raises(ValueError, match="not a date"):
        parse_moment(text, NOW)


@pytest.mark.parametrize("text", ["90s", "45m", "36h", "6d", "2w", "0"])
def test_durations_are_shown_as_they_are_written(text: str) -> None:
    assert show_duration(parse_duration(text)) == text
