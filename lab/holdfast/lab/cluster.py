"""A whole Holdfast in a lab: authority, etcd, S3, metadata service, snapshotter, storage and compute hosts.

Only processes and command lines: what runs here is what an operator would start. Used by the demo and by
the tests that cross components.
"""

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.lab.errors import LabError
from holdfast.lab.etcd import EtcdServer, Tls
from holdfast.lab.guest import Guest
from holdfast.lab.guest_process import GuestProcess
from holdfast.lab.host_process import HostProcess
from holdfast.lab.lab import Lab
from holdfast.lab.servers import Starting
from holdfast.lab.swift import SwiftServer

METADATA_PORT = 7400
SNAPSHOTTER_GRPC_PORT = 7410
SNAPSHOTTER_NBD_PORT = 7411
ETCD_PORT = 2379
S3_PORT = 8080
BUCKET = "holdfast"
STORE_DIR = "/var/lib/holdfast/replicas"
RUN_DIR = "/run/holdfast"
DISK_GIB = 20
_LOOK_AGAIN_S = 5.0
STORAGE_NAMES = ("storage-a", "storage-b")


@dataclass(frozen=True)
class Credentials:
    """Paths of one identity's files."""

    ca: Path
    certificate: Path
    key: Path

    def flags(self, prefix: str = "") -> list[str]:
        files = (("ca", self.ca), ("cert", self.certificate), ("key", self.key))
        return [f"--{prefix}{name}={path}" for name, path in files]


