"""The lab's agent inside a guest: runs commands for the lab. Standard library only.

It listens on the guest's management interface, which is in a network namespace of its own; the
commands run in the guest's ordinary one. One connection is one request: a line of JSON, answered
by a line of JSON; `run` goes on with frames (`frames.py` says which). A command started by `run`
dies with its connection; one started by `spawn` lives on and is known by its process id.

Started as `python -I -S guest_agent.py ADDRESS PORT`. When it listens it says so on the serial line
that the lab watches.
"""

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

_CLONE_NEWNET = 0x40000000
_MANAGEMENT = "/run/netns/management"
_READY_LINE = "/dev/ttyS0"
_HEADER = struct.Struct("!cI")
_CHUNK_BYTES = 64 * 1024
_STDIN_LIMIT_BYTES = 1024 * 1024  # held for a command that does not read; then the sender waits
_DRAIN_S = 5.0

_spawned: dict[int, "subprocess.Popen[bytes]"] = {}


def main() -> None:
    """Serve until the guest ends."""
    # A shell starts background jobs deaf to ^C, and children inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    listener = _listen(sys.argv[1], int(sys.argv[2]))
    with open(_READY_LINE, "w") as line:
        line.write("ready\n")
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve, args=(connection,), daemon=True).start()


def _listen(address: str, port: int) -> socket.socket:
    """A listener made inside the management namespace; it stays there when we have left."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net") as home, open(_MANAGEMENT) as there:
        for namespace in (there, home):
            if libc.setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            if namespace is there:
                listener = socket.create_server((address, port), backlog=128)
    return listener


def _serve(connection: socket.socket) -> None:
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            request = json.loads(_read_line(connection))
            if request["op"] == "run":
                _run(connection, request)
            else:
                _reply(connection, _OPERATIONS[request["op"]](request))
        except FileNotFoundError as error:
            _reply(connection, {"error": f"no such file: {error.filename}"})
        except (OSError, KeyError, ValueError) as error:
            _reply(connection, {"error": f"{type(error).__name__}: {error}"})


def _read_line(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        piece = connection.recv(1 if line else _CHUNK_BYTES, 0 if line else socket.MSG_PEEK)
        if not piece:
            raise ValueError("the connection ended before its request")
        if not line:
            end = piece.find(b"\n") + 1
            piece = connection.recv(end or len(piece))
        line += piece
    return line


def _reply(connection: socket.socket, reply: dict[str, Any]) -> None:
    try:
        connection.sendall(json.dumps(reply).encode() + b"\n")
    except OSError:
        return  # whoever asked has gone


def _environment(request: dict[str, Any]) -> dict[str, str]:
    home = {"HOME": "/root", "PATH": os.environ["PATH"], "TERM": "linux", "LC_ALL": "C.UTF-8"}
    return {**home, **request.get("env", {})}


def _spawn(request: dict[str, Any]) -> dict[str, Any]:
    with open(request["log"], "ab") as log:
        child = subprocess.Popen(
            request["words"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_environment(request),
            cwd=request.get("cwd") or "/",
            start_new_session=True,
        )
    _spawned[child.pid] = child
    return {"pid": child.pid}


def _wait(request: dict[str, Any]) -> dict[str, Any]:
    child = _child(request)
    if request["block"]:
        _wait_end(child.pid)
    return {"returncode": child.poll()}


def _signal(request: dict[str, Any]) -> dict[str, Any]:
    child = _child(request)
    if child.poll() is None:
        os.killpg(child.pid, request["signal"])
    return {}


def _child(request: dict[str, Any]) -> "subprocess.Popen[bytes]":
    try:
        return _spawned[request["pid"]]
    except KeyError:
        raise ValueError(f"no command was spawned as process {request['pid']}") from None


def _wait_end(pid: int) -> None:
    """Wait without taking the exit status, so that any number of threads may."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        return  # another thread has taken it


def _shutdown(request: dict[str, Any]) -> dict[str, Any]:
    """End what was spawned, put the disk to rest, and power off (after the reply)."""
    live = [child for child in _spawned.values() if child.poll() is None]
    for child in live:
        os.killpg(child.pid, signal.SIGTERM)
    for child in live:
        try:
            child.wait(_DRAIN_S)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
    os.sync()
    subprocess.run(["umount", "/var/lib/holdfast"], stderr=subprocess.DEVNULL)
    threading.Timer(0.05, subprocess.run, (["busybox", "poweroff", "-f"],)).start()
    return {}


_OPERATIONS = {"spawn": _spawn, "wait": _wait, "signal": _signal, "shutdown": _shutdown}


