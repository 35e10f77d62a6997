"""Pytest fixtures for every component: real servers, and a lab. Load with `-p holdfast.lab.fixtures`.

All are made once per test run, on free ports and in folders of their own, and ended with it. A
test that kills or cuts something puts it back itself.
"""

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.lab.etcd import EtcdServer
from holdfast.lab.folders import fast_dir
from holdfast.lab.install import install
from holdfast.lab.lab import Lab
from holdfast.lab.servers import LocalHost
from holdfast.lab.swift import SwiftServer

_ROOM_MIB = 2048  # for a run's etcd data, objects and disks


def fast_folder(prefix: str) -> Path:
    """A fresh folder, in memory if there is room. The caller removes it; `run_folder` does so."""
    return Path(tempfile.mkdtemp(prefix=prefix, dir=fast_dir(_ROOM_MIB)))


@contextlib.contextmanager
def run_folder(prefix: str, clear: Callable[[Path], None]) -> Iterator[Path]:
    """A fresh folder for this run, in memory if there is room; `clear` ends what lives in it.

    A run holds its folder's lock. Folders that nobody holds are from runs that were killed: they
    are cleared too.
    """
    parent = fast_dir(_ROOM_MIB) or Path(tempfile.gettempdir())
    for old in parent.glob(f"{prefix}*/lock"):
        with old.open() as lock, contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _clear(old.parent, clear)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            _clear(folder, clear)


def _clear(folder: Path, clear: Callable[[Path], None]) -> None:
    clear(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def installed(pytestconfig: pytest.Config) -> None:
    """Everything that the lab needs is on this machine (installed now, if it was not)."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def say(sentence: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n{sentence}", flush=True)

    install(say)


@pytest.fixture(scope="session")
def local_host(installed: None) -> Iterator[LocalHost]:
    """This machine's loopback, where servers can be started; whatever is left is ended."""
    with run_folder("holdfast-servers-", lambda path: LocalHost(path / "host").down()) as folder:
        yield LocalHost(folder / "host")


@pytest.fixture(scope="session")
def etcd_server(local_host: LocalHost) -> Iterator[EtcdServer]:
    """A running etcd on 127.0.0.1, shared by the tests of this run: use keys of your own."""
    with EtcdServer(local_host, local_host.folder / "etcd") as server:
        yield server


@pytest.fixture(scope="session")
def swift_server(local_host: LocalHost) -> Iterator[SwiftServer]:
    """A running Swift on 127.0.0.1, shared by the tests of this run: use a bucket of your own."""
    with SwiftServer(local_host, local_host.folder / "swift") as server:
        yield server


@pytest.fixture(scope="session")
def lab(installed: None) -> Iterator[Lab]:
    """A lab that is up, without guests, its disks in memory; shared by the tests of this run."""
    with (
        run_folder("holdfast-labs-", lambda path: Lab.leftover(path / "lab").down()) as folder,
        Lab(folder / "lab", disk_dir=folder / "disks") as made,
    ):
        yield made
