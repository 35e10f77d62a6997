"""A worker through its roles: a real store, a ring of a fake kernel, and a replica that the test plays."""

import dataclasses
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from holdfast.base.device import Device, Op, Outcome, Request, submit_each
from holdfast.base.errors import StaleEpoch
from holdfast.base.limits import MIB
from holdfast.base.loop import Loop
from holdfast.replicator.files import Files
from holdfast.replicator.following import Role
from holdfast.replicator.hydrate import Source
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.mirror import MirrorExport
from holdfast.replicator.replica import ReplicaReport
from holdfast.replicator.store import Store, create
from holdfast.replicator.syncing import Progress
from holdfast.replicator.wanted import Wanted
from holdfast.target.control import (
    Answer,
    Apply,
    Desired,
    DesiredPeer,
    DesiredRing,
    DesiredSnapshot,
    Observed,
    ObservedSnapshot,
    ObservedSync,
    ObservedVerify,
    decode_answer,
    decode_apply,
    encode,
)
from holdfast.target.store_folder import half_removed, remove_tree
from holdfast.target.testing import Completion, FakeKernel, FakeUio
from holdfast.target.worker import Worker
from holdfast.target.worker_ring import Ring

UID = "0123456789abcdef01234567"
RING = DesiredRing("/config", "uio")
RTPG = bytes.fromhex("a30a00000000000000ff0000")
READ = bytes.fromhex("28000000000000000100")
TUR = bytes(6)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class FakeFront:
    """Takes I/O as the primary, and refuses it otherwise, as replica.Front does."""

    def __init__(self) -> None:
        self.size_bytes = MIB
        self.active = False
        self.refused = 0
        self.held: list[Request] = []

    def submit_all(self, requests: list[Request]) -> None:
        submit_each(self, requests)

    def submit(self, request: Request) -> None:
        if self.active:
            self.held.append(request)
        else:
            self.refused += 1
            request.done(Outcome.STANDBY)


class FakeReplica:
    def __init__(self, _loop: Loop, local: LocalReplica, host_id: str, boot_id: str, _dial: object) -> None:
        self.local = local
        self.names = (host_id, boot_id)
        self.on_change: Callable[[], None] = lambda: None
        self.front = FakeFront()
        self.told: list[Wanted] = []
        self.says: dict[str, Any] = {}
        self.sources: list[Source | None] = []
        self.closed = False
        self.drained = True

    @property
    def device(self) -> Device:
        return self.front

    def apply(self, wanted: Wanted) -> None:
        self.told.append(wanted)
        was, self.front.active = self.front.active, wanted.role is Role.PRIMARY
        if was and not self.front.active:
            self._refuse_all()

    def use_source(self, source: Source | None) -> None:
        self.sources.append(source)

    def open_session(self, peer: str, epoch: int) -> MirrorExport:
        raise StaleEpoch(f"{peer} {epoch}")

    def report(self) -> ReplicaReport:
        wanted = self.told[-1]
        known = ReplicaReport(wanted.role, wanted.epoch, True, self.front.active)
        return dataclasses.replace(known, **self.says)

    def close(self) -> None:
        self.closed = True
        self.front.active = False
        self._refuse_all()

    def _refuse_all(self) -> None:
        held, self.front.held = self.front.held, []
        for request in held:
            request.done(Outcome.BUSY)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.loop = Loop()
        self.folder = folder
        self.port = free_port()
        self.kernel = FakeKernel(1 << 14)
        self.uio = FakeUio(self.kernel)
        self.opened = 0
        self.replicas: list[FakeReplica] = []
        self.told: list[Observed] = []
        ring = Ring(self.loop, UID, cast(Any, self._open))
        self.worker = Worker(self.loop, UID, folder, "a", None, self._make, ring)
        self.worker.tell = self.told.append

    def _open(self, _configfs: str, _uio: str) -> FakeUio:
        self.opened += 1
        return self.uio

    def _make(self, *parts: Any) -> FakeReplica:
        self.replicas.append(FakeReplica(*parts))
        return self.replicas[-1]

    @property
    def replica(self) -> FakeReplica:
        return self.replicas[-1]

    def desired(self, role: str = "mirror", epoch: int = 1, **fields: Any) -> Desired:
        known: dict[str, Any] = {
            "members": ("a", "b") if role != "joiner" else ("b",), "initialized": False, "portal_group": 1,
            "primary_host_id": "a" if role == "primary" else "b", "nbd_port": self.port,
            "peers": (DesiredPeer("b", "127.0.0.1", 1, 2, True),), "listen_address": "127.0.0.1",
        }  # fmt: skip
        return Desired(volume_uid=UID, size_bytes=MIB, role=role, epoch=epoch, **{**known, **fields})

    def one(self, cdb: bytes, read: int = 0) -> Completion:
        """A command's end; the ring must have ended it within a few turns."""
        ended: list[Completion] = []
        self.queue(cdb, read, ended)
        assert len(ended) == 1
        return ended[0]

    def queue(self, cdb: bytes, read: int, ended: list[Completion]) -> None:
        self.kernel.queue(cdb, b"", read, ended.append)
        os.eventfd_write(self.uio.fd, 1)
        self.turns()

    def turns(self) -> None:
        for _ in range(4):
            self.loop.run_once(0)

    def until(self, holds: Callable[[], bool]) -> None:
        deadline_s = self.loop.now() + 10
        while not holds():
            assert self.loop.now() < deadline_s
            self.loop.run_once(0.05)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / UID)
    yield made
    made.worker.close()


