"""Talks to the agent inside a guest, over the management network that no cut touches.

One connection per request. A line of JSON each way; after `run`'s reply follow frames of one kind
byte, a 4-byte big-endian length and that many bytes: to the guest `i` standard input (empty: its
end), `k` a signal number, `w` the terminal's new [rows, columns]; from it `o` and `e` standard
output and error, and last `x` the exit status, negative for a signal.

Each wait also watches the guest's process, so that a power cut ends it at once.
"""

import json
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from holdfast.lab import netns
from holdfast.lab.errors import GuestGone, LabError
from holdfast.lab.processes import Process, open_pidfd

AGENT_PORT = 9
_HEADER = struct.Struct("!cI")
_CHUNK_BYTES = 64 * 1024
_CONNECT_LIMIT_S = 60.0


class AgentConnection:
    """One request to the agent of one guest."""

    def __init__(self, namespace: str, address: str, process: Process, name: str) -> None:
        self._name = name
        pidfd = open_pidfd(process)
        if pidfd is None:
            raise GuestGone(f"guest '{name}' is not running: boot it first")
        self._pidfd = pidfd
        with netns.entered(namespace):
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex((address, AGENT_PORT))
        self._received = b""

    def __enter__(self) -> "AgentConnection":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self._pidfd.close()

    def ask(self, request: dict[str, Any], deadline_s: float | None) -> dict[str, Any]:
        """Send the request, return the reply; the agent's refusal is a LabError."""
        connect_by_s = time.monotonic() + _CONNECT_LIMIT_S
        self._wait(True, min(connect_by_s, deadline_s or connect_by_s))
        failure = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failure:
            raise GuestGone(f"no answer from guest '{self._name}' (error {failure})")
        self.send_all(json.dumps(request).encode() + b"\n", deadline_s)
        while b"\n" not in self._received:
            self._receive(deadline_s)
        line, self._received = self._received.split(b"\n", 1)
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise LabError(f"guest '{self._name}': {reply['error']}")
        return reply

    def exchange(
        self,
        stdin: bytes,
        deadline_s: float | None,
        output: Callable[[bytes, bytes], None],
    ) -> int:
        """Feed standard input, hand each piece of output on; the command's exit status."""
        unsent = b"".join(frame(b"i", stdin[i : i + _CHUNK_BYTES]) for i in _steps(stdin))
        view = memoryview(unsent + frame(b"i", b""))
        while True:
            for kind, payload in self.frames():
                if kind == b"x":
                    return int(payload)
                output(kind, payload)
            _, writable = self._wait(bool(view), deadline_s, reading=True)
            if writable:
                view = view[self._send_some(view) :]
            else:
                self._receive(deadline_s)

    def frames(self) -> list[tuple[bytes, bytes]]:
        """The whole frames received so far, each once."""
        found, at = [], 0
        while len(self._received) - at >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._received, at)
            if len(self._received) - at < _HEADER.size + length:
                break
            at += _HEADER.size
            found.append((kind, self._received[at : at + length]))
            at += length
        self._received = self._received[at:]
        return found

    def send_all(self, data: bytes, deadline_s: float | None) -> None:
        view = memoryview(data)
        while view:
            self._wait(True, deadline_s)
            view = view[self._send_some(view) :]

    def receive(self) -> None:
        """Wait for more bytes from the guest."""
        self._receive(None)

    def _send_some(self, view: memoryview) -> int:
        try:
            return self.socket.send(view)
        except BlockingIOError:
            return 0

    def _receive(self, deadline_s: float | None) -> None:
        self._wait(False, deadline_s, reading=True)
        try:
            data = self.socket.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise GuestGone(f"lost guest '{self._name}': {error}") from error
        if not data:
            raise GuestGone(f"guest '{self._name}' hung up before the command ended")
        self._received += data

    def _wait(self, writing: bool, deadline_s: float | None, reading: bool = False) -> tuple[bool, bool]:
        """Wait until the socket is readable or writable as wanted; which it is."""
        left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        reads: list[Any] = [self._pidfd, self.socket] if reading else [self._pidfd]
        writes = [self.socket] if writing else []
        readable, writable, _ = select.select(reads, writes, [], left_s)
        if self._pidfd in readable:
            raise GuestGone(f"guest '{self._name}' lost its power meanwhile")
        if not readable and not writable:
            raise TimeoutError
        return self.socket in readable, bool(writable)


def frame(kind: bytes, payload: bytes) -> bytes:
    """One frame of the protocol."""
    return _HEADER.pack(kind, len(payload)) + payload


def _steps(data: bytes) -> range:
    return range(0, len(data), _CHUNK_BYTES)
