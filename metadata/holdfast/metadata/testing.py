"""For the tests of every component: an authority, a metadata server in this process, and stand-in hosts.

A `StandInHost` does to etcd what a storage host's agent does, through the same HostActions, at once and
without any storage. It is for tests of what is above the hosts; the agent has tests of its own.
"""

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import HoldfastError, Unavailable
from holdfast.base.limits import GIB
from holdfast.base.tls import TlsFiles
from holdfast.metadata import keys, pki
from holdfast.metadata.cas import Draft
from holdfast.metadata.client import Client, connect
from holdfast.metadata.etcd import Etcd
from holdfast.metadata.follow import follow
from holdfast.metadata.group_changes import Word
from holdfast.metadata.host_actions import HostActions, assignment_of
from holdfast.metadata.records import decode
from holdfast.metadata.seal import public_key, read_private_key
from holdfast.metadata.server import MetadataServer

LOOPBACK = "127.0.0.1"
_Record = TypeVar("_Record", bound=Message)
RETRY_S = 0.05


def low_port() -> int:
    """A port of loopback on which nobody listens, below those that the kernel gives to clients.

    A server that is down for a while keeps such a port: a client that tries to reach it meanwhile could
    otherwise be given that very port as its own, and even be connected to itself.
    """
    while True:
        port = random.randrange(11_000, 19_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port


class SetClock:
    """A clock of the service's that is set by hand."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait for what loops bring about, and nothing tells of."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come about"
        threading.Event().wait(RETRY_S)


def await_record(
    etcd: Etcd, key: str, kind: type[_Record], holds: Callable[[_Record], bool], timeout_s: float
) -> _Record:
    """The record as soon as it is so; it is watched. Raises AssertionError, with what it is, when the time is
    over."""
    stop, record = threading.Event(), None
    timer = threading.Timer(timeout_s, stop.set)
    timer.start()
    try:
        for events in follow(etcd, key, stop):
            for event in events:
                record = decode(kind, event.entry.value) if event.entry else None
                if record is not None and holds(record):
                    return record
    finally:
        timer.cancel()
        stop.set()
    raise AssertionError(f"{key} did not become so: {record}")


def clear(etcd: Etcd) -> None:
    """Delete every key of Holdfast's."""
    draft = Draft(etcd)
    draft.delete_under(keys.PREFIX)
    assert draft.commit()


@dataclass
class RunningMetadata:
    """A metadata server on a free port of loopback, with an authority of its own in `directory`.

    It has no warden: nothing changes by itself. Start one beside it, with `seal_key`, where that is wanted.
    """

    directory: Path
    etcd_endpoint: str
    etcd_timeout_s: float = 5.0
    overcommit: float = 1.0
    clock: Callable[[], float] = time.time
    etcd: Etcd = field(init=False)
    server: MetadataServer = field(init=False)
    seal_key: bytes = field(init=False, repr=False)
    _clients: dict[str, Client] = field(default_factory=dict)

    def start(self) -> "RunningMetadata":
        pki.init(self.directory)
        pki.issue(self.directory, "service", "metadata", [LOOPBACK])
        identity = pki.Identity(self.directory, "metadata")
        self.etcd = Etcd([self.etcd_endpoint], timeout_s=self.etcd_timeout_s)
        self.seal_key = read_private_key(identity.seal)
        self.server = MetadataServer(
            f"{LOOPBACK}:0", identity.tls, self.etcd, self.seal_key, self.overcommit, lambda: self.clock()
        )
        self.server.start()
        return self

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.server.port}"

    def tls(self, name: str, role: str = "user", valid_days: int = 1) -> TlsFiles:
        """The files of a user, made if need be."""
        pki.issue(self.directory, role, name, [LOOPBACK] if role in pki.SERVING_ROLES else [], valid_days)
        return pki.Identity(self.directory, name).tls

    def client(self, name: str, role: str = "user") -> Client:
        """A connection as `name`; closed with the server."""
        if name not in self._clients:
            self._clients[name] = connect(self.address, self.tls(name, role))
        return self._clients[name]

    def stop(self) -> None:
        for client in self._clients.values():
            client.close()
        self.server.stop()
        self.etcd.close()


