"""A real etcd server of one member, for tests and the demo."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from holdfast.lab.errors import LabError
from holdfast.lab.host_process import HostProcess
from holdfast.lab.servers import Host, Starting, free_port


@dataclass(frozen=True)
class Tls:
    """Files of a server certificate, and the authority that signs clients' certificates."""

    certificate: Path
    key: Path
    client_authority: Path


class EtcdServer:
    """An etcd server that can be stopped, killed and started again with its data.

    Its folder belongs on tmpfs: etcd syncs every write. Without `tls` it speaks clear text; with
    it, only TLS, and only to clients whose certificate the authority signed.
    """

    def __init__(
        self,
        host: Host,
        folder: Path,
        *,
        address: str = "127.0.0.1",
        port: int | None = None,
        tls: Tls | None = None,
    ) -> None:
        self.address = address
        self.folder = folder
        self.port = port or free_port(host, address)
        self.tls = tls
        self._host = host
        self._peer_port = free_port(host, "127.0.0.1")
        self._process: HostProcess | None = None

    @property
    def endpoint(self) -> str:
        """host:port, as gRPC clients want it."""
        return f"{self.address}:{self.port}"

    @property
    def url(self) -> str:
        """As etcdctl's --endpoints wants it."""
        return f"{'https' if self.tls else 'http'}://{self.endpoint}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> "EtcdServer":
        """Start it, with the data it had, and wait until it serves."""
        if self.running:
            raise LabError(f"etcd at {self.endpoint} already runs")
        program = shutil.which("etcd")
        if program is None:
            raise LabError("no etcd server here: run 'holdfast-lab install'")
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "etcd.log"
        words = [program, *self._flags()]
        self._process = Starting(self._host, words, name="etcd", log=log).finish()
        return self

    def stop(self) -> None:
        """End it in good order."""
        if self._process:
            self._process.end()

    def kill(self) -> None:
        """SIGKILL."""
        if self._process:
            self._process.kill()

    def signal(self, number: int) -> None:
        """Signal it: SIGSTOP and SIGCONT make an etcd that hangs."""
        if self._process:
            self._process.signal(number)

    def __enter__(self) -> "EtcdServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _flags(self) -> list[str]:
        peers = f"http://127.0.0.1:{self._peer_port}"
        flags = {
            "name": "lab",
            "data-dir": str(self.folder / "data"),
            "listen-client-urls": self.url,
            "advertise-client-urls": self.url,
            "listen-peer-urls": peers,
            "initial-advertise-peer-urls": peers,
            "initial-cluster": f"lab={peers}",
        }
        if self.tls:
            flags["cert-file"] = str(self.tls.certificate)
            flags["key-file"] = str(self.tls.key)
            flags["trusted-ca-file"] = str(self.tls.client_authority)
            flags["client-cert-auth"] = "true"
        return [f"--{name}={value}" for name, value in flags.items()]
