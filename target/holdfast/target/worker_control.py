"""The worker's end of the control socket (control.py): lines in, answers and changes out."""

import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast.base.loop import READABLE, WRITABLE, Loop
from holdfast.target.control import Answer, Desired, Observed, decode_apply, encode
from holdfast.target.tracing import TraceCall, decode_trace, encode_traces

log = logging.getLogger(__name__)

LINE_MAX_BYTES = 4 << 20
PENDING_MAX_BYTES = 16 << 20


class ControlServer:
    """Listens on a Unix socket; `apply(desired)` returns what is observed then. Loop thread only."""

    def __init__(
        self,
        loop: Loop,
        path: Path,
        apply: Callable[[Desired], Observed],
        trace: Callable[[TraceCall], dict[str, Any]] = lambda _call: {},
    ) -> None:
        self._loop = loop
        self._path = path
        self._apply = apply
        self._trace = trace
        self._agents: set[_Agent] = set()
        self._last = b""
        # Made under another name and renamed, so that whoever sees the socket can connect to it.
        fresh = path.with_name(path.name + ".new")
        fresh.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(fresh))
        fresh.chmod(0o600)
        self._listener.listen(8)
        self._listener.setblocking(False)
        fresh.rename(path)
        loop.add(self._listener.fileno(), READABLE, self._accept)

    def tell(self, observed: Observed) -> None:
        """Send it to every agent if it differs from what was last sent."""
        line = encode(Answer(0, observed))
        if line != self._last:
            self._last = line
            for agent in list(self._agents):
                agent.send(line)

    def close(self) -> None:
        self._loop.remove(self._listener.fileno())
        self._listener.close()
        for agent in list(self._agents):
            agent.close()
        self._path.unlink(missing_ok=True)

    def _accept(self, _events: int) -> None:
        connection, _address = self._listener.accept()
        agent = _Agent(self._loop, connection, self._line, self._agents.discard)
        self._agents.add(agent)
        # An agent that has just started decides nothing before it knows what is.
        if self._last:
            agent.send(self._last)

    def _line(self, agent: "_Agent", line: bytes) -> None:
        try:
            asked = decode_trace(line)
            call = decode_apply(line) if asked is None else None
        except (ValueError, TypeError, KeyError) as error:
            log.error("an agent sent what is no call (%s): closing", error)
            agent.close()
            return
        if asked is not None:
            agent.send(encode_traces(asked.id, self._trace(asked)))
        elif call is not None:
            observed = self._apply(call.apply)
            # To all: what is told later is compared with it, also when that is what was so before.
            self.tell(observed)
            agent.send(encode(Answer(call.id, observed)))


class _Agent:
    """One connection."""

    def __init__(
        self,
        loop: Loop,
        connection: socket.socket,
        on_line: Callable[["_Agent", bytes], None],
        on_closed: Callable[["_Agent"], None],
    ) -> None:
        connection.setblocking(False)
        self._loop = loop
        self._socket = connection
        self._on_line = on_line
        self._on_closed = on_closed
        self._in = bytearray()
        self._out = bytearray()
        self._open = True
        loop.add(connection.fileno(), READABLE, self._ready)

    def send(self, line: bytes) -> None:
        if not self._open:
            return
        self._out += line
        if len(self._out) > PENDING_MAX_BYTES:
            self.close()
            return
        self._write()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._loop.remove(self._socket.fileno())
            self._socket.close()
            self._on_closed(self)

    def _ready(self, events: int) -> None:
        if events & WRITABLE:
            self._write()
        if self._open and events & ~WRITABLE:
            self._read()

    def _read(self) -> None:
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._in += data
        if not data or len(self._in) > LINE_MAX_BYTES:
            self.close()
            return
        while self._open and b"\n" in self._in:
            line, _newline, rest = bytes(self._in).partition(b"\n")
            self._in = bytearray(rest)
            self._on_line(self, line)

    def _write(self) -> None:
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._loop.modify(self._socket.fileno(), READABLE | (WRITABLE if self._out else 0))
