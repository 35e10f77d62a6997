"""One volume on one host: knows what is, asks `reconcile` where to go, and takes the next steps there.

Loop thread only. A step that may block is handed to a pool, one of a kind at a time; its end is a reason to
reconcile again. An error is kept as `trouble`, which is told to etcd, and the step is tried again later.
"""

import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import HoldfastError, NotFound, StaleEpoch
from holdfast.base.loop import Loop, Timer
from holdfast.metadata.host_actions import HostActions
from holdfast.metadata.seal import unseal
from holdfast.target.control_client import WorkerLink
from holdfast.target.lio import Lio
from holdfast.target.lio_export import Export, Present
from holdfast.target.reconcile import Host, Plan, Situation, decide
from holdfast.target.reports import Health, Report
from holdfast.target.workers import Backoff, Workers

log = logging.getLogger(__name__)

RETRY_S = 1.0
EXPORT_CHECK_S = 60.0
"""How often the kernel's configuration is compared although nothing has changed."""
EXPORT_STUCK_S = 30.0
PROGRESS_S = 5.0
"""Progress of hydration is told at most so often."""
CONNECT_S = 1.0
CRASH_LOOP_FAILURES = 3


class InPool(Protocol):
    def __call__(
        self,
        work: Callable[[], Any],
        done: Callable[[Any], object],
        failed: Callable[[BaseException], object],
        /,
    ) -> None: ...


class Tools:
    """What every volume's agent works with."""

    def __init__(
        self,
        loop: Loop,
        actions: HostActions,
        lio: Lio,
        workers: Workers,
        store: Path,
        seal_key: bytes,
        in_lio_pool: InPool,
        host: Callable[[], Host],
    ) -> None:
        self.loop = loop
        self.actions = actions
        self.lio = lio
        self.workers = workers
        self.store = store
        self.seal_key = seal_key
        self.in_lio_pool = in_lio_pool
        self.host = host


class VolumeAgent:
    """From when something of the volume was found here, or it was assigned, until nothing is left."""

    def __init__(self, uid: str, tools: Tools) -> None:
        self.uid = uid
        self._tools = tools
        self._assignment: r.Assignment | None = None
        self._secrets: dict[str, str] = {}
        self._worker = tools.workers.adopt(uid)
        self._backoff = Backoff()
        self._link = WorkerLink(tools.loop, tools.workers.control_socket(uid), self.reconcile_soon)
        self._exports = _Exports(uid, tools, self.reconcile_soon)
        self._reporter = _Reporter(uid, tools, self.reconcile_soon)
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
            and not self._worker_alive()
            and (self._exports.nothing or bool(self._tools.host().no_lio))
        )

    def assign(self, assignment: r.Assignment | None) -> None:
        if assignment is not None and self._assignment is None:
            self._backoff = Backoff()
        self._assignment = assignment
        self._secrets = _open_secrets(assignment, self._tools.seal_key)
        self._reporter.forget()
        self.reconcile()

    def close(self) -> None:
        self._closed = True
        self._link.close()

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
        return Situation(
            assignment=self._assignment,
            worker_alive=self._worker_alive(),
            observed=self._link.observed,
            present=Present() if self._tools.host().no_lio else self._exports.present,
            store_exists=self._store_path().exists(),
            secrets=self._secrets,
            trouble=self._worker_trouble() or self._exports.trouble or self._trouble,
            desired=self._link.answered,
        )

    # The worker.

    def _worker_alive(self) -> bool:
        """Notices, once, when it has ended."""
        if self._worker is None:
            return False
        if self._worker.alive():
            return True
        log.warning("volume %s: its worker, process %d, has ended", self.uid, self._worker.pid)
        self._worker = None
        self._link.close()
        self._backoff.ended(self._tools.loop.now())
        return False

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
            self._worker = self._tools.workers.start(self.uid)
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