class Cluster:
    """A cluster in `lab`, which is up. `start` brings all of it up; each part can be had by itself."""

    def __init__(self, lab: Lab, storage_names: Sequence[str] = STORAGE_NAMES) -> None:
        self.lab = lab
        self.folder = lab.folder / "cluster"
        self.pki = self.folder / "pki"
        # Of its own: a certificate of etcd's authority opens all of etcd, and users have the other's.
        self.etcd_pki = self.folder / "etcd-pki"
        self.logs = self.folder / "logs"
        self.storage_names = tuple(storage_names)
        self.etcd: EtcdServer | None = None
        self.swift: SwiftServer | None = None
        self.metadata: HostProcess | None = None
        self.snapshotter: HostProcess | None = None
        self.agents: dict[str, GuestProcess] = {}

    # Parts, in the order in which they are started.

    def make_authority(self, users: Sequence[str]) -> None:
        """Certificates for everybody: `holdfast pki`."""
        self.logs.mkdir(parents=True, exist_ok=True)
        service = ["--address", self.lab.address]
        self._pki(self.pki, "init")
        self._pki(self.etcd_pki, "init")
        self._pki(self.etcd_pki, "service", "etcd", *service)
        for name in ("metadata", "snapshotter"):
            self._pki(self.pki, "service", name, *service)
            self._pki(self.etcd_pki, "user", name)
        for user in users:
            self._pki(self.pki, "user", user)
        self._pki(self.pki, "operator", "operator")
        self._pki(self.etcd_pki, "user", "operator")
        for guest in self.lab.guests():
            if guest.role == "storage":
                self._pki(self.pki, "host", guest.name, "--address", guest.address)
                self._pki(self.etcd_pki, "user", guest.name)

    def start_etcd(self) -> None:
        tls = self.etcd_credentials("etcd")
        files = Tls(tls.certificate, tls.key, tls.ca)
        folder = self.folder / "etcd"
        self.etcd = EtcdServer(self.lab, folder, address=self.lab.address, port=ETCD_PORT, tls=files).start()

    def start_s3(self) -> None:
        # Not below the lab's folder: that may be in memory, on a kernel without attributes there.
        folder = self.lab.disk_folder / "swift"
        folder.mkdir(parents=True, exist_ok=True)
        self.swift = SwiftServer(self.lab, folder, address=self.lab.address, port=S3_PORT).start()
        self.swift.make_bucket(BUCKET)

    def start_metadata(self, *more: str) -> None:
        """Start the metadata service, with `more` words."""
        own = self.credentials("metadata")
        self.metadata = self._start(
            "metadata",
            ["holdfast.metadata.main", "--listen", f"{self.lab.address}:{METADATA_PORT}"]
            + [
                "--seal-key",
                str(self.pki / "metadata.seal"),
                *own.flags(),
                *self.etcd_flags("metadata"),
                *more,
            ],
        )

    def start_snapshotter(self, name: str = "snapshotter", port_offset: int = 0) -> None:
        own = self.credentials("snapshotter")
        address = self.lab.address
        self.snapshotter = self._start(
            name,
            ["holdfast.snapshotter.main", "--id", name, "--address", address]
            + ["--listen-nbd", f"{address}:{SNAPSHOTTER_NBD_PORT + port_offset}"]
            + ["--grpc-listen", f"{address}:{SNAPSHOTTER_GRPC_PORT - port_offset}"]
            + ["--objects", f"s3://{BUCKET}/demo?endpoint=http://{address}:{S3_PORT}"]
            + own.flags()
            + self.etcd_flags("snapshotter"),
            env=self.s3_environment(),
        )

    def start_agent(self, guest: Guest, *more: str, env: Mapping[str, str] | None = None) -> None:
        """Start a storage host's agent, with `more` words. It registers the host by itself."""
        own, for_etcd, seal_key = self._hand_over(guest)
        guest.run(["mkdir", "-p", STORE_DIR, RUN_DIR])
        words = [sys.executable, "-m", "holdfast.target.main", "--host-id", guest.name]
        words += ["--address", guest.address, "--portal", f"{guest.address}:3260"]
        words += ["--store", STORE_DIR, "--run-dir", RUN_DIR, "--seal-key", str(seal_key)]
        words += [*own.flags(), "--etcd", self.etcd_endpoint, *for_etcd.flags("etcd-"), *more]
        self.agents[guest.name] = guest.spawn(words, log_name="agent.log", env=env)

    # Using it.

    @property
    def etcd_endpoint(self) -> str:
        return f"{self.lab.address}:{ETCD_PORT}"

    def credentials(self, name: str) -> Credentials:
        return _credentials(self.pki, name)

    def etcd_credentials(self, name: str) -> Credentials:
        return _credentials(self.etcd_pki, name)

    def etcd_flags(self, name: str) -> list[str]:
        return ["--etcd", self.etcd_endpoint, *self.etcd_credentials(name).flags("etcd-")]

    def s3_environment(self) -> dict[str, str]:
        assert self.swift is not None
        keys = self.swift.credentials
        return {
            **os.environ,
            "AWS_ACCESS_KEY_ID": keys.access_key,
            "AWS_SECRET_ACCESS_KEY": keys.secret_key,
            "AWS_DEFAULT_REGION": keys.region,
        }

    def cli_words(self, user: str) -> list[str]:
        """The `holdfast` command as `user`, ready for more words."""
        program = str(Path(sys.executable).with_name("holdfast"))
        server = f"{self.lab.address}:{METADATA_PORT}"
        return [program, "--server", server, *self.credentials(user).flags()]

    def cli(self, user: str, *words: str, timeout_s: float = 120) -> Any:
        """Run `holdfast --output json …` as `user`; the parsed answer. Raises CommandFailed."""
        command = [*self.cli_words(user), "--output", "json", *words]
        done = self.lab.host_run(command, timeout_s=timeout_s)
        return json.loads(done.stdout) if done.stdout.strip() else None

    def cli_refused(self, user: str, *words: str) -> str:
        """Run a command that must be refused; what it says. Raises AssertionError if it is not."""
        done = self.lab.host_run([*self.cli_words(user), *words], check=False)
        if done.returncode == 0:
            raise AssertionError(f"`holdfast {' '.join(words)}` as {user} was not refused: {done.stdout}")
        return done.stderr.strip()

    def etcdctl(self, *words: str) -> list[str]:
        own = self.etcd_credentials("operator")
        return [
            *("etcdctl", f"--endpoints=https://{self.etcd_endpoint}", f"--cacert={own.ca}"),
            *(f"--cert={own.certificate}", f"--key={own.key}", *words),
        ]

    def etcdctl_environment(self) -> dict[str, str]:
        return {**os.environ, "ETCDCTL_API": "3"}

    def record(self, key: str) -> Any:
        """The JSON value of a key below /holdfast/v1/, read with etcdctl; None if there is none."""
        words = self.etcdctl("get", "--print-value-only", f"/holdfast/v1/{key}")
        text = self.lab.host_run(words, env=self.etcdctl_environment()).stdout
        return json.loads(text) if text.strip() else None

    def await_record(self, key: str, holds: Callable[[Any], bool], timeout_s: float = 120) -> Any:
        """Wait until the value of a key satisfies `holds`; the value. Watches, does not poll."""
        return self._await(key, lambda value: value is not None and holds(value), timeout_s)

    def await_gone(self, key: str, timeout_s: float = 120) -> None:
        """Wait until there is no such key."""
        self._await(key, lambda value: value is None, timeout_s)

    def _await(self, key: str, holds: Callable[[Any], bool], timeout_s: float) -> Any:
        words = self.etcdctl("watch", f"/holdfast/v1/{key}")
        deadline_s = time.monotonic() + timeout_s
        watch = self.lab.host_popen(
            words, name="await", stdout=subprocess.PIPE, env=self.etcdctl_environment()
        )
        assert watch.stdout is not None
        try:
            while not holds(value := self.record(key)):
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    raise LabError(f"{key} did not become what was waited for; it is {value}")
                # The watch may begin after the change: look again now and then.
                if select.select([watch.stdout], [], [], min(left_s, _LOOK_AGAIN_S))[0]:
                    os.read(watch.stdout.fileno(), 1 << 16)
        finally:
            watch.kill()
        return value

    def await_hosts(self) -> None:
        """Every storage host has registered itself."""
        for name in self.storage_names:
            self.await_record(f"leases/hosts/{name}", lambda _value: True)

    def nbd_uri(self, host: str, volume_uid: str, export: str, credentials_dir: Path) -> str:
        """Where an NBD client that is not ours reads an export of a volume's replica on `host`."""
        assignment = self.record(f"assignments/{host}/{volume_uid}")
        address = self.lab.guest(host).address
        return f"nbds://{address}:{assignment['nbd_port']}/{export}?tls-certificates={credentials_dir}"

    def nbd_credentials(self, name: str) -> Path:
        """A folder with `name`'s files under the names that libnbd expects."""
        own = self.credentials(name)
        folder = self.folder / f"nbd-{name}"
        folder.mkdir(exist_ok=True)
        for target, source in (
            ("ca-cert", own.ca),
            ("client-cert", own.certificate),
            ("client-key", own.key),
        ):
            link = folder / f"{target}.pem"
            link.unlink(missing_ok=True)
            link.symlink_to(source)
        return folder

    def _hand_over(self, guest: Guest) -> tuple[Credentials, Credentials, Path]:
        """Copy a host's own files, and no others, to where the guest sees them: as a host, for etcd, and
        its seal key."""
        inside = Path(guest.shared_dir)

        def copy(folder: Path, name: str) -> Path:
            (guest.folder / folder.name).mkdir(exist_ok=True)
            shutil.copy(folder / name, guest.folder / folder.name)
            return inside / folder.name / name

        own, for_etcd = (
            Credentials(*(copy(folder, path.name) for path in _files(folder, guest.name)))
            for folder in (self.pki, self.etcd_pki)
        )
        return own, for_etcd, copy(self.pki, f"{guest.name}.seal")

    @staticmethod
    def _pki(folder: Path, kind: str, *words: str) -> None:
        program = str(Path(sys.executable).with_name("holdfast"))
        subprocess.run(
            [program, "pki", kind, str(folder), *words], check=True, capture_output=True, text=True
        )

    def _start(self, name: str, words: list[str], env: dict[str, str] | None = None) -> HostProcess:
        log = self.logs / f"{name}.log"
        command = [sys.executable, "-m", *words]
        return Starting(self.lab, command, name=name, log=log, env=env).finish()


def _files(folder: Path, name: str) -> tuple[Path, Path, Path]:
    return folder / "ca.crt", folder / f"{name}.crt", folder / f"{name}.key"


def _credentials(folder: Path, name: str) -> Credentials:
    return Credentials(*_files(folder, name))
