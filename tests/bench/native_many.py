"""What many volumes on one host cost, each with a worker of its own: aggregate, fairness, memory, idle cost.

python tests/bench/native_many.py [--seconds 2] [--volumes 1,8,64]
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from native_world import HERE, REST_S, Host, cpu_s, run_for
from rounds import Steal, figure, table

from holdfast.base.limits import KIB, MIB
from holdfast.base.loop import Loop
from holdfast.lab.folders import fast_dir

DEPTH = 4
SIZE, SPAN = 4 * KIB, 8 * MIB
IDLE_S = 5.0


def measure(loop: Loop, hosts: list[Host], seconds: float, steal: Steal) -> list[list[str]]:
    rows = []
    for reading in (False, True):
        before_s = sum(cpu_s(host.process.pid) for host in hosts)
        counts, elapsed_s = steal.quiet(lambda r=reading: _load(hosts, r, seconds))  # type: ignore[misc]
        used_us = (sum(cpu_s(host.process.pid) for host in hosts) - before_s) / sum(counts) * 1e6
        rows.append(
            [
                str(len(hosts)),
                "read" if reading else "write",
                f"{sum(counts) / elapsed_s:,.0f}",
                f"{min(counts) / max(counts):.2f}",
                f"{used_us:.1f}",
            ]
        )
        loop.run_once(0)
    return rows


def idle(loop: Loop, hosts: list[Host]) -> list[str]:
    run_for(loop, REST_S)
    before = [(host.process.switches(), cpu_s(host.process.pid)) for host in hosts]
    run_for(loop, IDLE_S)
    memory = [host.process.rss_kib() / 1024 for host in hosts]
    own = [host.process.own_kib() / 1024 for host in hosts]
    pairs = zip(hosts, before, strict=True)
    spent = [
        ((host.process.switches() - woken) / IDLE_S, (cpu_s(host.process.pid) - used_s) / IDLE_S * 1e3)
        for host, (woken, used_s) in pairs
    ]
    return [
        str(len(hosts)),
        figure(memory, 1),
        figure(own, 1),
        figure([woken for woken, _ms in spent], 1),
        f"{median(ms for _woken, ms in spent):.2f}",
    ]


def _load(hosts: list[Host], reading: bool, seconds: float) -> tuple[list[int], float]:
    plan = {
        "rings": [host.ring.fds for host in hosts],
        "depth": DEPTH,
        "size": SIZE,
        "span": SPAN,
        "reading": reading,
        "seconds": seconds,
        "seed": 1,
    }
    done = subprocess.run(
        [sys.executable, str(HERE / "ring_load_many.py"), json.dumps(plan)],
        pass_fds=[fd for host in hosts for fd in host.ring.fds],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "PYTHONPATH": str(HERE)},
    )
    answer = json.loads(done.stdout)
    return answer["counts"], answer["elapsed_s"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--volumes", default="1,8,64")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # What was started is ended then, too.
    steal = Steal()
    busy_rows, idle_rows = [], []
    for volumes in map(int, arguments.volumes.split(",")):
        with TemporaryDirectory(prefix="holdfast-bench-", dir=fast_dir(4096)) as folder:
            loop = Loop()
            hosts: list[Host] = []
            try:
                for number in range(volumes):
                    where = Path(folder) / str(number)
                    hosts.append(Host(loop, where, f"v{number}", "host-a", ["--clear"], MIB))
                for host in hosts:
                    host.apply("primary", [])
                for host in hosts:
                    host.until_serving()
                busy_rows += measure(loop, hosts, arguments.seconds, steal)
                idle_rows.append(idle(loop, hosts))
            finally:
                for host in hosts:
                    host.end()
                loop.close()
    print(f"4 KiB random, depth {DEPTH} on each, volumes of one host each.\n")
    print(table(("volumes", "", "a second in all", "slowest / fastest", "µs of processor each"), busy_rows))
    print()
    head = ("volumes", "resident MiB", "of that its own", "wake-ups a second", "ms of processor a second")
    print(table(head, idle_rows))
    print(f"\n{steal}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
