"""An interactive shell in a guest: this terminal's keys go there, its output comes here."""

import json
import os
import select
import shutil
import signal
import sys
import termios
import tty
from typing import Any

from holdfast.lab.agent_client import AgentConnection, frame
from holdfast.lab.guest import Guest

_CHUNK_BYTES = 64 * 1024


def run_shell(guest: Guest, words: list[str]) -> int:
    """Run a command (a shell, if none is named) on this terminal; its exit status.

    Without a terminal here, standard input is carried as it comes.
    """
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    request: dict[str, Any] = {
        "op": "run",
        "words": words or ["/bin/bash", "-l"] if interactive else words or ["/bin/bash"],
        "cwd": "/root",
        "env": {"TERM": os.environ.get("TERM", "linux"), "PS1": rf"\u@{guest.name}:\w\$ "},
    }
    if interactive:
        request["terminal"] = _size()
    with guest.connect() as agent:
        agent.ask(request, None)
        if not interactive:
            return _carry(agent)
        saved = termios.tcgetattr(sys.stdin)
        signal.signal(signal.SIGWINCH, lambda *_: agent.send_all(_resized(), None))
        try:
            tty.setraw(sys.stdin)
            return _carry(agent)
        finally:
            signal.signal(signal.SIGWINCH, signal.SIG_DFL)
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, saved)


def _carry(agent: AgentConnection) -> int:
    """Pass bytes both ways until the command ends."""
    reads: list[Any] = [agent.socket, sys.stdin.fileno()]
    while True:
        for kind, payload in agent.frames():
            if kind == b"x":
                return int(payload)
            os.write(2 if kind == b"e" else 1, payload)
        readable, _, _ = select.select(reads, [], [])
        if agent.socket in readable:
            agent.receive()
        if sys.stdin.fileno() in readable:
            data = os.read(sys.stdin.fileno(), _CHUNK_BYTES)
            agent.send_all(frame(b"i", data), None)
            if not data:
                reads.remove(sys.stdin.fileno())


def _size() -> list[int]:
    size = shutil.get_terminal_size()
    return [size.lines, size.columns]


def _resized() -> bytes:
    return frame(b"w", json.dumps(_size()).encode())
