"""`holdfast-lab shell` on a real terminal."""

import os
import pty
import select
import sys

import pytest

from holdfast.lab.guest import Guest
from holdfast.lab.lab import Lab

pytestmark = pytest.mark.lab

_LIMIT_S = 60


class _Terminal:
    """A program on a terminal of its own, and what it has shown."""

    def __init__(self, words: list[str]) -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execv(words[0], words)

    def type(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())

    def read_until(self, mark: str) -> str:
        shown = ""
        while mark not in shown:
            assert select.select([self.terminal], [], [], _LIMIT_S)[0], shown
            shown += os.read(self.terminal, 4096).decode()
        return shown

    def status(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        os.close(self.terminal)
        return os.waitstatus_to_exitcode(status)


def test_an_interactive_shell(lab: Lab, storage: Guest) -> None:
    command = ["-m", "holdfast.lab.main", "shell", "--dir", str(lab.folder), storage.name]
    terminal = _Terminal([sys.executable, *command, "/bin/bash", "--norc"])
    terminal.read_until("lab-storage:")
    terminal.type("tty; echo the-$((40+2))-answer\n")
    assert "/dev/pts/" in terminal.read_until("the-42-answer")
    terminal.type("echo cat-$((1+1)); cat\n")
    terminal.read_until("cat-2\r\n")  # from here on the terminal is in its ordinary mode
    terminal.type("echoed\n")
    terminal.read_until("echoed\r\nechoed")
    terminal.type("\x03")  # ^C ends cat, not the shell
    terminal.read_until("lab-storage:")
    terminal.type("exit 5\n")
    assert terminal.status() == 5


def test_a_command_on_a_terminal_gets_its_size(lab: Lab, storage: Guest) -> None:
    command = ["-m", "holdfast.lab.main", "shell", "--dir", str(lab.folder), storage.name]
    terminal = _Terminal([sys.executable, *command, "stty", "size"])
    terminal.read_until("24 80")
    assert terminal.status() == 0
