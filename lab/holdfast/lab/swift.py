"""A real S3 server for tests and the demo: OpenStack Swift with its s3api, one replica, no cache.

Four processes: the proxy, which checks signatures and speaks S3, and the account, container and
object servers, which keep the data under the folder in files with extended attributes.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.lab import swift_config
from holdfast.lab.errors import LabError
from holdfast.lab.host_process import HostProcess
from holdfast.lab.servers import Host, Starting, free_port
from holdfast.lab.swift_install import need_swift

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_BACK_ENDS = ("account", "container", "object")


@dataclass(frozen=True)
class Credentials:
    """What an S3 client needs besides the endpoint."""

    access_key: str = "holdfast:lab"
    secret_key: str = "swordfish-of-the-lab"
    region: str = "us-east-1"


class SwiftServer:
    """A Swift that can be stopped, killed and started again with its data.

    With `request_log_port`, a UDP port of loopback is sent a line for every request.

    The folder's file system must have user extended attributes: ext4 and XFS do, tmpfs since
    Linux 6.6.
    """

    def __init__(
        self,
        host: Host,
        folder: Path,
        *,
        address: str = "127.0.0.1",
        port: int | None = None,
        credentials: Credentials | None = None,
        request_log_port: int = 0,
    ) -> None:
        self.address = address
        self.folder = folder
        self.port = port or free_port(host, address)
        self.credentials = credentials or Credentials()
        self._request_log_port = request_log_port
        self._host = host
        self._ports = {name: free_port(host, "127.0.0.1") for name in _BACK_ENDS}
        self._processes: list[HostProcess] = []
        self._laid_out = False

    @property
    def endpoint_url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def running(self) -> bool:
        return bool(self._processes) and all(p.poll() is None for p in self._processes)

    @property
    def pids(self) -> list[int]:
        """Of its processes that run."""
        return [process.pid for process in self._processes]

    def start(self) -> "SwiftServer":
        """Start it, with the data it had, and wait until it serves."""
        if self.running:
            raise LabError(f"Swift at {self.endpoint_url} already runs")
        self.kill()
        if not self._laid_out:
            self._lay_out()
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.kill)
            starting = [self._begin(name) for name in (*_BACK_ENDS, "proxy")]
            self._processes = [one.process for one in starting]
            for one in starting:
                one.finish()
            on_failure.pop_all()
        return self

    def stop(self) -> None:
        """End it in good order, the proxy first."""
        for process in reversed(self._processes):
            process.end()
        self._processes.clear()

    def kill(self) -> None:
        """SIGKILL for all its processes."""
        for process in reversed(self._processes):
            process.kill()
        self._processes.clear()

    def __enter__(self) -> "SwiftServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def client(self) -> "S3Client":
        """A boto3 client for it (of this thread's network: see `Lab.network`)."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.credentials.access_key,
            aws_secret_access_key=self.credentials.secret_key,
            region_name=self.credentials.region,
            config=Config(
                s3={"addressing_style": "path"},
                # Checksums of their own kind in trailers and ranged reads are not everywhere known.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                retries={"max_attempts": 2, "mode": "standard"},
            ),
        )

    def make_bucket(self, name: str) -> str:
        """Make a bucket, if it is not there; its name."""
        with self._host.network():
            client = self.client()
            with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket=name)
        return name

    def _begin(self, name: str) -> Starting:
        program = need_swift() / "bin" / f"swift-{name}-server"
        return Starting(
            self._host,
            [str(program), str(self.folder / f"{name}-server.conf"), "--verbose"],
            name=f"swift-{name}",
            log=self.folder / f"{name}.log",
            env={"PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"},
        )

    def _lay_out(self) -> None:
        """Folders, configuration and rings (which hold the ports, so they are this object's)."""
        (self.folder / "nodes" / "disk").mkdir(parents=True, exist_ok=True)
        _check_attributes(self.folder / "nodes" / "disk")
        script = swift_config.ring_script(self.folder, self._ports)
        done = subprocess.run(
            [need_swift() / "bin" / "python", "-W", "ignore", "-c", script],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise LabError(f"cannot build Swift's rings:\n{done.stderr[-1000:]}")
        for name, text in self._configuration():
            (self.folder / name).write_text(text)
        self._laid_out = True

    def _configuration(self) -> Iterator[tuple[str, str]]:
        yield "swift.conf", swift_config.COMMON
        keys = (self.credentials.access_key, self.credentials.secret_key, self.credentials.region)
        yield (
            "proxy-server.conf",
            swift_config.proxy(self.folder, self.address, self.port, *keys, self._request_log_port),
        )
        for name, port in self._ports.items():
            yield f"{name}-server.conf", swift_config.back_end(self.folder, name, port)


def _check_attributes(folder: Path) -> None:
    probe = folder / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.swift.metadata", b"x" * 2048)
    except OSError as error:
        raise LabError(
            f"{folder} has no user extended attributes ({error.strerror}); Swift needs them:"
            " choose a folder on ext4 or XFS"
        ) from None
    finally:
        probe.unlink()
