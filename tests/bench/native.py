"""What a worker costs without an initiator and without LIO, beside the bare system calls.

    python tests/bench/native.py [--seconds 0.5] [--rounds 5] [--folder DIRECTORY] [--only WORD]
        [--gib 1] [--everywhere]

A process stands in for the kernel: it fills a TCMU ring in shared memory and takes completions from it, so
the worker's loop, signals and files are real, and the load costs the worker nothing. What to compare is the
processor time of the primary's process, and of its mirror's, system calls included.
"""

import argparse
import shutil
import signal
import sys
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from native_world import REST_S, Host, Process, bare, cpu_s, load, run_for, start_volume
from nbd_peers import NBD_PACKAGES, nbd_rounds
from rounds import Steal, figure, table

from holdfast.base.limits import GIB, KIB, MIB
from holdfast.base.loop import Loop
from holdfast.lab.folders import fast_dir
from holdfast.lab.packages import install_packages

SPAN = 256 * MIB
IDLE_S = 5.0


@dataclass(frozen=True)
class Shape:
    """One kind of load."""

    name: str
    size: int
    depth: int
    reading: bool = False
    sequential: bool = False


SHAPES = (
    Shape("4 KiB random write, depth 1", 4 * KIB, 1),
    Shape("4 KiB random write, depth 32", 4 * KIB, 32),
    Shape("4 KiB random read, depth 1", 4 * KIB, 1, reading=True),
    Shape("4 KiB random read, depth 32", 4 * KIB, 32, reading=True),
    Shape("1 MiB sequential write, depth 4", MIB, 4, sequential=True),
    Shape("1 MiB sequential read, depth 4", MIB, 4, reading=True, sequential=True),
)
Fds = tuple[int, int, int]


@dataclass(frozen=True)
class Peer:
    """Who is loaded: the processes whose time counts, the primary first."""

    name: str
    fds: Fds
    processes: list[Process]
    bare: bool = False


class Results:
    def __init__(self) -> None:
        self.rate: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.cpu_us: dict[tuple[str, str, int], list[float]] = defaultdict(list)

    def add(self, shape: Shape, peer: Peer, count: int, elapsed_s: float, used_s: list[float]) -> None:
        self.rate[shape.name, peer.name].append(count / elapsed_s)
        for number, used in enumerate(used_s):
            self.cpu_us[shape.name, peer.name, number].append(used / count * 1e6)


