"""Groups of snapshots, as people type them."""

from collections.abc import Callable

from holdfast.cli import failures
from holdfast.metadata.testing import RunningMetadata, StandInHost
from holdfast.metadata.testing_users import completed

from .conftest import Person


def test_a_group(
    person: Callable[..., Person], metadata: RunningMetadata, two_hosts: list[StandInHost]
) -> None:
    alice, client = person("alice"), metadata.client("alice")
    assert "There are none" in alice.types("snapshot", "list-groups").stdout
    for name in ("db", "log"):
        alice.types("volume", "create", name, "--size", "8192")
    words = ["snapshot", "create-group", "monday", "--volume", "db", "--volume", "log=own"]
    assert "monday-db" in alice.types(*words).stdout
    for snapshot_id in ("monday-db", "own"):
        completed(metadata, client, snapshot_id)
    assert "COMPLETED" in alice.types(*words, "--wait").stdout
    shown = alice.types("snapshot", "show-group", "monday").stdout
    assert "COMPLETED" in shown and "own" in shown and "log" in shown
    assert "Group" in alice.types("snapshot", "show", "own").stdout
    assert "monday" in alice.types("snapshot", "list-groups").stdout
    assert len(alice.json("snapshot", "show-group", "monday")["members"]) == 2  # type: ignore[arg-type]
    twice = alice.types(*words[:3], "--volume", "db", "--volume", "db", status=failures.REFUSED)
    assert "BAD_VOLUMES" in twice.stderr
    assert "are deleted" in alice.types("snapshot", "delete-group", "monday").stdout
    alice.types("snapshot", "show-group", "monday", status=failures.NOT_FOUND)
    assert "own" in alice.types("snapshot", "list", "--deleted").stdout
