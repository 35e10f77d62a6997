"""What is done to the cluster in a case: break, hold, mend. Each takes the scene of its case.

A fault is over when it returns: everything works again that was broken, as far as a person would have to
do it (a host is switched on, its agent is started by its init). The rest is the cluster's to do.
"""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from load import Load
from stage import COMPUTE, Stage
from volume import Volume
from watch import Watch
from zombie import Zombie

from holdfast.lab.disk_faults import break_disk, fill_disk, free_disk, mend_disk
from holdfast.lab.guest import Guest

ETCD = "host"
"""etcd runs on the lab's own host: that is its name on the switch."""
GO_ON_LIMIT_S = 90.0
SPOILT_AT_MIB = 120
"""Where nothing of the load is."""
AFTERWARDS_S = 3.0


@dataclass
class Scene:
    """A case's stage, volume and load, and who was what when it began."""

    stage: Stage
    volume: Volume
    load: Load
    primary: str
    mirror: str
    hold_s: float
    volumes: Watch
    troubles: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    election_s: float = 0.0  # without etcd, for no fault of the volume's: added to the limit of the pause

    def name(self, side: str) -> str:
        return self.primary if side == "primary" else self.mirror

    def host(self, side: str) -> Guest:
        return self.stage.guest(self.name(side))

    def hold(self, seconds: float | None = None) -> None:
        """The fault lasts: time is what is wanted here, not an event."""
        time.sleep(self.hold_s if seconds is None else seconds)

    def io_goes_on(self) -> None:
        self.load.await_going(GO_ON_LIMIT_S)


Fault = Callable[[Scene], None]


def power_off(side: str) -> Fault:
    """Gone while I/O goes on at the other, then switched on again."""

    def fault(scene: Scene) -> None:
        scene.host(side).power_off()
        scene.io_goes_on()
        scene.stage.start_again(scene.name(side))

    return fault


def power_off_and_etcd_restart(scene: Scene) -> None:
    """etcd dies at the same moment and is started again: leases begin anew, with their full time.

    What stands for the election of a leader is the restart of etcd's single member.
    """
    etcd = scene.stage.cluster.etcd
    assert etcd is not None
    scene.host("primary").power_off()
    etcd.kill()
    began_s = time.monotonic()
    etcd.start()
    scene.election_s = time.monotonic() - began_s
    scene.notes.append(f"etcd was back after {scene.election_s:.1f} s, which the limit includes")
    scene.io_goes_on()
    scene.stage.start_again(scene.primary)


def fast_reboot(side: str) -> Fault:
    """Off and on: back before its lease has ended."""

    def fault(scene: Scene) -> None:
        scene.host(side).power_off()
        scene.stage.start_again(scene.name(side))
        if scene.stage.cluster.record(f"leases/hosts/{scene.name(side)}") is None:
            scene.troubles.append("the host was not back within its lease: nothing was shown")
        scene.io_goes_on()

    return fault


def primary_frozen(scene: Scene) -> None:
    """As a hypervisor's pause. One initiator has waited for it all the time, and asks it at once."""
    zombie = Zombie(scene.volume, scene.primary)
    scene.host("primary").freeze()
    # However slow the machine is: not thawed before the other has taken over.
    scene.io_goes_on()
    scene.hold()
    scene.host("primary").thaw()
    scene.hold(AFTERWARDS_S)
    scene.troubles += zombie.end()


def mirror_frozen(scene: Scene) -> None:
    scene.host("mirror").freeze()
    scene.hold()
    scene.host("mirror").thaw()


def worker_killed(side: str) -> Fault:
    def fault(scene: Scene) -> None:
        _signal_worker(scene, side, "KILL")
        scene.io_goes_on()

    return fault


def worker_crash_loops(scene: Scene) -> None:
    """The primary's does not stay: its host gives the volume up."""
    while scene.volume.replica()["primary_host_id"] == scene.primary:
        # The next one may not be there yet.
        _signal_worker(scene, "primary", "KILL", check=False)
    scene.io_goes_on()


