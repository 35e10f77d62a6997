"""A storage host: a disk that stays, and boots, each with a clock, a kernel, an agent and a worker."""

import math
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Protocol

from holdfast.replicator.hydrate import Source
from holdfast.replicator.testing_disk import Disk
from holdfast.target.control import Desired, Observed, ObservedVerify

from .agent import Agent
from .etcd import Etcd
from .initiator import Path
from .kernel import HostKernel
from .kernel import Watcher as KernelWatcher
from .net import Network
from .process import Process
from .session import ClientSession, Listener
from .session import Watcher as SessionWatcher
from .time import Call, Clock, Timeline
from .worker import Worker


class Judge(KernelWatcher, SessionWatcher, Protocol):
    """What hosts tell (checks.py)."""

    def data_written(self, host: str, name: str, offset: int, content: bytes) -> None: ...
    def compared(self, host: str, found: ObservedVerify) -> None: ...
    def power_lost(self, host: "Host") -> None: ...
    def power_is_lost(self, host: "Host") -> None: ...
    def worker_ended(self, host: "Host") -> None: ...


_LOCAL_MAX_S = 0.003
"""Between an agent and its worker."""
_WORKER_START_S = 0.05


class Surroundings:
    """What all hosts share."""

    def __init__(
        self,
        timeline: Timeline,
        net: Network,
        etcd: Etcd,
        chance: Random,
        judge: Judge,
        volume_uid: str,
        size_bytes: int,
        ttl_s: float,
    ) -> None:
        self.timeline = timeline
        self.net = net
        self.etcd = etcd
        self.chance = chance
        self.judge = judge
        self.volume_uid = volume_uid
        self.size_bytes = size_bytes
        self.ttl_s = ttl_s
        self.hosts: dict[str, Host] = {}
        self.sessions: list[ClientSession] = []
        self.note: Callable[[str], None] = lambda _line: None


