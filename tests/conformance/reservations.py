"""Reservations on a volume of one initiator: kept by the primary's host, gone with it, and that is told."""

import re
import signal
from collections.abc import Callable, Iterator
from functools import partial

from hosts import USER, Volume, World
from noted import PREEMPTED, told
from suite import FAILED, PASSED, Verdict

from holdfast.lab import initiator
from holdfast.lab.cluster import STORAGE_NAMES

_LIMIT_S = 60
_KEY, _OTHER_KEY = "0xabc123", "0xdef456"
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

    def _moved(self, to: str, bring_about: Callable[[], object]) -> int:
        """How often an initiator is told of lost reservations by way of the new primary."""
        return told(self._world.compute, [self._disks[to]], PREEMPTED, bring_about)[0]

    def _told(self, name: str, times: int) -> Verdict:
        return Verdict(f"reservations.{name}", PASSED if times == 1 else FAILED, f"told {times} times")

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
        yield from self._restarts(here, both)
        switch = partial(self._world.cluster.cli, USER, "volume", "switch", self._volume.name)
        yield self._told("its-loss-is-told-after-a-switch", self._moved(there, switch))
        yield self._verdict("gone-after-a-switch", self._says(there, both), *none)
        yield self._verdict("not-at-the-host-before", self._says(here, both), _UNKNOWN, "status 9")
        anew = register.replace(_KEY, _OTHER_KEY)
        yield self._verdict(
            "kept-anew", self._says(there, f"{anew}; {both}"), _OTHER_KEY, "NO reservation held"
        )
        yield self._told("its-loss-is-told-after-another", self._moved(here, switch))
        yield self._verdict("nothing-old-comes-back", self._says(here, both), *none)
        yield self._verdict("kept-again", self._says(here, f"{register} && {reserve}; {both}"), _KEY)
        yield from self._power_off(here, there, both)

    def _restarts(self, here: str, both: str) -> Iterator[Verdict]:
        """Of the processes on the primary's host: what the kernel keeps stays."""
        guest, cluster = self._world.lab.guest(here), self._world.cluster
        held = (_KEY, "Exclusive Access", "status 0")
        pid = f"grep -o '\"pid\": [0-9]*' /run/holdfast/{self._volume.uid}.pid | cut -d' ' -f2"
        kill = f'P=$({pid}); kill -KILL $P; until [ "$({pid})" != $P ]; do sleep 0.05; done'
        guest.run(["sh", "-c", kill], timeout_s=_LIMIT_S)
        read = "sg_dd if=$D bs=512 count=1 of=/dev/null"
        yield self._verdict("kept-by-a-killed-worker", self._says(here, f"{both}; {read}"), *held)
        agent = cluster.agents[here]
        agent.kill(signal.SIGKILL)
        agent.wait(_LIMIT_S)
        cluster.start_agent(guest)
        cluster.await_hosts()
        yield self._verdict("kept-by-a-killed-agent", self._says(here, f"{both}; {read}"), *held)

    def _power_off(self, here: str, there: str, both: str) -> Iterator[Verdict]:
        """Of the primary, whose kernel had them."""
        none = ("NO registered", "NO reservation held", "status 0")
        guest, cluster = self._world.lab.guest(here), self._world.cluster

        def take_over() -> None:
            guest.power_off()
            record = f"replicas/{self._volume.uid}"
            cluster.await_record(record, lambda one: one["primary_host_id"] == there, 120)

        yield self._told("its-loss-is-told-after-a-takeover", self._moved(there, take_over))
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
