"""What a host does to a volume's records: each a decision over a draft (see cas.py)."""

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import Precondition
from holdfast.metadata import keys
from holdfast.metadata.assigned import Assignments, check_owner, timestamp
from holdfast.metadata.cas import Draft


def became_available(draft: Draft, volume_uid: str, host_id: str, epoch: int) -> bool:
    """CREATING → AVAILABLE: both stores exist and are in sync. From now on no store is made anew.

    Returns False if it was done already, or is moot (being deleted). Raises StaleEpoch, NotFound.
    """
    check_owner(draft, volume_uid, host_id, epoch)
    volume = draft.need(keys.volume(volume_uid), r.VolumeRecord)
    if volume.state != r.VOLUME_STATE_CREATING:
        return False
    assignments = Assignments.read(draft, volume_uid)
    for one in assignments.each:
        one.initialized = True
    assignments.save(draft)
    volume.state = r.VOLUME_STATE_AVAILABLE
    volume.reason = ""
    return draft.put(keys.volume(volume_uid), volume)


def could_not_be_made(draft: Draft, volume_uid: str, host_id: str, epoch: int, reason: str) -> bool:
    """CREATING → FAILED, for good; its owner deletes it. `reason` is one sentence."""
    check_owner(draft, volume_uid, host_id, epoch)
    volume = draft.need(keys.volume(volume_uid), r.VolumeRecord)
    if volume.state != r.VOLUME_STATE_CREATING:
        return False
    volume.state = r.VOLUME_STATE_FAILED
    volume.reason = reason
    return draft.put(keys.volume(volume_uid), volume)


def creation_waits(draft: Draft, volume_uid: str, host_id: str, epoch: int, reason: str) -> bool:
    """Say why a volume is still CREATING (one sentence; empty to say nothing)."""
    check_owner(draft, volume_uid, host_id, epoch)
    volume = draft.need(keys.volume(volume_uid), r.VolumeRecord)
    if volume.state != r.VOLUME_STATE_CREATING:
        return False
    volume.reason = reason
    return draft.put(keys.volume(volume_uid), volume)


def report_health(
    draft: Draft,
    volume_uid: str,
    host_id: str,
    epoch: int,
    health: r.VolumeHealth,
    hydrate_remaining_bytes: int,
    hydrate_total_bytes: int,
    now_s: float,
) -> bool:
    """Record what the primary sees, if it differs from what is recorded. `health.since_time` is set here."""
    check_owner(draft, volume_uid, host_id, epoch)
    volume = draft.need(keys.volume(volume_uid), r.VolumeRecord)
    old = volume.health
    if (old.state, old.reason, old.message) != (health.state, health.reason, health.message):
        volume.health.CopyFrom(health)
        volume.health.since_time.CopyFrom(timestamp(now_s))
    volume.hydrate_remaining_bytes = hydrate_remaining_bytes
    volume.hydrate_total_bytes = hydrate_total_bytes
    return draft.put(keys.volume(volume_uid), volume)


def store_removed(draft: Draft, volume_uid: str, host_id: str) -> bool:
    """A host has removed its store: drop its assignment and give back the room.

    The last of the two also drops the volume's other records and frees its name. Two that come at once
    cannot both think themselves the first: each compares the other's assignment.
    """
    own_key = keys.assignment(host_id, volume_uid)
    own = draft.get(own_key, r.Assignment)
    if own is None:
        return False
    if not own.deleting:
        raise Precondition("NOT_DELETING", f"Volume {volume_uid} is not being deleted from host {host_id}.")
    draft.delete(own_key)
    host = draft.get(keys.host(host_id), r.HostRecord)
    if host is not None:
        host.allocated_bytes = max(0, host.allocated_bytes - own.size_bytes)
        draft.put(keys.host(host_id), host)
    if draft.get(keys.assignment(own.peer.host_id, volume_uid), r.Assignment) is None:
        _drop_records(draft, volume_uid)
    return True


def _drop_records(draft: Draft, volume_uid: str) -> None:
    volume = draft.get(keys.volume(volume_uid), r.VolumeRecord)
    if volume is not None:
        name_key = keys.name("volumes", volume.owner, volume.volume_id)
        name = draft.get(name_key, r.NameRecord)
        if name is not None and name.uid == volume_uid:
            draft.delete(name_key)
    draft.delete(keys.volume(volume_uid))
    draft.delete(keys.replica(volume_uid))
