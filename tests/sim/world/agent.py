"""A host's agent: what it knows (late), the decisions of production, and their transactions.

`membership.decide` and `reconcile.decide` are the real ones, and so are the actions and what they change;
here they are only carried: a change is asked for once at a time, its outcome may be lost, the agent may die
between any two moments, and knows nothing when it comes back but what etcd and the worker tell it.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import HoldfastError
from holdfast.metadata import host_actions, keys
from holdfast.metadata.etcd_types import Entry, LeaseGone
from holdfast.metadata.host_actions import HostActions, register
from holdfast.target import membership, rebuilding
from holdfast.target import reconcile as planning
from holdfast.target import reports as say
from holdfast.target.control import Desired, Observed
from holdfast.target.lio_export import Present
from holdfast.target.workers import Backoff

from . import codec
from .etcd import Decision, Etcd
from .process import Process

TICK_S = 1.0
RETRY_S = 1.0
START_MAX_S = 0.5
"""Until a process that was started can be seen."""
_SENT = (say.Available, say.StoreRemoved, say.Frozen, say.FreezeFailed, say.ViewLost)


class Handle:
    """Stands where HostActions has its etcd: a decision is begun here, and ends later."""

    def __init__(self, etcd: Etcd, loop: Process, host: str) -> None:
        self.etcd = etcd
        self.loop = loop
        self.host = host
        self.ended: Callable[[object], None] = lambda _result: None

    def begin(self, decide: Decision) -> object:
        self.etcd.run(self.loop, self.host, decide, self.ended)
        return True


def install() -> None:
    """HostActions begins what it would otherwise wait for."""
    host_actions.run = lambda store, decide: store.begin(decide)  # type: ignore[attr-defined]


class HostLike(Protocol):
    """The machine that the agent runs on."""

    name: str
    boot_id: str
    size_bytes: int
    turn_period_s: float
    """For half of each the turn to make copies equal is another volume's."""

    def worker_alive(self) -> bool: ...
    def start_worker(self) -> None: ...
    def stop_worker(self) -> None: ...
    def tell_worker(self, desired: Desired) -> None: ...
    def store_exists(self) -> bool: ...
    def remove_store(self) -> None: ...
    def portal_up(self) -> bool: ...


