"""Reservations on a volume of one initiator: kept by the primary's host, gone with it, and that is told."""

import re
from collections.abc import Iterator

from hosts import USER, Volume, World
from suite import FAILED, PASSED, Verdict

from holdfast.lab import initiator
from holdfast.lab.cluster import STORAGE_NAMES

_LIMIT_S = 60
_KEY, _OTHER_KEY = "0xabc123", "0xdef456"
_READY_TRIES = 300
_PREEMPTED = "Reservations preempted"
_UNKNOWN = "nvalid opcode|not supported|llegal"


class Judge:
    """Both paths are logged in to, without multipath: each is a disk of its own."""

    def __init__(self, world: World, volume: Volume) -> None:
        self._world, self._volume = world, volume
        logins = {login.portal.rpartition(":")[0]: login for login in volume.logins}
        self._disks = {
            name: initiator.log_in(world.compute, logins[world.lab.guest(name).address])
            for name in STORAGE_NAMES
        }

    @property
    def _primary(self) -> str:
        return str(self._volume.replica()["primary_host_id"])

    def _says(self, host: str, words: str) -> str:
        """What a command says, its status after it; $D is the path by way of `host`."""
        script = f"D={self._disks[host]}; {words} 2>&1; echo status $?"
        return self._world.compute.run(["sh", "-c", script], timeout_s=_LIMIT_S).stdout

    def _until(self, host: str, words: str, wanted: str) -> str:
        """Ask until the answer is as wanted, at most so often; the last one."""
        script = f"D={self._disks[host]}; for try in $(seq {_READY_TRIES}); do"
        script += f" said=$({words} 2>&1); echo \"$said\" | grep -Eq '{wanted}' && break; sleep 0.1; done;"
        done = self._world.compute.run(["sh", "-c", f'{script} echo "$said"'], timeout_s=_LIMIT_S)
        return done.stdout

    def judge(self) -> Iterator[Verdict]:
        here = self._primary
        there = next(name for name in STORAGE_NAMES if name != here)
        persist = "sg_persist --no-inquiry"
        register = f"{persist} --out --register --param-sark={_KEY} $D"
        reserve = f"{persist} --out --reserve --param-rk={_KEY} --prout-type=3 $D"
        both = f"{persist} --in --read-keys $D; {persist} --in --read-reservation $D"
        none = ("NO registered", "NO reservation held", "status 0")
        yield self._verdict(
            "kept", self._says(here, f"{register} && {reserve}; {both}"), _KEY, "Exclusive Access"
        )
        yield self._verdict(
            "binds-not-its-holder", self._says(here, "sg_dd if=$D bs=512 count=1 of=/dev/null"), "status 0"
        )
        yield self._verdict("not-by-another-path", self._says(there, both), _UNKNOWN, "status 9")
        self._world.cluster.cli(USER, "volume", "switch", self._volume.name)
        told = self._until(there, "sg_turs -v $D", _PREEMPTED)
        yield self._verdict("its-loss-is-told-after-a-switch", told, _PREEMPTED)
        yield self._verdict("gone-after-a-switch", self._says(there, both), *none)
        yield self._verdict("not-at-the-host-before", self._says(here, both), _UNKNOWN, "status 9")
        anew = register.replace(_KEY, _OTHER_KEY)
        yield self._verdict(
            "kept-anew", self._says(there, f"{anew}; {both}"), _OTHER_KEY, "NO reservation held"
        )
        self._world.cluster.cli(USER, "volume", "switch", self._volume.name)
        told = self._until(here, "sg_turs -v $D", _PREEMPTED)
        yield self._verdict("its-loss-is-told-after-another", told, _PREEMPTED)
        yield self._verdict("nothing-old-comes-back", self._says(here, both), *none)
        yield self._verdict("kept-again", self._says(here, f"{register} && {reserve}; {both}"), _KEY)
        yield from self._power_off(here, there, both)

    def _power_off(self, here: str, there: str, both: str) -> Iterator[Verdict]:
        """Of the primary, whose kernel had them; it comes back without, and is the primary again later."""
        none = ("NO registered", "NO reservation held", "status 0")
        guest, cluster = self._world.lab.guest(here), self._world.cluster
        guest.power_off()
        cluster.await_record(f"replicas/{self._volume.uid}", lambda one: one["primary_host_id"] == there, 120)
        told = self._until(there, "sg_turs -v $D", _PREEMPTED)
        yield self._verdict("its-loss-is-told-after-a-takeover", told, _PREEMPTED)
        yield self._verdict("gone-after-a-takeover", self._says(there, both), *none)
        guest.boot()
        cluster.start_agent(guest)
        self._volume.await_in_sync()
        for login in self._volume.logins:
            initiator.log_out(self._world.compute, login)

    def _verdict(self, name: str, said: str, *wanted: str) -> Verdict:
        lacks = [one for one in wanted if not re.search(one, said)]
        why = f"without {lacks}: {said.strip()[-300:]!r}" if lacks else ""
        return Verdict(f"reservations.{name}", FAILED if lacks else PASSED, why)


def judge(world: World, volume: Volume) -> Iterator[Verdict]:
    return Judge(world, volume).judge()
