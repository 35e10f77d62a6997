"""For tests and benchmarks: a storage host's real agent, with its real workers, on this machine.

`driven`: workers take writes over a socket (testing_driven.py).
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from holdfast.metadata import pki
from holdfast.metadata.testing import RunningMetadata

STOP_LIMIT_S = 30


class AgentProcess:
    """The agent of the host `name`, reached at `address`; its store and log are under `folder`."""

    def __init__(
        self,
        name: str,
        address: str,
        folder: Path,
        metadata: RunningMetadata,
        driven: bool = False,
        lease_ttl_s: int = 2,
    ) -> None:
        pki.issue(metadata.directory, "host", name, [address])
        identity = pki.Identity(metadata.directory, name)
        self.name = name
        self.store = folder / name / "store"
        self.store.mkdir(parents=True)
        self.run = folder / name / "run"
        self.log = folder / f"{name}.log"
        module = "holdfast.target.testing_driven" if driven else "holdfast.target.main"
        self.words = [sys.executable, "-m", module, "--host-id", name]
        self.words += ["--address", address, "--portal", f"{address}:3260", "--store", str(self.store)]
        self.words += ["--run-dir", str(self.run), "--etcd", metadata.etcd_endpoint]
        self.words += ["--ca", str(identity.tls.ca), "--cert", str(identity.tls.certificate)]
        self.words += ["--key", str(identity.tls.key), "--seal-key", str(identity.seal)]
        self.words += ["--lease-ttl", str(lease_ttl_s)]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.words, stdout=log, stderr=log)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def worker(self, uid: str) -> int:
        return int(json.loads((self.run / f"{uid}.pid").read_text())["pid"])

    def power_off(self) -> None:
        """Agent and workers at once."""
        self.kill()
        self.kill_workers()

    def end(self) -> None:
        """The agent in good order, then its workers."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(STOP_LIMIT_S)
        self.kill_workers()

    def kill_workers(self) -> None:
        for path in self.run.glob("*.pid"):
            descriptor = None
            try:
                descriptor = os.pidfd_open(int(json.loads(path.read_text())["pid"]))
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            except ProcessLookupError:
                continue
            finally:
                if descriptor is not None:
                    os.close(descriptor)
