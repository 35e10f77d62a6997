"""Reading a volume's replica record, and the leases that it is judged by.

A host is **live** if its agent holds its lease; it **holds its memory** if that lease is of the very boot
that is in sync. Every lease that is looked at here is compared by the transaction.
"""

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import Precondition, StaleEpoch
from holdfast.metadata import keys
from holdfast.metadata.assigned import check_owner, timestamp
from holdfast.metadata.cas import Draft


def record_of(draft: Draft, volume_uid: str) -> r.ReplicaRecord:
    """Raises NotFound."""
    return draft.need(keys.replica(volume_uid), r.ReplicaRecord)


def at_epoch(draft: Draft, volume_uid: str, epoch: int) -> r.ReplicaRecord:
    """The record, if it is still of `epoch`. Raises StaleEpoch, NotFound."""
    replica = record_of(draft, volume_uid)
    if replica.epoch != epoch:
        raise StaleEpoch(
            f"Epoch {epoch} of volume {volume_uid} is over, it is now in epoch {replica.epoch}: read the "
            "assignment again."
        )
    return replica


def owned(draft: Draft, volume_uid: str, host_id: str, epoch: int) -> r.ReplicaRecord:
    """The record, if `host_id` is the primary of `epoch` and its lease is not of another boot.

    A host that rebooted is no longer who the record means, whatever its agent believes. Raises StaleEpoch,
    NotFound.
    """
    replica = check_owner(draft, volume_uid, host_id, epoch)
    if live_boot(draft, host_id) not in ("", boot_of(replica, host_id)):
        raise StaleEpoch(
            f"Host {host_id} has rebooted since it became the primary of volume {volume_uid}: it has lost "
            "its memory and may only be brought up to date by another."
        )
    return replica


def boot_of(replica: r.ReplicaRecord, host_id: str) -> str:
    """The boot under which a host is in sync; empty if it is not."""
    return next((one.boot_id for one in replica.in_sync if one.host_id == host_id), "")


def in_sync_ids(replica: r.ReplicaRecord) -> list[str]:
    return [one.host_id for one in replica.in_sync]


def live_boot(draft: Draft, host_id: str) -> str:
    """The boot whose agent holds the host's lease; empty if none does."""
    lease = draft.get(keys.host_lease(host_id), r.HostLease)
    return lease.boot_id if lease is not None else ""


def live_boots(draft: Draft, replica: r.ReplicaRecord) -> dict[str, str]:
    """`live_boot` of every member of in_sync."""
    return {host_id: live_boot(draft, host_id) for host_id in in_sync_ids(replica)}


def need_live(draft: Draft, host_id: str, boot_id: str, why: str) -> None:
    """Raise Precondition NOT_LIVE unless that boot of the host holds its lease. `why` ends the sentence."""
    live = live_boot(draft, host_id)
    if live != boot_id or not live:
        found = f"its lease is of boot {live}" if live else "it holds no lease"
        raise Precondition("NOT_LIVE", f"Host {host_id} does not live in boot {boot_id} ({found}): {why}.")


def need_member(replica: r.ReplicaRecord, host_id: str) -> str:
    """The boot under which `host_id` is in sync. Raises Precondition NOT_IN_SYNC."""
    boot_id = boot_of(replica, host_id)
    if not boot_id:
        raise Precondition(
            "NOT_IN_SYNC",
            f"Host {host_id} does not hold every acknowledged write of volume {replica.volume_uid}: wait "
            "until it has been brought up to date.",
        )
    return boot_id


def need_assigned(replica: r.ReplicaRecord, host_id: str) -> None:
    """Raise Precondition NOT_ASSIGNED unless the volume is assigned to `host_id`."""
    if host_id not in replica.host_ids:
        raise Precondition(
            "NOT_ASSIGNED", f"Volume {replica.volume_uid} is not assigned to host {host_id}: choose another."
        )


def need_rest(replica: r.ReplicaRecord, field: str, now_s: float, rest_s: float, why: str) -> None:
    """Set the time `field` to now. Raises Precondition TOO_SOON within `rest_s` of what it was."""
    moved = getattr(replica, field)
    moved_s = moved.ToMilliseconds() / 1000
    if replica.HasField(field) and now_s < moved_s + rest_s:  # type: ignore[arg-type]
        raise Precondition(
            "TOO_SOON",
            f"Volume {replica.volume_uid} was moved {now_s - moved_s:.0f} s ago because {why}: it stays "
            f"where it is for {rest_s:g} s.",
        )
    moved.CopyFrom(timestamp(now_s))


def set_in_sync(replica: r.ReplicaRecord, members: list[r.InSync]) -> None:
    del replica.in_sync[:]
    replica.in_sync.extend(members)


def keeps_memory(replica: r.ReplicaRecord, live: dict[str, str]) -> list[str]:
    """Members whose boot in sync lives: each holds every acknowledged write, flushed or not. Pure."""
    return [one.host_id for one in replica.in_sync if live.get(one.host_id) == one.boot_id]


def may_start_cold(replica: r.ReplicaRecord, live: dict[str, str]) -> bool:
    """Every member is back, and each in another boot: the disks are all that there is. Pure."""
    return all(live.get(one.host_id, "") not in ("", one.boot_id) for one in replica.in_sync)
