"""Pytest fixtures on a running etcd: a clean key space, a metadata server behind TLS, stand-in hosts.

Import them in a conftest beside a fixture `etcd_server` of the run's (holdfast.lab.fixtures has one).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from holdfast.metadata.etcd import Etcd
from holdfast.metadata.testing import RunningMetadata, StandInHost, clear

__all__ = ["authority", "etcd", "make_host", "metadata", "two_hosts"]
MakeHost = Callable[..., StandInHost]


class EtcdServerLike(Protocol):
    @property
    def endpoint(self) -> str: ...


@pytest.fixture
def etcd(etcd_server: EtcdServerLike) -> Iterator[Etcd]:
    """A client of the running etcd, without any of our keys in it."""
    client = Etcd([etcd_server.endpoint])
    clear(client)
    yield client
    client.close()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an authority that the whole run shares."""
    return tmp_path_factory.mktemp("pki")


@pytest.fixture
def metadata(etcd: Etcd, etcd_server: EtcdServerLike, authority: Path) -> Iterator[RunningMetadata]:
    running = RunningMetadata(authority, etcd_server.endpoint).start()
    yield running
    running.stop()


@pytest.fixture
def make_host(etcd: Etcd, authority: Path) -> Iterator[MakeHost]:
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
def two_hosts(make_host: MakeHost) -> list[StandInHost]:
    return [make_host("host-a"), make_host("host-b")]
