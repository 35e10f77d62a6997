"""What a storage host's agent asks of etcd: its registration, and every change that it reports.

The decisions are in volume_changes, attachment_changes and snapshot_changes; this carries them out. All
calls are idempotent, return whether anything changed, and may raise Unavailable (try again later),
StaleEpoch or NotFound (look at the assignments again).
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import Unavailable
from holdfast.base.limits import HOST_LEASE_TTL_S, NBD_PORT_FIRST
from holdfast.metadata import attachment_changes, keys, snapshot_changes, volume_changes
from holdfast.metadata.cas import Draft, run
from holdfast.metadata.etcd import Etcd, Event
from holdfast.metadata.follow import follow
from holdfast.metadata.lease import LeaseKeeper
from holdfast.metadata.records import decode


def register(draft: Draft, host: r.HostRecord, lease_id: int) -> bool:
    """Write a host and its lease key. What placement keeps in the record is kept."""
    before = draft.get(keys.host(host.host_id), r.HostRecord)
    record = r.HostRecord()
    record.CopyFrom(host)
    record.allocated_bytes = before.allocated_bytes if before else 0
    record.next_nbd_port = (before.next_nbd_port if before else 0) or NBD_PORT_FIRST
    wrote_host = draft.put(keys.host(host.host_id), record)
    lease_key = keys.host_lease(host.host_id)
    draft.entry(lease_key)
    lease = r.HostLease(host_id=host.host_id, boot_id=host.boot_id)
    return draft.put(lease_key, lease, lease_id) or wrote_host


class HostActions:
    """One host's agent, on one etcd."""

    def __init__(self, etcd: Etcd, host_id: str, clock: Callable[[], float] = time.time) -> None:
        self.etcd = etcd
        self.host_id = host_id
        self._clock = clock

    def keep_registered(
        self,
        host: Callable[[], r.HostRecord],
        ttl_s: int = HOST_LEASE_TTL_S,
        on_lost: Callable[[], None] = lambda: None,
    ) -> LeaseKeeper:
        """Start a thread that keeps hosts/<id> and leases/hosts/<id>.

        A lease that this boot of this host held before the agent's restart is adopted. Call `stop(revoke=
        False)` on the result when the agent restarts, `stop()` when the host leaves. `host` is asked again
        at each registration.

        Raises Unavailable if etcd cannot be asked for the old lease.
        """
        entry = self.etcd.get(keys.host_lease(self.host_id))
        same_boot = entry is not None and decode(r.HostLease, entry.value).boot_id == host().boot_id
        keeper = LeaseKeeper(
            self.etcd,
            ttl_s,
            attach=lambda lease_id: self.update_registration(host(), lease_id),
            adopt_lease_id=entry.lease_id if entry is not None and same_boot else 0,
            on_lost=on_lost,
        )
        keeper.start()
        return keeper

    def update_registration(self, host: r.HostRecord, lease_id: int) -> None:
        """Write the host's record again, e.g. with another capacity."""
        run(self.etcd, lambda draft: register(draft, host, lease_id))

    def follow_assignments(
        self, stop: threading.Event, unreachable: Callable[[Unavailable], None] = lambda _: None
    ) -> Iterator[list[Event]]:
        """This host's assignments, and then each change: see `follow`. Decode with `assignment_of`."""
        return follow(self.etcd, keys.assignments(self.host_id), stop, unreachable)

    def follow_snapshotters(self, stop: threading.Event) -> Iterator[list[Event]]:
        """The live snapshotters (SnapshotterLease), and then each change: see `follow`."""
        return follow(self.etcd, keys.SNAPSHOTTER_LEASES, stop)

    def volume_became_available(self, volume_uid: str, epoch: int) -> bool:
        return run(
            self.etcd,
            lambda draft: volume_changes.became_available(draft, volume_uid, self.host_id, epoch),
        )

    def volume_waits(self, volume_uid: str, epoch: int, reason: str) -> bool:
        return run(
            self.etcd,
            lambda draft: volume_changes.creation_waits(draft, volume_uid, self.host_id, epoch, reason),
        )

    def volume_could_not_be_made(self, volume_uid: str, epoch: int, reason: str) -> bool:
        return run(
            self.etcd,
            lambda draft: volume_changes.could_not_be_made(draft, volume_uid, self.host_id, epoch, reason),
        )

    def report_health(
        self,
        volume_uid: str,
        epoch: int,
        health: r.VolumeHealth,
        hydrate_remaining_bytes: int = 0,
        hydrate_total_bytes: int = 0,
    ) -> bool:
        """Written only if it differs. Progress of hydration: at most every five seconds, please."""
        return run(
            self.etcd,
            lambda draft: volume_changes.report_health(
                draft,
                volume_uid,
                self.host_id,
                epoch,
                health,
                hydrate_remaining_bytes,
                hydrate_total_bytes,
                self._clock(),
            ),
        )

    def store_removed(self, volume_uid: str) -> bool:
        return run(self.etcd, lambda draft: volume_changes.store_removed(draft, volume_uid, self.host_id))

    def attachment_ready(self, volume_uid: str, attachment_uid: str, epoch: int) -> bool:
        return run(
            self.etcd,
            lambda draft: attachment_changes.became_ready(
                draft, volume_uid, attachment_uid, self.host_id, epoch
            ),
        )

    def attachment_waits(self, volume_uid: str, attachment_uid: str, epoch: int, reason: str) -> bool:
        return run(
            self.etcd,
            lambda draft: attachment_changes.waits(
                draft, volume_uid, attachment_uid, self.host_id, epoch, reason
            ),
        )

    def attachment_detached(self, volume_uid: str, attachment_uid: str, epoch: int) -> bool:
        return run(
            self.etcd,
            lambda draft: attachment_changes.detached(draft, volume_uid, attachment_uid, self.host_id, epoch),
        )

    def snapshot_frozen(
        self,
        volume_uid: str,
        snapshot_uid: str,
        epoch: int,
        generation: int,
        freeze_time_s: float,
        frozen_on: Sequence[str],
    ) -> bool:
        return run(
            self.etcd,
            lambda draft: snapshot_changes.frozen(
                draft,
                volume_uid,
                snapshot_uid,
                self.host_id,
                epoch,
                generation,
                freeze_time_s,
                frozen_on,
            ),
        )

    def snapshot_failed(self, snapshot_uid: str, reason: str) -> bool:
        return run(self.etcd, lambda draft: snapshot_changes.fail(draft, snapshot_uid, reason))

    def snapshot_lost_here(self, snapshot_uid: str, reason: str) -> bool:
        """This host no longer holds a good frozen view of it."""
        return run(
            self.etcd,
            lambda draft: snapshot_changes.strike_off(draft, snapshot_uid, self.host_id, reason),
        )


def assignment_of(event: Event) -> tuple[str, r.Assignment | None]:
    """The volume's uid, and its assignment to this host, or None if it was dropped."""
    volume_uid = event.key.rpartition("/")[2]
    return volume_uid, decode(r.Assignment, event.entry.value) if event.entry else None
