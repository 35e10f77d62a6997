"""What a snapshotter asks of etcd: its registration, what there is to upload, and every change it makes.

The decisions are in snapshot_changes; this carries them out. All calls are idempotent and may raise
Unavailable (try again later). Those that work on a claimed snapshot raise Precondition CLAIM_LOST or
NOT_FROZEN when the work is no longer this process's: stop, and leave what was uploaded to its successor.
"""

import threading
import time
from collections.abc import Callable, Sequence

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import Precondition
from holdfast.metadata import encryption_decisions, keys, snapshot_changes
from holdfast.metadata.cas import Draft, run
from holdfast.metadata.claimable import Claimable
from holdfast.metadata.etcd import Etcd
from holdfast.metadata.lease import LeaseKeeper
from holdfast.metadata.records import decode
from holdfast.metadata.snapshot_changes import Claimant, Uploaded

SNAPSHOTTER_LEASE_TTL_S = 10


def register(draft: Draft, lease: r.SnapshotterLease, lease_id: int) -> bool:
    key = keys.snapshotter_lease(lease.snapshotter_id)
    draft.entry(key)
    return draft.put(key, lease, lease_id)


class SnapshotterActions:
    """One snapshotter process, on one etcd. `start` first: claims are on its lease."""

    def __init__(
        self,
        etcd: Etcd,
        snapshotter_id: str,
        nbd_address: str,
        nbd_port: int,
        ttl_s: int = SNAPSHOTTER_LEASE_TTL_S,
        on_lost: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
        grpc_port: int = 0,
        targets: Sequence[str] = (),
    ) -> None:
        self.etcd = etcd
        self.snapshotter_id = snapshotter_id
        self._clock = clock
        lease = r.SnapshotterLease(
            snapshotter_id=snapshotter_id,
            nbd_address=nbd_address,
            nbd_port=nbd_port,
            grpc_port=grpc_port,
            targets=targets,
        )
        self.keeper = LeaseKeeper(
            etcd,
            ttl_s,
            attach=lambda lease_id: _discard(run(etcd, lambda draft: register(draft, lease, lease_id))),
            on_lost=on_lost,
        )

    def start(self) -> None:
        """Register, and stay registered, in a thread."""
        self.keeper.start()

    def stop(self) -> None:
        """Leave: the registration and every claim go at once."""
        self.keeper.stop()

    def claimant(self) -> Claimant:
        """Who claims now. Raises Precondition NOT_REGISTERED while no lease is held."""
        lease_id = self.keeper.lease_id
        if not lease_id:
            raise Precondition("NOT_REGISTERED", f"Snapshotter {self.snapshotter_id} holds no lease now.")
        return Claimant(self.snapshotter_id, lease_id)

    def claimable(self, stop: threading.Event) -> Claimable:
        """What is frozen and claimed by nobody, kept up to date until `stop`."""
        return Claimable(self.etcd, stop)

    def snapshot(self, snapshot_uid: str) -> r.SnapshotRecord | None:
        entry = self.etcd.get(keys.snapshot(snapshot_uid))
        return decode(r.SnapshotRecord, entry.value) if entry else None

    def staged(self, snapshot_uid: str) -> list[r.StagedRecord]:
        """What was put for a snapshot that is made from outside, by each snapshotter that took any of it."""
        entries, _ = self.etcd.range(keys.staged(snapshot_uid))
        return [decode(r.StagedRecord, entry.value) for entry in entries]

    def claim(self, snapshot_uid: str) -> Claimant | None:
        """Who holds the snapshot now if it is this process: hand it to the calls below. None otherwise."""
        by = self.claimant()
        return by if run(self.etcd, lambda draft: snapshot_changes.claim(draft, snapshot_uid, by)) else None

    def release(self, snapshot_uid: str, by: Claimant) -> bool:
        return run(self.etcd, lambda draft: snapshot_changes.release(draft, snapshot_uid, by))

    def progress(self, snapshot_uid: str, by: Claimant, done_bytes: int, total_bytes: int) -> bool:
        """At most once in five seconds, please."""
        return run(
            self.etcd,
            lambda draft: snapshot_changes.progress(draft, snapshot_uid, by, done_bytes, total_bytes),
        )

    def waits(self, snapshot_uid: str, by: Claimant, reason: str) -> bool:
        return run(self.etcd, lambda draft: snapshot_changes.waits(draft, snapshot_uid, by, reason))

    def checkpoint(self, snapshot_uid: str, by: Claimant, name: str) -> bool:
        return run(self.etcd, lambda draft: snapshot_changes.checkpoint(draft, snapshot_uid, by, name))

    def set_data_key(self, snapshot_uid: str, by: Claimant, made: r.WrappedKey) -> r.WrappedKey:
        """The snapshot's data key as it is recorded: `made`, unless there was one."""
        return run(self.etcd, lambda draft: snapshot_changes.set_data_key(draft, snapshot_uid, by, made))

    def base_key(self, snapshot: r.SnapshotRecord) -> r.WrappedKey | None:
        """The data key of its base, for its owner; None if that is not encrypted."""
        return encryption_decisions.base_key(Draft(self.etcd), snapshot)

    def complete(self, snapshot_uid: str, by: Claimant, uploaded: Uploaded) -> bool:
        return run(
            self.etcd,
            lambda draft: snapshot_changes.complete(draft, snapshot_uid, by, uploaded, self._clock()),
        )

    def damaged(self) -> tuple[set[str], set[str]]:
        """Names of objects that no upload may use; uids of snapshots that wrote more such than are named."""
        entries, _ = self.etcd.range(keys.DAMAGED)
        records = [decode(r.DamagedRecord, entry.value) for entry in entries]
        return {name for one in records for name in one.names}, {
            one.snapshot_uid for one in records if one.more
        }

    def fail(self, snapshot_uid: str, reason: str) -> bool:
        """For good: use it for what no retry can mend, never for an object store out of reach."""
        return run(self.etcd, lambda draft: snapshot_changes.fail(draft, snapshot_uid, reason))


def _discard(_: bool) -> None:
    return None
