"""Planned moves, comparisons and last resorts."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.volume.v1 import volume_pb2 as vb
from holdfast.cli import failures
from holdfast.metadata.cas import run
from holdfast.metadata.host_actions import assignment_of
from holdfast.metadata.testing import RunningMetadata, StandInHost
from holdfast.metadata.warden_changes import set_drain_reason

from .conftest import Person

MakeHost = Callable[..., StandInHost]
Answer = Callable[[r.VerifyStatus], None]


@contextmanager
def comparing(host: StandInHost, *answers: Answer) -> Iterator[None]:
    """The primary's agent answers the comparison that is asked for: with each of `answers` in turn."""
    stop = threading.Event()

    def run() -> None:
        for events in host.actions.follow_assignments(stop):
            for uid, assignment in map(assignment_of, events):
                if assignment is None or not assignment.verify_request or assignment.role != r.ROLE_PRIMARY:
                    continue
                for answer in answers:
                    status = r.VerifyStatus(request=assignment.verify_request, total_bytes=8192)
                    answer(status)
                    host.actions.report_verify(uid, assignment.epoch, status)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def says(state: "r.VerifyState.ValueType", done: int, differing: int = 0, reason: str = "") -> Answer:
    def answer(status: r.VerifyStatus) -> None:
        status.state, status.done_bytes, status.reason = state, done, reason
        status.differing_bytes = status.repaired_bytes = differing

    return answer


HALF = says(r.VERIFY_STATE_RUNNING, 4096)
EQUAL = says(r.VERIFY_STATE_DONE, 8192)
DIFFERENT = says(r.VERIFY_STATE_DONE, 8192, differing=4096)
INTERRUPTED = says(r.VERIFY_STATE_FAILED, 4096, reason="The primary changed.")


@pytest.fixture
def primary(person: Callable[..., Person], two_hosts: list[StandInHost]) -> StandInHost:
    """The host that leads alice's volume `disk`."""
    person("alice").types("volume", "create", "disk", "--size", "8192")
    shown = person("root-olga", "operator").json("volume", "show", "disk", "--owner", "alice")
    return next(one for one in two_hosts if one.record.host_id == shown["primary_host_id"])


def test_a_switch_is_asked_for_once(person: Callable[..., Person], make_host: MakeHost) -> None:
    for host_id in ("host-a", "host-b"):
        make_host(host_id, hold=frozenset({"hand_over"}))
    alice, operator = person("alice"), person("root-olga", "operator")
    alice.types("volume", "create", "disk", "--size", "8192")
    assert alice.types("volume", "switch", "disk").stdout == "Asked for, in epoch 1.\n"
    assert "already" in alice.types("volume", "switch", "disk").stdout
    shown: Any = operator.json("volume", "show", "disk", "--owner", "alice")
    assert shown["wanted_primary_host_id"] in set(shown["in_sync_host_ids"]) - {shown["primary_host_id"]}
    assert "Moves to" in operator.types("volume", "show", "disk", "--owner", "alice").stdout
    assert "host-" not in alice.types("volume", "show", "disk").stdout
    refused = alice.types("volume", "switch", "disk", "--to", "host-a", status=failures.REFUSED)
    assert "[OPERATOR_ONLY]" in refused.stderr


def test_an_operator_chooses_the_host(
    person: Callable[..., Person], primary: StandInHost, two_hosts: list[StandInHost]
) -> None:
    operator = person("root-olga", "operator")
    (other,) = {one.record.host_id for one in two_hosts} - {primary.record.host_id}
    words = ["volume", "switch", "disk", "--owner", "alice", "--to", "host-z"]
    assert "[NOT_ASSIGNED]" in operator.types(*words, status=failures.REFUSED).stderr
    assert operator.json("volume", "switch", "disk", "--owner", "alice", "--to", other)["changed"] is True


def test_an_operator_limits_a_volume(person: Callable[..., Person], primary: StandInHost) -> None:
    operator, alice = person("root-olga", "operator"), person("alice")
    words = ["volume", "limit", "disk", "--owner", "alice"]
    assert "[OPERATOR_ONLY]" in alice.types(*words, "--iops", "500", status=failures.REFUSED).stderr
    assert "[BAD_LIMIT]" in operator.types(*words, "--iops", "5", status=failures.REFUSED).stderr
    said = operator.types(*words, "--iops", "500", "--rate", "64MiB").stdout
    assert said == "Volume disk has 500 operations a second, 64 MiB a second.\n"
    assert "500 operations a second, 64 MiB a second" in alice.types("volume", "show", "disk").stdout
    assert operator.json(*words, "--iops", "500", "--rate", "64MiB").get("changed", False) is False
    assert operator.types(*words).stdout == "Volume disk has no limit.\n"
    assert "Limits" not in alice.types("volume", "show", "disk").stdout


def test_a_comparison_is_shown(person: Callable[..., Person], primary: StandInHost) -> None:
    alice = person("alice")
    assert "1 is under way" in alice.types("volume", "verify", "disk", "--rate", "8MiB").stdout
    assert "was under way already" in alice.types("volume", "verify", "disk").stdout
    assert "RUNNING" in alice.types("volume", "show", "disk").stdout


