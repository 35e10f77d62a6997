"""The last good copy is dead: the volume says so, and an operator gives up writes, in words."""

import time

from faults import GO_ON_LIMIT_S
from load import Load
from outcome import Outcome
from stage import USER, Stage
from volume import Made, Volume
from watch import Watch

FORCED = "last-copy-dead-and-forced"
_KEPT_MIB, _LOST_MIB = 8, 16
_LOSS = "everything that was written since storage was alone"


def play_forced(stage: Stage, _volume: Volume) -> Outcome:
    outcome = Outcome(FORCED)
    began_s = time.monotonic()
    volume = Volume(stage, FORCED, Made())
    volume.await_in_sync()
    watch = Watch(stage.cluster, f"volumes/{volume.uid}", stage.cluster.logs / "watch-forced.log")
    load = Load(volume, FORCED, fio_mib=0)
    primary, outdated = volume.roles()
    kept = _write(volume, _KEPT_MIB)
    stage.guest(outdated).power_off()
    volume.await_left_out(outdated)
    lost = _write(volume, _LOST_MIB)
    stage.guest(primary).power_off()
    stage.start_again(outdated)
    volume.await_health("LAST_COPY_AWAY")
    outcome.troubles += _says_what_to_do(volume, primary, outdated)
    words = ["volume", "force-start", volume.name, "--owner", USER, "--host", outdated]
    stage.cluster.cli("operator", *words, "--loss", _LOSS)
    volume.await_replica(lambda one: one["primary_host_id"] == outdated and len(one["in_sync"]) == 1)
    if _sum(volume, _KEPT_MIB) != kept:
        outcome.wrong_bytes += 1 << 20
    if _sum(volume, _LOST_MIB) == lost:
        outcome.troubles.append("what was given up is there: nothing was shown")
    (forced,) = volume.cluster.cli("operator", "volume", "show", volume.name, "--owner", USER)["forced"]
    if (forced["loss"], forced["host_id"], bool(forced.get("by"))) != (_LOSS, outdated, True):
        outcome.troubles.append(f"recorded is {forced}")
    load.await_going(GO_ON_LIMIT_S)
    stage.start_again(primary)
    volume.await_in_sync()
    load.end(outcome, given_up=True)
    outcome.resynced_bytes = watch.marked_bytes()
    watch.end()
    outcome.wrong_bytes += volume.differing_bytes()
    outcome.took_s = time.monotonic() - began_s
    outcome.judge()
    if outcome.passed:
        volume.remove()
    return outcome


def _says_what_to_do(volume: Volume, primary: str, outdated: str) -> list[str]:
    """Nothing starts without an explicit word of an operator's that names the loss."""
    cluster, troubles = volume.cluster, []
    words = ["volume", "force-start", volume.name, "--owner", USER, "--host", outdated]
    shown = cluster.cli("operator", "volume", "show", volume.name, "--owner", USER)["health"]
    if primary not in shown["message"] or "force-start" not in shown["message"] or not shown["since_time"]:
        troubles.append(f"its status does not say what to do: {shown}")
    for user, loss in (("operator", []), (USER, ["--loss", _LOSS])):
        said = cluster.cli_refused(user, *words, *loss)
        if "loss" not in said and "operator" not in said:
            troubles.append(f"refused to {user} because {said}")
    return troubles


def _write(volume: Volume, at_mib: int) -> str:
    """A MiB of chance, flushed; its sum."""
    words = ["dd", "if=/dev/urandom", f"of={volume.device}", "bs=1M", "count=1", f"seek={at_mib}"]
    volume.stage.compute.run([*words, "oflag=direct", "conv=fsync"], timeout_s=120)
    return _sum(volume, at_mib)


def _sum(volume: Volume, at_mib: int) -> str:
    read = f"dd if={volume.device} bs=1M count=1 skip={at_mib} iflag=direct status=none | md5sum"
    return volume.stage.compute.run(["sh", "-c", read], timeout_s=120).stdout
