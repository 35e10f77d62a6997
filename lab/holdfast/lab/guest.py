"""One virtual host of the lab, and what can be done to it."""

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.lab import addresses
from holdfast.lab.agent_client import AgentConnection
from holdfast.lab.errors import LabError
from holdfast.lab.guest_process import GuestProcess
from holdfast.lab.guest_spec import GuestSpec
from holdfast.lab.processes import Process, read_record
from holdfast.lab.switch import Switch
from holdfast.lab.uml import SHARED_DIR, Booting, Place, await_ready, launch_guest

_SHUTDOWN_LIMIT_S = 120.0


class CommandFailed(subprocess.CalledProcessError):
    """A command ended with a status that is not 0; its text shows what it wrote."""

    def __str__(self) -> str:
        wrote = "\n".join(_text(part).strip() for part in (self.stdout, self.stderr) if part)
        return f"{super().__str__()}\n{wrote[-4000:]}"


class Guest:
    """A virtual host. The object is a handle: any number of processes may hold one."""

    shared_dir = SHARED_DIR

    def __init__(
        self,
        spec: GuestSpec,
        place: Place,
        subnet: addresses.Subnet,
        namespace: str,
        switch: Switch,
    ) -> None:
        self.spec = spec
        self.name = spec.name
        self.role = spec.role
        self.address = subnet.guest(spec.index)
        self.initiator = spec.initiator
        self.folder = place.shared
        self.console = place.console
        self._place = place
        self._subnet = subnet
        self._namespace = namespace
        self._switch = switch

    @property
    def process(self) -> Process | None:
        """The process that is this guest's machine; None if it is switched off."""
        process = read_record(self._place.record)
        return process if process and process.alive() else None

    @property
    def running(self) -> bool:
        return self.process is not None

    @property
    def boot_id(self) -> str:
        """The running kernel's /proc/sys/kernel/random/boot_id."""
        return self.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout.strip()

    # Power

    def launch(self) -> Booting:
        """Switch the guest on and return at once; `finish` it."""
        if self.running:
            raise LabError(f"guest '{self.name}' is already on")
        return launch_guest(self.spec, self._place, self._subnet, self._switch.attach(self.name))

    def boot(self) -> None:
        """Switch the guest on, with the name, address and disk it had, and wait until it is up."""
        await_ready(self.launch())

    def power_off(self) -> None:
        """Cut its power, now. What its disk had not been told to keep is lost."""
        process = read_record(self._place.record)
        if process:
            process.end()

    def shutdown(self) -> None:
        """Switch it off in good order: services ended, disk unmounted."""
        process = self.process
        if process is None:
            return
        self._ask({"op": "shutdown"}, _SHUTDOWN_LIMIT_S)
        if not process.wait(_SHUTDOWN_LIMIT_S):
            raise LabError(f"guest '{self.name}' does not shut down; see {self.console}")
        process.end()

    def freeze(self) -> None:
        """Stop it in its tracks, as a hypervisor's pause would; its network ports stay."""
        self._running_process().stop_group()

    def thaw(self) -> None:
        """Let it go on."""
        self._running_process().signal_group(signal.SIGCONT)

    # Commands

    def run(
        self,
        words: Sequence[str | os.PathLike[str]],
        *,
        timeout_s: float | None = 60,
        input: str | bytes | None = None,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command as root and wait for it.

        Raises CommandFailed for a status other than 0 if `check`, subprocess.TimeoutExpired when
        the time is over (the command is killed, with its process group), GuestGone if the guest
        loses its power meanwhile, LabError if there is no such program.
        """
        done = self.run_bytes(words, timeout_s=timeout_s, input=input, env=env, cwd=cwd)
        result = subprocess.CompletedProcess(
            done.args, done.returncode, _text(done.stdout), _text(done.stderr)
        )
        if check and done.returncode:
            raise CommandFailed(done.returncode, done.args, result.stdout, result.stderr)
        return result

    def run_bytes(
        self,
        words: Sequence[str | os.PathLike[str]],
        *,
        timeout_s: float | None = 60,
        input: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> "subprocess.CompletedProcess[bytes]":
        """As `run`, with output as bytes, and without a check of the status."""
        argv = [os.fspath(word) for word in words]
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        stdin = input.encode() if isinstance(input, str) else input or b""
        output: dict[bytes, list[bytes]] = {b"o": [], b"e": []}
        request = {"op": "run", "words": argv, "env": dict(env or {}), "cwd": cwd}
        try:
            with self.connect() as agent:
                agent.ask(request, deadline_s)
                status = agent.exchange(stdin, deadline_s, lambda kind, d: output[kind].append(d))
        except TimeoutError:
            out, err = (b"".join(output[kind]) for kind in (b"o", b"e"))
            raise subprocess.TimeoutExpired(argv, timeout_s or 0, out, err) from None
        out, err = (b"".join(output[kind]) for kind in (b"o", b"e"))
        return subprocess.CompletedProcess(argv, status, out, err)

    def spawn(
        self,
        words: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        log_name: str | None = None,
    ) -> GuestProcess:
        """Start a command that goes on by itself; what it writes is appended to its log file."""
        argv = [os.fspath(word) for word in words]
        name = log_name or f"{Path(argv[0]).name}-{uuid.uuid4().hex[:8]}.log"
        request = {"op": "spawn", "words": argv, "env": dict(env or {}), "cwd": cwd}
        reply = self._ask({**request, "log": f"{SHARED_DIR}/{name}"}, 60.0)
        return GuestProcess(self._ask, reply["pid"], argv, self.folder / name)

    def _ask(self, request: dict[str, Any], timeout_s: float | None) -> dict[str, Any]:
        with self.connect() as agent:
            deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
            return agent.ask(request, deadline_s)

    def connect(self) -> AgentConnection:
        """A connection to its agent, for one request (shell.py); `run` is for the rest."""
        address = addresses.management(self.spec.index)
        return AgentConnection(self._namespace, address, self._running_process(), self.name)

    def _running_process(self) -> Process:
        process = self.process
        if process is None:
            raise LabError(f"guest '{self.name}' is switched off: boot it first")
        return process


def _text(output: str | bytes | None) -> str:
    if isinstance(output, bytes):
        return output.decode(errors="replace")
    return output or ""
