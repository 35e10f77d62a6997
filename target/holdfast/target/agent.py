"""The agent: makes what is on this host what its assignments say, again and again.

One loop thread owns all state; what it decides is in `reconcile.py`. Everything that may block runs
elsewhere and comes back as an event: watches in threads of their own, etcd's transactions in the loop's
pool, the kernel's configuration in a small pool that nothing else waits for, and the lease in its own
thread. So a kernel that hangs costs a volume its changes to exports, and the host's other volumes theirs
when every thread of that pool hangs; nobody loses anything more. Changes of membership have threads of their
own too: whatever else is slow, a takeover is not.

It is not in the path of an I/O: workers and the kernel serve on while it is dead, restarted, or cut off
from etcd. A host whose assignments are not yet known (etcd was not reached since the start) is left as it is.
"""

import logging
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import DataLoss, HoldfastError
from holdfast.base.loop import READABLE, Loop
from holdfast.metadata.etcd import Event
from holdfast.metadata.host_actions import HostActions, assignment_of, lease_of
from holdfast.metadata.records import decode
from holdfast.target.lio import Lio
from holdfast.target.reconcile import Host
from holdfast.target.syncs import Syncs
from holdfast.target.tools import Tools
from holdfast.target.upgrades import Upgrades
from holdfast.target.volume_agent import VolumeAgent
from holdfast.target.workers import Workers

log = logging.getLogger(__name__)
T = TypeVar("T")

RECONCILE_S = 5.0
LIO_THREADS = 4
LIO_PREPARE_LIMIT_S = 40.0
URGENT_THREADS = 8


