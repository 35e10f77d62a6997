"""What tracing costs a worker: the same load without it, with one request in 200 traced, and with every one.

python tests/bench/tracing.py [--seconds 0.5] [--rounds 9] [--depth 16]
"""

import argparse
import signal
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from native_world import Host, cpu_s, load, start_volume
from rounds import Steal, figure, table

from holdfast.base.limits import KIB, MIB
from holdfast.base.loop import Loop
from holdfast.lab.folders import fast_dir
from holdfast.target.trace_main import Asker

EVERY = {"off": 0, "one in 200": 200, "every one": 1}
UID, SIZE, SPAN = "traced", 4 * KIB, 64 * MIB


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--depth", type=int, default=16)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # What was started is ended then, too.
    steal, spent = Steal(), defaultdict[tuple[bool, str], list[float]](list)
    with TemporaryDirectory(prefix="holdfast-bench-", dir=fast_dir(1024)) as folder:
        loop = Loop()
        hosts = start_volume(loop, Path(folder), UID, 2)
        asker = Asker(Path(folder) / UID / "host-a" / "run" / f"{UID}.sock")
        try:
            for number in range(arguments.rounds * len(EVERY) * 2):
                # Interleaved, and each first as often as the others.
                reading, turn = bool(number % 2), number // 2
                name = list(EVERY)[(turn + turn // len(EVERY)) % len(EVERY)]
                asker.ask(every=EVERY[name], for_s=600)
                used_us = steal.quiet(lambda r=reading: _measure(hosts, r, arguments))  # type: ignore[misc]
                spent[reading, name].append(used_us)
                loop.run_once(0)
        finally:
            asker.close()
            for host in hosts:
                host.end()
            loop.close()
    rows = []
    for reading in (False, True):
        plain = median(spent[reading, "off"])
        for name in EVERY:
            more = f"{(median(spent[reading, name]) / plain - 1) * 100:+.1f} %"
            rows.append(["read" if reading else "write", name, figure(spent[reading, name], 2), more])
    print(f"4 KiB random, depth {arguments.depth}, mirrored; the primary's processor time.\n")
    print(table(("", "traced", "µs each", "of off"), rows))
    print(f"\n{steal}")
    return 0


def _measure(hosts: list[Host], reading: bool, arguments: argparse.Namespace) -> float:
    pid = hosts[0].process.pid
    before_s = cpu_s(pid)
    count, _elapsed_s = load(
        hosts[0].ring.fds,
        size=SIZE,
        span=SPAN,
        depth=arguments.depth,
        reading=reading,
        sequential=False,
        bare=False,
        seconds=arguments.seconds,
        seed=1,
    )
    return (cpu_s(pid) - before_s) / count * 1e6


if __name__ == "__main__":
    sys.exit(main())
