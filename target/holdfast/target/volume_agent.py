"""One volume on one host: knows what is, asks `reconcile` where to go, and takes the next steps there.

Loop thread only. A step that may block is handed to a pool, one of a kind at a time; its end is a reason to
reconcile again. An error is kept as `trouble`, which is told to etcd, and the step is tried again later.

A change of membership is decided first, and whenever anything has changed: an I/O may be waiting for it.
"""

import logging
from functools import partial
from pathlib import Path

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import HoldfastError
from holdfast.base.loop import Timer
from holdfast.metadata.seal import unseal
from holdfast.target import membership
from holdfast.target.changes import ChangeSender
from holdfast.target.gate_sender import GateSender
from holdfast.target.lio_export import Present
from holdfast.target.rebuilding import is_bad
from holdfast.target.reconcile import Plan, Situation, decide, frozen_so_far
from holdfast.target.reporter import Reporter
from holdfast.target.reports import Renounce
from holdfast.target.role_names import JOINER, PRIMARY
from holdfast.target.roles import peer_of, role_here
from holdfast.target.store_folder import anything_at, remove_tree
from holdfast.target.tools import Tools
from holdfast.target.upgrades import is_well
from holdfast.target.volume_export import VolumeExport
from holdfast.target.volume_sessions import VolumeSessions
from holdfast.target.volume_worker import VolumeWorker

log = logging.getLogger(__name__)

RETRY_S = 1.0
REBUILD_S = 60.0
"""A copy that is not to be trusted is thrown away at most so often: its disk may be what is bad."""
REBUILD_TRY_S = 10.0
"""The worker may try for so long."""