class StandInHost:
    """A host that makes whatever it is assigned come true, in etcd only.

    Args:
        hold: names of steps that it leaves undone: "available", "ready", "detached", "removed", "frozen",
            "hand_over", "join".
    """

    def __init__(
        self,
        etcd: Etcd,
        directory: Path,
        host_id: str,
        capacity_bytes: int = 100 * GIB,
        hold: frozenset[str] = frozenset(),
        boot_id: str = "",
        portal: str = f"{LOOPBACK}:3260",
    ) -> None:
        pki.init(directory)
        pki.issue(directory, "host", host_id, [LOOPBACK])
        self.seal_key = read_private_key(pki.Identity(directory, host_id).seal)
        self.record = r.HostRecord(
            host_id=host_id,
            boot_id=boot_id or f"boot-of-{host_id}",
            address=LOOPBACK,
            portal=portal,
            capacity_bytes=capacity_bytes,
            seal_public_key=public_key(self.seal_key),
            exports=True,
        )
        self.actions = HostActions(etcd, host_id)
        self.hold = hold
        self._stop = threading.Event()
        self._keeper = self.actions.keep_registered(lambda: self.record)
        self._thread = threading.Thread(target=self._run, name=host_id, daemon=True)
        self._generation = 0

    def start(self) -> "StandInHost":
        """Returns when the host is registered."""
        assert self._keeper.wait_attached(10)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Leave: the lease is given back, the host's record stays. Idempotent."""
        self._stop.set()
        self._thread.join()
        self._keeper.stop()

    def _run(self) -> None:
        for events in self.actions.follow_assignments(self._stop):
            for event in events:
                uid, assignment = assignment_of(event)
                if assignment is not None:
                    self._converge_while_etcd_is_away(uid, assignment)

    def _converge_while_etcd_is_away(self, uid: str, assignment: r.Assignment) -> None:
        """As an agent does: what etcd could not be asked or told is repeated, no event comes for it."""
        while not self._stop.is_set():
            try:
                self._converge(uid, assignment)
                return
            except Unavailable:
                self._stop.wait(RETRY_S)

    def _converge(self, uid: str, assignment: r.Assignment) -> None:
        if assignment.deleting:
            self._do("removed", lambda: self.actions.store_removed(uid))
            return
        if assignment.role != r.ROLE_PRIMARY:
            for one in assignment.attachments:
                if not one.detaching:
                    self._do("ready", lambda a=one.uid: self.actions.attachment_path_ready(uid, a))  # type: ignore[misc]
            return
        epoch = assignment.epoch
        self._lead(uid, assignment)
        if not assignment.initialized:
            self._do("available", lambda: self.actions.volume_became_available(uid, epoch))
        for one in assignment.attachments:
            if one.detaching:
                self._do("detached", lambda a=one.uid: self.actions.attachment_detached(uid, a, epoch))  # type: ignore[misc]
            else:
                self._do("ready", lambda a=one.uid: self.actions.attachment_ready(uid, a, epoch))  # type: ignore[misc]
        for snapshot in assignment.snapshots:
            if snapshot.state == r.SNAPSHOT_STATE_PENDING and snapshot.HasField("group"):
                self._freeze_together(uid, assignment, snapshot.group)
            elif snapshot.state == r.SNAPSHOT_STATE_PENDING:
                self._freeze(uid, assignment, snapshot.uid)

    def _lead(self, uid: str, assignment: r.Assignment) -> None:
        """As primary: hand over when asked, and bring joiners that live up to date at once."""
        epoch = assignment.epoch
        if assignment.yield_to_host_id:
            self._do("hand_over", lambda: self.actions.hand_over(uid, epoch, assignment.yield_to_host_id))
            return
        for peer in assignment.peers:
            entry = self.actions.etcd.get(keys.host_lease(peer.host_id))
            if not peer.boot_id and entry is not None:
                boot_id = decode(r.HostLease, entry.value).boot_id
                self._do("join", lambda p=peer.host_id, b=boot_id: self.actions.join(uid, epoch, p, b))  # type: ignore[misc]

    def _freeze(self, uid: str, assignment: r.Assignment, snapshot_uid: str) -> None:
        self._generation += 1
        both = [self.record.host_id, *(peer.host_id for peer in assignment.peers)]
        self._do(
            "frozen",
            lambda: self.actions.snapshot_frozen(
                uid, snapshot_uid, assignment.epoch, self._generation, 1_000_000.0, both
            ),
        )

    def _freeze_together(self, uid: str, assignment: r.Assignment, group: r.GroupFreeze) -> None:
        """Whatever step its group asks for is done."""
        word = Word(group.group_uid, group.attempt, group.step, assignment.epoch, f"closing-{group.attempt}")
        if group.step == r.FREEZE_STEP_OPEN:
            self._generation += 1
            both = (self.record.host_id, *(peer.host_id for peer in assignment.peers))
            word = replace(word, generation=self._generation, freeze_time_s=1_000_000.0, frozen_on=both)
        self._do("frozen", lambda: self.actions.gate_says(uid, word))

    def _do(self, step: str, action: Callable[[], bool]) -> None:
        if step in self.hold:
            return
        try:
            action()
        except Unavailable:
            raise
        except HoldfastError:
            pass  # stale or gone: the next event says what to do
