"""A real etcd for the run, and on it what holdfast.metadata.fixtures gives; and somebody who types."""

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest

from holdfast.base.tls import TlsFiles
from holdfast.cli.main import main
from holdfast.lab.etcd import EtcdServer
from holdfast.lab.fixtures import etcd_server, installed, local_host
from holdfast.lab.servers import LocalHost
from holdfast.lab.snapshotters import Running, World
from holdfast.metadata.fixtures import authority, etcd, make_host, metadata, two_hosts
from holdfast.metadata.testing import RunningMetadata

__all__ = [
    "authority",
    "etcd",
    "etcd_server",
    "installed",
    "local_host",
    "make_host",
    "metadata",
    "two_hosts",
]

IQN = "iqn.2026-01.com.example:compute1"


@dataclass(frozen=True)
class Typed:
    """What a command wrote."""

    stdout: str
    stderr: str


@dataclass
class Person:
    """Someone who types `holdfast …` in a shell of their own."""

    server: str
    tls: TlsFiles
    home: Path

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "HOLDFAST_SERVER": self.server,
            "HOLDFAST_CA": str(self.tls.ca),
            "HOLDFAST_CERT": str(self.tls.certificate),
            "HOLDFAST_KEY": str(self.tls.key),
        }

    def types(self, *words: str, status: int = 0) -> "Typed":
        """Run the program in this process: Python's start is most of a command's time."""
        out, err = io.StringIO(), io.StringIO()
        with (
            patch.dict(os.environ, self.environment(), clear=True),
            patch.object(sys, "argv", ["holdfast", *words]),
            redirect_stdout(out),
            redirect_stderr(err),
            pytest.raises(SystemExit) as raised,
        ):
            main()
            raise SystemExit(0)
        typed = Typed(out.getvalue(), err.getvalue())
        assert raised.value.code == status, (words, typed)
        return typed

    def json(self, *words: str) -> dict[str, object]:
        answer = json.loads(self.types(*words, "--output", "json").stdout)
        assert isinstance(answer, dict)
        return answer


@pytest.fixture
def person(metadata: RunningMetadata, tmp_path: Path) -> Callable[..., Person]:
    return lambda name, role="user": Person(metadata.address, metadata.tls(name, role), tmp_path)


@pytest.fixture
def world(
    metadata: RunningMetadata, etcd_server: EtcdServer, local_host: LocalHost, tmp_path: Path
) -> Iterator[World]:
    """Snapshotters on the metadata service's etcd and authority, with objects in a directory."""
    (tmp_path / "objects").mkdir()
    made = World(
        metadata.etcd,
        etcd_server.endpoint,
        metadata.directory,
        f"file://{tmp_path}/objects",
        local_host,
        tmp_path,
    )
    yield made
    made.close()


@pytest.fixture
def running(world: World) -> Running:
    return world.start()
