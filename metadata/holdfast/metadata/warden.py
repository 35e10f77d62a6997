"""The warden: the thread in every copy of the service that keeps volumes on hosts that live.

It follows hosts, leases, volumes and replicas, and every few seconds does what `warden_decisions.decide`
says is due. Several copies are safe beside each other: each action is one compare-and-swap that looks again,
and each full copy that begins changes the one record that counts them. They take turns by chance.
"""

import logging
import threading
import time
from collections.abc import Callable

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import HoldfastError
from holdfast.metadata import keys, replica_decisions, warden_changes
from holdfast.metadata import warden_decisions as due
from holdfast.metadata.cas import Store, run
from holdfast.metadata.etcd import Etcd
from holdfast.metadata.followed import TICK_S, Followed, Rounds
from holdfast.metadata.records import decode

_LOG = logging.getLogger(__name__)


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
        self._clock = clock
        self._stop = threading.Event()
        self._hosts = Followed(etcd, keys.HOSTS, r.HostRecord, self._stop)
        self._leases = Followed(etcd, keys.HOST_LEASES, r.HostLease, self._stop)
        self._volumes = Followed(etcd, keys.VOLUMES, r.VolumeRecord, self._stop)
        self._replicas = Followed(etcd, keys.REPLICAS, r.ReplicaRecord, self._stop)
        followed = (self._hosts, self._leases, self._volumes, self._replicas)
        self._rounds = Rounds("warden", self.look, followed, self._stop, tick_s)
        self._storm = ""

    def start(self) -> None:
        self._rounds.start()

    def stop(self) -> None:
        self._rounds.stop()

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