class _Exports:
    """The kernel's side of one volume: one change at a time, off this thread."""

    def __init__(self, uid: str, tools: Tools, changed: Callable[[], None]) -> None:
        self._uid = uid
        self._tools = tools
        self._changed = changed
        self._running_since_s: float | None = None
        self._converged: tuple[Export | None, bool] | None = None
        self._converged_s = 0.0
        self._not_before_s = 0.0
        self._failure = ""
        self.present: Present | None = None

    @property
    def nothing(self) -> bool:
        return self.present is not None and self.present.nothing

    @property
    def trouble(self) -> str:
        since = self._running_since_s
        if since is not None and self._tools.loop.now() - since > EXPORT_STUCK_S:
            return f"The kernel has not finished a change to the export of volume {self._uid} for long."
        return self._failure

    def converge(self, wanted: Export | None, ring_in_use: bool) -> None:
        """Begin to make the export `wanted`, unless it is, or a change is under way."""
        now_s = self._tools.loop.now()
        if self._running_since_s is not None or now_s < self._not_before_s:
            return
        target = (wanted, ring_in_use)
        if target == self._converged and now_s - self._converged_s < EXPORT_CHECK_S:
            return
        self._running_since_s = now_s
        self._tools.in_lio_pool(
            partial(self._tools.lio.converge, self._uid, wanted, ring_in_use),
            partial(self._done, target),
            self._failed,
        )

    def _done(self, target: tuple[Export | None, bool], present: Present) -> None:
        self._running_since_s = None
        self._converged, self._converged_s = target, self._tools.loop.now()
        self._failure = ""
        self.present = present
        self._changed()

    def _failed(self, error: BaseException) -> None:
        self._running_since_s = None
        self._converged = None
        self._failure = str(error)
        self._not_before_s = self._tools.loop.now() + RETRY_S
        log.error("volume %s: %s", self._uid, error)
        self._tools.loop.call_later(RETRY_S, self._changed)


class _Reporter:
    """Carries reports to etcd, each once while it holds; one batch at a time, off this thread."""

    def __init__(self, uid: str, tools: Tools, changed: Callable[[], None]) -> None:
        self._uid = uid
        self._tools = tools
        self._changed = changed
        self._told: set[Report] = set()
        self._sending = False
        self._progress_s = 0.0

    def forget(self) -> None:
        """The assignment has changed: what was told may have to be told again."""
        self._told.clear()

    def report(self, reports: tuple[Report, ...]) -> None:
        if self._sending:
            return
        due = [one for one in reports if one not in self._told and not self._too_soon(one)]
        kept = {one for one in self._told if one in reports or isinstance(one, Health)}
        self._told = kept
        if not due:
            return
        self._sending = True
        self._tools.loop.in_pool(partial(self._send, due), self._sent, self._not_sent)

    def _too_soon(self, report: Report) -> bool:
        if not isinstance(report, Health):
            return False
        now_s = self._tools.loop.now()
        last = [one for one in self._told if isinstance(one, Health)]
        if (
            any(report.differs_in_progress_only(one) for one in last)
            and now_s - self._progress_s < PROGRESS_S
        ):
            return True
        self._progress_s = now_s
        # Only the newest health counts: an older one may have to be told again.
        self._told.difference_update(last)
        return False

    def _send(self, reports: list[Report]) -> list[Report]:
        """In the pool. A report that is out of date is as good as told: the assignment will say so."""
        told = []
        for report in reports:
            try:
                report.send(self._tools.actions, self._uid)
            except (StaleEpoch, NotFound) as error:
                log.info("volume %s: %s came too late: %s", self._uid, report, error)
            except HoldfastError as error:
                log.warning("volume %s: %s could not be told: %s", self._uid, report, error)
                continue
            told.append(report)
        return told

    def _sent(self, told: list[Report]) -> None:
        self._sending = False
        self._told.update(told)
        # At once if something is left; what could not be told waits for the next turn.
        if told:
            self._changed()

    def _not_sent(self, error: BaseException) -> None:
        self._sending = False
        log.error("volume %s: reports failed: %r", self._uid, error)


def _open_secrets(assignment: r.Assignment | None, seal_key: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in assignment.attachments if assignment else ():
        try:
            found[one.uid] = unseal(one.secret, seal_key, one.uid).decode()
        except (HoldfastError, UnicodeDecodeError) as error:
            log.error("attachment %s: %s", one.uid, error)
    return found


def _remove_tree(path: Path) -> None:
    """Rename first: a store that is half removed must not look like a store."""
    gone = path.with_name(path.name + ".removed")
    if path.exists():
        path.rename(gone)
    if gone.exists():
        shutil.rmtree(gone)
