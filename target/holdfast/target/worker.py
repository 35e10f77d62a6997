"""One replica of one volume, made what the agent asks for: its store, its exports, its ring.

`apply` is called with everything that is wanted, again and again; it starts what is missing and ends what
is not wanted any more. What takes time goes on by itself and is reported by `tell`. What a role is, and how
one follows another, is the replica's business (holdfast.replicator.replica).

The ring, the NBD listener and the replica outlive every change of role. Only a copy that is thrown away ends
its replica: then the ring stays, with nothing behind it, until there is another.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from holdfast.base.errors import HoldfastError
from holdfast.base.limits import RING_WAIT_MAX_S
from holdfast.base.loop import Loop, Timer
from holdfast.base.tls import TlsFiles
from holdfast.replicator.following import Role
from holdfast.replicator.leading import Dial
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.replica import Replica
from holdfast.target.control import Desired, Observed
from holdfast.target.role_names import PRIMARY
from holdfast.target.worker_exports import Exports
from holdfast.target.worker_link import Dialler
from holdfast.target.worker_replica import ReplicaLike, observed_of, snapshots_of, wanted_of
from holdfast.target.worker_ring import Ring
from holdfast.target.worker_source import SnapshotSource
from holdfast.target.worker_store import StoreKeeper

log = logging.getLogger(__name__)

TICK_S = 1.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
LOST_STORE = frozenset(("STORE_ABSENT", "STORE_DAMAGED", "STORE_UNUSABLE"))


class MakeReplica(Protocol):
    def __call__(
        self, loop: Loop, local: LocalReplica, host_id: str, boot_id: str, dial: Dial, /
    ) -> ReplicaLike: ...


class Worker:
    """Loop thread only. `tell(observed)` is called when something may have changed."""

    def __init__(
        self,
        loop: Loop,
        volume_uid: str,
        directory: Path,
        host_id: str,
        tls: TlsFiles | None,
        make_replica: MakeReplica = Replica,
        ring: Ring | None = None,
    ) -> None:
        self._loop = loop
        self._uid = volume_uid
        self._host_id = host_id
        self._tls = tls
        self._make_replica = make_replica
        self._boot_id = BOOT_ID.read_text().strip()
        self._desired: Desired | None = None
        self._local: LocalReplica | None = None
        self._replica: ReplicaLike | None = None
        self._keeper = StoreKeeper(loop, volume_uid, directory, self._boot_id)
        self._dial = Dialler(loop, volume_uid, tls)
        self._exports = Exports(loop, volume_uid, tls)
        self._ring = ring or Ring(loop, volume_uid)
        self._source: SnapshotSource | None = None
        self._listed: set[str] = set()
        self._trouble = ("", "")
        self._began_s = loop.now()
        self._timer: Timer | None = loop.call_about(TICK_S, self._tick)
        """Once, for an agent that says nothing, and then while a ring waits: only time tells it to open."""
        self.tell: Callable[[Observed], None] = lambda _observed: None

    def apply(self, desired: Desired) -> Observed:
        """Converge on `desired`. Never raises for what an operator can cause: it is in the answer."""
        if desired.volume_uid != self._uid:
            self._trouble = ("WRONG_VOLUME", f"this worker is for volume {self._uid}.")
        elif self._desired is not None and desired.epoch < self._desired.epoch:
            log.warning("ignoring epoch %d: %d is known", desired.epoch, self._desired.epoch)
        else:
            self._converge(desired)
        return self.observe()

    def close(self) -> None:
        """The process ends. The device first: a write under way reads from the ring's memory."""
        if self._timer is not None:
            self._timer.cancel()
        if self._replica is not None:
            self._replica.close()
        self._ring.close()
        self._exports.close()
        self._loop.close()
        if self._local is not None:
            self._local.store.close()

    # Converging.

    def _converge(self, desired: Desired) -> None:
        before, self._desired = self._desired, desired
        self._trouble = ("", "")
        self._dial.update(desired)
        self._open_replica(desired)
        try:
            self._exports.listen(desired.listen_address, desired.nbd_port)
        except OSError as error:
            self._trouble = ("LISTENING_FAILED", f"{error}: is the port free, and the address this host's?")
            log.error("volume %s: %s", self._uid, error)
        self._choose_source(before, desired)
        self._exports.update(desired)
        if self._replica is not None:
            self._replica.use_source(self._source)
            self._replica.apply(wanted_of(desired))
            self._drop_unlisted(desired)
        self._ring.apply(desired, self._leads(), self._may_open_ring())
        self._watch_ring()

    def _leads(self) -> bool:
        return self._replica is not None and self._replica.report().role is Role.PRIMARY

    def _may_open_ring(self) -> bool:
        """What a process before this one left in it may end for its initiator."""
        drained = self._replica is not None and self._replica.drained
        return drained or self._loop.now() - self._began_s >= RING_WAIT_MAX_S

    def _open_replica(self, desired: Desired) -> None:
        """There is a replica, or a trouble, or a copy is being taken away."""
        if self._local is not None and self._local.suspect and desired.rebuild and not desired.initialized:
            local = self._local
            self._end_replica()
            local.store.throw_away()
            # What is being written down at this moment comes first: it must not land in the new one.
            self._keeper.remove(self._again, partial(local.in_pool, _nothing))
        if self._replica is not None or self._keeper.removing:
            return
        try:
            store = self._keeper.open(desired)
        except (HoldfastError, OSError) as error:
            reason = error.reason if isinstance(error, HoldfastError) else "STORE_UNUSABLE"
            self._trouble = (reason, str(error))
            log.error("volume %s cannot be served: %s", self._uid, error)
            if self._keeper.may_remove(desired, error):
                self._keeper.remove(self._again)
            return
        local = LocalReplica(self._loop, store, self._suspect)
        local.views.on_lost = self._changed
        replica = self._make_replica(self._loop, local, self._host_id, self._boot_id, self._dial)
        replica.on_change = self._changed
        self._local, self._replica = local, replica
        self._exports.serve(local, replica, lambda: self._source)
        self._ring.serve_from(replica.device)

    def _end_replica(self) -> None:
        """Of a joiner, which serves nobody: what initiators still wait for is answered BUSY."""
        self._exports.stop_serving()
        local, replica = self._local, self._replica
        self._local = self._replica = None
        if replica is not None:
            replica.close()
        self._ring.serve_from(None)
        if local is not None:
            local.store.close()

    def _again(self) -> None:
        if self._desired is not None:
            self._converge(self._desired)
        self._changed()

    def _choose_source(self, before: Desired | None, desired: Desired) -> None:
        if not desired.origin_snapshot_uid or (before and before.snapshotters == desired.snapshotters):
            return
        self._source = None
        if desired.snapshotters:
            self._source = SnapshotSource(desired.origin_snapshot_uid, desired.snapshotters, self._tls)

    def _drop_unlisted(self, desired: Desired) -> None:
        """Drop a view when it is no longer listed. Where this host is not the primary, one that was never
        listed may be younger than what the agent knows: the primary freezes before this host's agent hears
        of it.
        """
        assert self._local is not None
        listed = {snapshot.uid for snapshot in desired.snapshots}
        known = self._listed
        if desired.role == PRIMARY:
            # Left by a worker that was killed before it was told.
            known = known | self._local.store.state.views.keys()
        self._listed = listed
        for uid in known - listed:
            self._local.views.drop(uid)
        self._local.store.drop_generations_below(desired.keep_generation)

    # Observing.

    def observe(self) -> Observed:
        desired = self._desired
        reason, message = self._own_trouble()
        if desired is None:
            return Observed(self._uid, reason=reason, message=message)
        if self._local is None or self._replica is None:
            return self._without_replica(desired, reason, message)
        report = self._replica.report()
        state = self._local.store.state
        seen = observed_of(desired, report, state, self._local.suspect)
        return replace(
            seen,
            reason=reason or seen.reason,
            message=message if reason else seen.message,
            ring_open=self._ring.is_open,
            snapshots=snapshots_of(desired, report, state, self._local.views.lost()),
        )

    def _without_replica(self, desired: Desired, reason: str, message: str) -> Observed:
        """A primary without its store acknowledges nothing: it gives way, if another is in sync."""
        resigns = desired.role == PRIMARY and reason in LOST_STORE and len(desired.members) > 1
        return Observed(
            volume_uid=self._uid,
            role=desired.role,
            epoch=desired.epoch,
            reason=reason,
            message=message,
            ring_open=self._ring.is_open,
            wants_resign=resigns,
            gives_up=resigns,
        )

    def _own_trouble(self) -> tuple[str, str]:
        """What the replica does not know of, or cannot be trusted to say."""
        if self._keeper.removing:
            return "REBUILDING", "this host's copy is not trusted any more and is being made anew."
        if self._local is not None and self._local.suspect:
            why = self._local.suspect
            return "DISK_FAILED", f"{why}; this host's copy is not trusted any more: look at its disk."
        if self._trouble[0]:
            return self._trouble
        return ("RING_FAILED", self._ring.trouble) if self._ring.trouble else ("", "")

    def _suspect(self, why: str) -> None:
        log.error("volume %s: %s", self._uid, why)
        self._changed()

    def _changed(self) -> None:
        desired, leads = self._desired, self._leads()
        if desired is not None and ((leads and not self._ring.is_active) or self._ring.waits):
            self._ring.apply(desired, leads, self._may_open_ring())
        self._watch_ring()
        self.tell(self.observe())

    def _watch_ring(self) -> None:
        if self._ring.waits and self._timer is None:
            self._timer = self._loop.call_about(TICK_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._changed()


def _nothing() -> None:
    """Work that only waits for its turn."""