class VolumeAgent:
    """From when something of the volume was found here, or it was assigned, until nothing is left."""

    def __init__(self, uid: str, tools: Tools) -> None:
        self.uid = uid
        self._tools = tools
        self._assignment: r.Assignment | None = None
        self._secrets: dict[str, str] = {}
        self._frozen: frozenset[str] = frozenset()
        self._worker = VolumeWorker(uid, tools, self.reconcile_soon)
        self._link = self._worker.link
        self._exports = VolumeExport(uid, tools, self.reconcile_soon)
        self._reporter = Reporter(uid, tools, self.reconcile_soon)
        self._changes = ChangeSender(uid, tools, self.reconcile_soon)
        self._gates = GateSender(uid, tools, self.reconcile_soon)
        self._sessions = VolumeSessions(uid, tools, self.reconcile_soon)
        self._cold_since_s: float | None = None
        self._rebuilt_s = -REBUILD_S
        self._rebuilding = False
        self._removing = False
        self._trouble = ""
        self._soon = False
        self._timer: Timer | None = None
        self._closed = False

    @property
    def finished(self) -> bool:
        """Not assigned, and nothing of it is here (but perhaps a store)."""
        return (
            self._assignment is None
            and not self._worker.alive
            and (self._exports.nothing or bool(self._tools.host().no_lio))
        )

    def assign(self, assignment: r.Assignment | None) -> None:
        if assignment is not None and self._assignment is None:
            self._worker.forget_failures()
        if self._assignment is None or assignment is None or assignment.epoch != self._assignment.epoch:
            self._frozen = frozenset()
        self._assignment = assignment
        self._secrets = _open_secrets(assignment, self._tools.seal_key)
        self._reporter.forget()
        self._changes.forget()
        self.reconcile()

    def leases_changed(self, hosts: frozenset[str]) -> None:
        """These hosts' leases came or went. At once if it may make this host the primary."""
        if self._assignment is None or not any(peer_of(self._assignment, host) for host in hosts):
            return
        if self._assignment.primary_host_id in hosts:
            self.reconcile()
        else:
            self.reconcile_soon()

    def close(self) -> None:
        self._closed = True
        self._changes.close()
        self._tools.sends.over(self.uid, self._tools.loop.now())
        self._tools.receives.over(self.uid, self._tools.loop.now())
        self._tools.upgrades.over(self.uid)
        self._worker.close()

    def reconcile_soon(self) -> None:
        """After the events at hand, once."""
        if not self._soon and not self._closed:
            self._soon = True
            self._tools.loop.call_soon(self.reconcile)

    def reconcile(self) -> None:
        self._soon = False
        if self._closed:
            return
        try:
            self._step()
        except Exception:
            # A broken invariant stops this volume's changes, not the host's.
            log.exception("volume %s: reconciling failed", self.uid)
            self._trouble = f"The agent fails to reconcile volume {self.uid}; its log says why."

    def _step(self) -> None:
        if self._worker.alive:
            self._worker.connect()
        self._change_membership()
        now = self._situation()
        plan = decide(self.uid, self._tools.host(), now)
        if plan.run_worker:
            self._upgrade()
            self._worker.run(plan.desired)
        else:
            self._worker.stop()
        if not self._tools.host().no_lio:
            self._exports.converge(plan.export, now.ring_in_use)
        if plan.remove_store:
            self._remove_store()
        self._note_rebuild(plan)
        self._gates.send(plan.gates)
        self._reporter.report(plan.reports)

    def _upgrade(self) -> None:
        """Replace a worker of older code (upgrades.py), at its turn."""
        upgrades, worker = self._tools.upgrades, self._worker
        well = is_well(self._link.answered, self._link.observed)
        if not worker.alive:
            return
        if not worker.outdated:
            if well:
                upgrades.over(self.uid)
        elif worker.being_replaced or (well and upgrades.take(self.uid)):
            worker.replace()

    def _change_membership(self) -> None:
        host, assignment, observed = self._tools.host(), self._assignment, self._link.observed
        now = membership.Circumstances(
            boot_id=host.boot_id,
            leases=host.leases,
            cold_possible_s=self._cold_possible_s(),
            path_cut_s=self._path_cut_s(),
            crash_looping=self._worker.crash_looping,
            renounced_epoch=self._renounced_epoch,
        )
        self._changes.send(membership.decide(assignment, host.host_id, observed, now))

    def _cold_possible_s(self) -> float:
        host, assignment, loop = self._tools.host(), self._assignment, self._tools.loop
        possible = (
            assignment is not None
            and host.leases is not None
            and membership.cold_start_possible(assignment, host.boot_id, host.leases)
        )
        if not possible:
            self._cold_since_s = None
        elif self._cold_since_s is None:
            self._cold_since_s = loop.now()
            loop.call_later(membership.COLD_START_WAIT_S, self.reconcile_soon)
        return 0.0 if self._cold_since_s is None else loop.now() - self._cold_since_s

    def _path_cut_s(self) -> float:
        host, assignment, observed = self._tools.host(), self._assignment, self._link.observed
        if assignment is None or role_here(assignment, host.boot_id) != PRIMARY or host.no_lio:
            self._sessions.forget()
            return 0.0
        initiators = frozenset(one.initiator_iqn for one in assignment.attachments if not one.detaching)
        return self._sessions.cut_s(observed.standby_io_age_s if observed else -1.0, initiators)

    def _may_sync(self) -> bool:
        """Whether this volume's joiners may be brought up to date now, or the copy here, if it is one."""
        assignment, observed, now_s = self._assignment, self._link.observed, self._tools.loop.now()
        role = role_here(assignment, self._tools.host().boot_id) if assignment is not None else ""
        sends = role == PRIMARY and observed is not None and bool(observed.syncable or observed.bound)
        receives = role == JOINER and observed is not None and observed.peer_connected
        left, under_way = 0, False
        if observed is not None:
            left = sum(one.remaining_bytes for one in observed.syncs) if sends else observed.left_bytes
            under_way = bool(observed.syncs) if sends else observed.left_bytes >= 0
        may_send = sends and self._tools.sends.wanted(self.uid, left, now_s, under_way)
        may_receive = receives and self._tools.receives.wanted(self.uid, left, now_s, under_way)
        if not sends:
            self._tools.sends.over(self.uid, now_s)
        if not receives:
            self._tools.receives.over(self.uid, now_s)
        return may_send or may_receive

    @property
    def _renounced_epoch(self) -> int:
        made = self._changes.made
        if isinstance(made, Renounce) and is_bad(self._assignment, self._link.observed):
            return made.epoch
        if not is_bad(self._assignment, self._link.observed):
            self._changes.forget_made()
        return 0

    def _may_rebuild(self) -> bool:
        age_s = self._tools.loop.now() - self._rebuilt_s
        return age_s >= REBUILD_S or (self._rebuilding and age_s < REBUILD_TRY_S)

    def _note_rebuild(self, plan: Plan) -> None:
        wanted = plan.desired is not None and plan.desired.rebuild
        if wanted and not (self._rebuilding and self._may_rebuild()):
            log.warning("volume %s: its copy here is not to be trusted and is made anew", self.uid)
            self._rebuilt_s = self._tools.loop.now()
        self._rebuilding = wanted

    def _situation(self) -> Situation:
        self._frozen = frozen_so_far(self._frozen, self._assignment, self._link.observed)
        return Situation(
            assignment=self._assignment,
            worker_alive=self._worker.alive,
            observed=self._link.observed,
            present=Present() if self._tools.host().no_lio else self._exports.present,
            store_exists=anything_at(self._store_path()),
            secrets=self._secrets,
            trouble=self._worker.trouble or self._exports.trouble or self._trouble,
            desired=self._link.answered,
            frozen=self._frozen,
            may_sync=self._may_sync(),
            may_rebuild=self._may_rebuild(),
            renounced_epoch=self._renounced_epoch,
            etcd_away=self._changes.etcd_away,
            crash_looping=self._worker.crash_looping,
        )

    def _look_again(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._tools.loop.call_later(delay_s, self.reconcile)

    # The store.

    def _store_path(self) -> Path:
        return self._tools.store / self.uid

    def _remove_store(self) -> None:
        if self._removing:
            return
        self._removing = True
        log.info("volume %s: removing its store", self.uid)
        self._tools.workers.forget(self.uid)
        self._tools.loop.in_pool(
            partial(remove_tree, self._store_path()), self._store_removed, self._store_not_removed
        )

    def _store_removed(self, _nothing: None) -> None:
        self._removing = False
        self.reconcile_soon()

    def _store_not_removed(self, error: BaseException) -> None:
        self._removing = False
        self._trouble = f"The store of volume {self.uid} cannot be removed: {error}."
        log.error("%s", self._trouble)
        self._look_again(RETRY_S)


def _open_secrets(assignment: r.Assignment | None, seal_key: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in assignment.attachments if assignment else ():
        try:
            found[one.uid] = unseal(one.secret, seal_key, one.uid).decode()
        except (HoldfastError, UnicodeDecodeError) as error:
            log.error("attachment %s: %s", one.uid, error)
    return found
