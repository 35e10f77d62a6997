"""For tests and benchmarks: a client of driven volumes (testing_driven.py)."""

import select
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from holdfast.target.testing_driven import ANSWER, ASK


class Driver:
    """One connection to one volume's primary. Raises OSError when the worker is gone."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))
        self._came = bytearray()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, number: int, offset: int, length: int, value: int) -> None:
        self._socket.sendall(ASK.pack(number, offset, length, value))

    def answers(self) -> Iterable[tuple[int, bool]]:
        """Those that have come, at least one: (id, acknowledged)."""
        data = self._socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the worker closed the connection")
        self._came += data
        while len(self._came) >= ANSWER.size:
            number, acknowledged = ANSWER.unpack_from(self._came)
            del self._came[: ANSWER.size]
            yield number, bool(acknowledged)

    def write(self, offset: int, length: int, value: int, timeout_s: float) -> bool:
        """One write; whether it was acknowledged."""
        self.send(0, offset, length, value)
        deadline_s = time.monotonic() + timeout_s
        while select.select([self], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
            for _number, acknowledged in self.answers():
                return acknowledged
        return False

    def close(self) -> None:
        self._socket.close()