def _run(connection: socket.socket, request: dict[str, Any]) -> None:
    """Start a command and carry its streams until it ends, or the connection does."""
    size = request.get("terminal")
    if size:
        child, ends = _start_on_terminal(request, size)
    else:
        child = subprocess.Popen(
            request["words"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(request),
            cwd=request.get("cwd") or "/",
            start_new_session=True,
        )
        ends = [child.stdin, child.stdout, child.stderr]
    _reply(connection, {"pid": child.pid})
    _Streams(connection, child, ends).carry()


def _start_on_terminal(
    request: dict[str, Any], size: list[int]
) -> tuple["subprocess.Popen[bytes]", list[IO[bytes] | None]]:
    master, slave = os.openpty()
    _set_size(master, size)
    child = subprocess.Popen(
        # setsid -c makes the terminal the controlling one, so that ^C works.
        ["setsid", "-c", "-w", *request["words"]],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=_environment(request),
        cwd=request.get("cwd") or "/",
        start_new_session=True,
    )
    os.close(slave)
    return child, [open(os.dup(master), "wb", 0), open(master, "rb", 0), None]


def _set_size(terminal: int, size: list[int]) -> None:
    import fcntl
    import termios

    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size[0], size[1], 0, 0))


class _Streams:
    """Carries one command's standard streams over its connection."""

    def __init__(
        self,
        connection: socket.socket,
        child: "subprocess.Popen[bytes]",
        ends: list[IO[bytes] | None],
    ) -> None:
        self.connection = connection
        self.child = child
        self.stdin, stdout, stderr = ends
        self.outputs = {end.fileno(): (kind, end) for kind, end in ((b"o", stdout), (b"e", stderr)) if end}
        self.ended = os.pidfd_open(child.pid)
        self.received = b""
        self.unwritten = b""
        self.stdin_over = False

    def carry(self) -> None:
        """Until the command ends; it is killed if the connection ends first."""
        for descriptor in self.outputs:
            os.set_blocking(descriptor, False)
        if self.stdin:
            os.set_blocking(self.stdin.fileno(), False)
        try:
            while not self._step():
                continue
            while any(self._output(descriptor) for descriptor in list(self.outputs)):
                continue  # what it wrote before it ended
            self._send(b"x", str(self.child.wait()).encode())
        except ConnectionError:
            self._kill()
        finally:
            os.close(self.ended)
            for end in (self.stdin, *(end for _, end in self.outputs.values())):
                if end:
                    end.close()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()

    def _step(self) -> bool:
        """Wait for something and do it; True once the command has ended."""
        reads: list[Any] = [self.ended, *self.outputs]
        if len(self.unwritten) < _STDIN_LIMIT_BYTES:
            reads.append(self.connection)
        writes = [self.stdin] if self.stdin and self.unwritten else []
        readable, writable, _ = select.select(reads, writes, [])
        for descriptor in readable:
            if descriptor in self.outputs:
                self._output(descriptor)
        if self.connection in readable:
            self._receive()
        if writable:
            self._feed()
        return self.ended in readable

    def _output(self, descriptor: int) -> bool:
        """Pass on what a stream has; False if it has nothing now."""
        kind, end = self.outputs[descriptor]
        try:
            data = os.read(descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:  # how a terminal says that it was closed
                raise
            data = b""
        if not data:
            del self.outputs[descriptor]
            end.close()
            return False
        self._send(kind, data)
        return True

    def _receive(self) -> None:
        data = self.connection.recv(_CHUNK_BYTES)
        if not data:
            raise ConnectionAbortedError
        self.received += data
        while len(self.received) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self.received)
            if len(self.received) < _HEADER.size + length:
                return
            payload = self.received[_HEADER.size : _HEADER.size + length]
            self.received = self.received[_HEADER.size + length :]
            self._obey(kind, payload)

    def _obey(self, kind: bytes, payload: bytes) -> None:
        if kind == b"i" and self.stdin:
            self.unwritten += payload
            self.stdin_over |= not payload
            self._feed()
        elif kind == b"k":
            os.killpg(self.child.pid, int(payload))
        elif kind == b"w" and self.stdin:
            _set_size(self.stdin.fileno(), json.loads(payload))

    def _feed(self) -> None:
        if self.stdin is None:
            return
        try:
            while self.unwritten:
                self.unwritten = self.unwritten[os.write(self.stdin.fileno(), self.unwritten) :]
        except BlockingIOError:
            return
        except OSError:
            self.unwritten, self.stdin_over = b"", True  # the command does not want any more
        if self.stdin_over:
            self.stdin.close()
            self.stdin = None

    def _send(self, kind: bytes, payload: bytes) -> None:
        self.connection.sendall(_HEADER.pack(kind, len(payload)) + payload)


if __name__ == "__main__":
    Path("/proc/self/oom_score_adj").write_text("-1000")
    main()
