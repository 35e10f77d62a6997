"""What the tests of the base share: a loop that is closed, a throw-away authority, a way to serve exports."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from holdfast.base.errors import NotFound
from holdfast.base.loop import Loop
from holdfast.base.nbd.server import Export, Server
from holdfast.base.nbd.testing_pki import TestAuthority
from holdfast.base.tls import PeerIdentity, TlsFiles, server_context

# The machine's speed varies: what counts is whether it holds, not how long one example took.
settings.register_profile("holdfast", deadline=None, max_examples=60)
settings.load_profile("holdfast")


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def host(authority: TestAuthority) -> TlsFiles:
    """The credentials of the storage host `host-b`."""
    return authority.issue("host-b", "host")


class Serving:
    """A server of named exports on the test's loop."""

    def __init__(self, loop: Loop, tls: TlsFiles) -> None:
        self.exports: dict[str, Export] = {}
        self.peers: list[PeerIdentity | None] = []
        self.server = Server(loop, self._open)
        self.clear_port = self.server.listen_tcp("127.0.0.1", 0, tls=None)
        self.tls_port = self.server.listen_tcp("127.0.0.1", 0, tls=server_context(tls))

    def _open(self, name: str, peer: PeerIdentity | None) -> Export:
        self.peers.append(peer)
        if name not in self.exports:
            raise NotFound("NO_SUCH_EXPORT", f"There is no export {name!r}.")
        return self.exports[name]


@pytest.fixture
def serving(loop: Loop, host: TlsFiles) -> Iterator[Serving]:
    serving = Serving(loop, host)
    yield serving
    serving.server.close()


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """The path of a program that these tests judge by; missing, the test fails and says what to do."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None and Path("/usr/bin", name).exists():
            path = f"/usr/bin/{name}"
        assert path, f"{name} is not installed: apt-get install libnbd-bin python3-libnbd qemu-utils"
        return path

    return find
