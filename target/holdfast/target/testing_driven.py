"""For tests and benchmarks: real agents and workers whose volumes are written over a socket, in place of LIO.

    python -m holdfast.target.testing_driven …     as holdfast.target.main, or, with --volume, as its worker

A driven worker takes writes at `<run dir>/<volume>.io`, a Unix socket: a request is the id, the offset, the
length and the value (u64, u64, u32, u32, little endian), and writes that value again and again; the answer
is the id and whether it was acknowledged (u64, u32). Commands enter the worker's loop where a ring's do.
"""

import socket
import struct
import sys
from functools import partial
from typing import Any

from holdfast.base.device import Device, Op, Outcome, Request
from holdfast.base.loop import READABLE, Loop
from holdfast.target import main as agent_main
from holdfast.target import worker_main
from holdfast.target.control import Desired
from holdfast.target.worker_ring import NoReplica, Ring
from holdfast.target.workers import worker_command

ASK = struct.Struct("<QQII")
ANSWER = struct.Struct("<QI")
_REAL, _HERE = "holdfast.target.worker_main", "holdfast.target.testing_driven"


class DrivenRing(Ring):
    """Shows nothing to a kernel."""

    def __init__(self, loop: Loop, volume_uid: str, *_rest: object) -> None:
        super().__init__(loop, volume_uid)
        path = worker_main.parse().run_dir / f"{volume_uid}.io"
        self._driven: Device = NoReplica()
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._listener.setblocking(False)
        loop.add(self._listener.fileno(), READABLE, self._accept)

    def serve_from(self, device: Device | None) -> None:
        self._driven = device or NoReplica()

    def apply(self, desired: Desired, leads: bool, may_open: bool = True) -> None:
        """There is no ring to open."""

    def _accept(self, _events: int) -> None:
        connection, _address = self._listener.accept()
        connection.setblocking(False)
        came = bytearray()
        self._loop.add(connection.fileno(), READABLE, lambda _: self._read(connection, came))

    def _read(self, connection: socket.socket, came: bytearray) -> None:
        try:
            data = connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove(connection.fileno())
            connection.close()
            return
        came += data
        while len(came) >= ASK.size:
            number, offset, length, value = ASK.unpack_from(came)
            del came[: ASK.size]
            buffer = memoryview(bytearray(value.to_bytes(4, "little") * (length // 4)))
            done = partial(self._done, connection, number)
            self._driven.submit(Request(Op.WRITE, offset, length, done, [buffer]))

    @staticmethod
    def _done(connection: socket.socket, number: int, outcome: Outcome) -> None:
        try:
            connection.sendall(ANSWER.pack(number, outcome is Outcome.OK))
        except OSError:
            return


def main() -> int:
    if "--volume" in sys.argv:
        vars(worker_main)["Ring"] = DrivenRing
        return worker_main.main()

    def driven(*arguments: Any) -> list[str]:
        return [_HERE if word == _REAL else word for word in worker_command(*arguments)]

    vars(agent_main)["worker_command"] = driven
    agent_main.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
