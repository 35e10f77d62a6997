"""Whole volumes that are frozen together, in one process, on one clock.

Production's: replicas, their sessions, freezes and gates (a `Pair` for each volume), what agents decide
(`membership`, `reconcile`), and every transaction, on a store in memory. Made here: agents' loops, watches
that lag, leases, and a client that writes chains: each write after the one before was acknowledged, to any
volume.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from random import Random

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.device import Op, Outcome, Request
from holdfast.base.errors import HoldfastError, Unavailable
from holdfast.base.testing_loop import Clock, TestingLoop
from holdfast.metadata import group_decisions, host_actions, keys, replica_changes
from holdfast.metadata.cas import run
from holdfast.metadata.etcd_types import Entry
from holdfast.metadata.memory_store import MemoryStore
from holdfast.metadata.records import decode
from holdfast.metadata.testing_cluster import OWNER, SIZE_BYTES, Cluster
from holdfast.replicator.following import Role
from holdfast.replicator.replica import Replica
from holdfast.replicator.testing import Pair
from holdfast.replicator.testing_disk import Disk
from holdfast.target import membership, reconcile
from holdfast.target.control import Desired, Observed
from holdfast.target.lio_export import Present
from holdfast.target.reports import Frozen, ViewLost
from holdfast.target.worker_replica import observed_of, snapshots_of, wanted_of

LEASE_S = 2.0
TICK_S = 0.2
SECTOR = 512
CLIENT_TIMEOUT_S = 1.5


class Etcd(MemoryStore):
    """As MemoryStore; `away`: nobody gets an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.on_change: Callable[[], None] = lambda: None

    def _here(self) -> None:
        if self.away:
            raise Unavailable("ETCD_UNREACHABLE", "etcd is away.")

    def get(self, key: str) -> Entry | None:
        self._here()
        return super().get(key)

    def get_many(self, keys):  # type: ignore[no-untyped-def]
        self._here()
        return super().get_many(keys)

    def range(self, prefix: str, limit: int = 0, start_after: str = "") -> tuple[list[Entry], int]:
        self._here()
        return super().range(prefix, limit, start_after)

    def transact(self, compares, success, failure=()):  # type: ignore[no-untyped-def]
        self._here()
        try:
            return super().transact(compares, success, failure)
        finally:
            self.on_change()


class Agent:
    """Of one volume on one host. `die`, and another is made: it knows nothing but what etcd says."""

    def __init__(self, world: "World", volume: "Volume", host: str) -> None:
        self.loop = TestingLoop(world.clock, world.chance)
        self._world, self._volume, self.host = world, volume, host
        self._actions = host_actions.HostActions(world.etcd, host, lambda: world.clock.now_s)  # type: ignore[arg-type]
        self._assignment: r.Assignment | None = None
        self._leases = dict(world.leases)
        self._frozen: frozenset[str] = frozenset()
        self._busy: set[str] = set()
        self._told: tuple[Desired, object] | None = None
        self._news: deque[tuple[float, bytes, dict[str, str]]] = deque()
        self._soon = False
        self._tick()

    def news(self, value: bytes, leases: dict[str, str]) -> None:
        """etcd's watch: in order, late."""
        lag_s = self._world.chance.random() * self._world.lag_max_s
        at_s = max(self._world.clock.now_s + lag_s, self._news[-1][0] if self._news else 0.0)
        self._news.append((at_s, value, leases))
        self.loop.call_later(at_s - self._world.clock.now_s, self._hear)

    def _hear(self) -> None:
        _at, value, self._leases = self._news.popleft()
        self._take(decode(r.Assignment, value))
        self.reconcile()

    def _take(self, new: r.Assignment) -> None:
        if self._assignment is None or new.epoch != self._assignment.epoch:
            self._frozen = frozenset()
        self._assignment = new

    def reconcile_soon(self) -> None:
        if not self._soon:
            self._soon = True
            self.loop.call_soon(self.reconcile)

    def _tick(self) -> None:
        self.reconcile_soon()
        self.loop.call_later(TICK_S, self._tick)

    def observed(self) -> Observed | None:
        replica, local = self._volume.replica(self.host), self._volume.pair.hosts[self.host].local
        told = self._told
        if replica is None or local is None or told is None or told[1] is not replica:
            return None
        report, state = replica.report(), local.store.state
        seen = observed_of(told[0], report, state, local.suspect)
        snapshots = snapshots_of(told[0], report, state, local.views.lost())
        return reconcile.replace(seen, snapshots=snapshots)

    def reconcile(self) -> None:
        self._soon = False
        assignment, world = self._assignment, self._world
        if assignment is None:
            return
        boot = world.cluster.boot(self.host)
        observed = self.observed()
        change = membership.decide(
            assignment, self.host, observed, membership.Circumstances(boot, self._leases)
        )
        if change is not None:
            self._send("change", partial(change.send, self._actions, self._volume.uid))
        self._frozen = reconcile.frozen_so_far(self._frozen, assignment, observed)
        here = reconcile.Host(
            self.host, boot, self.host, self.host, "", no_lio="simulated", leases=self._leases
        )
        now = reconcile.Situation(
            assignment, True, observed, Present(), True, {}, frozen=self._frozen, desired=None
        )
        plan = reconcile.decide(self._volume.uid, here, now)
        replica = self._volume.replica(self.host)
        if plan.desired is not None and replica is not None and self._told != (plan.desired, replica):
            self._told = (plan.desired, replica)
            world.moment()
            self._volume.tell(self.host, plan.desired)
        for said in plan.gates[:1]:
            self._send("gate", partial(said.send, self._actions, self._volume.uid))
        for report in plan.reports:
            if isinstance(report, Frozen | ViewLost):
                self._send("report", partial(report.send, self._actions, self._volume.uid))
                break

    def _send(self, kind: str, work: Callable[[], object]) -> None:
        if kind in self._busy:
            return
        self._busy.add(kind)
        self._world.moment()

        def ended(result: object) -> None:
            self._world.moment()
            if isinstance(result, BaseException) and not isinstance(result, HoldfastError):
                raise result

            def free() -> None:
                self._busy.discard(kind)
                self.reconcile_soon()

            self.loop.call_later(0.02 if result is None else 0.1, free)

        self.loop.in_pool(work, lambda _done: ended(None), ended)