def sense(got: Completion) -> str:
    return got.sense[2:3].hex() + "/" + got.sense[12:14].hex("/") if got.status == 2 else f"{got.status}"


def test_the_ring_stays_through_every_role(bench: Bench) -> None:
    bench.worker.apply(bench.desired("mirror", ring=RING))
    assert sense(bench.one(TUR)) == "02/04/0b" and sense(bench.one(READ, 512)) == "02/04/0b"
    assert bench.replica.front.refused == 1, "what only asks is not I/O"
    assert bench.one(RTPG, 255).data[4:6].hex() == "020f"

    # A promotion: initiators hear of it, and what they send is held by the same device.
    alone = (DesiredPeer("b", "127.0.0.1", 1, 2, False),)
    bench.worker.apply(bench.desired("primary", 2, members=("a",), peers=alone, ring=RING))
    assert sense(bench.one(TUR)) == "06/2a/06" and bench.one(TUR).status == 0
    assert bench.one(RTPG, 255).data[4:20].hex() == "000f000100020001" + "00000001" + "030f0002"
    ended: list[Completion] = []
    bench.queue(READ, 512, ended)
    assert not ended and len(bench.replica.front.held) == 1

    # Demoted: what was under way ends in a retryable status, once.
    observed = bench.worker.apply(bench.desired("mirror", 3, ring=RING))
    bench.turns()
    assert [sense(got) for got in ended] == ["8"]
    assert sense(bench.one(TUR)) == "06/2a/06" and sense(bench.one(TUR)) == "02/04/0b"
    bench.worker.apply(bench.desired("joiner", 4, ring=RING))
    assert sense(bench.one(TUR)) == "06/2a/06" and sense(bench.one(READ, 512)) == "02/04/0c"
    assert bench.opened == 1 and not bench.uio.closed and observed.ring_open
    assert len(bench.replicas) == 1 and [one.epoch for one in bench.replica.told] == [1, 2, 3, 4]
    bench.worker.apply(bench.desired("joiner", 4))
    assert bench.uio.closed


def test_a_ring_that_is_broken_is_let_go_and_tried_again(bench: Bench) -> None:
    good, bench.kernel.memory[:2] = bytes(bench.kernel.memory[:2]), b"\xff\xff"
    observed = bench.worker.apply(bench.desired(ring=RING))
    assert (observed.reason, observed.ring_open) == ("RING_FAILED", False)
    assert bench.uio.closed
    bench.kernel.memory[:2] = good
    bench.uio = FakeUio(bench.kernel)
    observed = bench.worker.apply(bench.desired(ring=RING))
    assert (observed.reason, observed.ring_open) == ("", True)


def test_a_path_is_active_when_the_replica_is(bench: Bench) -> None:
    """Not when it was told to be: I/O that came too early would be refused, and the path given up."""
    bench.worker.apply(bench.desired("mirror", ring=RING))
    bench.replica.says = {"role": None}
    bench.worker.apply(bench.desired("primary", 2, ring=RING))
    assert sense(bench.one(TUR)) == "06/2a/06" and sense(bench.one(TUR)) == "02/04/0b"
    assert bench.one(RTPG, 255).data[4:6].hex() == "020f"
    bench.replica.says = {}
    bench.replica.on_change()
    assert sense(bench.one(TUR)) == "06/2a/06" and bench.one(TUR).status == 0
    # Between two epochs of its own it stays the active path, and holds what comes.
    bench.replica.says = {"role": None}
    bench.worker.apply(bench.desired("primary", 3, ring=RING))
    assert bench.one(TUR).status == 0 and bench.one(RTPG, 255).data[4:6].hex() == "000f"


