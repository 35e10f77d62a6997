"""What a volume's size costs its snapshots: a sparse one of 15 TiB beside a small one with the same data.

    python tests/bench/sparse.py [--mib 128] [--folder DIRECTORY]

Real agents, workers, etcd, TLS and a snapshotter with a directory for its objects; only LIO is left out. Of a
snapshot, the time is from FROZEN to COMPLETED; of a volume made from it, from the request to its last bytes.
"""

import argparse
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from freezes import Stage, scratch

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot.v1 import snapshot_pb2 as sb
from holdfast.api.volume.v1 import volume_pb2 as vb
from holdfast.base.errors import HoldfastError
from holdfast.base.limits import GIB, MIB, TIB
from holdfast.base.nbd.client import Client
from holdfast.base.tls import PeerIdentity, client_context
from holdfast.lab.install import install
from holdfast.metadata import keys
from holdfast.metadata.records import decode
from holdfast.target.testing_driver import Driver

SIZES = {"small": GIB, "large": 15 * TIB}
LIMIT_S = 600.0
PIECES = 64
"""Places that the data is at, spread over the volume."""


class Sparse:
    def __init__(self, stage: Stage, folder: Path, ending: ExitStack) -> None:
        self.stage, self.folder, self._ending = stage, folder, ending

    def start_snapshotter(self) -> None:
        """Another process for each volume: its peak is then its own."""
        metadata = self.stage.metadata
        own = metadata.tls("snapshotter", "service")
        (self.folder / "objects").mkdir(exist_ok=True)
        words = [sys.executable, "-m", "holdfast.snapshotter.main", "--id", "s", "--address", "127.0.0.1"]
        words += ["--listen-nbd", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0"]
        words += ["--objects", f"file://{self.folder}/objects", "--etcd", metadata.etcd_endpoint]
        words += ["--ca", str(own.ca), "--cert", str(own.certificate), "--key", str(own.key)]
        log = open(self.folder / "snapshotter.log", "ab")  # noqa: SIM115
        self.snapshotter = subprocess.Popen(words, stdout=log, stderr=log)
        self._ending.callback(self.snapshotter.kill)

    def stop_snapshotter(self) -> None:
        self.snapshotter.terminate()
        self.snapshotter.wait(60)

    def fill(self, uid: str, size_bytes: int, data_bytes: int) -> None:
        driver = Driver(self.primary(uid).run / f"{uid}.io")
        piece = data_bytes // PIECES
        for number in range(PIECES):
            start = size_bytes // PIECES * number // MIB * MIB
            for at in range(start, start + piece, MIB):
                if not driver.write(at, MIB, 1 + (at // MIB * 2654435761) % (1 << 32 - 1), 60.0):
                    raise SystemExit("a write was not acknowledged")
        driver.write(size_bytes - 4096, 4096, int.from_bytes(b"last", "little"), 60.0)
        driver.close()

    def primary(self, uid: str):  # type: ignore[no-untyped-def]
        return self.stage.agents[self._record(keys.replica(uid), r.ReplicaRecord).primary_host_id]

    def _record(self, key: str, kind):  # type: ignore[no-untyped-def]
        entry = self.stage.etcd.get(key)
        if entry is None:
            raise HoldfastError("NO_RECORD", key)
        return decode(kind, entry.value)

    def snapshot(self, name: str, volume: str) -> tuple[float, sb.Snapshot]:
        snapshots = self.stage.client.snapshots
        snapshots.CreateSnapshot(sb.CreateSnapshotRequest(snapshot_id=name, volume_id=volume))
        frozen_s = 0.0
        watch = sb.WatchSnapshotRequest(snapshot_id=name)
        for answer in snapshots.WatchSnapshot(watch, timeout=LIMIT_S):
            state = answer.snapshot.state
            if state == r.SNAPSHOT_STATE_FROZEN and not frozen_s:
                frozen_s = time.monotonic()
            if state in (r.SNAPSHOT_STATE_COMPLETED, r.SNAPSHOT_STATE_FAILED):
                if state == r.SNAPSHOT_STATE_FAILED:
                    raise SystemExit(answer.snapshot.reason)
                return time.monotonic() - frozen_s, answer.snapshot
        raise SystemExit("the watch ended")

    def first_byte_s(self, name: str, snapshot: str, size_bytes: int) -> float:
        client = self.stage.client
        began_s = time.monotonic()
        source = vb.SnapshotRef(snapshot_id=snapshot)
        request = vb.CreateVolumeRequest(volume_id=name, source_snapshot=source)
        uid = client.volumes.CreateVolume(request).volume.uid
        tls = client_context(self.stage.metadata.tls("operator", "operator"))
        while time.monotonic() - began_s < LIMIT_S:
            try:
                primary = self._record(keys.replica(uid), r.ReplicaRecord).primary_host_id
                port = self._record(keys.assignment(primary, uid), r.Assignment).nbd_port
                address = self._record(keys.host(primary), r.HostRecord).address
                expected = PeerIdentity(primary, "host")
                with Client((address, port), f"replica:{uid}", tls=tls, expected=expected) as reader:
                    if bytes(reader.read(size_bytes - 8, 8)) != b"lastlast":
                        raise SystemExit("the volume's last bytes are not the snapshot's")
                break
            except HoldfastError:
                time.sleep(0.005)
        took_s = time.monotonic() - began_s
        client.volumes.DeleteVolume(vb.DeleteVolumeRequest(volume_id=name))
        return took_s


def peak_mib(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) >> 10


def anonymous_mib(pid: int) -> int:
    """Without the files that it has mapped: bitmaps are the kernel's to page."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) >> 10


def measure(at: Sparse, data_bytes: int) -> None:
    for name, size_bytes in SIZES.items():
        request = vb.CreateVolumeRequest(volume_id=name, size_bytes=size_bytes)
        uid = at.stage.client.volumes.CreateVolume(request).volume.uid
        at.stage.await_healthy(uid)
        at.fill(uid, size_bytes, data_bytes)
        at.start_snapshotter()
        full_s, full = at.snapshot(f"{name}-full", name)
        driver = Driver(at.primary(uid).run / f"{uid}.io")
        for number in range(16):
            driver.write(size_bytes // PIECES * number // MIB * MIB, 4096, 7, 60.0)
        driver.close()
        increment_s, increment = at.snapshot(f"{name}-increment", name)
        waits = sorted(at.first_byte_s(f"{name}-{n}", f"{name}-full", size_bytes) for n in range(5))
        worker = at.primary(uid).worker(uid)
        print(
            f"{name:6} {size_bytes / GIB:8.0f} GiB, {data_bytes // MIB} MiB of data:"
            f" full {full_s:5.1f} s ({full.uploaded_bytes / MIB:.0f} MiB),"
            f" increment {increment_s:4.1f} s ({increment.uploaded_bytes / MIB:.1f} MiB);"
            f" first byte {waits[2]:.2f} s ({waits[0]:.2f} to {waits[-1]:.2f});"
            f" peak memory: snapshotter {peak_mib(at.snapshotter.pid)} MiB,"
            f" worker {peak_mib(worker)} MiB ({anonymous_mib(worker)} without mapped files)",
            flush=True,
        )
        at.stop_snapshotter()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--mib", type=int, default=128)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    install()
    with scratch(asked.folder) as folder, ExitStack() as ending:
        stage = Stage(folder, ending, volumes=0, depth=0, overcommit=100_000.0)
        measure(Sparse(stage, folder, ending), asked.mib * MIB)
    return 0


if __name__ == "__main__":
    sys.exit(main())
