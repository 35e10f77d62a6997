"""An export that goes while commands are in flight, on a kernel that waits for their answers."""

import dataclasses
import select
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import Unavailable
from holdfast.base.loop import Loop
from holdfast.metadata.host_actions import HostActions
from holdfast.metadata.seal import public_key, seal
from holdfast.target.control import Desired, Observed
from holdfast.target.lio import Lio
from holdfast.target.lio_export import Backstore, Export, Present, PresentAcl
from holdfast.target.reconcile import Host
from holdfast.target.syncs import Syncs
from holdfast.target.tools import Tools
from holdfast.target.upgrades import Upgrades
from holdfast.target.volume_agent import VolumeAgent
from holdfast.target.worker_control import ControlServer
from holdfast.target.workers import Workers

UID = "0123456789abcdef01234567"
HOST = Host("a", "boot-1", "127.0.0.1", "127.0.0.1:3260", "/core", leases={"a": "boot-1"})
IQN = "iqn.2026-01.com.example:one"
KEY = X25519PrivateKey.generate().private_bytes_raw()
LIMIT_S = 20
MADE = Present(Backstore.ENABLED, 1 << 20)
EXPORTED = dataclasses.replace(
    MADE, target=True, groups=(1,), enabled=True, acls=(PresentAcl(IQN, "u", "s", ((0, True),)),)
)


class WaitingLio:
    """A kernel with a command in flight, for which every removal waits.

    `answered`: by its worker, which is what the test plays, or because the ring was reset.
    """

    def __init__(self) -> None:
        self.answered = threading.Event()
        self.removing = threading.Event()
        self.resets = 0
        self.fail_resets = 0
        self.present = Present()

    def converge(self, _uid: str, wanted: Export | None, worker_serves: bool) -> Present:
        if wanted is not None:
            self.present = EXPORTED if wanted.serve and worker_serves else self.present
            self.present = MADE if self.present.nothing else self.present
        elif self.present.target:
            if not worker_serves:
                self.answer_everything(UID)
            self.removing.set()
            assert self.answered.wait(LIMIT_S), "the kernel waits for ever"
            self.present = MADE
        if wanted is None and not worker_serves:
            self.present = Present()
        return self.present

    def answer_everything(self, _uid: str) -> None:
        if self.fail_resets:
            self.fail_resets -= 1
            raise Unavailable("LIO_FAILED", "no.")
        self.resets += 1
        self.answered.set()


class Quiet:
    """Etcd: takes every report."""

    def __getattr__(self, _name: str) -> Callable[..., bool]:
        return lambda *_arguments: True


class Bench:
    """A volume's agent on that kernel. The worker is the test's; its process only lives, or does not."""

    def __init__(self, folder: Path) -> None:
        self.loop = Loop()
        self.lio = WaitingLio()
        self.told: list[Desired] = []
        self.ring_open = False
        self.workers = Workers(folder, [sys.executable, "-c", "import time; time.sleep(60)"])
        self.pools = [ThreadPoolExecutor(1), ThreadPoolExecutor(1)]
        syncs = [Syncs(Random(0), lambda _uid: None) for _ in range(2)]
        tools = Tools(
            self.loop, cast(HostActions, Quiet()), cast(Lio, self.lio), self.workers, folder / "store", KEY,
            self._in_lio_pool, lambda: HOST, self.pools[1], *syncs, Upgrades(lambda: None),
        )  # fmt: skip
        self.agent = VolumeAgent(UID, tools)
        self._socket = folder / f"{UID}.sock"
        self.server = ControlServer(self.loop, self._socket, self._apply)

    def _in_lio_pool(self, work: Callable[[], Any], done: Any, failed: Any) -> None:
        self.loop.in_pool(work, done, failed, self.pools[0])

    def _apply(self, desired: Desired) -> Observed:
        self.told.append(desired)
        self.ring_open = desired.ring is not None
        return Observed(UID, desired.role, desired.epoch, True, True, True, ring_open=self.ring_open)

    @property
    def exported(self) -> bool:
        return self.agent._exports.present == EXPORTED

    def detach(self) -> None:
        """Attached and served first; then until the kernel waits."""
        self.agent.assign(assigned(detaching=False))
        self.until(lambda: self.exported)
        self.agent.assign(assigned(detaching=True))
        self.until(self.lio.removing.is_set)

    def kill_worker(self) -> None:
        """The next one, which has nothing open, says so by itself."""
        self.server.close()
        self._end_process()
        self.ring_open = False
        self.server = ControlServer(self.loop, self._socket, self._apply)
        self.server.tell(Observed(UID))

    def _end_process(self) -> None:
        worker = self.workers.adopt(UID)
        if worker is not None:
            worker.kill()
            assert select.select([worker.pidfd], [], [], LIMIT_S)[0]
            worker.close()

    def turns(self) -> None:
        for _ in range(20):
            self._turn()

    def until(self, holds: Callable[[], bool]) -> None:
        deadline_s = self.loop.now() + LIMIT_S
        while not holds():
            assert self.loop.now() < deadline_s
            self._turn()

    def _turn(self) -> None:
        # As the agent of the whole host does now and then, and when a worker is ready.
        self.agent.reconcile()
        self.loop.run_once(0.01)

    def close(self) -> None:
        self.lio.answered.set()
        self.agent.close()
        self.server.close()
        self._end_process()
        for pool in self.pools:
            pool.shutdown()
        self.loop.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def assigned(detaching: bool) -> r.Assignment:
    one = r.AssignedAttachment(
        uid="t1", initiator_iqn=IQN, chap_user="u", detaching=detaching,
        secret=seal(b"s", "a", public_key(KEY), "t1"),
    )  # fmt: skip
    return r.Assignment(
        host_id="a", volume_uid=UID, size_bytes=1 << 20, role=r.ROLE_PRIMARY, epoch=1, boot_id="boot-1",
        initialized=True, primary_host_id="a", attachments=[one], portal_group=1,
    )  # fmt: skip


def test_the_worker_serves_until_the_export_is_gone(bench: Bench) -> None:
    bench.detach()
    bench.turns()
    assert bench.ring_open, "nobody is there to answer what the kernel waits for"
    bench.lio.answered.set()
    bench.until(lambda: bench.agent._exports.nothing)
    assert not bench.ring_open and not bench.lio.resets


@pytest.mark.parametrize("fail_resets", [0, 1])
def test_a_worker_that_ends_meanwhile_is_not_waited_for(bench: Bench, fail_resets: int) -> None:
    bench.lio.fail_resets = fail_resets
    bench.detach()
    bench.kill_worker()
    bench.until(lambda: not bench.lio.present.target)
    assert bench.lio.resets == 1 and not bench.ring_open


def test_a_volume_that_is_not_assigned_any_more_leaves_nothing(bench: Bench) -> None:
    bench.agent.assign(assigned(detaching=False))
    bench.until(lambda: bench.exported)
    bench.agent.assign(None)
    bench.until(lambda: bench.agent.finished)
    assert bench.lio.present.nothing and bench.lio.resets


def test_attached_again_while_the_export_goes(bench: Bench) -> None:
    """The ring that is served then stays: it is for the new export as well."""
    bench.detach()
    bench.agent.assign(assigned(detaching=False))
    bench.turns()
    assert bench.ring_open
    bench.lio.answered.set()
    bench.until(lambda: bench.lio.present == EXPORTED and bench.exported)
    assert all(desired.ring is not None for desired in bench.told[-2:]) and not bench.lio.resets