def test_changed_paths_are_not_told_twice(bench: Bench) -> None:
    """Where the kernel tells each initiator, the worker tells nobody."""
    bench.worker.apply(bench.desired("mirror", 1, ring=RING, kernel_tells_paths=True))
    bench.worker.apply(bench.desired("primary", 2, ring=RING, kernel_tells_paths=True))
    assert bench.one(TUR).status == 0 and bench.one(RTPG, 255).data[4:6].hex() == "000f"


def test_a_cold_start_is_told(bench: Bench) -> None:
    bench.worker.apply(bench.desired("joiner", 1, ring=RING))
    for epoch in (2, 2, 3):
        bench.worker.apply(bench.desired("primary", epoch, cold_epoch=2, ring=RING))
    said = [sense(bench.one(TUR)) for _ in range(3)]
    assert said == ["06/2a/06", "06/29/00", "0"]


def test_a_cold_start_of_long_ago_is_not_told_again(bench: Bench) -> None:
    """Neither by a process that begins later, nor by a path that becomes the active one."""
    bench.worker.apply(bench.desired("mirror", 5, cold_epoch=2, ring=RING))
    bench.worker.apply(bench.desired("mirror", 7, cold_epoch=7, ring=RING))
    bench.worker.apply(bench.desired("primary", 8, cold_epoch=7, ring=RING))
    assert [sense(bench.one(TUR)) for _ in range(2)] == ["06/2a/06", "0"]


def test_reservations_that_are_gone_are_told(bench: Bench) -> None:
    """By the path that serves, once for each time as primary that the kernel keeps them in."""

    def said() -> list[str]:
        return [sense(bench.one(TUR)) for _ in range(3)]

    def listed() -> bool:
        return bench.one(bytes.fromhex("a30c025f0001000000ff0000"), 255).data[1] == 3

    bench.worker.apply(bench.desired("mirror", 1, ring=RING))
    bench.worker.apply(bench.desired("primary", 2, ring=RING))
    assert said() == ["06/2a/06", "0", "0"] and not listed(), "the kernel keeps none yet"
    bench.worker.apply(bench.desired("primary", 2, ring=RING, reserved_since=2))
    assert said() == ["06/2a/03", "0", "0"] and listed()
    for known in (0, 2):
        bench.worker.apply(bench.desired("primary", 3, ring=RING, reserved_since=known))
        assert said()[0] == "0" and listed()
    bench.worker.apply(bench.desired("mirror", 4, ring=RING))
    assert bench.one(TUR).status == 2 and not listed()
    bench.worker.apply(bench.desired("primary", 5, ring=RING, reserved_since=5))
    assert said() == ["06/2a/06", "06/2a/03", "0"]


def test_a_process_that_begins_tells_of_reservations_whatever_was_told_before(bench: Bench) -> None:
    bench.worker.apply(bench.desired("primary", 9, ring=RING, reserved_since=3))
    said = [sense(bench.one(TUR)) for _ in range(3)]
    assert said.count("06/2a/03") == 1 and said[-1] == "0"


def test_what_a_replica_is_told(bench: Bench) -> None:
    bench.worker.apply(
        bench.desired(
            "primary", 7, yield_to="b", needs_mirror=True, may_sync=False, sync_max_bytes_s=5,
            verify_request=3, verify_rate_bytes_s=6, limit_iops=200, limit_bytes_s=7,
            snapshots=(DesiredSnapshot("x", True, False, 0), DesiredSnapshot("y", False, False, 0)),
        )
    )  # fmt: skip
    wanted = bench.replica.told[-1]
    assert (wanted.role, wanted.epoch, wanted.members, wanted.peers) == (
        Role.PRIMARY, 7, frozenset("ab"), ("b",),
    )  # fmt: skip
    assert wanted.yield_to == "b" and wanted.needs_mirror and not wanted.may_sync
    assert (wanted.sync_max_bytes_s, wanted.verify_request, wanted.verify_rate_bytes_s) == (5, 3, 6)
    assert wanted.limits == (200, 7)
    assert (wanted.snapshots.freeze, wanted.snapshots.keep) == (("x",), ("y",))
    assert bench.replica.names[0] == "a" and bench.replica.names[1]


