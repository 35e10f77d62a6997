"""What operators and the control plane do on purpose: switches, drains, and none of it in a storm."""

from typing import Any

from faults import Scene
from stage import USER

from holdfast.lab.disk_faults import break_disk


def switch(scene: Scene) -> None:
    for host in (scene.mirror, scene.primary):
        scene.stage.cluster.cli(USER, "volume", "switch", scene.volume.name)
        scene.volume.await_replica(lambda one, host=host: one["primary_host_id"] == host)
        scene.io_goes_on()
        if trouble := scene.volume.alua_trouble():
            scene.troubles.append(f"after the move to {host} {trouble}")


def drain(scene: Scene) -> None:
    """A third host takes the place of the primary, which says how far it is, and holds nothing afterwards."""
    stage, operator = scene.stage, scene.stage.cluster.cli_words("operator")
    words = [*operator, "host", "drain", scene.primary, "--wait", "--timeout", "120"]
    done = stage.lab.host_run(words, check=False, timeout_s=150)
    if done.returncode or "left" not in done.stderr:
        scene.troubles.append(f"the drain ended with {done.returncode}: {done.stderr[-300:]}")
    if scene.primary in scene.volume.replica()["host_ids"]:
        scene.troubles.append(f"{scene.primary} still holds the volume")
    stage.cluster.cli("operator", "host", "undrain", scene.primary)


def drain_refused(scene: Scene) -> None:
    """There is no third host: it says so, and both copies stay."""
    cluster, host = scene.stage.cluster, scene.primary
    cluster.cli("operator", "host", "drain", host)
    reason = cluster.await_record(f"hosts/{host}", lambda one: bool(one.get("drain_reason")))["drain_reason"]
    if "has room" not in reason:
        scene.troubles.append(f"the drain is refused because {reason}")
    scene.io_goes_on()
    if len(scene.volume.replica()["in_sync"]) != 2:
        scene.troubles.append("the drain has cost a copy")
    cluster.cli("operator", "host", "undrain", host)


def disk_gone(scene: Scene) -> None:
    """The mirror's disk fails for good while its host lives: as good as lost, after the same wait."""
    stage, volume = scene.stage, scene.volume
    (third,) = set(stage.storage_names) - {scene.primary, scene.mirror}
    break_disk(scene.host("mirror"))
    # Nobody notices before something must be on disk.
    volume.flush()
    _await_replaced(scene, third)
    stage.guest(scene.mirror).power_off()
    stage.start_again(scene.mirror)
    stage.cluster.await_gone(f"assignments/{scene.mirror}/{volume.uid}")


def storm(scene: Scene) -> None:
    """Two of three hosts are away: nothing is copied until one is back, although its time is over."""
    stage, volume = scene.stage, scene.volume
    (third,) = set(stage.storage_names) - {scene.primary, scene.mirror}
    for name in (scene.mirror, third):
        stage.guest(name).power_off()
    key = f"volumes/{volume.uid}"
    stage.cluster.await_record(key, lambda one: "more than a third" in one.get("repair_reason", ""))
    scene.hold()
    if third in volume.replica()["host_ids"]:
        scene.troubles.append("a copy began in the middle of a storm")
    stage.start_again(third)
    _await_replaced(scene, third)
    stage.start_again(scene.mirror)
    stage.cluster.await_gone(f"assignments/{scene.mirror}/{volume.uid}")


def _await_replaced(scene: Scene, third: str) -> None:
    def replaced(one: dict[str, Any]) -> bool:
        return {member["host_id"] for member in one["in_sync"]} == {scene.primary, third}

    scene.volume.await_replica(replaced)
