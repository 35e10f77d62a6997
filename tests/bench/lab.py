"""The data path end to end, beside its peers: virtual hosts, a real login, fio.

    python tests/bench/lab.py [--seconds 3] [--rounds 3] [--only WORD[,WORD...]]

Two storage guests and one compute guest, user-mode Linux with one processor each; every peer keeps its bytes
in its guest's memory, and the guests' wires are a switch in Python. A system call costs 5 µs there and a
thread switch more: the table shows what each design does for an operation, not what hardware could do.
Processor time is what this machine spent on the storage guests, all of it: kernel, target, network.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from lab_peers import DRBD, FILEIO, FOLDER, SIZE_BYTES, TCMU_RUNNER, TGT, Guests, Holdfast, Peer
from native_world import cpu_s
from rounds import Steal, figure, table

from holdfast.base.nbd.testing_pki import TestAuthority
from holdfast.lab.folders import fast_dir
from holdfast.lab.guest import CommandFailed, Guest
from holdfast.lab.install import install
from holdfast.lab.lab import Lab
from holdfast.lab.packages import install_packages

PACKAGES = ("dbus", "drbd-utils", "tcmu-runner", "tgt")
MEMORY_MIB = 1536
SPAN = 128 << 20


@dataclass(frozen=True)
class Shape:
    name: str
    words: tuple[str, ...]


def _random(kind: str, depth: int, *more: str) -> tuple[str, ...]:
    return (f"--rw={kind}", "--bs=4k", f"--iodepth={depth}", "--randrepeat=0", *more)


SHAPES = (
    Shape("4 KiB random write, depth 1", _random("randwrite", 1)),
    Shape("4 KiB random write, depth 32", _random("randwrite", 32)),
    Shape("4 KiB random read, depth 1", _random("randread", 1)),
    Shape("4 KiB random read, depth 32", _random("randread", 32)),
    Shape("4 KiB 70/30 mixed, depth 32", _random("randrw", 32, "--rwmixread=70")),
    Shape("1 MiB sequential write, depth 4", ("--rw=write", "--bs=1m", "--iodepth=4")),
    Shape("1 MiB sequential read, depth 4", ("--rw=read", "--bs=1m", "--iodepth=4")),
)


@dataclass(frozen=True)
class Result:
    rate: float
    p50_us: float
    p99_us: float
    cpu_us: float


class Bench:
    def __init__(self, guests: Guests, seconds: float, rounds: int) -> None:
        self.guests, self.seconds, self.rounds = guests, seconds, rounds
        self.steal = Steal()
        self.disks: dict[Peer, str] = {}
        self.results: dict[tuple[str, str], list[Result]] = defaultdict(list)

    def add(self, peer: Peer) -> None:
        """One that cannot be had here is named, and left out."""
        try:
            peer.start(self.guests)
            # Its own name: fio takes a colon for the end of one.
            disk = self.guests.compute.run(["realpath", peer.log_in(self.guests)]).stdout.strip()
        except CommandFailed as error:
            print(f"left out: {peer.name}: {error}", file=sys.stderr)
            return
        self.disks[peer] = disk
        self._fio(disk, ("--rw=write", "--bs=1m", "--iodepth=4"), whole=True)

    def run(self) -> None:
        for _ in range(self.rounds):
            for shape in SHAPES:
                for peer, disk in list(self.disks.items()):
                    result = self.steal.quiet(lambda s=shape, d=disk: self._one(s, d))  # type: ignore[misc]
                    try:
                        peer.check(self.guests)
                    except CommandFailed as error:
                        print(f"left out from now on: {peer.name}: {error}", file=sys.stderr)
                        del self.disks[peer]
                        continue
                    self.results[shape.name, peer.name].append(result)
        self._report()

    def _one(self, shape: Shape, disk: str) -> Result:
        storage = (self.guests.a, self.guests.b)
        before_s = sum(map(guest_cpu_s, storage))
        job = self._fio(disk, shape.words)
        used_s = sum(map(guest_cpu_s, storage)) - before_s
        sides = [job[side] for side in ("read", "write") if job[side]["total_ios"]]
        total = sum(side["total_ios"] for side in sides)
        busiest = max(sides, key=lambda side: float(side["total_ios"]))
        percentile = busiest["clat_ns"]["percentile"]
        return Result(
            sum(side["iops"] for side in sides),
            percentile["50.000000"] / 1e3,
            percentile["99.000000"] / 1e3,
            used_s / total * 1e6,
        )

    def _fio(self, disk: str, words: tuple[str, ...], whole: bool = False) -> dict[str, Any]:
        length = (
            [f"--size={SPAN}"] if whole else [f"--size={SPAN}", "--time_based", f"--runtime={self.seconds:g}"]
        )
        done = self.guests.compute.run(
            [
                *("fio", "--name=bench", f"--filename={disk}", "--thread", "--direct=1", "--ioengine=libaio"),
                *("--output-format=json", "--eta=never", *length, *words),
            ],
            timeout_s=300,
        )
        job: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
        return job

    def _report(self) -> None:
        head = ("load", "who", "a second", "p50 µs", "p99 µs", "µs of processor, both hosts")
        rows = []
        for shape in SHAPES:
            for peer in self.disks:
                found = self.results[shape.name, peer.name]
                columns: list[Callable[[Result], float]] = [
                    lambda r: r.rate,
                    lambda r: r.p50_us,
                    lambda r: r.p99_us,
                    lambda r: r.cpu_us,
                ]
                figures = [figure([take(one) for one in found]) for take in columns]
                rows.append([shape.name, peer.name, *figures])
        print(f"Median (lowest–highest) of {self.rounds} interleaved rounds of {self.seconds:g} s.\n")
        print(table(head, rows))
        print(f"\n{self.steal}")


def stay_on(guest: Guest, processor: int) -> None:
    """A guest has one processor: let it be one of this machine's. Its kernel and its processes are processes
    here, which wake each other at every system call; across processors that takes several times as long.
    """
    assert guest.process is not None
    for pid in guest.process.members():
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {processor})


def guest_cpu_s(guest: Guest) -> float:
    """Processor time of all of a guest's processes on this machine."""
    assert guest.process is not None
    total = 0.0
    for pid in guest.process.members():
        try:
            total += cpu_s(pid)
        except OSError:
            continue  # It ended meanwhile.
    return total