def test_only_while_a_volume_is_being_made_may_a_copy_be_new(bench: Bench) -> None:
    bench.worker.apply(bench.desired("mirror", 2))
    assert bench.replica.told[-1].may_be_new
    bench.worker.apply(bench.desired("mirror", 2, initialized=True))
    assert not bench.replica.told[-1].may_be_new


def test_what_a_worker_says(bench: Bench) -> None:
    first = bench.worker.apply(bench.desired("primary"))
    assert first.store_open and first.serving and first.consistent and first.store_empty
    bench.replica.says = {
        "wants_leave_out": ("b",), "wants_join": "c", "wants_join_boot": "c1", "standby_io_age_s": 2.0,
        "syncs": (Progress("c", 5, 9, 1),), "yielded": True, "heirs": ("b",),
        "joining": ("c",), "bound": ("d",),
    }  # fmt: skip
    bench.replica.on_change()
    (said,) = bench.told[-1:]
    assert (said.wants_leave_out, said.wants_join, said.wants_join_boot) == (("b",), "c", "c1")
    assert said.syncs == (ObservedSync("c", 5, 9, 1),) and said.yielded and said.standby_io_age_s == 2.0
    assert (said.heirs, said.joining, said.bound) == (("b",), ("c",), ("d",))
    # Between two roles nothing is wanted, and nobody takes the old role's word.
    bench.replica.says = {"role": None}
    assert bench.worker.observe().role == ""
    bench.replica.says = {"role": None, "reason": "HALF_SYNCED", "message": "m"}
    assert (bench.worker.observe().role, bench.worker.observe().reason) == ("primary", "HALF_SYNCED")
    assert not bench.worker.observe().wants_resign


def test_an_older_epoch_is_ignored(bench: Bench) -> None:
    bench.worker.apply(bench.desired("mirror", 5))
    assert bench.worker.apply(bench.desired("primary", 4)).epoch == 5
    assert len(bench.replica.told) == 1


def test_the_ring_is_reset_when_no_copy_can_be_applied_any_more(bench: Bench) -> None:
    """That ends what the process before this one had taken on, for its initiator (I-11)."""
    make = bench._make

    def undrained(*parts: Any) -> FakeReplica:
        made = make(*parts)
        made.drained = False
        return made

    bench.worker._make_replica = undrained
    assert not bench.worker.apply(bench.desired("primary", ring=RING)).ring_open
    bench.replica.on_change()
    bench.turns()
    assert bench.opened == 0
    bench.replica.drained = True
    bench.replica.on_change()
    assert bench.opened == 1 and bench.told[-1].ring_open
    bench.replica.drained = False
    bench.replica.on_change()
    assert bench.opened == 1 and bench.told[-1].ring_open


