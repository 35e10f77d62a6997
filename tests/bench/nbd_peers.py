"""The worker's NBD export beside nbdkit and qemu-nbd: random reads by fio's NBD engine, one client."""

import json
import subprocess
from collections import defaultdict
from pathlib import Path

from native_world import Host, Process, cpu_s, free_port
from rounds import Steal, figure, table

from holdfast.base.limits import MIB

DEPTHS = (1, 32)
SPAN = 256 * MIB
NBD_PACKAGES = ("fio", "nbdkit", "qemu-utils")


def nbd_rounds(folder: Path, host: Host, seconds: float, rounds: int, steal: Steal) -> None:
    """Prints a table."""
    data = folder / "nbd-data"
    data.write_bytes(b"x" * SPAN)
    rates: dict[tuple[str, int], list[float]] = defaultdict(list)
    cpu_us: dict[tuple[str, int], list[float]] = defaultdict(list)
    ports = [free_port() for _ in range(2)]
    servers = {
        "nbdkit file": Process(["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(ports[0]), "file", str(data)]),
        "qemu-nbd": Process(
            ["qemu-nbd", "-t", "-f", "raw", "-b", "127.0.0.1", "-p", str(ports[1]), "-e", "8", str(data)]
        ),
    }
    uris = {
        "worker": f"nbd://127.0.0.1:{host.port}/replica:{host.uid}",
        "nbdkit file": f"nbd://127.0.0.1:{ports[0]}/",
        "qemu-nbd": f"nbd://127.0.0.1:{ports[1]}/",
    }
    pids = {"worker": host.process.pid, **{name: server.pid for name, server in servers.items()}}
    try:
        for _ in range(rounds):
            for depth in DEPTHS:
                for name, uri in uris.items():
                    rate, used_us = steal.quiet(lambda u=uri, d=depth, n=name: _fio(u, d, seconds, pids[n]))  # type: ignore[misc]
                    rates[name, depth].append(rate)
                    cpu_us[name, depth].append(used_us)
    finally:
        for server in servers.values():
            server.end()
    rows = [
        [
            f"4 KiB random read, depth {depth}",
            name,
            figure(rates[name, depth]),
            figure(cpu_us[name, depth], 1),
        ]
        for depth in DEPTHS
        for name in uris
    ]
    print()
    print(table(("NBD", "server", "a second", "µs of the server's processor"), rows))


def _fio(uri: str, depth: int, seconds: float, pid: int) -> tuple[float, float]:
    """Reads a second, and the server's processor time for each."""
    before_s = cpu_s(pid)
    answer = subprocess.run(
        [
            *("fio", "--name=nbd", "--ioengine=nbd", f"--uri={uri}", "--rw=randread", "--bs=4k"),
            *(f"--iodepth={depth}", f"--size={SPAN}", "--time_based", f"--runtime={seconds:g}"),
            *("--output-format=json", "--randrepeat=0"),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    used_s = cpu_s(pid) - before_s
    job = json.loads(answer.stdout[answer.stdout.index("{") :])["jobs"][0]
    return job["read"]["iops"], used_s / max(1, job["read"]["total_ios"]) * 1e6