class Volume:
    """A pair, and an agent for each of its hosts."""

    def __init__(self, world: "World", uid: str, seed: int) -> None:
        self.world, self.uid = world, uid
        self.disks = {name: Disk(Random(seed)) for name in "ab"}
        for disk in self.disks.values():
            disk.cold_reads = False
        self.pair = Pair(SIZE_BYTES, lambda name: self.disks[name].files, seed, clock=world.clock)
        self.agents: dict[str, Agent] = {}
        self.stopped: set[str] = set()
        """Hosts whose processes stand still."""
        self.agents = {name: Agent(world, self, name) for name in "ab"}
        for name in "ab":
            self._listen(name)

    def _listen(self, name: str) -> None:
        replica = self.replica(name)
        if replica is not None:
            replica.on_change = lambda: self.agents[name].reconcile_soon()

    def replica(self, name: str) -> Replica | None:
        return self.pair.hosts[name].replica

    def tell(self, name: str, desired: Desired) -> None:
        """Over the control socket: on the worker's own loop."""
        host = self.pair.hosts[name]

        def apply() -> None:
            assert host.replica is not None and host.local is not None
            host.replica.apply(wanted_of(desired))
            listed = {one.uid for one in desired.snapshots}
            if desired.role == Role.PRIMARY.value:
                for uid in host.local.store.state.views.keys() - listed:
                    host.local.views.drop(uid)

        host.loop.call_soon(apply)

    def kill_worker(self, name: str, away_s: float) -> None:
        self.pair.kill(name)
        self.world.loop.call_later(away_s, partial(self._start_worker, name))

    def _start_worker(self, name: str) -> None:
        if self.replica(name) is None:
            self.pair.hosts[name].open("volume", SIZE_BYTES, "", partial(self.pair.net.dial, name))
            self._listen(name)
            self.agents[name].reconcile_soon()

    def kill_agent(self, name: str) -> None:
        self.agents[name].loop.die()
        self.world.dead.append(self.agents[name])
        self.agents[name] = Agent(self.world, self, name)
        self.world.loop.call_later(0.3, self.world.broadcast)

    @property
    def loops(self) -> list[TestingLoop]:
        return [
            loop
            for name in "ab"
            if name not in self.stopped
            for loop in (self.pair.hosts[name].loop, self.agents[name].loop)
            if self.agents[name] not in self.world.still or loop is not self.agents[name].loop
        ]

    @property
    def record(self) -> r.ReplicaRecord:
        return decode(r.ReplicaRecord, self.world.etcd.entries[keys.replica(self.uid)].value)

    def view(self, name: str, snapshot_uid: str) -> bytes | None:
        """A frozen view, put together from its files."""
        local = self.pair.hosts[name].local
        view = local.store.views.get(snapshot_uid) if local is not None else None
        if local is None or view is None:
            return None
        content = bytearray()
        for extent in range(local.store.extents):
            source = view.data if view.copied.get(extent) else local.store.data
            content += source.read(*local.store.extent_range(extent))
        return bytes(content)