class Agent:
    def __init__(self, loop: Process, etcd: Etcd, host: HostLike, volume_uid: str, ttl_s: float) -> None:
        self.loop = loop
        self._etcd = etcd
        self._host = host
        self._uid = volume_uid
        self._ttl_s = ttl_s
        self._lease_id = 0
        self._attached = False
        self._assignment: r.Assignment | None = None
        self._listed: set[str] = set()
        self._leases: dict[str, str] = {}
        self._observed: Observed | None = None
        self._told: Desired | None = None
        self._sending = False
        self._asked: object = None
        self._renounced_epoch = 0
        self._not_before_s = 0.0
        self._backoff = Backoff()
        self._worker_ran = False
        self._starts_until_s = 0.0
        self._unattached_since_s = loop.now()
        self._cold_since_s: float | None = None
        self._soon = False
        self._frozen: frozenset[str] = frozenset()
        self._plan: planning.Plan | None = None
        self._planned_from: object = None
        self._here = planning.Host(
            host_id=host.name,
            boot_id=host.boot_id,
            address=host.name,
            portal=host.name,
            backstores="",
            no_lio="simulated",
            leases=self._leases,
        )
        self._handle = Handle(etcd, loop, host.name)
        self._handle.ended = self._sent
        self._actions = HostActions(self._handle, host.name)  # type: ignore[arg-type]
        for prefix in (keys.assignments(host.name), keys.HOST_LEASES):
            etcd.watch(loop, host.name, prefix, self._hear, partial(self._listed.add, prefix))
        self._find_lease()
        self._tick()

    # etcd.

    def _find_lease(self) -> None:
        """A lease of this boot that an earlier agent held is adopted."""
        entry = self._etcd.store.get(keys.host_lease(self._host.name))
        if entry is not None and codec.decode(r.HostLease, entry.value).boot_id == self._host.boot_id:
            self._lease_id, self._attached = entry.lease_id, True
        self._keep()

    def _keep(self) -> None:
        if self._lease_id:
            self._etcd.keep_alive(self.loop, self._host.name, self._lease_id, self._kept)
        else:
            self._etcd.grant(self.loop, self._host.name, self._ttl_s, self._granted)

    def _kept(self, result: object) -> None:
        self.loop.deliver(partial(self._renewed, result))

    def _granted(self, result: object) -> None:
        self.loop.deliver(partial(self._renewed, result))

    def _renewed(self, result: object) -> None:
        if isinstance(result, LeaseGone):
            self._lease_id, self._attached = 0, False
            self._keep()
        elif isinstance(result, Exception):
            self.loop.call_later(0.5, self._keep)
        else:
            assert isinstance(result, int)
            self._lease_id = result
            if not self._attached:
                record = r.HostRecord(
                    host_id=self._host.name,
                    boot_id=self._host.boot_id,
                    address=self._host.name,
                    capacity_bytes=1 << 40,
                    seal_public_key=bytes(32),
                )
                lease_id = result
                self._etcd.run(
                    self.loop,
                    self._host.name,
                    lambda draft: register(draft, record, lease_id),
                    partial(self._registered, lease_id),
                )
            self.loop.call_later(self._ttl_s / 3, self._keep)

    def _registered(self, lease_id: int, result: object) -> None:
        if lease_id == self._lease_id:
            self._attached = not isinstance(result, Exception)

    def _hear(self, key: str, entry: Entry | None) -> None:
        if key.startswith(keys.HOST_LEASES):
            host = key.removeprefix(keys.HOST_LEASES)
            if entry is None:
                self._leases.pop(host, None)
            else:
                self._leases[host] = codec.decode(r.HostLease, entry.value).boot_id
        elif entry is None:
            self._assignment = None
            self._frozen = frozenset()
        else:
            assignment = codec.decode(r.Assignment, entry.value)
            if self._assignment is None or assignment.epoch != self._assignment.epoch:
                self._frozen = frozenset()
            self._assignment = assignment
            self._not_before_s = 0.0
        self.reconcile_soon()

    # The worker.

    def hear_worker(self, observed: Observed | None) -> None:
        """Its word, or None: it is gone."""
        if observed is None:
            self._told = None
        if observed != self._observed:
            self._observed = observed
            self.reconcile_soon()

    # Converging.

    def _tick(self) -> None:
        self.reconcile_soon()
        self.loop.call_later(TICK_S, self._tick)

    def reconcile_soon(self) -> None:
        if not self._soon:
            self._soon = True
            self.loop.call_soon(self.reconcile)

    def reconcile(self) -> None:
        self._soon = False
        if len(self._listed) < 2:
            return
        assignment, host = self._assignment, self._host
        now_s = self.loop.now()
        if assignment is None or not membership.cold_start_possible(assignment, host.boot_id, self._leases):
            self._cold_since_s = None
        elif self._cold_since_s is None:
            self._cold_since_s = now_s
        if host.portal_up():
            self._unattached_since_s = now_s
        alive = host.worker_alive()
        if not alive:
            self._observed = self._told = None
            if self._worker_ran:
                self._backoff.ended(now_s)
        self._worker_ran = alive
        if not rebuilding.is_bad(assignment, self._observed):
            self._renounced_epoch, self._asked = 0, None
        circumstances = membership.Circumstances(
            boot_id=host.boot_id,
            leases=self._leases,
            cold_possible_s=now_s - self._cold_since_s if self._cold_since_s is not None else 0.0,
            path_cut_s=now_s - self._unattached_since_s,
            renounced_epoch=self._renounced_epoch,
            crash_looping=self._backoff.crash_looping(now_s),
        )
        change = membership.decide(assignment, host.name, self._observed, circumstances)
        if change is not None and not self._sending and now_s >= self._not_before_s:
            self._sending, self._asked = True, change
            change.send(self._actions, self._uid)
        self._run(self._planned(alive), alive)

    @property
    def _may_sync(self) -> bool:
        return self.loop.now() % self._host.turn_period_s < self._host.turn_period_s / 2

    def _planned(self, alive: bool) -> planning.Plan:
        """Decided anew when anything has changed that it depends on."""
        self._frozen = planning.frozen_so_far(self._frozen, self._assignment, self._observed)
        known = (
            self._frozen,
            self._assignment,
            self._observed,
            tuple(self._leases.items()),
            alive,
            self._host.store_exists(),
            self._renounced_epoch,
            self._may_sync,
        )
        if self._plan is None or known != self._planned_from:
            self._planned_from = known
            self._plan = planning.decide(self._uid, self._here, self._situation(alive))
        return self._plan

    def _situation(self, alive: bool) -> planning.Situation:
        return planning.Situation(
            assignment=self._assignment,
            worker_alive=alive,
            observed=self._observed,
            present=Present(),
            store_exists=self._host.store_exists(),
            secrets={},
            renounced_epoch=self._renounced_epoch,
            frozen=self._frozen,
            may_sync=self._may_sync,
        )

    def _run(self, plan: planning.Plan, alive: bool) -> None:
        host, now_s = self._host, self.loop.now()
        if not plan.run_worker:
            if alive or self._assignment is not None:
                host.stop_worker()  # Also one that has died: the target goes before the assignment.
            if not alive and plan.remove_store:
                host.remove_store()
                self.reconcile_soon()
        elif not alive:
            if now_s >= max(self._backoff.not_before_s, self._starts_until_s):
                self._starts_until_s = now_s + START_MAX_S
                self._backoff.started(now_s)
                host.start_worker()
        elif plan.desired is not None:
            observed = self._observed
            again = observed is not None and bool(observed.reason)
            if plan.desired != self._told or again:
                self._told = plan.desired
                host.tell_worker(plan.desired)
        if not self._sending and now_s >= self._not_before_s:
            for report in plan.reports:
                if isinstance(report, _SENT):
                    self._sending = True
                    report.send(self._actions, self._uid)
                    return

    def _sent(self, result: object) -> None:
        self._sending = False
        asked, self._asked = self._asked, None
        if isinstance(asked, say.Renounce) and not isinstance(result, Exception):
            self._renounced_epoch = asked.epoch
        if isinstance(result, HoldfastError):
            self._not_before_s = self.loop.now() + RETRY_S * 0.5
        elif isinstance(result, Exception):
            raise result
        self.reconcile_soon()
