"""Time of a 4 KiB write through a primary, in this process: the mirror is a session that says OK at once.

    python replicator/bench/writes.py [directory]

What is left is what the primary itself costs: its order, its bits, its file.
"""

import cProfile
import math
import pstats
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from holdfast.base.device import Done, Op, Outcome, Request
from holdfast.base.limits import GIB, MIB
from holdfast.base.loop import Loop
from holdfast.base.steps import Steps
from holdfast.replicator.files import Files
from holdfast.replicator.hydrate import Hydrator
from holdfast.replicator.link import Link
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.partner import Partner, Standing
from holdfast.replicator.primary import Primary
from holdfast.replicator.store import Store, create
from holdfast.replicator.talk import Session

BLOCK = 4096
WRITES = 40_000
DEPTHS = (1, 16, 64)
SPAN = 64 * MIB


class Yes:
    """A session whose answers come at the end of the turn."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._answers: list[Done] = []

    def write(self, offset: int, buffers: list[memoryview], fua: bool, done: Done) -> None:
        if not self._answers:
            self._loop.call_soon(self._answer)
        self._answers.append(done)

    def write_all(self, requests: list[Request], dones: list[Done]) -> None:
        for request, done in zip(requests, dones, strict=True):
            self.write(request.offset, request.buffers, request.fua, done)

    def zero(self, offset: int, length: int, fua: bool, done: Done) -> None:
        self.write(offset, [], fua, done)

    def flush(self, done: Done) -> None:
        self.write(0, [], False, done)

    def control(self, payload: bytes, done: Callable[[Outcome, bytes], None]) -> None:
        self._loop.call_soon(partial(done, Outcome.OK, b"{}"))

    def close(self) -> None:
        pass

    def _answer(self) -> None:
        answers, self._answers = self._answers, []
        for done in answers:
            done(Outcome.OK)


def dial(loop: Loop, on_ready: Callable[[Session], None], _on_lost: Callable[[str], None]) -> Session:
    session = Yes(loop)
    loop.call_soon(lambda: on_ready(session))
    return session


def align(link: Link) -> Steps[None]:
    link.resend_unconfirmed()
    return
    yield


def primary_in(loop: Loop, directory: Path) -> Primary:
    files = Files(directory / "volume")
    create(files, "v", GIB, "boot", "")
    local = LocalReplica(loop, Store(files, "v", GIB, "boot"), print)
    mirror = Partner("mirror", local.store, lambda _partner: Link(loop, partial(dial, loop), align))
    mirror.become(Standing.MEMBER)
    primary = Primary(loop, local, Hydrator(loop, local.store))
    primary.partners = [mirror]
    primary.reads = primary.writes = True
    primary.lease_until(math.inf)
    mirror.link.start()
    while not mirror.link.up:
        loop.run_once(1)
    return primary


def run(loop: Loop, primary: Primary, depth: int, count: int, op: Op = Op.WRITE) -> float:
    """Seconds for `count` requests, `depth` at a time."""
    buffers = [memoryview(bytearray(b"x" * BLOCK))]
    left, under_way, at = count, 0, 0

    def done(outcome: Outcome) -> None:
        nonlocal under_way
        assert outcome is Outcome.OK
        under_way -= 1

    began = time.perf_counter()
    while left or under_way:
        while left and under_way < depth:
            under_way += 1
            left -= 1
            at = (at + 7919 * BLOCK) % SPAN
            primary.submit(Request(op, at, BLOCK, done, list(buffers)))
        if under_way:
            loop.run_once(1)
    return time.perf_counter() - began


def main() -> None:
    with TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        loop = Loop()
        primary = primary_in(loop, Path(name))
        run(loop, primary, 16, WRITES)  # Regions are hot, blocks are there.
        for op in (Op.WRITE, Op.READ):
            for depth in DEPTHS:
                best = min(run(loop, primary, depth, WRITES, op) for _ in range(3))
                print(f"{op.value} depth {depth}: {best / WRITES * 1e6:.1f} µs each")
        if "--profile" in sys.argv:
            profile = cProfile.Profile()
            profile.runcall(run, loop, primary, 16, WRITES)
            pstats.Stats(profile).sort_stats("tottime").print_stats(16)
        primary.close()
        loop.close()


if __name__ == "__main__":
    main()
