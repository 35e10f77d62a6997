"""One replica of one volume, made what the agent asks for: opens the store, takes its role, serves.

`apply` is called with everything that is wanted, again and again; it starts what is missing and ends what
is not wanted any more. What takes time goes on by itself and is reported by `tell`.

A role belongs to one epoch. A change of either ends the old role whole before the new one begins (I-6).
"""

import logging
from collections.abc import Callable
from pathlib import Path

from holdfast.base.errors import HoldfastError
from holdfast.base.loop import Loop, Timer
from holdfast.base.tls import TlsFiles
from holdfast.replicator.files import Files
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.store import Store, create, exists
from holdfast.target.control import Desired, Observed, ObservedSnapshot
from holdfast.target.worker_exports import Exports
from holdfast.target.worker_roles import MirrorRole, PrimaryRole
from holdfast.target.worker_source import SnapshotSource

log = logging.getLogger(__name__)

TICK_S = 1.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Worker:
    """Loop thread only. `tell(observed)` is called when something may have changed."""

    def __init__(
        self, loop: Loop, volume_uid: str, directory: Path, host_id: str, tls: TlsFiles | None
    ) -> None:
        self._loop = loop
        self._uid = volume_uid
        self._files = Files(directory)
        self._host_id = host_id
        self._tls = tls
        self._desired: Desired | None = None
        self._local: LocalReplica | None = None
        self._role: PrimaryRole | MirrorRole | None = None
        self._exports = Exports(loop, volume_uid, tls)
        self._source: SnapshotSource | None = None
        self._listed: set[str] = set()
        self._trouble = ("", "")
        self._timer: Timer = loop.call_later(TICK_S, self._tick)
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

    def observe(self) -> Observed:
        desired, role = self._desired, self._role
        reason, message = self._own_trouble()
        serving = role is not None and role.serving and not reason
        if role is not None and not reason:
            reason, message = role.trouble()
        if desired is None:
            return Observed(self._uid, reason=reason, message=message)
        hydrated = role.hydration() if isinstance(role, PrimaryRole) else (0, 0)
        return Observed(
            volume_uid=self._uid,
            role=desired.role,
            epoch=desired.epoch,
            store_open=self._local is not None,
            peer_connected=role is not None and role.peer_connected,
            serving=serving,
            reason=reason,
            message=message,
            ring_open=isinstance(role, PrimaryRole) and role.ring_open,
            snapshots=self._observe_snapshots(desired),
            hydrate_remaining_bytes=hydrated[0],
            hydrate_total_bytes=hydrated[1],
        )

    def close(self) -> None:
        self._timer.cancel()
        self._end_role()
        self._exports.close()
        self._loop.close()
        if self._local is not None:
            self._local.store.close()

    # Converging.

    def _converge(self, desired: Desired) -> None:
        before, self._desired = self._desired, desired
        self._trouble = ("", "")
        try:
            self._open_store(desired)
            self._exports.listen(desired.listen_address, desired.nbd_port)
        except (HoldfastError, OSError) as error:
            reason = error.reason if isinstance(error, HoldfastError) else "STORE_UNUSABLE"
            self._trouble = (reason, str(error))
            log.error("volume %s cannot be served: %s", self._uid, error)
            self._end_role()
            return
        self._choose_source(before, desired)
        if self._role is None or _role_of(before) != _role_of(desired):
            self._end_role()
            self._begin_role(desired)
        assert self._role is not None
        self._exports.update(desired)
        self._role.apply(desired)
        self._drop_unlisted(desired)

    def _open_store(self, desired: Desired) -> None:
        if not desired.may_serve:
            raise HoldfastError(
                "NOT_IN_SYNC",
                "this host restarted and is not in the volume's in-sync set: its copy is opened for nobody.",
            )
        if self._local is not None:
            return
        boot_id = BOOT_ID.read_text().strip()
        if not desired.initialized and not exists(self._files):
            create(self._files, self._uid, desired.size_bytes, boot_id, desired.origin_snapshot_uid)
        store = Store(self._files, self._uid, desired.size_bytes, boot_id)
        store.accept_epoch(desired.epoch)
        self._local = LocalReplica(self._loop, store, self._suspect)
        self._local.views.on_lost = self._changed

    def _choose_source(self, before: Desired | None, desired: Desired) -> None:
        if not desired.origin_snapshot_uid or (before and before.snapshotters == desired.snapshotters):
            return
        self._source = None
        if desired.snapshotters:
            self._source = SnapshotSource(desired.origin_snapshot_uid, desired.snapshotters, self._tls)

    def _begin_role(self, desired: Desired) -> None:
        assert self._local is not None
        self._local.store.accept_epoch(desired.epoch)
        if desired.role == "primary":
            self._role = PrimaryRole(
                self._loop, self._local, self._host_id, desired, self._tls, lambda: self._source
            )
        else:
            self._role = MirrorRole(self._local)
        self._role.on_change = self._changed
        self._exports.serve(self._local, self._role, desired, lambda: self._source)

    def _end_role(self) -> None:
        self._exports.stop_serving()
        if self._role is not None:
            self._role.close()
            self._role = None

    def _drop_unlisted(self, desired: Desired) -> None:
        """Drop a view when it is no longer listed. On a mirror, one that was never listed may be younger
        than what the agent knows: the primary freezes before this host's agent hears of it.
        """
        assert self._local is not None
        listed = {snapshot.uid for snapshot in desired.snapshots}
        known = self._listed
        if desired.role == "primary":
            # Left by a worker that was killed before it was told.
            known = known | self._local.store.state.views.keys()
        for uid in known - listed:
            self._local.views.drop(uid)
        self._listed = listed
        self._local.store.drop_generations_below(desired.keep_generation)

    # Reporting.

    def _own_trouble(self) -> tuple[str, str]:
        """What keeps this replica from serving at all."""
        if self._local is not None and self._local.suspect:
            why = self._local.suspect
            return "DISK_FAILED", f"{why}; this host's copy is not trusted any more: look at its disk."
        return self._trouble

    def _observe_snapshots(self, desired: Desired) -> tuple[ObservedSnapshot, ...]:
        if self._local is None:
            return ()
        recorded, lost = self._local.store.state.views, self._local.views.lost()
        ready = self._role.frozen() if self._role is not None else set()
        found = []
        for snapshot in desired.snapshots:
            uid = snapshot.uid
            if uid in lost:
                found.append(ObservedSnapshot(uid, False, failed=lost[uid]))
            elif uid in recorded and uid in ready:
                view = recorded[uid]
                found.append(ObservedSnapshot(uid, True, view.generation, view.freeze_time))
            else:
                found.append(ObservedSnapshot(uid, False))
        return tuple(found)

    def _suspect(self, why: str) -> None:
        log.error("volume %s: %s", self._uid, why)
        self._changed()

    def _changed(self) -> None:
        self.tell(self.observe())

    def _tick(self) -> None:
        if self._role is not None:
            self._role.tick()
        self._changed()
        self._timer = self._loop.call_later(TICK_S, self._tick)


def _role_of(desired: Desired | None) -> object:
    return desired and (desired.role, desired.epoch, desired.peer)