class Bench:
    def __init__(
        self, folder: Path, seconds: float, rounds: int, only: str, size_bytes: int, random_span: int
    ) -> None:
        self.folder, self.seconds, self.rounds, self.size_bytes = folder, seconds, rounds, size_bytes
        self.random_span = random_span
        self.shapes = [shape for shape in SHAPES if only in shape.name]
        self.loop = Loop()
        self.steal = Steal()
        self.results = Results()
        self.volumes: dict[str, list[Host]] = {}

    def run(self) -> None:
        try:
            for name, hosts, tls in (("alone", 1, False), ("mirrored", 2, False), ("mirrored, TLS", 2, True)):
                uid = name.replace(", ", "-")
                volume = start_volume(self.loop, self.folder, uid, hosts, tls, self.size_bytes)
                self.volumes[name] = volume
            for name in self.volumes:
                self._fill(self._peer(name))
            for number in range(self.rounds):
                for shape in self.shapes:
                    self._round(shape, number)
            self._report()
            self._idle()
            nbd_rounds(self.folder, self.volumes["alone"][0], self.seconds, self.rounds, self.steal)
            print(f"\n{self.steal}")
        finally:
            for hosts in self.volumes.values():
                for host in hosts:
                    host.end()
            self.loop.close()

    def _peer(self, name: str) -> Peer:
        hosts = self.volumes[name]
        return Peer(name, hosts[0].ring.fds, [host.process for host in hosts])

    def _fill(self, peer: Peer) -> None:
        """Every block is there, every region hot."""
        self._measure(Shape("", MIB, 4, sequential=True), peer, 0, 2.0)

    def _round(self, shape: Shape, number: int) -> None:
        for name in self.volumes:
            self._one(shape, self._peer(name), number)
        for name, mirrored in (("bare, alone", False), ("bare, mirrored", True)):
            if mirrored and shape.reading:
                continue
            kind = {"reading": shape.reading, "sequential": shape.sequential, "mirrored": mirrored}
            with bare(self.folder, shape.size, SPAN, **kind) as (fds, processes):
                peer = Peer(name, fds, processes, bare=True)
                self._measure(shape, peer, number, 0.2)
                self._one(shape, peer, number)

    def _one(self, shape: Shape, peer: Peer, number: int) -> None:
        result = self.steal.quiet(lambda: self._measure(shape, peer, number, self.seconds))
        self.results.add(shape, peer, *result)

    def _measure(self, shape: Shape, peer: Peer, seed: int, seconds: float) -> tuple[int, float, list[float]]:
        before = [cpu_s(process.pid) for process in peer.processes]
        count, elapsed_s = load(
            peer.fds,
            size=shape.size,
            span=SPAN if shape.sequential or peer.bare else self.random_span,
            depth=shape.depth,
            reading=shape.reading,
            sequential=shape.sequential,
            bare=peer.bare,
            seconds=seconds,
            seed=seed,
        )
        after = [cpu_s(process.pid) for process in peer.processes]
        self._settle()
        return count, elapsed_s, [late - early for early, late in zip(before, after, strict=True)]

    def _settle(self) -> None:
        """The workers' reports are read, or their sockets would fill."""
        self.loop.run_once(0)

    def _report(self) -> None:
        rows = []
        for shape in self.shapes:
            for name in (*self.volumes, "bare, alone", "bare, mirrored"):
                rate = self.results.rate.get((shape.name, name))
                if rate:
                    cpu = [self.results.cpu_us[shape.name, name, number] for number in (0, 1)]
                    rows.append([shape.name, name, figure(rate), figure(cpu[0], 1), figure(cpu[1], 1)])
        head = ("load", "who", "a second", "µs of the primary's processor", "µs of the mirror's")
        print(f"Median (lowest–highest) of {self.rounds} interleaved rounds of {self.seconds} s.\n")
        print(table(head, rows))

    def _idle(self) -> None:
        """Memory and wake-ups of workers that have nothing to do."""
        run_for(self.loop, REST_S)
        counted = [(name, host) for name, hosts in self.volumes.items() for host in hosts]
        before = [(host.process.switches(), cpu_s(host.process.pid)) for _name, host in counted]
        run_for(self.loop, IDLE_S)
        rows = []
        for (name, host), (switches, used_s) in zip(counted, before, strict=True):
            woken = (host.process.switches() - switches) / IDLE_S
            idle_ms = (cpu_s(host.process.pid) - used_s) / IDLE_S * 1e3
            process = host.process
            memory = [kib / 1024 for kib in (process.rss_kib(), process.shared_kib(), process.peak_kib())]
            figures = [*(f"{mib:.1f}" for mib in memory), f"{woken:.1f}", f"{idle_ms:.2f}"]
            rows.append([f"{name}: {host.host_id}", *figures])
        print()
        memory_head = ("resident MiB", "of that shared (the ring)", "the most so far")
        print(table(("idle worker", *memory_head, "wake-ups a second", "ms of processor a second"), rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, help="where stores are made; default: in memory, if there is room"
    )
    parser.add_argument("--only", default="", help="only loads whose name holds this")
    parser.add_argument("--gib", type=int, default=1, help="size of the volumes; the load stays the same")
    parser.add_argument("--everywhere", action="store_true", help="random loads go all over the volumes")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # What was started is ended then, too.
    install_packages(print, NBD_PACKAGES)
    with ExitStack() as stack:
        folder = Path(mkdtemp(prefix="holdfast-bench-", dir=arguments.folder or fast_dir(4096)))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        size_bytes = arguments.gib * GIB
        span = size_bytes if arguments.everywhere else SPAN
        Bench(folder, arguments.seconds, arguments.rounds, arguments.only, size_bytes, span).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
