"""The worker of one volume, as its agent keeps it: started, adopted, told, watched, ended."""

import logging
from collections.abc import Callable

from holdfast.base.loop import READABLE, Timer
from holdfast.target.control import Desired
from holdfast.target.control_client import WorkerLink
from holdfast.target.tools import Tools
from holdfast.target.workers import Backoff, Worker

log = logging.getLogger(__name__)

RETRY_S = 1.0
CONNECT_S = 1.0
"""Between attempts to reach a worker that has not said that it is ready."""
CRASH_LOOP_FAILURES = 3
WATCH_S = 4.0
SILENT_LOOKS = 3
"""A worker that has not answered for so many looks is killed: before initiators, at 30 s, give up. Looks are
counted, not seconds: a host that was frozen as a whole finds its workers well.
"""


class VolumeWorker:
    """Loop thread only. `changed` is called when something is to be looked at again."""

    def __init__(self, uid: str, tools: Tools, changed: Callable[[], None]) -> None:
        self._uid = uid
        self._tools = tools
        self._changed = changed
        self._worker: Worker | None = None
        self._backoff = Backoff()
        self._timer: Timer | None = None
        self._told_s = 0.0
        self._silent_looks = 0
        self._start_trouble = ""
        self._replacing = False
        self._closed = False
        self.link = WorkerLink(tools.loop, tools.workers.control_socket(uid), changed)
        """The way to it, and what it says."""
        self._take(tools.workers.adopt(uid))
        tools.loop.call_later(WATCH_S, self.watch)

    @property
    def alive(self) -> bool:
        """Notices, once, when it has ended."""
        if self._worker is None:
            return False
        if self._worker.alive():
            return True
        log.warning("volume %s: its worker, process %d, has ended", self._uid, self._worker.pid)
        self._drop()
        self.link.close()
        if self._replacing:
            self._replacing = False
        else:
            self._backoff.ended(self._tools.loop.now())
        return False

    @property
    def trouble(self) -> str:
        """Why it does not run, or stay: one sentence."""
        if (
            self._start_trouble
            or self._backoff.failures < CRASH_LOOP_FAILURES
            or self.link.observed is not None
        ):
            return self._start_trouble
        log_path = self._tools.workers.control_socket(self._uid).with_suffix(".log")
        return f"The worker of volume {self._uid} keeps ending; its log on the host, {log_path}, says why."

    @property
    def crash_looping(self) -> bool:
        return self._backoff.crash_looping(self._tools.loop.now())

    def forget_failures(self) -> None:
        self._backoff = Backoff()

    def connect(self) -> bool:
        """Whether it can be told something now; if not, `changed` is called before long."""
        if self.link.connect():
            return True
        self._look_again(CONNECT_S)
        return False

    def run(self, desired: Desired | None) -> None:
        """Let it run, and be told `desired`, if there is anything to tell yet."""
        if self._worker is None:
            wait_s = self._backoff.not_before_s - self._tools.loop.now()
            if wait_s > 0:
                self._look_again(wait_s)
                return
            self._start()
        if desired is not None and self.connect():
            # What it could not do (its reason) it tries again when it is told again: now and then.
            observed, now_s = self.link.observed, self._tools.loop.now()
            again = observed is not None and bool(observed.reason) and now_s - self._told_s >= RETRY_S
            if again:
                self._told_s = now_s
            self.link.apply(desired, again)

    def stop(self) -> None:
        """Ask it to end, or end it: call it until it is not alive."""
        if self._worker is not None:
            self._worker.stop()
            self._look_again(RETRY_S)

    @property
    def outdated(self) -> bool:
        """It runs, and not what would be started now."""
        return self._worker is not None and self._worker.code != self._tools.workers.code

    @property
    def being_replaced(self) -> bool:
        return self._replacing

    def replace(self) -> None:
        """Ask it to end, or end it, so that `run` starts another: call it until it is not outdated."""
        if self._worker is not None and not self._replacing:
            pid, self._replacing = self._worker.pid, True
            log.info("volume %s: its worker, process %d, runs older code: replacing it", self._uid, pid)
        self.stop()

    def watch(self) -> None:
        """One that hangs, or was stopped, holds what initiators wait for: killing it costs a pause."""
        if self._closed:
            return
        self._tools.loop.call_later(WATCH_S, self.watch)
        self._silent_looks = self._silent_looks + 1 if self.link.unanswered else 0
        if self._worker is not None and self._silent_looks >= SILENT_LOOKS:
            pid, self._silent_looks = self._worker.pid, 0
            log.error("volume %s: its worker, process %d, does not answer: killing it", self._uid, pid)
            self._worker.kill()
        self.link.ask()

    def close(self) -> None:
        """Let go of it, and leave it running."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.link.close()
        self._drop()

    def _take(self, worker: Worker | None) -> None:
        self._worker = worker
        if worker is not None and worker.pidfd >= 0:
            self._tools.loop.add(worker.pidfd, READABLE, self._ended)

    def _ended(self, _events: int) -> None:
        if self._worker is not None:
            self._tools.loop.remove(self._worker.pidfd)
        self._changed()

    def _drop(self) -> None:
        if self._worker is not None:
            self._tools.loop.remove(self._worker.pidfd)
            self._worker.close()
            self._worker = None

    def _start(self) -> None:
        try:
            self._take(self._tools.workers.adopt(self._uid) or self._tools.workers.start(self._uid))
        except OSError as error:
            self._start_trouble = f"The worker of volume {self._uid} cannot be started: {error}."
            log.error("%s", self._start_trouble)
            self._look_again(RETRY_S)
            return
        self._start_trouble = ""
        self._backoff.started(self._tools.loop.now())

    def _look_again(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._tools.loop.call_later(delay_s, self._changed)
