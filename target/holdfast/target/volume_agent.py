"""One volume on one host: knows what is, asks `reconcile` where to go, and takes the next steps there.

Loop thread only. A step that may block is handed to a pool, one of a kind at a time; its end is a reason to
reconcile again. An error is kept as `trouble`, which is told to etcd, and the step is tried again later.
"""

import logging
import shutil
from functools import partial
from pathlib import Path

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import HoldfastError
from holdfast.base.loop import READABLE, Timer
from holdfast.metadata.seal import unseal
from holdfast.target.control_client import WorkerLink
from holdfast.target.lio_export import Present
from holdfast.target.reconcile import Plan, Situation, decide, frozen_so_far
from holdfast.target.reporter import Reporter
from holdfast.target.tools import Tools
from holdfast.target.volume_export import VolumeExport
from holdfast.target.workers import Backoff, Worker

log = logging.getLogger(__name__)

RETRY_S = 1.0
CONNECT_S = 1.0
"""Between attempts to reach a worker that has not said that it is ready."""
CRASH_LOOP_FAILURES = 3


class VolumeAgent:
    """From when something of the volume was found here, or it was assigned, until nothing is left."""

    def __init__(self, uid: str, tools: Tools) -> None:
        self.uid = uid
        self._tools = tools
        self._assignment: r.Assignment | None = None
        self._secrets: dict[str, str] = {}
        self._frozen: frozenset[str] = frozenset()
        self._worker: Worker | None = None
        self._backoff = Backoff()
        self._link = WorkerLink(tools.loop, tools.workers.control_socket(uid), self.reconcile_soon)
        self._exports = VolumeExport(uid, tools, self.reconcile_soon)
        self._reporter = Reporter(uid, tools, self.reconcile_soon)
        self._removing = False
        self._trouble = ""
        self._soon = False
        self._timer: Timer | None = None
        self._closed = False
        self._take(tools.workers.adopt(uid))

    @property
    def finished(self) -> bool:
        """Not assigned, and nothing of it is here (but perhaps a store)."""
        return (
            self._assignment is None
            and not self._worker_alive()
            and (self._exports.nothing or bool(self._tools.host().no_lio))
        )

    def assign(self, assignment: r.Assignment | None) -> None:
        if assignment is not None and self._assignment is None:
            self._backoff = Backoff()
        if self._assignment is None or assignment is None or assignment.epoch != self._assignment.epoch:
            self._frozen = frozenset()
        self._assignment = assignment
        self._secrets = _open_secrets(assignment, self._tools.seal_key)
        self._reporter.forget()
        self.reconcile()

    def close(self) -> None:
        self._closed = True
        self._link.close()
        self._drop_worker()

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
        if self._worker_alive():
            self._connect()
        now = self._situation()
        plan = decide(self.uid, self._tools.host(), now)
        self._run_worker(plan)
        if not self._tools.host().no_lio:
            self._exports.converge(plan.export, now.ring_in_use)
        if plan.remove_store:
            self._remove_store()
        self._reporter.report(plan.reports)

    def _situation(self) -> Situation:
        self._frozen = frozen_so_far(self._frozen, self._assignment, self._link.observed)
        return Situation(
            assignment=self._assignment,
            worker_alive=self._worker_alive(),
            observed=self._link.observed,
            present=Present() if self._tools.host().no_lio else self._exports.present,
            store_exists=_exists(self._store_path()),
            secrets=self._secrets,
            trouble=self._worker_trouble() or self._exports.trouble or self._trouble,
            desired=self._link.answered,
            frozen=self._frozen,
        )

    # The worker.

    def _worker_alive(self) -> bool:
        """Notices, once, when it has ended."""
        if self._worker is None:
            return False
        if self._worker.alive():
            return True
        log.warning("volume %s: its worker, process %d, has ended", self.uid, self._worker.pid)
        self._drop_worker()
        self._link.close()
        self._backoff.ended(self._tools.loop.now())
        return False

    def _take(self, worker: Worker | None) -> None:
        self._worker = worker
        if worker is not None and worker.pidfd >= 0:
            self._tools.loop.add(worker.pidfd, READABLE, self._worker_ended)

    def _worker_ended(self, _events: int) -> None:
        if self._worker is not None:
            self._tools.loop.remove(self._worker.pidfd)
        self.reconcile_soon()

    def _drop_worker(self) -> None:
        if self._worker is not None:
            self._tools.loop.remove(self._worker.pidfd)
            self._worker.close()
            self._worker = None

    def _worker_trouble(self) -> str:
        if self._backoff.failures < CRASH_LOOP_FAILURES or self._link.observed is not None:
            return ""
        log_path = self._tools.workers.control_socket(self.uid).with_suffix(".log")
        return f"The worker of volume {self.uid} keeps ending; its log on the host, {log_path}, says why."

    def _run_worker(self, plan: Plan) -> None:
        if not plan.run_worker:
            if self._worker is not None:
                self._worker.stop()
                self._look_again(RETRY_S)
            return
        if self._worker is None:
            wait_s = self._backoff.not_before_s - self._tools.loop.now()
            if wait_s > 0:
                self._look_again(wait_s)
                return
            self._start_worker()
        if plan.desired is not None and self._connect():
            observed = self._link.observed
            # What it could not do (its reason) it tries again when it is told again.
            self._link.apply(plan.desired, again=observed is not None and bool(observed.reason))

    def _start_worker(self) -> None:
        try:
            self._take(self._tools.workers.adopt(self.uid) or self._tools.workers.start(self.uid))
        except OSError as error:
            self._trouble = f"The worker of volume {self.uid} cannot be started: {error}."
            log.error("%s", self._trouble)
            self._look_again(RETRY_S)
            return
        self._trouble = ""
        self._backoff.started(self._tools.loop.now())

    def _connect(self) -> bool:
        if self._link.connect():
            return True
        self._look_again(CONNECT_S)
        return False

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
            partial(_remove_tree, self._store_path()), self._store_removed, self._store_not_removed
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


def _exists(path: Path) -> bool:
    return path.exists() or _half_removed(path).exists()


def _half_removed(path: Path) -> Path:
    return path.with_name(path.name + ".removed")


def _remove_tree(path: Path) -> None:
    """Rename first: a store that is half removed must not look like a store."""
    gone = _half_removed(path)
    if path.exists():
        path.rename(gone)
    if gone.exists():
        shutil.rmtree(gone)
