"""A process on the host that the lab or a fixture started, ended with its whole session."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from holdfast.lab.processes import Process, Stream, identify, launch


class HostProcess:
    """Handle for the process that started it; `with` ends the process when the block ends."""

    def __init__(self, child: "subprocess.Popen[bytes]", record: Path) -> None:
        self._child = child
        self._record = record
        self._process: Process = identify(child.pid)
        self.pid = child.pid
        self.stdin, self.stdout, self.stderr = child.stdin, child.stdout, child.stderr

    @classmethod
    def start(
        cls,
        record: Path,
        words: Sequence[str],
        *,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = None,
        stderr: Stream = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> "HostProcess":
        child = launch(record, words, stdin=stdin, stdout=stdout, stderr=stderr, env=env, cwd=cwd)
        return cls(child, record)

    @property
    def returncode(self) -> int | None:
        return self._child.returncode

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._child.poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end; subprocess.TimeoutExpired if that takes too long."""
        return self._child.wait(timeout_s)

    def communicate(self, stdin: bytes | None = None, timeout_s: float | None = None) -> tuple[bytes, bytes]:
        """As subprocess's: feed it, and gather what it writes."""
        return self._child.communicate(stdin, timeout_s)

    def signal(self, number: int) -> None:
        """Signal the process itself (not its children); nothing happens if it has ended."""
        if self._child.poll() is None:
            os.kill(self.pid, number)

    def signal_group(self, number: int) -> None:
        """Signal every process of its session."""
        self._process.signal_group(number)

    def kill(self) -> None:
        """SIGKILL for it and all its children, and wait until they are gone."""
        self.end(grace_s=0)

    def end(self, grace_s: float = 10.0) -> None:
        """SIGTERM, then SIGKILL for what is left of its session; again: nothing happens."""
        if grace_s and self._child.poll() is None:
            os.kill(self.pid, signal.SIGTERM)
            try:
                self._child.wait(grace_s)
            except subprocess.TimeoutExpired:
                print(f"process {self.pid} ignored SIGTERM for {grace_s} s", file=sys.stderr)
        self._process.end()
        self._child.wait()
        self._record.unlink(missing_ok=True)

    def __enter__(self) -> "HostProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream:
                stream.close()
