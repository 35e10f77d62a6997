"""How long a volume's users wait when a worker's process is killed after random writes all over the volume.

    python tests/bench/restart.py [--gib 16] [--seconds 8]

Two worker processes on loopback with a ring in shared memory, as native.py has them. What was written to
lately is in doubt for a primary's new process. The wait is from the kill to the first write that is
acknowledged again, the start of a Python process included.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from native_world import Host, load, start_volume
from rounds import Steal, table

from holdfast.base.limits import GIB, KIB
from holdfast.base.loop import Loop
from holdfast.lab.folders import fast_dir

UID = "v"


def write(host: Host, depth: int, seconds: float, span: int) -> None:
    plan = {"depth": depth, "size": 4 * KIB, "span": span, "reading": False, "sequential": False}
    load(host.ring.fds, bare=False, seconds=seconds, seed=1, **plan)


class Restart:
    """A mirrored volume of which one process after another is killed."""

    def __init__(self, loop: Loop, folder: Path, size_bytes: int) -> None:
        self.loop, self.folder, self.size_bytes = loop, folder, size_bytes
        primary, mirror = start_volume(loop, folder, UID, 2, size_bytes=size_bytes)
        self.hosts = {"primary": primary, "mirror": mirror}

    def waits_s(self, role: str, seconds: float) -> float:
        write(self.hosts["primary"], 32, seconds, self.size_bytes)
        old = self.hosts[role]
        killed_s = time.perf_counter()
        os.kill(old.process.pid, signal.SIGKILL)
        old.end()
        self.hosts[role] = Host(self.loop, self.folder / UID, UID, old.host_id, ["--clear"])
        primary, mirror = self.hosts["primary"], self.hosts["mirror"]
        mirror.apply("mirror", [primary], self.size_bytes)
        primary.apply("primary", [mirror], self.size_bytes)
        primary.until_serving()
        write(primary, 1, 0.0, self.size_bytes)
        return time.perf_counter() - killed_s

    def end(self) -> None:
        for host in self.hosts.values():
            host.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # What was started is ended then, too.
    steal, rows = Steal(), []
    with TemporaryDirectory(prefix="holdfast-bench-", dir=fast_dir(4096)) as folder:
        loop = Loop()
        volume = Restart(loop, Path(folder), arguments.gib * GIB)
        try:
            for role in ("primary", "mirror"):
                waits = sorted(volume.waits_s(role, arguments.seconds) for _ in range(arguments.rounds))
                rows.append([role, f"{waits[len(waits) // 2]:.2f}", f"{waits[0]:.2f}", f"{waits[-1]:.2f}"])
        finally:
            volume.end()
            loop.close()
    head = ("killed", "wait s, median", "lowest", "highest")
    print(f"4 KiB random writes over {arguments.gib} GiB, then a kill.\n\n{table(head, rows)}\n\n{steal}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
