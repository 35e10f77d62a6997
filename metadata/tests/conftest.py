"""A real etcd for the run, a fresh key space for each test, and a metadata server behind mutual TLS."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from holdfast.lab.etcd import EtcdServer
from holdfast.lab.fixtures import etcd_server, installed, local_host
from holdfast.metadata.etcd import Etcd
from holdfast.metadata.testing import RunningMetadata, StandInHost, clear

__all__ = ["etcd_server", "installed", "local_host"]


@pytest.fixture
def etcd(etcd_server: EtcdServer) -> Iterator[Etcd]:
    """A client of a running etcd without any of our keys."""
    if not etcd_server.running:
        etcd_server.start()
    client = Etcd([etcd_server.endpoint])
    clear(client)
    yield client
    client.close()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an authority that the whole run shares."""
    return tmp_path_factory.mktemp("pki")


@pytest.fixture
def metadata(etcd: Etcd, etcd_server: EtcdServer, authority: Path) -> Iterator[RunningMetadata]:
    running = RunningMetadata(authority, etcd_server.endpoint).start()
    yield running
    running.stop()


@pytest.fixture
def make_host(etcd: Etcd, authority: Path) -> Iterator[Callable[..., StandInHost]]:
    """Start stand-in hosts: make_host("a", capacity_bytes=…, hold=…)."""
    made: list[StandInHost] = []

    def make(host_id: str, **options: object) -> StandInHost:
        host = StandInHost(etcd, authority, host_id, **options)  # type: ignore[arg-type]
        made.append(host)
        return host.start()

    yield make
    for host in made:
        host.stop()


@pytest.fixture
def two_hosts(make_host: Callable[..., StandInHost]) -> list[StandInHost]:
    return [make_host("host-a"), make_host("host-b")]