def test_the_ring_is_reset_in_time_all_the_same(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can be asked: logins must not wait for ever."""
    monkeypatch.setattr("holdfast.target.worker.RING_WAIT_MAX_S", 0.2)
    desired = bench.desired("mirror", initialized=True, ring=RING)
    assert bench.worker.apply(desired).reason == "STORE_ABSENT" and bench.opened == 0
    bench.until(lambda: bench.opened == 1)


def test_a_store_that_must_be_there_is_not_made(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.target.worker.RING_WAIT_MAX_S", 0.0)
    said = bench.worker.apply(bench.desired("mirror", initialized=True, ring=RING))
    assert (said.reason, said.store_open, said.wants_resign) == ("STORE_ABSENT", False, False)
    assert not bench.folder.exists() and not bench.replicas
    # The ring is served all the same: whoever waits for it must not hang.
    assert sense(bench.one(READ, 512)) == "02/04/0b"
    said = bench.worker.apply(bench.desired("primary", 2, initialized=True, ring=RING))
    assert (
        said.wants_resign and said.gives_up and not said.yielded and (said.role, said.epoch) == ("primary", 2)
    )
    assert sense(bench.one(TUR)) == "06/2a/06" and sense(bench.one(READ, 512)) == "02/04/0c"
    alone = bench.worker.apply(bench.desired("primary", 3, initialized=True, members=("a",), ring=RING))
    assert not alone.wants_resign
    made = bench.worker.apply(bench.desired("joiner", 4, ring=RING))
    assert made.store_open and made.store_empty and sense(bench.one(READ, 512)) == "06/2a/06"


def test_a_suspect_copy_is_made_anew(bench: Bench) -> None:
    bench.worker.apply(bench.desired("joiner", ring=RING))
    old = bench.replica
    old.local.distrust("the disk failed a sync")
    bench.until(lambda: old.local.store.state.suspect != "")
    assert bench.worker.observe().suspect and bench.worker.observe().reason == "DISK_FAILED"
    # Not asked for, or not allowed: it is left as it is.
    bench.worker.apply(bench.desired("joiner", ring=RING))
    bench.worker.apply(bench.desired("joiner", rebuild=True, initialized=True, ring=RING))
    assert bench.replica is old and not old.closed
    said = bench.worker.apply(bench.desired("joiner", rebuild=True, ring=RING))
    assert said.reason == "REBUILDING" and old.closed
    assert sense(bench.one(READ, 512)) == "02/04/0c"
    bench.until(lambda: bench.replica is not old)
    said = bench.told[-1]
    assert said.store_open and not said.suspect and said.store_empty and bench.opened == 1
    assert not half_removed(bench.folder).exists()
    # Told again, it has nothing to throw away.
    new = bench.replica
    bench.worker.apply(bench.desired("joiner", rebuild=True, ring=RING))
    assert bench.replica is new


def test_a_damaged_copy_is_made_anew_and_another_volumes_is_not(bench: Bench) -> None:
    create(Files(bench.folder), UID, MIB, "boot", "")
    (bench.folder / "intent").unlink()
    assert bench.worker.apply(bench.desired("joiner")).reason == "STORE_DAMAGED"
    bench.worker.apply(bench.desired("joiner", rebuild=True))
    bench.until(lambda: bool(bench.replicas))
    bench.worker.close()

    other = Bench(bench.folder.with_name("other"))
    create(Files(other.folder), "f" * 24, MIB, "boot", "")
    assert other.worker.apply(other.desired("joiner", rebuild=True)).reason == "WRONG_STORE"
    for _ in range(5):
        other.loop.run_once(0.01)
    assert (other.folder / "state.json").exists() and not other.replicas
    other.worker.close()
    bench.worker = Bench(bench.folder.with_name("third")).worker


@pytest.mark.parametrize("seed", range(12))
def test_taking_a_store_away_may_be_interrupted_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Whatever is left is either the whole store, or nothing that looks like one."""
    path = tmp_path / UID
    create(Files(path), UID, MIB, "boot", "")
    chance = random.Random(seed)
    left = chance.randrange(12)
    unlink = os.unlink

    def dying(*args: Any, **fields: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        unlink(*args, **fields)

    monkeypatch.setattr(os, "unlink", dying)
    try:
        remove_tree(path)
    except KeyboardInterrupt:
        assert not path.exists()
    monkeypatch.undo()
    if chance.random() < 0.5:
        create(Files(path), UID, MIB, "boot", "")
    if chance.random() < 0.5:
        remove_tree(path)
        assert not path.exists() and not half_removed(path).exists()
    else:
        bench = Bench(path)
        bench.worker.apply(bench.desired("joiner"))
        bench.until(lambda: not half_removed(path).exists())
        Store(Files(path), UID, MIB, "boot").close()
        bench.worker.close()


def test_a_refused_transfer_is_no_more_than_that(bench: Bench) -> None:
    """A write that is refused has left nothing in the ring, and the next is taken."""
    bench.worker.apply(bench.desired("mirror", ring=RING))
    for _ in range(200):
        assert sense(bench.one(READ, 512)) == "02/04/0b"
    assert not bench.kernel.pending and bench.replica.front.refused == 200
    assert Op.READ  # what was refused never reached a disk


def test_the_words_on_the_control_socket(bench: Bench) -> None:
    desired = bench.desired(
        "primary", ring=RING, snapshots=(DesiredSnapshot("x", True, True, 3),), snapshotters=(("h", 1),)
    )
    assert decode_apply(encode(Apply(7, desired))) == Apply(7, desired)
    observed = Observed(
        UID, "primary", 3, snapshots=(ObservedSnapshot("x", True, also_on=("b",)),), wants_leave_out=("b",),
        syncs=(ObservedSync("b", 1, 2, 3),), verify=ObservedVerify(1, True),
    )  # fmt: skip
    for one in (observed, Observed()):
        assert decode_answer(encode(Answer(7, one))) == Answer(7, one)


def test_a_worker_is_small() -> None:
    """Of what fills an agent's memory it loads nothing, by no detour; nor OpenSSL before it talks TLS."""
    large = ("google", "grpc", "boto3", "holdfast.api", "ssl", "_ssl", "_hashlib", "subprocess", "shutil")
    check = (
        f"import sys, holdfast.target.worker_main\nprint([name for name in {large} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
