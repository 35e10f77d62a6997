"""Unit attentions where several initiators are attached: each is told of a condition, and once."""

from collections.abc import Iterator
from functools import partial

from hosts import COMPUTE, USER, World
from noted import CHANGED_PATHS, RESET, told
from suite import FAILED, PASSED, Verdict

from holdfast.lab.cluster import STORAGE_NAMES
from holdfast.lab.initiator import Login, node

_SECOND = "iqn.2026-11.io.holdfast.lab:second"
_LIMIT_S = 60
_TRIES = 200
_VOLUME, _SIZE = "shared", "64MiB"


class Judge:
    """One compute host that plays two initiators, each with a session by way of the primary."""

    def __init__(self, world: World) -> None:
        self._world, self._guest = world, world.lab.guest(COMPUTE)
        cli = world.cluster.cli
        self._uid = cli(USER, "volume", "create", _VOLUME, "--size", _SIZE, "--multi-attach")["uid"]
        self._logins = [self._attach(name) for name in (self._guest.initiator, _SECOND)]
        self._interface("-o", "new")
        self._interface("-o", "update", "-n", "iface.initiatorname", "-v", _SECOND)
        self._interface("-o", "update", "-n", "iface.transport_name", "-v", "tcp")

    def _attach(self, initiator: str) -> Login:
        cluster = self._world.cluster
        name = initiator.rpartition(":")[2]
        made = cluster.cli(USER, "attachment", "create", name, "--volume", _VOLUME, "--initiator", initiator)
        ready = f"attachments/{self._uid}/{made['uid']}"
        cluster.await_record(ready, lambda one: len(one.get("ready_host_ids", [])) == len(STORAGE_NAMES))
        address = self._world.lab.guest(self._primary).address
        return next(one for one in Login.of_all(made) if one.portal.startswith(f"{address}:"))

    @property
    def _primary(self) -> str:
        return str(self._world.cluster.record(f"replicas/{self._uid}")["primary_host_id"])

    def _interface(self, *words: str) -> None:
        self._guest.run(["iscsiadm", "-m", "iface", "-I", "second", *words])

    def _log_in(self, login: Login, interface: str) -> str:
        """The disk of that session."""
        by = ["-I", interface]
        self._guest.run(node(login, *by, "-o", "new"))
        for name, value in (("authmethod", "CHAP"), ("username", login.user), ("password", login.secret)):
            self._guest.run(node(login, *by, "-o", "update", "-n", f"node.session.auth.{name}", "-v", value))
        self._guest.run(node(login, *by, "--login"), timeout_s=_LIMIT_S)
        name = _SECOND if interface == "second" else self._guest.initiator
        mine = f"for s in /sys/class/iscsi_session/*; do [ $(cat $s/initiatorname) = {name} ]"
        mine += " && ls $s/device/target*/*/block; done"
        wait = f"for try in $(seq {_TRIES}); do d=$({mine} 2>/dev/null);"
        wait += ' [ -n "$d" ] && [ -b /dev/$d ] && break; sleep 0.1; done; echo $d'
        return "/dev/" + self._guest.run(["sh", "-c", wait], timeout_s=_LIMIT_S).stdout.strip()

    def judge(self) -> Iterator[Verdict]:
        disks = [self._log_in(*one) for one in zip(self._logins, ("default", "second"), strict=True)]
        reset = partial(self._guest.run, ["sg_reset", "-d", disks[0]], timeout_s=_LIMIT_S)
        yield self._verdict("reset-by-one", told(self._guest, disks, RESET, reset))
        switch = partial(self._world.cluster.cli, USER, "volume", "switch", _VOLUME)
        yield self._verdict("changed-paths", told(self._guest, disks, CHANGED_PATHS, switch))
        refused = self._guest.run(["sh", "-c", f"sg_persist --in --read-keys {disks[0]}"], check=False)
        unknown = refused.returncode == 9
        yield Verdict("attentions.no-reservations", PASSED if unknown else FAILED, refused.stdout[-200:])
        for login, by in zip(self._logins, ("default", "second"), strict=True):
            self._guest.run(node(login, "-I", by, "--logout"), timeout_s=_LIMIT_S)

    def _verdict(self, name: str, times: list[int]) -> Verdict:
        said = f"the two initiators were told {times} times"
        return Verdict(f"attentions.{name}", PASSED if times == [1, 1] else FAILED, said)


def judge(world: World) -> Iterator[Verdict]:
    return Judge(world).judge()
