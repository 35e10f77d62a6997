"""What users' writes wait longer while a host is brought up to date, and how fast that goes beside them.

    python tests/bench/resync.py [--mib 512] [--seconds 3]

Two worker processes on loopback with a ring in shared memory, as native.py has them. The mirror is killed,
all of the volume's data are written anew without it, and it comes back.
"""

import argparse
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory

from native_world import Host, load, start_volume
from rounds import Steal, table
from shared_ring import LoadKernel, take_attentions

from holdfast.base.limits import KIB, MIB
from holdfast.base.loop import Loop
from holdfast.lab.folders import fast_dir

UID = "v"
PATIENCE_S = 600.0


def latencies_s(host: Host, depth: int, span: int, holds: Callable[[], bool]) -> list[float]:
    """Of 4 KiB random writes, `depth` at once, while that holds."""
    memory_fd, event_fd, signal_fd = host.ring.fds
    kernel = LoadKernel(memory_fd, 4 * KIB, reading=False)
    take_attentions(kernel, event_fd, signal_fd)
    rng, began_s, found = random.Random(1), {}, []
    ready = list(range(1, depth + 1))
    while ready or began_s:
        now_s = time.perf_counter()
        if holds():
            for cmd_id in ready:
                kernel.queue(cmd_id, rng.randrange(span // (4 * KIB)) * 4 * KIB)
                began_s[cmd_id] = now_s
            kernel.publish()
            os.eventfd_write(event_fd, 1)
        elif not began_s:
            break
        os.eventfd_read(signal_fd)
        ready = kernel.ended()
        now_s = time.perf_counter()
        found += [now_s - began_s.pop(cmd_id) for cmd_id in ready]
    return found


class Pair:
    """A volume whose mirror goes and comes."""

    def __init__(self, loop: Loop, folder: Path, span: int) -> None:
        self.loop, self.folder, self.span = loop, folder, span
        self.primary, self.mirror = start_volume(loop, folder, UID, 2)
        self.epoch = 1

    def fill(self) -> None:
        plan = {"depth": 4, "size": MIB, "span": self.span, "reading": False, "sequential": True}
        load(self.primary.ring.fds, bare=False, seconds=1.0 + self.span / (200 * MIB), seed=1, **plan)

    def lose_mirror(self) -> None:
        self.mirror.end()
        self.epoch += 1
        self.primary.apply("primary", [self.mirror], epoch=self.epoch, members=("host-a",))
        self.until(lambda: self.primary.observed.epoch == self.epoch and self.primary.observed.serving)

    def bring_back(self) -> None:
        self.mirror = Host(self.loop, self.folder / UID, UID, "host-b", ["--clear"])
        self.mirror.apply("joiner", [self.primary], epoch=self.epoch, members=("host-a",))
        self.primary.apply("primary", [self.mirror], epoch=self.epoch, members=("host-a",))
        self.until(lambda: bool(self.primary.observed.syncs) or self.synced)

    def join(self) -> None:
        self.epoch += 1
        self.mirror.apply("mirror", [self.primary], epoch=self.epoch)
        self.primary.apply("primary", [self.mirror], epoch=self.epoch)
        self.primary.until_serving()

    @property
    def synced(self) -> bool:
        return self.primary.observed.wants_join != ""

    def until(self, holds: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline_s, self.primary.observed
            self.loop.run_once(0.02)

    def end(self) -> None:
        self.mirror.end()
        self.primary.end()


def for_s(seconds: float) -> Callable[[], bool]:
    until_s = time.perf_counter() + seconds
    return lambda: time.perf_counter() < until_s


def row(name: str, depth: int, found: list[float], took_s: float, synced: str) -> list[str]:
    cuts = [value * 1e6 for value in quantiles(found, n=1000)] if len(found) > 1 else [0.0] * 999
    return [
        name,
        str(depth),
        f"{len(found) / took_s:,.0f}",
        *(f"{cuts[at]:,.0f}" for at in (499, 989, 998)),
        synced,
    ]


def measure(pair: Pair, seconds: float, steal: Steal) -> list[list[str]]:
    rows = []

    def still_syncing() -> bool:
        pair.loop.run_once(0)
        return not pair.synced

    def timed(name: str, depth: int, holds: Callable[[], bool], syncing: bool) -> None:
        began_s = time.perf_counter()
        found = latencies_s(pair.primary, depth, pair.span, holds)
        took_s = time.perf_counter() - began_s
        synced = f"{pair.span / MIB / took_s:,.0f}" if syncing else "–"
        rows.append(row(name, depth, found, took_s, synced))

    pair.fill()
    for depth in (1, 8, 32):
        steal.quiet(lambda d=depth: timed("in sync", d, for_s(seconds), False))  # type: ignore[misc]
        pair.lose_mirror()
        timed("alone", depth, for_s(seconds), False)
        pair.fill()
        pair.bring_back()
        timed("resync", depth, still_syncing, True)
        pair.join()
    pair.lose_mirror()
    pair.fill()
    began_s = time.perf_counter()
    pair.bring_back()
    pair.until(lambda: pair.synced)
    took_s = time.perf_counter() - began_s
    rows.append(["resync, nobody writes", "–", "–", "–", "–", "–", f"{pair.span / MIB / took_s:,.0f}"])
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=3)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # What was started is ended then, too.
    steal = Steal()
    with TemporaryDirectory(prefix="holdfast-bench-", dir=fast_dir(4096)) as folder:
        loop = Loop()
        pair = Pair(loop, Path(folder), arguments.mib * MIB)
        try:
            rows = measure(pair, arguments.seconds, steal)
        finally:
            pair.end()
            loop.close()
    head = ("", "depth", "writes a second", "p50 µs", "p99 µs", "p99.9 µs", "resync MiB/s")
    print(f"4 KiB random writes; a resync of {arguments.mib} MiB.\n\n{table(head, rows)}\n\n{steal}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
