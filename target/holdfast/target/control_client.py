"""The agent's end of a worker's control socket (control.py)."""

import logging
import socket
from collections.abc import Callable
from pathlib import Path

from holdfast.base.loop import READABLE, WRITABLE, Loop
from holdfast.target.control import Apply, Desired, Observed, decode_answer, encode

log = logging.getLogger(__name__)

LINE_MAX_BYTES = 4 << 20


class WorkerLink:
    """A connection to one worker, made by `connect`; what it says is in `observed`. Loop thread only.

    Args:
        changed: called when `observed` has changed, and when the connection is lost (`observed` is None).
    """

    def __init__(self, loop: Loop, path: Path, changed: Callable[[], None]) -> None:
        self._loop = loop
        self._path = path
        self._changed = changed
        self._socket: socket.socket | None = None
        self._in = b""
        self._out = b""
        self._last_id = self._answered_id = 0
        self._sent: Desired | None = None
        self.answered: Desired | None = None
        """The last that was applied and answered; `observed` is from then or later."""
        self.observed: Observed | None = None

    @property
    def connected(self) -> bool:
        return self._socket is not None

    @property
    def unanswered(self) -> bool:
        """The worker has not answered to the last that it was told."""
        return self.connected and self._answered_id != self._last_id

    def ask(self) -> None:
        """Tell it again what it was told, to see that it answers."""
        if self._sent is not None and not self.unanswered:
            self.apply(self._sent, again=True)

    def connect(self) -> bool:
        """Whether there is a connection now. Idempotent."""
        if self._socket is not None:
            return True
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            connection.connect(str(self._path))
        except OSError:
            connection.close()
            return False
        self._socket = connection
        self._loop.add(connection.fileno(), READABLE, self._ready)
        return True

    def apply(self, desired: Desired, again: bool = False) -> None:
        """Tell the worker what is wanted, if that has changed (or `again`)."""
        if self._socket is None or (desired == self._sent and not again):
            return
        self._sent = desired
        self._last_id += 1
        self._out += encode(Apply(self._last_id, desired))
        self._write()

    def close(self) -> None:
        """End the connection; the worker goes on."""
        if self._socket is None:
            return
        self._loop.remove(self._socket.fileno())
        self._socket.close()
        self._socket = None
        self._in = self._out = b""
        self._answered_id = self._last_id
        self._sent = self.answered = self.observed = None

    def _ready(self, events: int) -> None:
        if events & WRITABLE:
            self._write()
        if self._socket is not None and events & ~WRITABLE:
            self._read()

    def _write(self) -> None:
        assert self._socket is not None
        try:
            while self._out:
                self._out = self._out[self._socket.send(self._out) :]
        except BlockingIOError:
            pass
        except OSError:
            self._lost("it went away")
            return
        self._loop.modify(self._socket.fileno(), READABLE | (WRITABLE if self._out else 0))

    def _read(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._in += data
        *lines, self._in = self._in.split(b"\n")
        try:
            for line in lines:
                self._take(line)
        except (ValueError, TypeError, KeyError) as error:
            self._lost(f"it sent what is no answer ({error})")
            return
        if not data or len(self._in) > LINE_MAX_BYTES:
            self._lost("it ended")
        elif lines:
            self._changed()

    def _take(self, line: bytes) -> None:
        answer = decode_answer(line)
        self.observed = answer.observed
        self._answered_id = max(self._answered_id, answer.id)
        if answer.id == self._last_id:
            self.answered = self._sent

    def _lost(self, why: str) -> None:
        log.info("the connection to the worker at %s is lost: %s", self._path, why)
        self.close()
        self._changed()