def peers(folder: Path) -> list[Peer]:
    return [
        Holdfast("Holdfast, mirrored", 0, 2, None),
        Holdfast("Holdfast, mirrored, TLS", 1, 2, TestAuthority(folder / "pki")),
        Holdfast("Holdfast, alone", 2, 1, None),
        FILEIO,
        DRBD,
        TGT,
        TCMU_RUNNER,
    ]


def boot(lab: Lab) -> Guests:
    a = lab.define_guest("bench-a", role="storage", memory_mib=MEMORY_MIB)
    b = lab.define_guest("bench-b", role="storage", memory_mib=MEMORY_MIB)
    compute = lab.define_guest("bench-compute", role="compute", memory_mib=512)
    lab.boot_guests([a, b, compute])
    processors = sorted(os.sched_getaffinity(0))
    stay_on(a, processors[0])
    stay_on(b, processors[-1])
    stay_on(compute, processors[-1])
    for guest in (a, b):
        words = f"mkdir -p {FOLDER} && mount -t tmpfs -o size={6 * SIZE_BYTES} tmpfs {FOLDER}"
        guest.run(["sh", "-ec", words])
    return Guests(a, b, compute)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="peers whose names hold one of these words")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # What was started is ended then, too.
    install(print)
    install_packages(print, PACKAGES)
    # Keys where the guests see them: their root is this machine's.
    keys = Path(mkdtemp(prefix="holdfast-bench-", dir="/var/tmp"))
    folder = Path(mkdtemp(prefix="holdfast-bench-", dir=fast_dir(1024)))
    try:
        with Lab(folder / "lab", disk_dir=folder / "disks") as lab:
            bench = Bench(boot(lab), arguments.seconds, arguments.rounds)
            for peer in peers(keys):
                if any(word in peer.name for word in arguments.only.split(",")):
                    began_s = time.monotonic()
                    bench.add(peer)
                    print(f"{peer.name}: ready in {time.monotonic() - began_s:.0f} s", file=sys.stderr)
            bench.run()
    finally:
        shutil.rmtree(keys, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
