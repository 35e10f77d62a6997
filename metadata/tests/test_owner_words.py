"""What an owner is told names no host, whatever a host has written."""

import re
from pathlib import Path

import pytest

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.metadata.owner_words import WORDS, health_for_owner
from holdfast.metadata.views import volume_view
from holdfast.metadata.volume_changes import set_health

STATES = Path(__file__).parents[2] / "docs" / "states" / "volume.md"
SECRET = "storage-b"
GOOD, BAD, GONE = r.HEALTH_STATE_HEALTHY, r.HEALTH_STATE_DEGRADED, r.HEALTH_STATE_UNAVAILABLE


def said(state: "r.HealthState.ValueType", reason: str, message: str = f"{SECRET} is away") -> r.VolumeHealth:
    return r.VolumeHealth(state=state, reason=reason, message=message)


def test_every_reason_of_the_table_has_words_and_no_other() -> None:
    health = STATES.read_text().partition("### UNAVAILABLE")[2].partition("## Comparison")[0]
    cells = re.findall(r"^\| ([A-Z_, ]+?) \|", health, re.MULTILINE)
    assert {word for cell in cells for word in cell.split(", ")} == WORDS.keys()


@pytest.mark.parametrize("reason", [*WORDS, "OF_A_NEWER_HOST"])
@pytest.mark.parametrize("state", [BAD, GONE])
def test_words_by_the_reason_alone(state: "r.HealthState.ValueType", reason: str) -> None:
    told = health_for_owner(said(state, reason))
    assert (told.state, told.reason) == (state, reason) and SECRET not in told.message
    assert told.message.count(".") >= 2 and "  " not in told.message
    assert ("I/O waits" in told.message) == (state == GONE)


def test_a_healthy_volume_needs_no_words() -> None:
    assert health_for_owner(said(GOOD, "")).message == ""


def test_what_hosts_wrote_is_for_operators() -> None:
    volume = r.VolumeRecord(state=r.VOLUME_STATE_CREATING, reason=SECRET, repair_reason=SECRET)
    volume.health.CopyFrom(said(BAD, "MIRROR_LOST"))
    replica = r.ReplicaRecord(primary_host_id=SECRET, forced=[r.ForcedStart(host_id=SECRET, by="olga")])
    assert SECRET not in str(volume_view(volume, replica, None, operator=False))
    full = volume_view(volume, replica, None, operator=True)
    assert SECRET in full.reason and SECRET in full.repair_reason and SECRET in full.health.message


def test_since_is_when_the_reason_began() -> None:
    health = r.VolumeHealth()
    for now_s, state, reason, message, since_s in [
        (10, BAD, "SYNCING", "9 MiB", 10),
        (20, BAD, "SYNCING", "5 MiB", 10),
        (30, BAD, "MIRROR_LOST", "5 MiB", 30),
        (40, GONE, "MIRROR_LOST", "5 MiB", 40),
    ]:
        set_health(health, said(state, reason, message), now_s)
        assert (health.message, health.since_time.seconds) == (message, since_s)
