"""Processes that outlive their starter, ended by identity and never by name.

Each is started in a session of its own through a two-line shell that first writes its own
`/proc/PID/stat` into a record file and then becomes the program: there is no moment at which the
process runs and is not recorded. Process id and start time together identify a process for as long
as the machine is up, so a record left by a killed lab can never hit a stranger that got the number.
"""

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from holdfast.lab.errors import LabError

_RECORD_AND_BECOME = 'read -r stat < "/proc/$$/stat"; echo "$stat" > "$0"; exec "$@"'
_END_LIMIT_S = 60.0

# What a child's standard stream may be: a file, a descriptor, or one of subprocess's constants.
Stream = int | IO[bytes] | None


@dataclass(frozen=True)
class Process:
    """One process, the leader of its own session and process group."""

    pid: int
    start_ticks: int

    def alive(self) -> bool:
        """True while it runs; a zombie, or another process with its number, is not it."""
        stat = _read_stat(self.pid)
        return stat is not None and stat.start_ticks == self.start_ticks and stat.state not in "ZX"

    def signal_group(self, number: int) -> None:
        """Signal every process of its group, whether or not the leader still lives."""
        for pid in self.members():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def stop_group(self) -> None:
        """SIGSTOP every process of its group, and return once none of them moves any more."""
        os.kill(self.pid, signal.SIGSTOP)  # the leader first: it is the one that makes new ones
        self.signal_group(signal.SIGSTOP)
        deadline_s = time.monotonic() + _END_LIMIT_S
        while any(stat.state not in "Tt" for stat in map(_read_stat, self.members()) if stat):
            if time.monotonic() > deadline_s:
                raise LabError(f"process {self.pid} does not stop {_END_LIMIT_S:.0f} s after SIGSTOP")
            os.sched_yield()

    def end(self, grace_s: float = 0.0) -> None:
        """End the whole group and wait until it is gone; doing it again does nothing.

        With a grace the leader is asked by SIGTERM first.
        """
        if grace_s and self.alive():
            os.kill(self.pid, signal.SIGTERM)
            self.wait(grace_s)
        deadline_s = time.monotonic() + _END_LIMIT_S
        while members := self.members():  # a member may fork while it is being killed
            for pid in members:
                _kill_and_wait(pid, deadline_s)
        _reap(self.pid)

    def wait(self, timeout_s: float | None) -> bool:
        """Wait for the leader's end; False if the time ran out first."""
        pidfd = open_pidfd(self)
        if pidfd is None:
            return True
        with pidfd:
            return bool(select.select([pidfd], [], [], timeout_s)[0])

    def members(self) -> list[int]:
        """Live processes of the group that is this process's, or was before it died."""
        leader = _read_stat(self.pid)
        if leader is not None and leader.start_ticks != self.start_ticks:
            return []  # the number belongs to someone else now, so the old group is gone
        return [pid for pid, stat in _every_stat() if stat.session == self.pid and stat.state not in "ZX"]


@dataclass(frozen=True)
class _Stat:
    state: str
    session: int
    start_ticks: int


def launch(
    record: Path,
    words: Sequence[str],
    *,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = None,
    stderr: Stream = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> "subprocess.Popen[bytes]":
    """Start a program in a session of its own, recorded in the file `record`."""
    return subprocess.Popen(
        ["/bin/sh", "-c", _RECORD_AND_BECOME, str(record), *words],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=None if env is None else dict(env),
        cwd=cwd,
        pass_fds=tuple(pass_fds),
        start_new_session=True,
    )


def open_pidfd(process: Process) -> IO[bytes] | None:
    """A file that becomes readable when the process ends; None if it has ended."""
    try:
        pidfd = open(os.pidfd_open(process.pid), "rb", buffering=0)  # noqa: SIM115
    except ProcessLookupError:
        return None
    if process.alive():  # checked after the open: now the descriptor cannot be a stranger's
        return pidfd
    pidfd.close()
    return None


def identify(pid: int) -> Process:
    """The identity of a process that this one has just started (it may have ended)."""
    stat = _read_stat(pid)
    if stat is None:
        raise LabError(f"process {pid} ended at once; its log says why")
    return Process(pid, stat.start_ticks)


def read_record(record: Path) -> Process | None:
    """The process of a record; None if there is no record, or its process never ran."""
    try:
        text = record.read_text()
    except FileNotFoundError:
        return None
    stat = _parse_stat(text)
    return None if stat is None else Process(int(text.split(" ", 1)[0]), stat.start_ticks)


def _read_stat(pid: int) -> _Stat | None:
    try:
        return _parse_stat(Path(f"/proc/{pid}/stat").read_text(errors="replace"))
    except (FileNotFoundError, ProcessLookupError):
        return None


def _parse_stat(text: str) -> _Stat | None:
    if ")" not in text:
        return None
    fields = text.rpartition(")")[2].split()  # the name may hold spaces; see proc(5) for the order
    return _Stat(state=fields[0], session=int(fields[3]), start_ticks=int(fields[19]))


def _every_stat() -> list[tuple[int, _Stat]]:
    pids = [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]
    return [(pid, stat) for pid in pids if (stat := _read_stat(pid)) is not None]


def _kill_and_wait(pid: int, deadline_s: float) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        left_s = max(0.0, deadline_s - time.monotonic())
        if not select.select([descriptor], [], [], left_s)[0]:
            raise LabError(f"process {pid} does not end {_END_LIMIT_S:.0f} s after SIGKILL")
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def _reap(pid: int) -> None:
    """Take the exit status if it was our child, so that no zombie stays."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
