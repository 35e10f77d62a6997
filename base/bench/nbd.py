"""What a mirrored 4 KiB write costs: session and server over loopback, in one process, to a no-op export.

    python base/bench/nbd.py [seconds for each line]

Both ends run on one loop, so the processor time of this process is that of both ends and of the kernel's
TCP between them.
"""

import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from holdfast.base.device import Outcome, Request
from holdfast.base.limits import GIB, KIB, MIB
from holdfast.base.loop import Loop
from holdfast.base.nbd.export import ControlDone, Served, StatusDone
from holdfast.base.nbd.server import Server
from holdfast.base.nbd.session import Session
from holdfast.base.nbd.testing import run_until
from holdfast.base.nbd.testing_pki import TestAuthority
from holdfast.base.tls import PeerIdentity, client_context, server_context


class _NoOp:
    """Ends everything at once."""

    size_bytes = 1 * GIB
    read_only = False
    private = False
    contexts: tuple[str, ...] = ()

    def opened(self, connection: Served) -> None: ...
    def closed(self) -> None: ...
    def control(self, payload: bytes, done: ControlDone) -> None: ...
    def block_status(self, context: str, offset: int, length: int, done: StatusDone) -> None: ...

    def submit(self, request: Request) -> None:
        request.done(Outcome.OK)


class _Writer:
    """Keeps `depth` writes of `size` bytes in flight until `end`."""

    def __init__(self, session: Session, size: int, depth: int) -> None:
        self._session = session
        self._buffer = memoryview(bytearray(size))
        self._size = size
        self._depth = depth
        self.count = 0
        self.in_flight = 0
        self.running = True

    def start(self) -> None:
        for _ in range(self._depth):
            self._one()

    def _one(self) -> None:
        self.in_flight += 1
        self._session.write(self.count % 1000 * self._size, [self._buffer], False, self._done)

    def _done(self, _outcome: Outcome) -> None:
        self.in_flight -= 1
        self.count += 1
        if self.running:
            self._one()


def _measure(loop: Loop, session: Session, size: int, depth: int, seconds: float) -> None:
    writer = _Writer(session, size, depth)
    started, cpu = time.perf_counter(), time.process_time()
    writer.start()
    while time.perf_counter() - started < seconds:
        loop.run_once(1)
    writer.running = False
    run_until(loop, lambda: not writer.in_flight)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(
        f"  {size // KIB:5} KiB depth {depth:2}: {cpu / writer.count * 1e6:7.1f} us processor time, "
        f"{wall / writer.count * 1e6:7.1f} us elapsed a write, {writer.count * size / wall / MIB:6.0f} MiB/s"
    )


def main(seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        authority = TestAuthority(Path(folder))
        host = authority.issue("host-b", "host")
        for name, client, server in (
            ("clear", None, None),
            ("TLS", client_context(host), server_context(host)),
        ):
            loop = Loop()
            nbd = Server(loop, lambda _name, _peer: _NoOp())
            port = nbd.listen_tcp("127.0.0.1", 0, tls=server)
            ready: list[bool] = []
            session = Session(
                loop,
                ("127.0.0.1", port),
                "bench",
                on_ready=partial(ready.append, True),
                on_lost=sys.exit,
                tls=client,
                expected=PeerIdentity("host-b", "host") if client else None,
            )
            run_until(loop, lambda ready=ready: bool(ready))  # type: ignore[misc]
            print(name)
            for size, depth in ((4 * KIB, 1), (4 * KIB, 16), (4 * KIB, 64), (64 * KIB, 16), (MIB, 4)):
                _measure(loop, session, size, depth, seconds)
            session.close()
            nbd.close()
            loop.close()


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)
