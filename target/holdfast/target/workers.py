"""Worker processes: in sessions of their own, so that they outlive the agent, and adopted by the next one.

`<run-dir>/<uid>.pid` says which process a volume's worker is: its id and its start time, without which a
process id means nothing after a while. Whether it *is* alive is asked of the kernel each time. The worker
says the same in its lock file: an agent may die between starting it and noting whom it started.
"""

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from holdfast.base import ids
from holdfast.target.process_record import record_of, start_time

log = logging.getLogger(__name__)

TERM_PATIENCE_S = 10.0
BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 20.0
BACKOFF_FORGET_S = 60.0
"""A worker that ran so long is started again at once, and what ended those before it is over."""
CRASH_LOOP_ENDS = 5
"""So many that did not run so long, one after the other."""
LOG_KEEP_BYTES = 8 << 20


class Workers:
    """The workers of one run directory.

    Args:
        command: what to run, before `--volume UID`.
        code: what code that is (upgrades.py); empty if all is alike.
    """

    def __init__(self, run_dir: Path, command: Sequence[str], code: str = "") -> None:
        self._run_dir = run_dir
        self._command = list(command)
        self.code = code

    def known(self) -> set[str]:
        """Uids of volumes that have, or had, a worker here."""
        found = {path.stem for end in ("pid", "lock") for path in self._run_dir.glob(f"*.{end}")}
        return {uid for uid in found if ids.is_uid(uid)}

    def listen(self) -> socket.socket:
        """Where workers say that they are ready (base/notify.py). One agent to a run directory."""
        path = self._run_dir / "agent.notify"
        path.unlink(missing_ok=True)
        notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notices.bind(str(path))
        notices.setblocking(False)
        return notices

    def control_socket(self, uid: str) -> Path:
        return self._run_dir / f"{uid}.sock"

    def start(self, uid: str) -> "Worker":
        """Start a worker. The caller has made sure that none is alive."""
        with open(self._run_dir / f"{uid}.log", "ab") as output:
            process = subprocess.Popen(
                [*self._command, "--volume", uid],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
                env={**os.environ, "NOTIFY_SOCKET": str(self._run_dir / "agent.notify")},
            )
        fresh = self._run_dir / f"{uid}.pid.new"
        fresh.write_text(record_of(process.pid, self.code))
        fresh.rename(self._run_dir / f"{uid}.pid")
        log.info("volume %s: worker started, process %d", uid, process.pid)
        return Worker(process.pid, start_time(process.pid), process, self.code)

    def adopt(self, uid: str) -> "Worker | None":
        """The worker that an earlier agent started, if it lives: also one that it had no time to note."""
        for end in ("pid", "lock"):
            worker = _read_record(self._run_dir / f"{uid}.{end}")
            if worker is None:
                continue
            if worker.alive():
                return worker
            worker.close()
        return None

    def trim_logs(self) -> None:
        """Keep what each worker logged, at most twice LOG_KEEP_BYTES: the run directory is in memory.

        A worker goes on writing to the file that it was given, at its end. A line may be lost.
        """
        for path in self._run_dir.glob("*.log"):
            try:
                if path.stat().st_size > LOG_KEEP_BYTES:
                    shutil.copyfile(path, path.with_suffix(".log.old"))
                    os.truncate(path, 0)
            except OSError as error:
                log.warning("%s cannot be trimmed: %s", path, error)

    def forget(self, uid: str) -> None:
        """Remove what a worker that is gone for good leaves behind."""
        for end in ("pid", "sock", "lock", "meter", "log", "log.old"):
            (self._run_dir / f"{uid}.{end}").unlink(missing_ok=True)


class Worker:
    """One process, ours or adopted."""

    def __init__(
        self, pid: int, started: int, process: "subprocess.Popen[bytes] | None", code: str = ""
    ) -> None:
        self.pid = pid
        self.code = code
        """What code it was started with; empty if that was not noted."""
        self._started = started
        self._process = process
        self.pidfd = _open_pidfd(pid)
        """Readable when the process has ended; -1 if it had already. Closed by `close`."""
        self._term_sent_s: float | None = None

    def alive(self) -> bool:
        if self._process is not None:
            return self._process.poll() is None
        return self._started != 0 and start_time(self.pid) == self._started

    def stop(self) -> None:
        """Ask it to end; called again after a while, end it. Returns at once."""
        now_s = time.monotonic()
        if self._term_sent_s is None:
            self._term_sent_s = now_s
            self._signal(signal.SIGTERM)
        elif now_s - self._term_sent_s > TERM_PATIENCE_S:
            log.warning("worker %d does not end: killing it", self.pid)
            self._signal(signal.SIGKILL)

    def kill(self) -> None:
        """End it now, also if it is stopped. Its successor begins with an empty ring."""
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        """Let go of it, dead or alive."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def _signal(self, number: signal.Signals) -> None:
        """By the descriptor, which cannot come to mean another process."""
        if self.pidfd >= 0 and self.alive():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)


def _read_record(path: Path) -> Worker | None:
    try:
        record = json.loads(path.read_text())
        return Worker(int(record["pid"]), int(record["started"]), None, str(record.get("code", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _open_pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return -1


class Backoff:
    """When a worker that ended may be started again."""

    def __init__(self) -> None:
        self._wait_s = 0.0
        self._started_s = 0.0
        self._running = False
        self.not_before_s = 0.0
        self.failures = 0

    def crash_looping(self, now_s: float) -> bool:
        """Whether another start will hardly help."""
        stays = self._running and now_s - self._started_s >= BACKOFF_FORGET_S
        return self.failures >= CRASH_LOOP_ENDS and not stays

    def started(self, now_s: float) -> None:
        self._started_s = now_s
        self._running = True

    def ended(self, now_s: float) -> None:
        self._running = False
        if now_s - self._started_s >= BACKOFF_FORGET_S:
            self._wait_s, self.failures = 0.0, 0
        self.not_before_s = now_s + self._wait_s
        self._wait_s = min(max(self._wait_s * 2, BACKOFF_FIRST_S), BACKOFF_MAX_S)
        self.failures += 1


def worker_command(host_id: str, store: Path, run_dir: Path, tls: Sequence[str]) -> list[str]:
    """What starts a worker, by the contract of worker_main; `tls` are its --tls-... words, or --clear."""
    return [
        *(sys.executable, "-m", "holdfast.target.worker_main"),
        *("--store", str(store), "--run-dir", str(run_dir), "--host-id", host_id),
        *tls,
    ]