def worker_stopped(side: str) -> Fault:
    def fault(scene: Scene) -> None:
        pid = scene.volume.worker_pid(scene.name(side))
        scene.host(side).run(["kill", "-STOP", pid])
        scene.hold()
        # Its agent may have replaced it meanwhile.
        scene.host(side).run(["kill", "-CONT", pid], check=False)

    return fault


def agent_killed(side: str) -> Fault:
    """For longer than its lease, so that everybody but its volumes takes the host for dead."""

    def fault(scene: Scene) -> None:
        scene.stage.cluster.agents[scene.name(side)].kill()
        scene.hold(2.0 * scene.stage.lease_ttl_s)
        scene.stage.start_agent(scene.name(side))

    return fault


def agent_stopped(side: str) -> Fault:
    def fault(scene: Scene) -> None:
        agent = scene.stage.cluster.agents[scene.name(side)]
        agent.kill(signal.SIGSTOP)
        scene.hold()
        agent.kill(signal.SIGCONT)

    return fault


def cut(*links: tuple[str, str], one_way: bool = False) -> Fault:
    """Links by role: "primary", "mirror", "etcd", "initiator"."""

    def fault(scene: Scene) -> None:
        ports = {
            "primary": scene.primary,
            "mirror": scene.mirror,
            "etcd": ETCD,
            "initiator": COMPUTE,
        }
        switch = scene.stage.lab.switch
        for a, b in links:
            switch.cut(ports[a], ports[b], one_way=one_way)
        scene.io_goes_on()
        scene.hold()
        switch.mend_all()

    return fault


def etcd_killed(scene: Scene) -> None:
    etcd = scene.stage.cluster.etcd
    assert etcd is not None
    etcd.kill()
    scene.hold()
    etcd.start()


def disk_full(side: str) -> Fault:
    """Until the replica has left the set, at least."""

    def fault(scene: Scene) -> None:
        fill_disk(scene.host(side))
        scene.volume.await_left_out(scene.name(side))
        scene.io_goes_on()
        free_disk(scene.host(side))

    return fault


def disk_broken(side: str) -> Fault:
    def fault(scene: Scene) -> None:
        break_disk(scene.host(side))
        scene.volume.await_left_out(scene.name(side))
        scene.io_goes_on()
        _mend_disk(scene, side)

    return fault


def disk_broken_out_of_reach(scene: Scene) -> None:
    """The mirror lives, and the primary cannot know: it lets go, and the mirror takes over by itself."""
    switch = scene.stage.lab.switch
    switch.cut(scene.primary, scene.mirror)
    break_disk(scene.host("primary"))
    # Nobody notices before something must be on disk.
    scene.volume.flush()
    scene.volume.await_left_out(scene.primary)
    scene.io_goes_on()
    if not int(scene.volume.replica().get("released_epoch", 0)):
        scene.troubles.append("the primary named an heir that it could not hear")
    switch.mend_all()
    _mend_disk(scene, "primary")


def _mend_disk(scene: Scene, side: str) -> None:
    if not mend_disk(scene.host(side)):
        # Its file system has given up: what an operator does after changing the cable.
        scene.host(side).power_off()
        scene.stage.start_again(scene.name(side))


def mirror_spoilt(scene: Scene) -> None:
    """No fault of a part but a lie: bytes of one replica change behind everybody's back.

    Alone the case must fail: it shows that the campaign sees replicas that differ.
    """
    data = f"{scene.volume.store}/data"
    spoil = f"printf spoilt | dd of={data} bs=1 seek={SPOILT_AT_MIB << 20} conv=notrunc status=none"
    scene.host("mirror").run(["sh", "-c", spoil])


def _signal_worker(scene: Scene, side: str, name: str, check: bool = True) -> None:
    scene.host(side).run(["kill", f"-{name}", scene.volume.worker_pid(scene.name(side))], check=check)
