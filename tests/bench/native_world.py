"""Worker processes without a kernel's ring, bare loops, and NBD servers, each started and ended here."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from shared_ring import SharedRing

from holdfast.base.limits import GIB, MIB
from holdfast.base.loop import Loop
from holdfast.base.nbd.testing_pki import TestAuthority
from holdfast.replicator.clean import CLEAN_INTERVAL_S
from holdfast.target.control import Desired, DesiredPeer, DesiredRing, Observed
from holdfast.target.control_client import WorkerLink

HERE = Path(__file__).parent
SIZE_BYTES = GIB
DATA_BYTES = 64 * MIB
PATIENCE_S = 240.0
REST_S = 2 * CLEAN_INTERVAL_S + 5
"""So long after the last write a primary has cleaned up behind it: idle is what comes then."""
_CPU_CLOCK = 2
"""clock_gettime's number for a process's own time is (~pid << 3) | this."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_for(loop: Loop, seconds: float) -> None:
    """What workers say meanwhile is read."""
    end_s = time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0:
        loop.run_once(left_s)


def cpu_s(pid: int) -> float:
    """Processor time of a process so far, the kernel's for it included."""
    return time.clock_gettime((~pid << 3) | _CPU_CLOCK)


class Process:
    """One that is measured."""

    def __init__(self, words: list[str], pass_fds: tuple[int, ...] = (), **environment: str) -> None:
        self._popen = subprocess.Popen(
            words,
            pass_fds=pass_fds,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(HERE), **environment},
        )
        self.pid = self._popen.pid

    def line(self) -> str:
        assert self._popen.stdout is not None
        return self._popen.stdout.readline().strip()

    def rss_kib(self) -> int:
        return self._status_kib("VmRSS:")

    def peak_kib(self) -> int:
        """The most that was resident at any moment."""
        return self._status_kib("VmHWM:")

    def shared_kib(self) -> int:
        """Of the resident memory, shared pages: the ring's, which are the kernel's as well."""
        return self._status_kib("RssShmem:")

    def _status_kib(self, field: str) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition(field)[2].split()[0])

    def own_kib(self) -> int:
        """Of the resident memory, what it shares with nobody."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()[1:]
        fields = {line.split(":")[0]: int(line.split()[1]) for line in rollup}
        return fields["Private_Clean"] + fields["Private_Dirty"]

    def switches(self) -> int:
        """How often any of its threads has gone to sleep by itself: each is a wake-up later."""
        found = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            status = (task / "status").read_text()
            found += int(status.partition("voluntary_ctxt_switches:")[2].split()[0])
        return found

    def end(self) -> None:
        self._popen.terminate()
        self._popen.wait(30)


class Host:
    """A worker, told what its agent would tell it."""

    def __init__(
        self, loop: Loop, folder: Path, uid: str, host_id: str, tls: list[str], data_bytes: int = DATA_BYTES
    ) -> None:
        self.loop, self.uid, self.host_id = loop, uid, host_id
        self.port = free_port()
        self.ring = SharedRing(data_bytes)
        store, run = folder / host_id / "store", folder / host_id / "run"
        for path in (store, run):
            path.mkdir(parents=True, exist_ok=True)
        fds = self.ring.fds
        profile = os.environ.get("HOLDFAST_BENCH_PROFILES")
        self.process = Process(
            [
                *(sys.executable, str(HERE / "ring_worker.py"), ",".join(map(str, fds))),
                *("--volume", uid, "--store", str(store), "--run-dir", str(run), "--host-id", host_id),
                *tls,
            ],
            fds,
            **({"HOLDFAST_BENCH_PROFILE": f"{profile}/{uid}-{host_id}.prof"} if profile else {}),
        )
        self._link = WorkerLink(loop, run / f"{uid}.sock", lambda: None)

    def apply(
        self,
        role: str,
        others: list["Host"],
        size_bytes: int = SIZE_BYTES,
        epoch: int = 1,
        members: tuple[str, ...] = (),
    ) -> None:
        """`members`: who is in sync; all, if not said."""
        names = tuple(sorted([self.host_id, *(other.host_id for other in others)]))
        self._until(self._link.connect)
        self._link.apply(
            Desired(
                volume_uid=self.uid,
                size_bytes=size_bytes,
                role=role,
                epoch=epoch,
                members=members or names,
                primary_host_id="host-a",
                initialized=False,
                listen_address="127.0.0.1",
                nbd_port=self.port,
                peers=tuple(
                    DesiredPeer(one.host_id, "127.0.0.1", one.port, 2, one.host_id in (members or names))
                    for one in others
                ),
                ring=DesiredRing("", ""),
            )
        )

    @property
    def observed(self) -> Observed:
        return self._link.observed or Observed()

    def until_serving(self) -> None:
        self._until(lambda: self.observed.serving and self.observed.ring_open)

    def _until(self, holds: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not holds():
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{self.host_id} of {self.uid}: {replace(self.observed)}")
            self.loop.run_once(0.05)

    def end(self) -> None:
        self._link.close()
        self.process.end()
        self.ring.close()


def start_volume(
    loop: Loop, folder: Path, uid: str, hosts: int, tls: bool = False, size_bytes: int = SIZE_BYTES
) -> list[Host]:
    """A volume on `hosts` hosts, serving; the first is its primary."""
    names = ["host-a", "host-b"][:hosts]
    words: dict[str, list[str]] = {name: ["--clear"] for name in names}
    if tls:
        authority = TestAuthority(folder / "pki")
        for name in names:
            files = authority.issue(name, "host")
            words[name] = [
                *("--tls-ca", str(files.ca)),
                *("--tls-cert", str(files.certificate), "--tls-key", str(files.key)),
            ]
    workers = [Host(loop, folder / uid, uid, name, words[name]) for name in names]
    for number, worker in enumerate(workers):
        others = [one for one in workers if one is not worker]
        worker.apply("mirror" if number else "primary", others, size_bytes)
    workers[0].until_serving()
    return workers


@contextmanager
def bare(
    folder: Path, size: int, span: int, *, reading: bool, sequential: bool, mirrored: bool
) -> Iterator[tuple[tuple[int, int, int], list[Process]]]:
    """A bare loop (bare.py) to load: its descriptors and its processes, the primary first."""
    ring = SharedRing(0)
    plan = {"size": size, "span": span, "reading": reading, "sequential": sequential}
    processes: list[Process] = []

    def start(role: str, port: int) -> Process:
        words = json.dumps({**plan, "file": str(folder / f"bare-{role}"), "fds": ring.fds, "port": port})
        process = Process([sys.executable, str(HERE / "bare.py"), role, words], ring.fds)
        processes.append(process)
        return process

    try:
        port = int(start("mirror", 0).line()) if mirrored else 0
        start("primary", port).line()
        yield ring.fds, processes[::-1]
    finally:
        for process in processes:
            process.end()
        ring.close()


def load(fds: tuple[int, int, int], **plan: int | float | bool) -> tuple[int, float]:
    """Requests ended, and the seconds that took."""
    words = [sys.executable, str(HERE / "ring_load.py"), json.dumps({"fds": fds, **plan})]
    answer = subprocess.run(
        words,
        pass_fds=fds,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE)},
    )
    result = json.loads(answer.stdout)
    return result["count"], result["elapsed_s"]
