"""What `volume show` says of a volume's health, and how long a resync takes."""

import pytest

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.volume.v1 import volume_pb2 as pb
from holdfast.cli.show import duration
from holdfast.cli.volume_show import copied, show_volume, syncing, verified

MIB = 1 << 20


def test_what_is_wrong_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    volume = pb.Volume(volume_id="disk", state=r.VOLUME_STATE_AVAILABLE, needs_mirror=True)
    volume.health.state = r.HEALTH_STATE_DEGRADED
    volume.health.reason, volume.health.message = "MIRROR_LOST", "The mirror is away: bring it back."
    volume.health.since_time.FromSeconds(1_800_000_000)
    volume.repair_reason = "Another replica waits for its turn."
    show_volume(volume)
    shown = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert shown["Health"].strip() == "DEGRADED MIRROR_LOST"
    assert shown["Why"].strip() == volume.health.message
    assert shown["Since"].strip().startswith("2027-01-1")
    assert shown["Repair"].strip() == volume.repair_reason
    assert shown["Writes"].strip() == "only to two hosts"
    assert not {"Epoch", "Primary", "In sync", "Joining"} & shown.keys(), "for operators"


def test_an_operator_sees_the_hosts(capsys: pytest.CaptureFixture[str]) -> None:
    volume = pb.Volume(volume_id="disk", epoch=7, primary_host_id="a", in_sync_host_ids=["a", "b"])
    volume.joining_host_ids.append("c")
    volume.leaving_host_id = "b"
    volume.replica_troubles.add(host_id="c", reason="DISK_FAILED", message="Its disk answers EIO.")
    show_volume(volume)
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in shown if line.startswith(("Epoch", "Joining", "Leaves"))] == [
        "7",
        "c",
        "b",
    ]
    assert any(line.endswith("a, b") for line in shown)
    (trouble,) = (line for line in shown if line.startswith("Trouble"))
    assert "c DISK_FAILED since" in trouble and trouble.endswith("Its disk answers EIO.")


def test_bytes_to_go_and_expected_time() -> None:
    volume = pb.Volume(sync_total_bytes=100 * MIB, sync_remaining_bytes=60 * MIB)
    assert syncing(volume) == "60 MiB of 100 MiB to go"
    volume.sync_rate_bytes_s = 2 * MIB
    assert syncing(volume) == "60 MiB of 100 MiB to go, about 30 s"
    filled = pb.Volume(hydrate_total_bytes=100 * MIB, hydrate_remaining_bytes=60 * MIB)
    assert copied(filled) == "40 MiB of 100 MiB"
    filled.hydrate_rate_bytes_s = 2 * MIB
    assert copied(filled) == "40 MiB of 100 MiB, about 30 s to go" and copied(pb.Volume()) == ""
    assert syncing(pb.Volume()) == "" and verified(r.VerifyStatus()) == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "1 s"), (119, "119 s"), (150, "2 min"), (7000, "117 min"), (9000, "2 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