class Agent:
    """Runs on `loop` from `start` to `close`. Public methods: loop thread only, unless said otherwise.

    Args:
        host: who and where this host is; without what is found out here (LIO, snapshotters).
        store: the folder of the host's replicas.
    """

    def __init__(
        self,
        loop: Loop,
        actions: HostActions,
        lio: Lio,
        workers: Workers,
        host: Host,
        store: Path,
        seal_key: bytes,
    ) -> None:
        self._loop = loop
        self._actions = actions
        self._lio = lio
        self._workers = workers
        self.host = replace(host, backstores=str(Path(lio.backstore("x")).parent))
        self._lio_pool = ThreadPoolExecutor(LIO_THREADS, thread_name_prefix="lio")
        self._urgent = ThreadPoolExecutor(URGENT_THREADS, thread_name_prefix="urgent")
        self._tools = Tools(
            loop, actions, lio, workers, store, seal_key, self._in_lio_pool, lambda: self.host,
            self._urgent, Syncs(random.Random(), self._sync_granted),
            Syncs(random.Random(), self._sync_granted),
            Upgrades(lambda: loop.call_soon(self._reconcile_all)),
        )  # fmt: skip
        self._stop = threading.Event()
        self._volumes: dict[str, VolumeAgent] = {}
        self._snapshotters: dict[str, tuple[str, int]] = {}
        self._unreadable: set[str] = set()
        self._listed = False
        self._threads: list[threading.Thread] = []
        self._notices = workers.listen()

    def prepare_exports(self) -> str:
        """Find out whether this kernel can export: why not, or an empty string. Before `start`."""
        future = self._lio_pool.submit(self._lio.prepare)
        trouble = ""
        try:
            future.result(LIO_PREPARE_LIMIT_S)
        except TimeoutError:
            # Something holds it up; what is exported stays as it is until it answers.
            log.error("the kernel's LIO has not answered for %.0f s; going on", LIO_PREPARE_LIMIT_S)
        except HoldfastError as error:
            trouble = error.message
        self.host = replace(self.host, no_lio=trouble)
        return trouble

    def start(self) -> None:
        """Follow etcd; act as soon as the assignments are known."""
        for name, follow in (
            ("assignments", self._follow_assignments),
            ("snapshotters", self._follow_sources),
            ("leases", self._follow_leases),
        ):
            thread = threading.Thread(target=follow, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        self._loop.call_later(RECONCILE_S, self._tick)
        self._loop.add(self._notices.fileno(), READABLE, self._worker_ready)

    def close(self) -> None:
        """Let go of everything and leave it running."""
        self._stop.set()
        self._loop.remove(self._notices.fileno())
        self._notices.close()
        for volume in self._volumes.values():
            volume.close()
        # A thread that the kernel does not let go of is left behind: it must not keep the process.
        self._lio_pool.shutdown(wait=False, cancel_futures=True)
        self._urgent.shutdown(wait=False, cancel_futures=True)

    def _follow_assignments(self) -> None:
        for events in self._actions.follow_assignments(self._stop):
            self._loop.call_from_thread(partial(self._assigned, events))

    def _follow_sources(self) -> None:
        for events in self._actions.follow_snapshotters(self._stop):
            self._loop.call_from_thread(partial(self._sources, events))

    def _follow_leases(self) -> None:
        for events in self._actions.follow_host_leases(self._stop):
            self._loop.call_from_thread(partial(self._leased, events))

    def _leased(self, events: list[Event]) -> None:
        leases = dict(self.host.leases or {})
        changed = set()
        for event in events:
            try:
                host_id, boot_id = lease_of(event)
            except DataLoss as error:
                log.error("%s: %s", event.key, error)
                continue
            if leases.get(host_id, "") != boot_id:
                changed.add(host_id)
            leases.pop(host_id, None)
            if boot_id:
                leases[host_id] = boot_id
        first, self.host = self.host.leases is None, replace(self.host, leases=leases)
        if changed:
            log.info("host leases changed: %s", ", ".join(sorted(changed)))
        for volume in list(self._volumes.values()):
            if first:
                volume.reconcile_soon()
            else:
                volume.leases_changed(frozenset(changed))

    def _sync_granted(self, uid: str) -> None:
        if uid in self._volumes:
            self._volumes[uid].reconcile_soon()

    def _assigned(self, events: list[Event]) -> None:
        for event in events:
            try:
                uid, assignment = assignment_of(event)
            except DataLoss as error:
                # Left as it is: doing nothing harms nothing, and the record is repaired by its writer.
                log.error("%s: %s", event.key, error)
                self._unreadable.add(event.key.rpartition("/")[2])
                continue
            self._unreadable.discard(uid)
            self._volume(uid).assign(assignment)
        # Only now is it known what is *not* assigned.
        if not self._listed:
            self._listed = True
            self._find_what_is_here()

    def _sources(self, events: list[Event]) -> None:
        for event in events:
            if event.entry is None:
                self._snapshotters.pop(event.key, None)
                continue
            try:
                lease = decode(r.SnapshotterLease, event.entry.value)
            except DataLoss as error:
                log.error("%s: %s", event.key, error)
                continue
            self._snapshotters[event.key] = (lease.nbd_address, lease.nbd_port)
        self.host = replace(self.host, snapshotters=tuple(sorted(self._snapshotters.values())))
        self._reconcile_all()

    def _find_what_is_here(self) -> None:
        """Leftovers: workers and exports of volumes that are assigned to this host no more."""
        self._take_up(self._workers.known())
        if not self.host.no_lio:
            self._in_lio_pool(
                self._lio.volumes,
                self._take_up,
                lambda error: log.error("the kernel's exports cannot be listed: %s", error),
            )

    def _take_up(self, found: set[str]) -> None:
        for uid in sorted(found - self._unreadable):
            self._volume(uid).reconcile()

    def _volume(self, uid: str) -> VolumeAgent:
        if uid not in self._volumes:
            self._volumes[uid] = VolumeAgent(uid, self._tools)
        return self._volumes[uid]

    def _tick(self) -> None:
        self._loop.call_later(RECONCILE_S, self._tick)
        self._workers.trim_logs()
        self._reconcile_all()

    def _worker_ready(self, _events: int) -> None:
        """A worker says that it listens now; which one does not matter."""
        self._notices.recv(1024)
        self._reconcile_all()

    def _reconcile_all(self) -> None:
        for uid, volume in list(self._volumes.items()):
            volume.reconcile()
            if volume.finished:
                volume.close()
                self._workers.forget(uid)
                del self._volumes[uid]

    def _in_lio_pool(
        self, work: Callable[[], T], done: Callable[[T], object], failed: Callable[[BaseException], object]
    ) -> None:
        def finish(future: "Future[T]") -> None:
            if future.cancelled():
                return
            error = future.exception()
            if error is not None:
                self._loop.call_from_thread(partial(_call, failed, error))
            else:
                self._loop.call_from_thread(partial(_call, done, future.result()))

        self._lio_pool.submit(work).add_done_callback(finish)


def _call(callback: Callable[[T], object], value: T) -> None:
    callback(value)