def test_a_comparison_is_waited_for(person: Callable[..., Person], primary: StandInHost) -> None:
    alice = person("alice")
    with comparing(primary, HALF, EQUAL):
        done = alice.types("volume", "verify", "disk", "--wait", "--rate", "100MiB")
    assert done.stdout == "8 KiB compared: 0 bytes differed, 0 repaired.\n"
    assert "comparing disk" in done.stderr
    shown = alice.types("volume", "show", "disk").stdout
    assert "DONE" in shown and "0 bytes differed" in shown


def test_a_difference_has_a_status_of_its_own(person: Callable[..., Person], primary: StandInHost) -> None:
    alice = person("alice")
    with comparing(primary, DIFFERENT):
        done = alice.types("volume", "verify", "disk", "--wait", "--output", "json", status=failures.DIFFERED)
    assert '"repaired_bytes":"4096"' in done.stdout
    assert "4096 bytes differed, 4096 repaired" in done.stderr and "[DIFFERED]" in done.stderr


def test_an_interrupted_comparison_is_no_success(person: Callable[..., Person], primary: StandInHost) -> None:
    with comparing(primary, INTERRUPTED):
        done = person("alice").types("volume", "verify", "disk", "--wait", status=failures.REFUSED)
    assert "The primary changed. Ask again. [VERIFY_FAILED]" in done.stderr


def test_a_comparison_that_does_not_end(person: Callable[..., Person], primary: StandInHost) -> None:
    words = ["volume", "verify", "disk", "--wait", "--timeout", "0.2"]
    done = person("alice").types(*words, status=failures.WAITED_IN_VAIN)
    assert "Comparison 1 of volume 'disk' did not end" in done.stderr


def test_data_is_given_up_by_operators_in_words(person: Callable[..., Person], primary: StandInHost) -> None:
    alice, operator = person("alice"), person("root-olga", "operator")
    words = ["volume", "force-start", "disk", "--owner", "alice", "--host", "host-a", "--loss"]
    assert "[BAD_LOSS]" in operator.types(*words, "all", status=failures.REFUSED).stderr
    lost = "whatever was written since noon"
    assert "[GOOD_COPY_LIVES]" in operator.types(*words, lost, status=failures.REFUSED).stderr
    assert "[OPERATOR_ONLY]" in alice.types(*words, lost, status=failures.REFUSED).stderr
    assert "--owner" in operator.types("volume", "force-start", "disk", "--host", "host-a", status=2).stderr
    assert "--loss" in operator.types(*words[:-1], status=2).stderr, "nobody can be asked"


def test_a_forced_start_is_recorded(
    person: Callable[..., Person], primary: StandInHost, two_hosts: list[StandInHost]
) -> None:
    """The one good copy is away; an operator goes on with the other, and everybody can see that."""
    alice, operator = person("alice"), person("root-olga", "operator")
    uid = str(alice.json("volume", "show", "disk")["uid"])
    (other,) = (one for one in two_hosts if one is not primary)
    name = other.record.host_id
    # Held: it would be brought up to date at once.
    primary.hold = frozenset({"join"})
    primary.actions.leave_out(uid, 1, [name])
    primary.stop()
    lost = "whatever was written since noon"
    words = ["volume", "force-start", "disk", "--owner", "alice", "--host", name, "--loss", lost]
    assert operator.json(*words)["epoch"] == "3"
    shown = operator.types("volume", "show", "disk", "--owner", "alice").stdout
    assert f"by root-olga on {name} in epoch 3: {lost}" in shown
    owners = alice.types("volume", "show", "disk").stdout
    assert lost in owners and "host-" not in owners


def test_a_host_is_drained_and_kept(person: Callable[..., Person], primary: StandInHost) -> None:
    operator = person("root-olga", "operator")
    assert "1 volume left" in operator.types("host", "drain", "host-a").stdout
    assert "live, draining" in operator.types("host", "show", "host-a").stdout
    assert "live, draining" in operator.types("host", "list").stdout
    operator.types("host", "undrain", "host-a")
    assert "draining" not in operator.types("host", "show", "host-a").stdout


def test_a_drain_is_waited_for(
    person: Callable[..., Person],
    primary: StandInHost,
    metadata: RunningMetadata,
) -> None:
    operator = person("root-olga", "operator")
    operator.types("host", "drain", "host-a")
    run(metadata.etcd, lambda draft: set_drain_reason(draft, "host-a", "There is no room."))
    words = ["host", "drain", "host-a", "--wait", "--timeout"]
    late = operator.types(*words, "0.3", status=failures.WAITED_IN_VAIN).stderr
    assert "host host-a: 1 volume left. There is no room." in late and "was not emptied" in late
    alice = metadata.client("alice")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(alice.volumes.DeleteVolume, vb.DeleteVolumeRequest(volume_id="disk"))
        assert "nothing is left" in operator.types(*words, "60").stdout


def test_a_lost_host_says_so(person: Callable[..., Person], primary: StandInHost) -> None:
    operator = person("root-olga", "operator")
    primary.stop()
    host_id = primary.record.host_id
    assert "lost" in operator.types("host", "show", host_id).stdout
    assert "[IN_USE]" in operator.types("host", "delete", host_id, status=failures.REFUSED).stderr
    assert "[IN_USE]" in operator.types("host", "delete", host_id, "--gone", status=failures.REFUSED).stderr
