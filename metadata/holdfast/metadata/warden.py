"""The warden: the thread in every copy of the service that keeps volumes on hosts that live.

It follows hosts, leases, volumes and replicas, and every few seconds does what `warden_decisions.decide`
says is due. Several copies are safe beside each other: each action is one compare-and-swap that looks again,
and each full copy that begins changes the one record that counts them. They take turns by chance.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Generic

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import HoldfastError
from holdfast.metadata import keys, replica_decisions, warden_changes
from holdfast.metadata import warden_decisions as due
from holdfast.metadata.cas import Store, run
from holdfast.metadata.etcd import Etcd, Event
from holdfast.metadata.follow import follow
from holdfast.metadata.records import M, decode

_LOG = logging.getLogger(__name__)
TICK_S = 2.0
"""Between two looks, half more or less by chance."""


class Followed(Generic[M]):
    """All records below a prefix, as a watch says they are. `ready` once they were listed."""

    def __init__(self, etcd: Etcd, prefix: str, message_type: type[M], stop: threading.Event) -> None:
        self._etcd, self._prefix, self._type, self._stop = etcd, prefix, message_type, stop
        self._lock = threading.Lock()
        self._records: dict[str, M] = {}
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"follow {prefix}", daemon=True)

    def records(self) -> dict[str, M]:
        """By what follows the prefix. Nobody changes them."""
        with self._lock:
            return dict(self._records)

    def _run(self) -> None:
        for events in follow(self._etcd, self._prefix, self._stop):
            with self._lock:
                for event in events:
                    self._apply(event)
            self.ready.set()

    def _apply(self, event: Event) -> None:
        name = event.key.removeprefix(self._prefix)
        try:
            if event.entry is None:
                self._records.pop(name, None)
            else:
                self._records[name] = decode(self._type, event.entry.value)
        except HoldfastError as error:
            self._records.pop(name, None)
            _LOG.error("%s is passed over: %s", event.key, error)


class Warden:
    """Works from `start` to `stop`. `seal_key`: as in Service."""

    def __init__(
        self,
        etcd: Etcd,
        seal_key: bytes,
        settings: due.Settings,
        clock: Callable[[], float] = time.time,
        tick_s: float = TICK_S,
    ) -> None:
        self._etcd, self._seal_key, self._settings = etcd, seal_key, settings
        self._clock, self._tick_s = clock, tick_s
        self._stop = threading.Event()
        self._hosts = Followed(etcd, keys.HOSTS, r.HostRecord, self._stop)
        self._leases = Followed(etcd, keys.HOST_LEASES, r.HostLease, self._stop)
        self._volumes = Followed(etcd, keys.VOLUMES, r.VolumeRecord, self._stop)
        self._replicas = Followed(etcd, keys.REPLICAS, r.ReplicaRecord, self._stop)
        self._followed = (self._hosts, self._leases, self._volumes, self._replicas)
        self._thread = threading.Thread(target=self._run, name="warden", daemon=True)
        self._storm = ""

    def start(self) -> None:
        for one in self._followed:
            one.thread.start()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in (self._thread, *(one.thread for one in self._followed)):
            if thread.is_alive():
                thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._tick_s * random.uniform(0.5, 1.5)):
            if not all(one.ready.is_set() for one in self._followed):
                continue
            try:
                self.look()
            except HoldfastError as error:
                _LOG.warning("the warden could not look: %s", error)
            except Exception:
                # A defect in one look must not end all of them.
                _LOG.exception("the warden failed")

    def look(self) -> None:
        """Once: see what there is, and do what is due."""
        sight = self.sight()
        self._tell_storm(due.storm(sight))
        for action in due.decide(sight, self._settings):
            if self._stop.is_set():
                return
            try:
                if carry_out(self._etcd, action, self._settings, self._seal_key, self._clock()):
                    _LOG.info("warden: %s", action)
            except HoldfastError as error:
                _LOG.info("warden: %s was refused: %s", action, error)

    def sight(self) -> due.Sight:
        entry = self._etcd.get(keys.WARDEN)
        return due.Sight(
            now_s=self._clock(),
            hosts=self._hosts.records(),
            leases={host_id: lease.boot_id for host_id, lease in self._leases.records().items()},
            volumes=self._volumes.records(),
            replicas=self._replicas.records(),
            warden=decode(r.WardenRecord, entry.value) if entry else r.WardenRecord(),
        )

    def _tell_storm(self, storm: str) -> None:
        if storm != self._storm:
            self._storm = storm
            _LOG.warning("storm brake: %s.", storm) if storm else _LOG.warning("storm brake: released.")


def carry_out(
    store: Store, action: due.Action, settings: due.Settings, seal_key: bytes, now_s: float
) -> bool:
    """Whether it changed anything. Raises what the decision does: it may not be any more."""
    match action:
        case due.SetLost(host_id, lost):
            return run(store, lambda draft: warden_changes.set_lost(draft, host_id, lost, now_s))
        case due.Replace() as begin:
            return run(
                store,
                lambda draft: warden_changes.begin_replacement(draft, begin, settings, seal_key, now_s),
            )
        case due.Drop(uid, host_id):
            return run(store, lambda draft: warden_changes.drop_lost(draft, uid, host_id))
        case due.Switch(uid, host_id):
            return run(store, lambda draft: replica_decisions.request_switch(draft, uid, host_id))
        case due.LetGo(uid):
            return run(store, lambda draft: replica_decisions.let_go(draft, uid))
        case due.Stay(uid, host_id):
            return run(store, lambda draft: warden_changes.stay_undrained(draft, uid, host_id))
        case due.SetDrainReason(host_id, reason):
            return run(store, lambda draft: warden_changes.set_drain_reason(draft, host_id, reason))
        case due.SetRepairReason(uid, reason):
            return run(store, lambda draft: warden_changes.set_repair_reason(draft, uid, reason))
        case due.LookAtHealth(uid):
            return run(store, lambda draft: warden_changes.look_at_health(draft, uid, now_s))
