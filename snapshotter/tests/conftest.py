"""What the tests of snapshots share: stores of each kind, on real servers."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from holdfast.lab.etcd import EtcdServer
from holdfast.lab.fixtures import etcd_server, installed, local_host, swift_server
from holdfast.lab.servers import LocalHost
from holdfast.lab.snapshotters import World
from holdfast.lab.swift import SwiftServer
from holdfast.metadata import pki
from holdfast.metadata.etcd import Etcd
from holdfast.metadata.testing import clear
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.objects_directory import DirectoryStore
from holdfast.snapshotter.objects_faults import FaultyStore
from holdfast.snapshotter.objects_memory import MemoryObjects
from holdfast.snapshotter.objects_url import open_store

__all__ = ["etcd_server", "installed", "local_host", "swift_server"]

# The machine's speed varies: what counts is whether it holds, not how long one example took.
settings.register_profile(
    "snapshotter",
    deadline=None,
    max_examples=40,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("snapshotter")
_numbers = itertools.count()


@pytest.fixture
def s3_url(swift_server: SwiftServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh bucket, with the credentials for it in the environment."""
    if not swift_server.running:
        swift_server.start()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", swift_server.credentials.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", swift_server.credentials.secret_key)
    bucket = swift_server.make_bucket(f"snapshotter-{next(_numbers)}")
    return f"s3://{bucket}/some/prefix?endpoint={swift_server.endpoint_url}&connect_timeout_s=1&attempts=2"


@pytest.fixture
def directory(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "objects")


@pytest.fixture
def faulty(directory: DirectoryStore) -> FaultyStore:
    return FaultyStore(directory)


@pytest.fixture
def memory() -> MemoryObjects:
    return MemoryObjects(time.time)


@pytest.fixture(params=["directory", "faulty", "memory", "s3"])
def store(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    """Every kind of store there is."""
    made = (
        open_store(request.getfixturevalue("s3_url"))
        if request.param == "s3"
        else request.getfixturevalue(request.param)
    )
    yield made
    made.close()


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
    folder = tmp_path_factory.mktemp("pki")
    pki.init(folder)
    return folder


@pytest.fixture
def world(
    etcd: Etcd, etcd_server: EtcdServer, authority: Path, s3_url: str, local_host: LocalHost, tmp_path: Path
) -> Iterator[World]:
    made = World(etcd, etcd_server.endpoint, authority, s3_url, local_host, tmp_path)
    yield made
    made.close()
