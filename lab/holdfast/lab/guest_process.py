"""A command that runs by itself inside a guest."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

Ask = Callable[[dict[str, Any], float | None], dict[str, Any]]


class GuestProcess:
    """Handle of a command started by `Guest.spawn`; `pid` is its process id in the guest."""

    def __init__(self, ask: Ask, pid: int, words: list[str], log: Path) -> None:
        self._ask = ask
        self.pid = pid
        self.words = words
        self.log = log  # on the host; everything that the command wrote

    def poll(self) -> int | None:
        """The exit status (negative: a signal), or None while it runs."""
        status: int | None = self._ask({"op": "wait", "pid": self.pid, "block": False}, 60.0)["returncode"]
        return status

    def wait(self, timeout_s: float | None = 60) -> int:
        """Wait for its end; subprocess.TimeoutExpired if that takes too long."""
        request = {"op": "wait", "pid": self.pid, "block": True}
        try:
            status: int = self._ask(request, timeout_s)["returncode"]
        except TimeoutError:
            raise subprocess.TimeoutExpired(self.words, timeout_s or 0) from None
        return status

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal it and the processes of its group; nothing happens if it has ended."""
        self._ask({"op": "signal", "pid": self.pid, "signal": int(number)}, 60.0)

    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")
