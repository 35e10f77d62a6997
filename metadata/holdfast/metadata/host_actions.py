"""What a storage host's agent asks of etcd: its registration, and every change that it reports.

The decisions are in replica_changes, volume_changes, attachment_changes and snapshot_changes; this carries
them out. All calls are idempotent, return whether anything changed, and may raise Unavailable (try again
later), StaleEpoch or NotFound (look at the assignments again); those of membership also Precondition (it
may not be now: look at the assignment and the leases again).
"""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import Unavailable
from holdfast.base.limits import HOST_LEASE_TTL_S, NBD_PORT_FIRST
from holdfast.metadata import (
    attachment_changes,
    group_changes,
    keys,
    replica_changes,
    snapshot_changes,
    volume_changes,
)
from holdfast.metadata.cas import Draft, run
from holdfast.metadata.etcd import Etcd, Event
from holdfast.metadata.follow import follow
from holdfast.metadata.lease import LeaseKeeper
from holdfast.metadata.records import decode


def register(draft: Draft, host: r.HostRecord, lease_id: int) -> bool:
    """Write a host and its lease key. What the control plane keeps in the record is kept, but for
    lost_time: it is there again.
    """
    before = draft.get(keys.host(host.host_id), r.HostRecord)
    record = r.HostRecord()
    record.CopyFrom(host)
    record.allocated_bytes = before.allocated_bytes if before else 0
    record.next_nbd_port = (before.next_nbd_port if before else 0) or NBD_PORT_FIRST
    record.draining = before.draining if before else False
    record.drain_reason = before.drain_reason if before else ""
    record.ClearField("lost_time")
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
        """Start a thread that keeps hosts/<id> and leases/hosts/<id>, renewed every third of `ttl_s`.

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

    def follow_host_leases(self, stop: threading.Event) -> Iterator[list[Event]]:
        """The live hosts (HostLease), and then each change: see `follow`. Decode with `lease_of`."""
        return follow(self.etcd, keys.HOST_LEASES, stop)

    def leave_out(self, volume_uid: str, epoch: int, hosts: Collection[str]) -> bool:
        """For this and the next nine: see replica_changes, and replica_decisions for `path_move`."""
        return run(
            self.etcd,
            lambda draft: replica_changes.leave_out(draft, volume_uid, self.host_id, epoch, hosts),
        )

    def join(self, volume_uid: str, epoch: int, joiner_host_id: str, joiner_boot_id: str) -> bool:
        return run(
            self.etcd,
            lambda draft: replica_changes.join(
                draft, volume_uid, self.host_id, epoch, joiner_host_id, joiner_boot_id
            ),
        )

    def take_over(self, volume_uid: str, boot_id: str, epoch: int) -> bool:
        return run(
            self.etcd,
            lambda draft: replica_changes.take_over(draft, volume_uid, self.host_id, boot_id, epoch),
        )

    def hand_over(self, volume_uid: str, epoch: int, to_host_id: str) -> bool:
        return run(
            self.etcd,
            lambda draft: replica_changes.hand_over(draft, volume_uid, self.host_id, epoch, to_host_id),
        )

    def resign(self, volume_uid: str, epoch: int, to_host_id: str) -> bool:
        return run(
            self.etcd,
            lambda draft: replica_changes.resign(draft, volume_uid, self.host_id, epoch, to_host_id),
        )

    def release(self, volume_uid: str, epoch: int) -> bool:
        return run(self.etcd, lambda draft: replica_changes.release(draft, volume_uid, self.host_id, epoch))

    def crash_move(self, volume_uid: str, epoch: int) -> bool:
        return run(
            self.etcd,
            lambda draft: replica_changes.crash_move(draft, volume_uid, self.host_id, epoch, self._clock()),
        )

    def cold_start(self, volume_uid: str, boot_id: str, epoch: int) -> bool:
        return run(
            self.etcd,
            lambda draft: replica_changes.cold_start(draft, volume_uid, self.host_id, boot_id, epoch),
        )

    def renounce(self, volume_uid: str, epoch: int) -> bool:
        return run(self.etcd, lambda draft: replica_changes.renounce(draft, volume_uid, self.host_id, epoch))

    def path_move(self, volume_uid: str, epoch: int, to_host_id: str) -> bool:
        return run(
            self.etcd,
            lambda draft: replica_changes.path_move(
                draft, volume_uid, self.host_id, epoch, to_host_id, self._clock()
            ),
        )

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

    def report_health(
        self,
        volume_uid: str,
        epoch: int,
        health: r.VolumeHealth,
        hydrate_remaining_bytes: int = 0,
        hydrate_total_bytes: int = 0,
        hydrate_rate_bytes_s: int = 0,
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
                hydrate_rate_bytes_s,
                self._clock(),
            ),
        )

    def report_replica_trouble(self, volume_uid: str, reason: str, message: str) -> bool:
        """Of this host's copy, which is not in sync; empty: it can be brought up to date."""
        return run(
            self.etcd,
            lambda draft: volume_changes.report_replica_trouble(
                draft, volume_uid, self.host_id, reason, message, self._clock()
            ),
        )

    def report_sync(
        self, volume_uid: str, epoch: int, remaining_bytes: int, total_bytes: int, rate_bytes_s: int
    ) -> bool:
        """Of the joiner that is furthest behind; all 0: none is. At most every five seconds, please."""
        return run(
            self.etcd,
            lambda draft: volume_changes.report_sync(
                draft, volume_uid, self.host_id, epoch, remaining_bytes, total_bytes, rate_bytes_s
            ),
        )

    def report_verify(self, volume_uid: str, epoch: int, status: r.VerifyStatus) -> bool:
        """`status` without times and rate. At most every five seconds, please, but for its end."""
        return run(
            self.etcd,
            lambda draft: volume_changes.report_verify(
                draft, volume_uid, self.host_id, epoch, status, self._clock()
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

    def attachment_path_ready(self, volume_uid: str, attachment_uid: str, ready: bool = True) -> bool:
        """This host, whatever its role, exports it now (or no longer does). No epoch: it is a fact."""
        return run(
            self.etcd,
            lambda draft: attachment_changes.path_ready(
                draft, volume_uid, attachment_uid, self.host_id, ready
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

    def gate_says(self, volume_uid: str, word: group_changes.Word) -> bool:
        """A volume of a group has done a step; if it was the last to do so, the group goes on."""
        said = run(self.etcd, lambda draft: group_changes.say(draft, volume_uid, self.host_id, word))
        # Also if it is known: whoever said it may have been lost before it looked at the others.
        now_s = self._clock()
        moved = run(
            self.etcd, lambda draft: group_changes.advance(draft, word.group_uid, word.attempt, now_s)
        )
        return said or moved

    def gate_failed(self, volume_uid: str, epoch: int, group_uid: str, attempt: int, reason: str) -> bool:
        """A gate did not hold, or could not be closed: nothing of that attempt counts."""
        return run(
            self.etcd,
            lambda draft: group_changes.attempt_failed(
                draft, volume_uid, self.host_id, epoch, group_uid, attempt, reason
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


def lease_of(event: Event) -> tuple[str, str]:
    """A host's id, and the boot whose agent holds its lease; empty if none does any more."""
    host_id = event.key.rpartition("/")[2]
    return host_id, decode(r.HostLease, event.entry.value).boot_id if event.entry else ""