class Host:
    """`rate`: how its clock goes, of true time."""

    def __init__(self, around: Surroundings, name: str, rate: float) -> None:
        self.around = around
        self.name = name
        self.rate = rate
        self.size_bytes = around.size_bytes
        self.disk = Disk(around.chance)
        self.disk.on_data = partial(around.judge.data_written, name)
        self.boots = 0
        self.boot_id = ""
        self.on = False
        self.frozen = False
        self.disk_slow = 1.0
        self.turn_period_s = around.chance.choice((math.inf, math.inf, 0.7, 5.0))
        self.died_s = -1.0
        """When it last lost power."""
        self.worker_since_s = 0.0
        self.steady_since_s = 0.0
        """Since when its worker has run, and its kernel."""
        self.kernel: HostKernel | None = None
        self.worker: Worker | None = None
        self.agent: Agent | None = None
        self.path: Path | None = None
        self.initiator_alive = True
        """Whether the initiator's network reaches this host (for the agent's sake)."""
        self.source: Source | None = None
        self.origin = ""
        self._clock = Clock(around.timeline, rate, 0.0)
        self._graveyard: list[object] = []
        """What is left of dead processes: a collector would let their sequences end, and act."""

    # Boots.

    def power_on(self) -> None:
        assert not self.on
        around = self.around
        self.on = True
        self.boots += 1
        self.boot_id = f"{self.name}-boot-{self.boots}"
        self._clock = Clock(around.timeline, self.rate, 5.0 + around.chance.random())
        self.kernel = HostKernel(around.timeline, self.name, around.judge)
        self.start_agent()

    def power_off(self) -> None:
        """Its memory is gone, and of its disk what was not synced, in part."""
        if not self.on:
            return
        around = self.around
        around.judge.power_lost(self)
        self.on = self.frozen = False
        self.died_s = around.timeline.now
        sessions = [session for session in around.sessions if self.name in session.hosts]
        self._end_worker()
        if self.agent is not None:
            self.agent.loop.die()
            self.agent = None
        for session in sessions:
            if session.hosts[0] == self.name:
                session.client_gone()
            else:
                session.server_gone()
        around.sessions = [session for session in around.sessions if session not in sessions]
        if self.kernel is not None:
            self.kernel.off = True
            self.kernel = None
        self.disk.power_cut()
        around.judge.power_is_lost(self)

    def freeze(self) -> None:
        """The whole machine stands still; its clock goes on."""
        self.frozen = True
        if self.kernel is not None:
            self.kernel.frozen = True
        for loop in self._loops():
            loop.stop()

    def thaw(self) -> None:
        if not self.frozen:
            return
        self.frozen = False
        if self.kernel is not None:
            self.kernel.thaw()
        for loop in self._loops():
            loop.go_on()
        self.steady_since_s = self.around.timeline.now

    def _loops(self) -> list[Process]:
        loops = [part.loop for part in (self.worker, self.agent) if part is not None]
        return [loop for loop in loops if not loop.dead]

    def _process(self) -> Process:
        process = Process(self.around.timeline, self._clock, self.around.chance)
        process.slow = self.disk_slow
        return process

    def slow_disk(self, factor: float) -> None:
        self.disk_slow = factor
        for loop in self._loops():
            loop.slow = factor

    # The agent.

    def start_agent(self) -> None:
        if self.on and self.agent is None:
            around = self.around
            self.agent = Agent(self._process(), around.etcd, self, around.volume_uid, around.ttl_s)
            if self.frozen:
                self.agent.loop.stop()
            worker = self.worker
            if worker is not None and not worker.loop.dead:
                worker.loop.deliver(worker.say_again)

    def kill_agent(self) -> None:
        if self.agent is not None:
            self.agent.loop.die()
            self.agent = None

    # What the agent does with its worker (agent.HostLike).

    def worker_alive(self) -> bool:
        return self.worker is not None and not self.worker.loop.dead

    def start_worker(self) -> None:
        self.around.timeline.after(_WORKER_START_S, self._start_worker)

    def _start_worker(self) -> None:
        if self.on and not self.frozen and not self.worker_alive() and self.kernel is not None:
            self.around.note(f"{self.name}: a worker starts")
            self.worker = Worker(self._process(), self)
            self.worker_since_s = self.steady_since_s = self.around.timeline.now
            self.worker.say()

    def stop_worker(self) -> None:
        """It is told to end, and does: the volume is not this host's any more, nor exported here."""
        if self.path is not None:
            self.path.remove()
        self.kill_worker()

    def kill_worker(self) -> None:
        if not self.worker_alive():
            return
        sessions = [session for session in self.around.sessions if self.name in session.hosts]
        self._end_worker()
        for session in sessions:
            if session.hosts[0] == self.name:
                session.client_killed()
            else:
                session.server_killed()
        self.around.sessions = [session for session in self.around.sessions if session not in sessions]
        self.around.judge.worker_ended(self)
        if self.agent is not None:
            self.agent.loop.deliver(self.agent.reconcile_soon)

    def _end_worker(self) -> None:
        if self.worker is not None:
            self.worker.loop.die()
            self._graveyard.append(self.worker)
            self.worker = None

    def tell_worker(self, desired: Desired) -> None:
        worker = self.worker
        if worker is not None:
            self._soon(lambda: worker.loop.deliver(partial(worker.apply, desired)))

    def worker_says(self, observed: Observed) -> None:
        agent = self.agent
        if observed.verify is not None:
            self.around.judge.compared(self.name, observed.verify)
        if agent is not None:
            self._soon(lambda: agent.loop.deliver(partial(agent.hear_worker, observed)))

    def _soon(self, call: Call) -> None:
        # In order: the delay is the same for all.
        self.around.timeline.after(_LOCAL_MAX_S, call)

    def store_exists(self) -> bool:
        return "state.json" in self.disk.inodes

    def remove_store(self) -> None:
        if self.path is not None:
            self.path.remove()
        self.disk.inodes.clear()
        self.disk.durable_names.clear()

    def portal_up(self) -> bool:
        return self.path is not None and self.path.up and self.initiator_alive

    # The worker's network.

    def dial(
        self,
        peer: str,
        epoch: int,
        on_ready: Callable[[ClientSession], None],
        on_lost: Callable[[str], None],
    ) -> ClientSession:
        assert self.worker is not None
        around = self.around
        session = ClientSession(
            around.net,
            self.worker.loop,
            (self.name, peer),
            epoch,
            partial(self._listener, peer),
            around.judge,
            on_ready,
            on_lost,
        )
        around.sessions = [one for one in around.sessions if not one.finished]
        around.sessions.append(session)
        return session

    def _listener(self, peer: str) -> Listener | None:
        host = self.around.hosts.get(peer)
        if host is None or not host.on:
            return None
        return host.worker
