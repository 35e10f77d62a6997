"""Planned moves, comparisons, last resorts, and what an initiator is told of its paths."""

from collections.abc import Callable

from holdfast.cli import failures
from holdfast.cli.multipath import ISCSID, multipath_conf
from holdfast.metadata.testing import StandInHost

from .conftest import IQN, Person


def test_a_switch_is_asked_for_once(person: Callable[..., Person], two_hosts: list[StandInHost]) -> None:
    alice, operator = person("alice"), person("root-olga", "operator")
    alice.types("volume", "create", "disk", "--size", "8192")
    assert alice.json("volume", "switch", "disk")["epoch"] == "1"
    shown = operator.json("volume", "show", "disk", "--owner", "alice")
    assert shown["wanted_primary_host_id"] in shown["in_sync_host_ids"]  # type: ignore[operator]
    refused = alice.types("volume", "switch", "disk", "--to", "host-a", status=failures.REFUSED)
    assert "[OPERATOR_ONLY]" in refused.stderr


def test_a_comparison_is_shown(person: Callable[..., Person], two_hosts: list[StandInHost]) -> None:
    alice = person("alice")
    alice.types("volume", "create", "disk", "--size", "8192", "--needs-mirror")
    assert "1 is under way" in alice.types("volume", "verify", "disk", "--rate", "8MiB").stdout
    shown = alice.types("volume", "show", "disk").stdout
    assert "RUNNING" in shown and "only to two hosts" in shown


def test_data_is_given_up_by_operators_in_words(
    person: Callable[..., Person], two_hosts: list[StandInHost]
) -> None:
    alice, operator = person("alice"), person("root-olga", "operator")
    alice.types("volume", "create", "disk", "--size", "8192")
    words = ["volume", "force-start", "disk", "--owner", "alice", "--host", "host-a", "--loss"]
    assert "[BAD_LOSS]" in operator.types(*words, "all", status=failures.REFUSED).stderr
    lost = "whatever was written since noon"
    assert "[GOOD_COPY_LIVES]" in operator.types(*words, lost, status=failures.REFUSED).stderr
    assert "[OPERATOR_ONLY]" in alice.types(*words, lost, status=failures.REFUSED).stderr


def test_a_host_is_drained_and_kept(person: Callable[..., Person], two_hosts: list[StandInHost]) -> None:
    operator = person("root-olga", "operator")
    operator.types("host", "drain", "host-a")
    assert "Draining" in operator.types("host", "show", "host-a").stdout
    operator.types("host", "undrain", "host-a")
    assert "Draining" not in operator.types("host", "show", "host-a").stdout


def test_paths(person: Callable[..., Person], two_hosts: list[StandInHost]) -> None:
    alice = person("alice")
    alice.types("volume", "create", "disk", "--size", "8192")
    shown = alice.types("attachment", "create", "a1", "--volume", "disk", "--initiator", IQN).stdout
    assert shown.count("--login") == 2 and multipath_conf() in shown
    assert all(name in shown for name, _value in ISCSID)
    assert alice.types("attachment", "show", "a1", "--multipath-conf").stdout == multipath_conf()
    # One setting a line: multipathd's parser stops at a second one without a word.
    assert all(len(line.split()) <= 4 for line in multipath_conf().splitlines())