class Chain:
    """Writes 0, 1, 2, …: each is issued when the one before is acknowledged, to a volume of its choice."""

    def __init__(self, world: "World", number: int) -> None:
        self._world, self._number = world, number
        self.where: list[tuple[int, int]] = []
        """(volume, sector) of each that was issued."""
        self.acknowledged = 0
        self._issue()

    def content(self, index: int) -> bytes:
        return (self._number << 32 | index + 1).to_bytes(8, "little") * (SECTOR // 8)

    def _issue(self) -> None:
        world = self._world
        volume = world.chance.randrange(len(world.volumes))
        sector = world.free[volume].pop() if world.free[volume] else None
        if sector is None:
            return
        self.where.append((volume, sector))
        self._try(len(self.where) - 1)

    def _try(self, index: int) -> None:
        volume_index, sector = self.where[index]
        volume, world = self._world.volumes[volume_index], self._world
        replica = volume.replica(volume.record.primary_host_id)
        over = False

        def again(delay_s: float = 0.05) -> None:
            world.loop.call_later(delay_s, partial(self._try, index))

        def done(outcome: Outcome) -> None:
            # On the worker's loop: told to the client in its own time.
            world.loop.call_soon(partial(told, outcome))

        def told(outcome: Outcome) -> None:
            nonlocal over
            if over:
                return
            over = True
            timer.cancel()
            if outcome is Outcome.OK:
                self.acknowledged = index + 1
                world.loop.call_later(world.chance.random() * 0.01, self._issue)
            else:
                again()

        if replica is None:
            again()
            return
        timer = world.loop.call_later(CLIENT_TIMEOUT_S, lambda: told(Outcome.BUSY))
        buffers = [memoryview(bytearray(self.content(index)))]
        host = volume.pair.hosts[volume.record.primary_host_id]
        request = Request(Op.WRITE, sector * SECTOR, SECTOR, done, buffers)
        host.loop.call_soon(partial(replica.device.submit, request))


class World:
    """`volumes` volumes, alternately with host a and host b as primary; three chains."""

    def __init__(self, seed: int, volumes: int = 3) -> None:
        self.chance = Random(seed)
        self.lag_max_s = self.chance.choice((0.02, 0.2))
        self.clock = Clock()
        self.loop = TestingLoop(self.clock, self.chance)
        self.etcd = Etcd()
        self.cluster = Cluster(("a", "b"))
        self.cluster.store = self.etcd
        for host in ("a", "b"):
            self.cluster.come(host)
        self.leases = {host: self.cluster.boot(host) for host in ("a", "b")}
        self.dead: list[object] = []
        self.still: set[Agent] = set()
        """Agents that stand still."""
        self.moments = 0
        self.at_moment: dict[int, Callable[[], None]] = {}
        uids = [self.cluster.make_volume(volume_id=f"v{n}") for n in range(volumes)]
        self.volumes = [Volume(self, uid, seed * 10 + n) for n, uid in enumerate(uids)]
        for number, volume in enumerate(self.volumes):
            wanted = "ab"[number % 2]
            if volume.record.primary_host_id != wanted:
                self.cluster.uid = volume.uid
                old, epoch = volume.record.primary_host_id, volume.record.epoch
                self.cluster.do(replica_changes.hand_over, old, epoch, wanted)
        self.free = [list(range(SIZE_BYTES // SECTOR)) for _ in uids]
        for one in self.free:
            self.chance.shuffle(one)
        self.etcd.on_change = lambda: self.loop.call_soon(self.broadcast)
        self.broadcast()
        self.until(lambda: all(self._serves(volume) for volume in self.volumes))
        self.chains = [Chain(self, number) for number in range(3)]
        self.group_uid = ""

    def _serves(self, volume: Volume) -> bool:
        record = volume.record
        replica = volume.replica(record.primary_host_id)
        report = replica.report() if replica else None
        return report is not None and report.serving and report.epoch == record.epoch

    def moment(self) -> None:
        """Something of the protocol happened: a fault may come now."""
        self.moments += 1
        fault = self.at_moment.pop(self.moments, None)
        if fault is not None:
            self.loop.call_soon(fault)

    def broadcast(self) -> None:
        for volume in self.volumes:
            for name, agent in volume.agents.items():
                entry = self.etcd.entries.get(keys.assignment(name, volume.uid))
                if entry is not None:
                    agent.news(entry.value, dict(self.leases))

    def ask(self) -> None:
        """The owner asks for the group."""
        new = group_decisions.check(
            OWNER, "g", [(f"v{n}", "") for n in range(len(self.volumes))], "", self.cluster.new_uid, 1.0
        )
        self.must = [chain.acknowledged for chain in self.chains]
        self.group_uid = run(self.etcd, lambda draft: group_decisions.create(draft, new)[0].uid)
        self.moments = 0

    @property
    def group(self) -> r.SnapshotGroupRecord:
        return decode(r.SnapshotGroupRecord, self.etcd.entries[keys.snapshot_group(self.group_uid)].value)

    # Running.

    def until(self, condition: Callable[[], bool], limit_s: float = 150.0) -> None:
        end_s = self.clock.now_s + limit_s
        while not condition():
            loops = [self.loop, *(loop for volume in self.volumes for loop in volume.loops)]
            if all(loop.idle for loop in loops):
                due_s = min(at for at in (loop.next_timer_s for loop in loops) if at is not None)
                assert due_s <= end_s, f"not within {limit_s} s"
                self.clock.now_s = max(self.clock.now_s, due_s)
            for loop in loops:
                loop.run_once()

    def for_s(self, seconds: float) -> None:
        end_s = self.clock.now_s + seconds
        self.loop.call_later(seconds, lambda: None)
        self.until(lambda: self.clock.now_s >= end_s)

    # Faults. Each ends by itself.

    def primary_dies(self, volume: Volume) -> None:
        volume.kill_worker(volume.record.primary_host_id, self.chance.choice((0.01, 0.3)))

    def mirror_dies(self, volume: Volume) -> None:
        other = "b" if volume.record.primary_host_id == "a" else "a"
        volume.kill_worker(other, self.chance.choice((0.01, 0.3, 8.0)))

    def sessions_are_cut(self, volume: Volume) -> None:
        volume.pair.net.cut()

    def agent_dies(self, volume: Volume) -> None:
        volume.kill_agent(volume.record.primary_host_id)

    def agent_stands_still(self, volume: Volume) -> None:
        agent = volume.agents[volume.record.primary_host_id]
        self.still.add(agent)
        self.loop.call_later(self.chance.choice((0.5, 2.0)), lambda: self.still.discard(agent))

    def host_stands_still(self, volume: Volume) -> None:
        """Agent and worker of one volume's primary, for so long that its mirror takes over."""
        name = volume.record.primary_host_id
        volume.stopped.add(name)

        def gone() -> None:
            self.leases.pop(name, None)
            self._surely(lambda: self.cluster.go(name))
            self.broadcast()

        def go_on() -> None:
            volume.stopped.discard(name)
            self.leases[name] = self.cluster.boot(name)
            self._surely(lambda: self.cluster.come(name))
            self.broadcast()

        self.loop.call_later(LEASE_S, gone)
        self.loop.call_later(8.0, go_on)

    def _surely(self, change: Callable[[], None]) -> None:
        """What etcd does with its leases, whoever can reach it."""
        was = self.etcd.away, self.etcd.lose_answer
        self.etcd.away = self.etcd.lose_answer = False
        change()
        self.etcd.away, self.etcd.lose_answer = was

    def answer_is_lost(self, _volume: Volume) -> None:
        self.etcd.lose_answer = True

    def etcd_is_away(self, _volume: Volume) -> None:
        self.etcd.away = True
        self.loop.call_later(self.chance.choice((0.2, 1.5, 4.0)), partial(setattr, self.etcd, "away", False))

    @property
    def faults(self) -> list[Callable[[Volume], None]]:
        return [
            self.primary_dies, self.mirror_dies, self.sessions_are_cut, self.agent_dies,
            self.agent_stands_still, self.host_stands_still, self.answer_is_lost, self.etcd_is_away,
        ]  # fmt: skip

    # Judging.

    def violations(self) -> list[str]:
        """Of a group that counts: each view that somebody vouches for, and all of them together."""
        found: list[str] = []
        contents: list[bytes | None] = []
        for member, volume in zip(self.group.members, self.volumes, strict=True):
            entry = self.etcd.entries[keys.snapshot(member.snapshot_uid)]
            snapshot = decode(r.SnapshotRecord, entry.value)
            views = [volume.view(on.host_id, snapshot.uid) for on in snapshot.frozen_on]
            there = [view for view in views if view is not None]
            if snapshot.state != r.SNAPSHOT_STATE_FROZEN or not snapshot.frozen_on:
                found.append(f"{member.volume_id} is {snapshot.state} on {len(snapshot.frozen_on)}")
            if any(view != there[0] for view in there):
                found.append(f"{member.volume_id} differs between its hosts")
            contents.append(there[0] if there else None)
        for number, chain in enumerate(self.chains):
            has = [
                self._has(contents[volume], sector, chain.content(index))
                for index, (volume, sector) in enumerate(chain.where)
            ]
            first_lacking = next((i for i, one in enumerate(has) if one is False), len(has))
            later = [i for i, one in enumerate(has) if one and i > first_lacking]
            if later:
                found.append(f"chain {number}: write {later[0]} is there without write {first_lacking}")
            if first_lacking < self.must[number]:
                found.append(f"chain {number}: write {first_lacking}, acknowledged before, is not there")
        return found

    @staticmethod
    def _has(content: bytes | None, sector: int, wanted: bytes) -> bool | None:
        """None: no view of that volume can be read at the moment."""
        return None if content is None else content[sector * SECTOR : (sector + 1) * SECTOR] == wanted
