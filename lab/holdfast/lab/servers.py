"""What starts a server, and how its readiness is an event: shared by etcd.py and swift.py.

A server says that it is ready through systemd's notification protocol (a datagram "READY=1" to the
socket named in NOTIFY_SOCKET), which etcd and Swift both speak. So nothing is polled.
"""

import contextlib
import os
import random
import select
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, Protocol

from holdfast.lab import processes
from holdfast.lab.errors import LabError
from holdfast.lab.host_process import HostProcess

_START_LIMIT_S = 120.0
_PORT_ATTEMPTS = 100


class Host(Protocol):
    """Where servers run: this machine's own network (LocalHost), or a lab's (Lab)."""

    def host_popen(
        self,
        words: Sequence[str | os.PathLike[str]],
        *,
        name: str = "",
        stdin: int | IO[bytes] | None = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> HostProcess:
        """Start a recorded process there."""

    def network(self) -> AbstractContextManager[None]:
        """This thread is in that network meanwhile."""


class LocalHost:
    """Servers on this machine's own loopback, recorded in a folder so that `down` ends them."""

    address = "127.0.0.1"

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder).resolve()
        self._records = self.folder / "processes"
        self._records.mkdir(parents=True, exist_ok=True)

    def host_popen(
        self,
        words: Sequence[str | os.PathLike[str]],
        *,
        name: str = "",
        stdin: int | IO[bytes] | None = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> HostProcess:
        """Start a process in a session of its own."""
        argv = [os.fspath(word) for word in words]
        record = self._records / f"{name or Path(argv[0]).name}-{uuid.uuid4().hex[:8]}"
        return HostProcess.start(record, argv, stdin=stdin, stdout=stdout, stderr=stderr, env=env, cwd=cwd)

    def network(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def down(self) -> None:
        """End everything started here and remove the folder."""
        if not self._records.exists():
            return
        for record in self._records.iterdir():
            process = processes.read_record(record)
            if process:
                process.end()
        shutil.rmtree(self.folder)


def free_port(host: Host, address: str) -> int:
    """A port that nobody listens on now, below those that the kernel gives to clients: a server that is
    down for a while finds it free again.
    """
    with host.network():
        for port in random.sample(range(11_000, 19_000), _PORT_ATTEMPTS):
            with socket.socket() as sock, contextlib.suppress(OSError):
                sock.bind((address, port))
                return port
    raise LabError(f"none of {_PORT_ATTEMPTS} ports of {address} is free")


class Starting:
    """A server that was started and has not yet said that it is ready."""

    def __init__(
        self,
        host: Host,
        words: Sequence[str],
        *,
        name: str,
        log: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._name, self._log = name, log
        self._folder = tempfile.TemporaryDirectory(prefix="holdfast-notify-")
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = f"{self._folder.name}/notify"
        self._notices.bind(path)
        with open(log, "ab") as output:
            self.process = host.host_popen(
                words,
                name=name,
                stdout=output,
                stderr=output,
                env={**os.environ, **(env or {}), "NOTIFY_SOCKET": path},
            )

    def finish(self) -> HostProcess:
        """Wait until it is ready; if it does not become so it is killed, and the error says why."""
        try:
            self._await_ready()
        except BaseException:
            self.process.kill()
            raise
        finally:
            self._notices.close()
            self._folder.cleanup()
        return self.process

    def _await_ready(self) -> None:
        deadline_s = time.monotonic() + _START_LIMIT_S
        pidfd = os.pidfd_open(self.process.pid)
        watched: list[Any] = [self._notices, pidfd]
        try:
            while True:
                left_s = max(0.0, deadline_s - time.monotonic())
                readable, _, _ = select.select(watched, [], [], left_s)
                if self._notices in readable and b"READY=1" in self._notices.recv(4096):
                    return
                if pidfd in readable or not readable:
                    raise self._failure(ended=bool(readable))
        finally:
            os.close(pidfd)

    def _failure(self, ended: bool) -> LabError:
        what = "ended" if ended else f"was not ready after {_START_LIMIT_S:.0f} s"
        tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-10:])
        return LabError(f"{self._name} {what}; its log ({self._log}) ends with:\n{tail}")
