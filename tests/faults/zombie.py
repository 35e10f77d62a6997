"""An initiator that has waited for a frozen primary all the time: it must not be told anything stale.

multipath would leave the path after seconds. This one has a session of its own, with patience for minutes
and unknown to multipathd, and reads over it without a pause, while `stale.py` writes to the same blocks by
way of the map.
"""

import json
import shlex
from pathlib import Path

from volume import Volume

from holdfast.lab.initiator import node

STALE = Path(__file__).resolve().with_name("stale.py")
_AT_MIB = 104
_IFACE = "patient"
_WAIT_S = 60
_PATIENCE = {
    "node.session.timeo.replacement_timeout": "600",
    "node.conn[0].timeo.noop_out_interval": "0",
    "node.conn[0].timeo.noop_out_timeout": "0",
}


class Zombie:
    """Begins at once; `end` says what was wrong."""

    def __init__(self, volume: Volume, host: str) -> None:
        self.guest = volume.stage.compute
        address = volume.stage.guest(host).address
        (self.login,) = (one for one in volume.logins if one.portal.startswith(f"{address}:"))
        disk = self._log_in()
        self.report = self.guest.folder / "stale.json"
        self.report.unlink(missing_ok=True)
        words = ["/usr/bin/python3", str(STALE), disk, volume.device, str(_AT_MIB << 20)]
        inside = f"{self.guest.shared_dir}/{self.report.name}"
        # A log of its own: what an earlier one said would be taken for its word.
        self.process = self.guest.spawn([*words, inside])
        log = f"{self.guest.shared_dir}/{self.process.log.name}"
        look = f"until grep -q begun {log}; do sleep 0.05; done"
        self.guest.run(["timeout", str(_WAIT_S), "sh", "-c", look], timeout_s=_WAIT_S + 10)

    def end(self) -> list[str]:
        self.process.kill(15)
        self.process.wait(_WAIT_S * 5)
        self.guest.run(self._node("--logout"), timeout_s=_WAIT_S * 3)
        self.guest.run(self._node("-o", "delete"))
        if not self.report.exists():
            return [f"the reader of the zombie did not report: {self.process.output()[-300:]}"]
        said = json.loads(self.report.read_text())
        troubles = [f"stale: {one}" for one in said["stale"][:3]]
        if not said["right"] or not said["held_s"] > 1:
            troubles.append(f"nothing was shown of the zombie: {said}")
        return troubles

    def _log_in(self) -> str:
        """A second session to the same portal: its disk, taken from multipathd."""
        run = self.guest.run
        before = self._disks()
        run(["iscsiadm", "-m", "iface", "-I", _IFACE, "-o", "new"], check=False)
        run(self._node("-o", "new"))
        auth = {"authmethod": "CHAP", "username": self.login.user, "password": self.login.secret}
        settings = {f"node.session.auth.{name}": value for name, value in auth.items()} | _PATIENCE
        for name, value in settings.items():
            run(self._node("-o", "update", "-n", name, "-v", value))
        run(self._node("--login"), timeout_s=_WAIT_S)
        look = f"until [ $(ls -d {_sessions()} | wc -l) -gt {len(before)} ]; do sleep 0.1; done"
        run(["timeout", str(_WAIT_S), "sh", "-c", look], timeout_s=_WAIT_S + 10)
        (disk,) = self._disks() - before
        # multipathd would send I/O there, and wait as long as this one does.
        take = f"until multipathd show paths format %d | grep -qw {disk}; do sleep 0.1; done; "
        take += f"until multipathd del path {disk} | grep -q ok; do sleep 0.1; done"
        run(["timeout", str(_WAIT_S), "sh", "-c", take], timeout_s=_WAIT_S + 10)
        return f"/dev/{disk}"

    def _disks(self) -> set[str]:
        listed = self.guest.run(["sh", "-c", f"ls -d {_sessions()}"], check=False).stdout
        return {line.rsplit("/", 1)[1] for line in listed.split()}

    def _node(self, *words: str) -> list[str]:
        return node(self.login, "-I", _IFACE, *words)


def _sessions() -> str:
    return shlex.quote("/sys/class/iscsi_session/session") + "*/device/target*/*/block/*"
