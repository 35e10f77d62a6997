"""Who may open which of a worker's exports (I-10), by the certificate's role and name."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.base.errors import NotFound, StaleEpoch
from holdfast.base.limits import MIB
from holdfast.base.loop import Loop
from holdfast.base.tls import PeerIdentity
from holdfast.replicator.files import Files
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.replica import Replica
from holdfast.replicator.store import Store, create
from holdfast.replicator.talk import Session
from holdfast.target.control import Desired, DesiredPeer
from holdfast.target.worker_exports import Exports
from holdfast.target.worker_replica import wanted_of

UID = "0123456789abcdef01234567"
PEER = PeerIdentity("b", "host")
OTHERS = (DesiredPeer("b", "::1", 20001), DesiredPeer("d", "::1", 20003))
DESIRED = Desired(UID, MIB, "mirror", 1, ("a", "b"), "b", False, "::1", 20000, OTHERS)


def no_dial(*_: object) -> Session:
    raise AssertionError("a mirror dials nobody")


@pytest.fixture
def exports(tmp_path: Path) -> Iterator[Exports]:
    loop, files = Loop(), Files(tmp_path / UID)
    create(files, UID, MIB, "boot", "")
    store = Store(files, UID, MIB, "boot")
    local = LocalReplica(loop, store, lambda why: pytest.fail(why))
    made = Exports(loop, UID, None)
    replica = Replica(loop, local, "a", "boot", no_dial)
    made.update(DESIRED)
    made.serve(local, replica, lambda: None)
    replica.apply(wanted_of(DESIRED))
    while replica.report().role is None:
        loop.run_once(0.1)
    yield made
    replica.close()
    made.close()
    loop.close()
    store.close()


STRANGERS = [
    PeerIdentity("alice", "user"),
    PeerIdentity("b", "user"),
    PeerIdentity("b", ""),
    PeerIdentity("c", "host"),
]


@pytest.mark.parametrize("peer", STRANGERS, ids=str)
@pytest.mark.parametrize("name", [f"replica:{UID}", f"mirror:{UID}:1", f"frozen:{UID}:{'0' * 24}"])
def test_to_a_stranger_nothing_is_here(exports: Exports, peer: PeerIdentity, name: str) -> None:
    """The same answer for what is and what is not: also while the volume is not served."""
    other = name.replace(UID, "f" * 24)
    with pytest.raises(NotFound) as absent:
        exports._open(other, peer)
    for served in (True, False):
        if not served:
            exports.stop_serving()
        with pytest.raises(NotFound) as refused:
            exports._open(name, peer)
        assert refused.value.message.replace(UID, "f" * 24) == absent.value.message


def test_the_peer_services_and_operators_read(exports: Exports) -> None:
    for peer in (
        PEER,
        PeerIdentity("d", "host"),
        PeerIdentity("s", "service"),
        PeerIdentity("o", "operator"),
    ):
        assert exports._open(f"replica:{UID}", peer).read_only
    assert not exports._open(f"mirror:{UID}:1", PEER).read_only
    for role in ("service", "operator"):
        with pytest.raises(NotFound):
            exports._open(f"mirror:{UID}:1", PeerIdentity("b", role))
    for epoch in ("0", "2", "", "-1", "one", "1:1"):
        with pytest.raises(StaleEpoch):
            exports._open(f"mirror:{UID}:{epoch}", PEER)
    # In clear, whoever opens it is taken for the primary.
    assert not exports._open(f"mirror:{UID}:1", None).read_only


def test_a_peer_that_was_replaced_is_a_stranger(exports: Exports) -> None:
    exports.update(dataclasses.replace(DESIRED, peers=(DesiredPeer("c", "::1", 20001),)))
    with pytest.raises(NotFound):
        exports._open(f"replica:{UID}", PEER)
