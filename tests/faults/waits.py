"""Writes that must wait for as long as it lasts, and are never acknowledged meanwhile."""

from faults import Scene


def mirror_and_etcd(scene: Scene) -> None:
    """The primary cannot record that it goes on alone: BUSY, before the initiator would abort anything."""
    etcd = scene.stage.cluster.etcd
    assert etcd is not None
    console = scene.host("primary").console
    aborts = console.read_text(errors="replace").count("ABORT_TASK")
    scene.host("mirror").power_off()
    etcd.kill()
    scene.hold()
    if console.read_text(errors="replace").count("ABORT_TASK") > aborts:
        scene.troubles.append("the initiator aborted commands: they were not answered in time")
    etcd.start()
    scene.io_goes_on()
    scene.stage.start_again(scene.mirror)


def mirror_needed(scene: Scene) -> None:
    """The volume's owner would rather wait than have one copy."""
    scene.host("mirror").power_off()
    scene.volume.await_left_out(scene.mirror)
    scene.volume.await_health("NEEDS_MIRROR")
    scene.hold()
    scene.stage.start_again(scene.mirror)
