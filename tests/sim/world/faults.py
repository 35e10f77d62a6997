"""What goes wrong in a run: which, when, and for how long, by chance. Everything is mended in the end."""

import errno
import math
from collections.abc import Callable
from functools import partial
from random import Random

from holdfast.base.errors import HoldfastError
from holdfast.metadata import replica_changes
from holdfast.metadata.cas import Draft

from .checks import Checks
from .etcd import NAME as ETCD
from .host import Host, Surroundings
from .initiator import NAME as INITIATOR
from .initiator import Initiator

_Fault = Callable[[], None]
_SHORT = (0.02, 0.3, 1.0)
_LONG = (0.3, 1.5, 3.0, 4.5, 7.0, 13.0)
_ENDS, _ENDS_EVERY_S = 12, 0.5


class Faults:
    """`strike` does one thing. Each undoes itself later; `mend_all` undoes everything now."""

    def __init__(self, around: Surroundings, chance: Random, checks: Checks, initiator: Initiator) -> None:
        self._around = around
        self._chance = chance
        self._checks = checks
        self._initiator = initiator
        self._hosts = list(around.hosts.values())
        self._over = False
        self._table: list[tuple[int, _Fault]] = [
            (6, self._kill_worker),
            (5, self._stop_worker),
            (3, self._kill_agent),
            (2, self._stop_agent),
            (4, self._freeze_host),
            (9, self._power_cut),
            (3, self._power_cut_all),
            (6, self._break_sessions),
            (8, self._cut_hosts),
            (6, self._cut_etcd),
            (4, self._cut_initiator),
            (3, self._etcd_away),
            (2, self._etcd_slow),
            (3, self._lease_early),
            (2, self._leases_late),
            (3, self._watches_late),
            (2, self._slow_disk),
            (3, self._disk_error),
            (2, self._no_room),
            (4, self._switch),
            (3, self._isolate),
            (3, self._forsake),
            (2, self._crash_loop),
            (3, self._last_words),
        ]
        self._weights = [weight for weight, _fault in self._table]
        self._acts = [fault for _weight, fault in self._table]
        self._sharp: list[_Fault] = [
            self._kill_worker,
            self._stop_worker,
            self._power_cut,
            self._break_sessions,
            self._cut_hosts,
            self._cut_etcd,
            self._kill_agent,
            self._freeze_host,
            self._lease_early,
            self._lame_commit,
        ]
        self.temper = self._chance.choice((0.0, 0.05, 0.15, 0.3))
        self.command: Callable[[], None] = lambda: None
        """Has the initiator do something."""
        self.left = 3
        """How often it may yet be tempted."""

    def strike(self) -> None:
        self._chance.choices(self._acts, self._weights)[0]()

    def tempt(self, committing: bool) -> None:
        """Something is about to change: now and then, something breaks in the middle of it."""
        if self._over or not self.left or self._chance.random() >= self.temper:
            return
        self.left -= 1
        if committing and self._chance.random() < 0.5:
            self._around.timeline.after(0.0, self._lame_commit)
            return
        delay_s = self._chance.choice((0.0, 0.0005, 0.002, 0.006, 0.03))
        self._around.timeline.after(delay_s, self._strike_sharply)

    def _strike_sharply(self) -> None:
        if not self._over:
            self._chance.choices(self._sharp, (5, 2, 3, 3, 2, 3, 2, 1, 1, 6))[0]()

    def mend_all(self) -> None:
        """Everything works again, and stays so."""
        self._over = True
        around = self._around
        around.net.mend_all()
        around.etcd.up, around.etcd.slow = True, 1.0
        for watch in around.etcd.watches:
            watch.late_s = 0.0
        for host in self._hosts:
            host.thaw()
            host.disk.on_step = _fine
            host.slow_disk(1.0)
            host.turn_period_s = math.inf
            if not host.on:
                host.power_on()
            for part in (host.worker, host.agent):
                if part is not None and part.loop.stopped:
                    part.loop.go_on()
                    host.steady_since_s = around.timeline.now
            host.start_agent()

    # Choosing.

    def _host(self) -> Host:
        """The primary and its mirror above all."""
        record = self._checks.record
        if record is not None and self._chance.random() < 0.6:
            return self._around.hosts[record.primary]
        return self._chance.choice(self._hosts)

    def _two(self) -> tuple[Host, Host]:
        one, two = self._chance.sample(self._hosts, 2)
        return one, two

    def _later(self, how_long: tuple[float, ...], undo: _Fault) -> None:
        def now() -> None:
            if not self._over:
                undo()

        self._around.timeline.after(self._chance.choice(how_long) * (0.5 + self._chance.random()), now)

    def _note(self, what: str) -> None:
        self._around.note(f"fault: {what}")

    # Processes.

    def _kill_worker(self) -> None:
        host = self._host()
        self._note(f"the worker of {host.name} is killed")
        host.kill_worker()

    def _crash_loop(self) -> None:
        """What it is asked to do ends it, again and again."""
        host = self._host()
        self._note(f"the worker of {host.name} does not stay")
        for number in range(_ENDS):
            at_s = _ENDS_EVERY_S * (number + self._chance.random())
            self._around.timeline.after(at_s, partial(self._end_worker, host))

    def _end_worker(self, host: Host) -> None:
        if not self._over:
            host.kill_worker()

    def _stop_worker(self) -> None:
        host = self._host()
        worker = host.worker
        if worker is None or worker.loop.dead or host.frozen:
            return
        self._note(f"the worker of {host.name} is stopped")
        worker.loop.stop()

        def go_on() -> None:
            if not host.frozen and not worker.loop.dead:
                self._note(f"the worker of {host.name} goes on")
                worker.loop.go_on()
                host.steady_since_s = self._around.timeline.now

        self._later(_LONG, go_on)

    def _kill_agent(self) -> None:
        host = self._host()
        self._note(f"the agent of {host.name} is killed")
        host.kill_agent()
        self._later(_LONG, host.start_agent)

    def _stop_agent(self) -> None:
        host = self._host()
        agent = host.agent
        if agent is None or host.frozen:
            return
        self._note(f"the agent of {host.name} is stopped")
        agent.loop.stop()

        def go_on() -> None:
            if not host.frozen and not agent.loop.dead:
                agent.loop.go_on()

        self._later(_LONG, go_on)

    def _freeze_host(self) -> None:
        host = self._host()
        if host.frozen or not host.on:
            return
        self._note(f"{host.name} freezes")
        host.freeze()

        def thaw() -> None:
            self._note(f"{host.name} goes on")
            host.thaw()

        self._later(_LONG, thaw)

    # Power.

    def _off(self, host: Host, how_long: tuple[float, ...]) -> None:
        if not host.on:
            return
        host.disk.on_step = _fine
        host.power_off()

        def on() -> None:
            if not host.on:
                self._note(f"{host.name} boots")
                host.power_on()

        self._later(how_long, on)

    def _power_cut(self) -> None:
        host = self._host()
        self._note(f"{host.name} loses power")
        self._off(host, self._chance.choice((_SHORT, _LONG)))

    def _power_cut_all(self) -> None:
        self._note("all lose power")
        for host in self._chance.sample(self._hosts, len(self._hosts)):
            self._off(host, self._chance.choice((_SHORT, _LONG)))

    # Networks.

    def _break_sessions(self) -> None:
        self._note("sessions are lost")
        for session in self._around.sessions:
            session.connection.break_it()

    def _cut(self, what: str, pairs: list[tuple[str, str]]) -> None:
        net = self._around.net
        self._note(f"cut: {what}")
        for source, target in pairs:
            net.cut(source, target)

        def mend() -> None:
            self._note(f"mended: {what}")
            for source, target in pairs:
                net.mend(source, target)

        self._later(_LONG, mend)

    def _ways(self, one: str, two: str) -> list[tuple[str, str]]:
        return self._chance.choice([[(one, two)], [(two, one)], [(one, two), (two, one)]])

    def _cut_hosts(self) -> None:
        one, two = self._two()
        self._cut(f"{one.name} and {two.name}", self._ways(one.name, two.name))

    def _cut_etcd(self) -> None:
        host = self._host()
        self._cut(f"{host.name} and etcd", self._ways(host.name, ETCD))

    def _cut_initiator(self) -> None:
        host = self._host()
        self._cut(f"{host.name} and the initiator", self._ways(host.name, INITIATOR))

    def _isolate(self) -> None:
        """A host is alone: nobody reaches it."""
        host = self._host()
        others = [one.name for one in self._hosts if one is not host]
        others += [ETCD] + ([INITIATOR] if self._chance.random() < 0.3 else [])
        self._cut(
            f"{host.name} and all",
            [way for other in others for way in ((host.name, other), (other, host.name))],
        )

    def _forsake(self) -> None:
        """The primary is alone with its initiator, and etcd has forgotten it: who may answer, until when?"""
        record = self._checks.record
        if record is None:
            return
        host = self._around.hosts[record.primary]
        others = [one.name for one in self._hosts if one is not host] + [ETCD]
        self._cut(
            f"{host.name} and all",
            [way for other in others for way in ((host.name, other), (other, host.name))],
        )
        self._around.etcd.forget(host.name)
        for _ in range(6):
            self._around.timeline.after(self._chance.random() * 5.0, self.command)

    # etcd.

    def _etcd_away(self) -> None:
        etcd = self._around.etcd
        self._note("etcd is away")
        etcd.up = False

        def back() -> None:
            etcd.up = True
            etcd.new_leader()

        self._later(_LONG, back)

    def _etcd_slow(self) -> None:
        etcd = self._around.etcd
        self._note("etcd is slow")
        etcd.slow = self._chance.choice((50.0, 300.0, 1500.0))

        def back() -> None:
            etcd.slow = 1.0

        self._later(_LONG, back)

    def _watches_late(self) -> None:
        """A host hears late of what changes, of assignments or of leases."""
        host = self._host()
        watches = [one for one in self._around.etcd.watches if one.host == host.name and not one.loop.dead]
        if not watches:
            return
        watch = self._chance.choice(watches)
        watch.late_s = self._chance.choice((0.3, 1.0, 3.0))
        self._note(f"{host.name} hears of {watch.prefix} {watch.late_s} s late")

        def back() -> None:
            watch.late_s = 0.0

        self._later(_LONG, back)

    def _lease_early(self) -> None:
        etcd = self._around.etcd
        leases = etcd.lease_ids()
        if leases:
            self._note("a lease expires early")
            etcd.revoke(self._chance.choice(leases))

    def _leases_late(self) -> None:
        self._note("etcd has a new leader")
        self._around.etcd.new_leader()

    def _lame_commit(self) -> None:
        """What is about to be committed takes its time, and who asked for it does not live to hear of it."""
        etcd = self._around.etcd
        self._note("etcd hesitates")
        etcd.slow = self._chance.choice((100.0, 400.0))

        def back() -> None:
            etcd.slow = 1.0

        self._later(_SHORT, back)
        record = self._checks.record
        joiners = [one for one in self._hosts if record is not None and one.name not in record.in_sync]
        if joiners and self._chance.random() < 0.3 and not self._checks.bad_disks - {joiners[0].name}:
            self._checks.bad_disks.add(joiners[0].name)
            self._fail_every("sync", joiners[0], _SHORT)
            self._later((0.3, 0.7), self._power_cut)
        elif record is not None and self._chance.random() < 0.5:
            self._note(f"the worker of {record.primary} is killed")
            self._around.hosts[record.primary].kill_worker()
        else:
            self._chance.choice((self._kill_worker, self._kill_agent, self._power_cut))()
        for _ in range(3):
            self._around.timeline.after(self._chance.random() * 1.5, self.command)

    # Disks.

    def _slow_disk(self) -> None:
        host = self._host()
        self._note(f"the disk of {host.name} is slow")
        host.slow_disk(self._chance.choice((20.0, 200.0, 1000.0)))
        self._later(_LONG, partial(host.slow_disk, 1.0))

    def _disk_error(self) -> None:
        """On one host of a run only: what two failed disks leave is for operators."""
        host = self._host()
        if self._checks.bad_disks - {host.name}:
            return
        self._checks.bad_disks.add(host.name)
        kinds = self._chance.choice(
            (("read",), ("write", "zero"), ("sync",), ("read", "write", "zero", "sync"))
        )
        names = self._chance.choice(
            (("data",), ("data", "intent"), ("intent",), ("changed/", "absent/", "missing"))
        )
        often = self._chance.choice((0.2, 1.0))
        left = self._chance.choice((1, 1_000_000))
        self._note(f"the disk of {host.name} fails {kinds} of {names}{', once' if left == 1 else ''}")

        def fail(kind: str, name: str) -> None:
            nonlocal left
            if left and kind in kinds and name.startswith(names) and self._chance.random() < often:
                left -= 1
                raise OSError(errno.EIO, "injected")

        host.disk.on_step = fail
        self._later(_LONG, partial(_mend_disk, host))

    def _fail_every(self, what: str, host: Host, how_long: tuple[float, ...]) -> None:
        self._note(f"the disk of {host.name} fails every {what}")

        def fail(kind: str, _name: str) -> None:
            if kind == what:
                raise OSError(errno.EIO, "injected")

        host.disk.on_step = fail
        self._later(how_long, partial(_mend_disk, host))

    def _last_words(self) -> None:
        """A mirror dies, and soon after its primary's disk; or that takes no record any more, and its process
        dies. In etcd, the mirror lives for a while.
        """
        record = self._checks.record
        if record is None or len(record.in_sync) < 2 or self._checks.bad_disks - {record.primary}:
            return
        host = self._around.hosts[record.primary]
        mirror = self._chance.choice(sorted(record.in_sync.keys() - {record.primary}))
        self._checks.bad_disks.add(host.name)
        fails, dies = self._chance.choice((("write record", True), ("sync", False), ("write", False)))

        def break_disk() -> None:
            if self._over:
                return
            self._fail_every(fails, host, _LONG)
            if dies:
                host.kill_worker()
            for _ in range(3):
                self._around.timeline.after(self._chance.random() * 0.1, self.command)

        self._note(f"{mirror} loses power")
        self._off(self._around.hosts[mirror], _LONG)
        self._around.timeline.after(self._chance.uniform(1.8, 2.8), break_disk)

    def _no_room(self) -> None:
        host = self._host()
        self._checks.full_disks.add(host.name)
        needs = self._chance.choice(({"write"}, {"write", "make"}, {"write", "make", "write record"}))
        self._note(f"the disk of {host.name} is full: no {', '.join(sorted(needs))}")

        def full(kind: str, name: str) -> None:
            if kind in needs and not (kind == "write" and name != "data"):
                raise OSError(errno.ENOSPC, "injected")

        host.disk.on_step = full
        self._later(_LONG, partial(_mend_disk, host))

    # Operators.

    def _switch(self) -> None:
        record = self._checks.record
        if record is None:
            return
        others = [host for host in record.in_sync if host != record.primary]
        if others:
            to = self._chance.choice(others)
            self._note(f"a switch to {to} is asked for")
            self.operator(lambda draft: replica_changes.request_switch(draft, self._around.volume_uid, to))

    def operator(self, decide: Callable[[Draft], object]) -> None:
        try:
            self._around.etcd.change(decide)
        except HoldfastError as refused:
            self._note(f"refused: {refused}")

    def replace(self, gone: str, new: str) -> None:
        """By the control plane: another host takes the place of one."""
        self._note(f"{new} takes the place of {gone}")
        wanted = replica_changes.NewReplica(new, 1.0, bytes(32))
        self.operator(lambda draft: replica_changes.replace(draft, self._around.volume_uid, gone, wanted))


def _fine(_kind: str, _name: str) -> None:
    """Nothing is wrong with the disk."""


def _mend_disk(host: Host) -> None:
    host.disk.on_step = _fine
