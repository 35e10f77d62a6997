"""One disk by several ways: multipathd in a compute guest, over a session with each portal.

The settings are what users are told (cli/multipath.py): with them a failover was seen to cost no error and
about the lease's time. There is no hardware handler because a guest's kernel has none for ALUA; multipathd
asks for the states itself (`prio alua`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.cli.multipath import iscsid_settings, multipath_conf
from holdfast.lab.guest import Guest
from holdfast.lab.guest_process import GuestProcess
from holdfast.lab.initiator import Login, log_in, log_out, node

MULTIPATH_CONF = multipath_conf(".*", ".*")
"""What users are told for a volume, for whatever a test exports."""
ISCSID_SETTINGS = iscsid_settings()
_WAIT_S = 60
_MODULES = ("dm_multipath", "dm_round_robin", "dm_service_time", "dm_queue_length")


@dataclass(frozen=True)
class Map:
    """A multipath device. `device` is its short name: fio takes a colon in a path for a list of paths."""

    name: str
    device: str

    @property
    def path(self) -> str:
        return f"/dev/mapper/{self.name}"


def start(guest: Guest, conf_text: str = MULTIPATH_CONF) -> GuestProcess:
    """Start multipathd; nodes made from now on have these settings. Once for each boot of the guest."""
    guest.run(["tee", "/etc/multipath.conf"], input=conf_text)
    # iscsiadm copies these into each node that it makes; the last line of a name counts.
    lines = "".join(f"{name} = {value}\n" for name, value in ISCSID_SETTINGS.items())
    guest.run(["tee", "-a", "/etc/iscsi/iscsid.conf"], input=lines)
    guest.run(["modprobe", "-a", *_MODULES])
    daemon = guest.spawn(["multipathd", "-d", "-v2"], log_name="multipathd.log")
    _await(guest, "multipathd show daemon | grep -q idle")
    return daemon


def log_in_all(guest: Guest, logins: Sequence[Login]) -> Map:
    """Log in at every portal with the secret; the map, once multipathd has every path in it."""
    disks = [log_in(guest, login) for login in logins]
    names = [_sd_name(guest, disk) for disk in disks]
    show = ["udevadm", "info", "--query=property", "--property=ID_SERIAL", "--value", disks[0]]
    name = guest.run(show).stdout.strip()
    guest.run(["udevadm", "wait", f"--timeout={_WAIT_S}", f"/dev/mapper/{name}"], timeout_s=_WAIT_S + 5)
    device = guest.run(["readlink", "-f", f"/dev/mapper/{name}"]).stdout.strip()
    slaves = f"/sys/block/{device.removeprefix('/dev/')}/slaves"
    _await(guest, " && ".join(f"[ -e {slaves}/{sd} ]" for sd in names))
    return Map(name, device)


def log_out_all(guest: Guest, logins: Sequence[Login], device: Map) -> None:
    """Take the map away, then its sessions. Nothing may have it open."""
    # First the map: without paths it would queue for ever what is still asked of it.
    _await(guest, f"multipathd del map {device.name} | grep -qE 'ok|fail' && [ ! -e {device.path} ]")
    for login in logins:
        log_out(guest, login)
        guest.run(node(login, "-o", "delete"), check=False)


def path_states(guest: Guest) -> str:
    """What multipathd thinks of every path, for people."""
    return guest.run(["multipathd", "show", "topology"], check=False).stdout


def _sd_name(guest: Guest, disk: str) -> str:
    return guest.run(["readlink", "-f", disk]).stdout.strip().removeprefix("/dev/")


def _await(guest: Guest, condition: str) -> None:
    """Neither multipathd nor the kernel announces these: look, ten times a second, inside the guest."""
    look = f"until {condition}; do sleep 0.1; done"
    guest.run(["timeout", str(_WAIT_S), "sh", "-c", look], timeout_s=_WAIT_S + 10)
