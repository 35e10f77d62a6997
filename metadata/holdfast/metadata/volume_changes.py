"""What a host does to a volume's records: each a decision over a draft (see cas.py)."""

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import Precondition
from holdfast.metadata import keys
from holdfast.metadata.assigned import Assignments, check_owner, timestamp
from holdfast.metadata.cas import Draft


def became_available(draft: Draft, volume_uid: str, host_id: str, epoch: int) -> bool:
    """CREATING → AVAILABLE: the stores of all hosts in sync exist. From now on none of them is made anew.

    Returns False if it was done already, or is moot (being deleted). Raises StaleEpoch, NotFound.
    """
    check_owner(draft, volume_uid, host_id, epoch)
    volume = draft.need(keys.volume(volume_uid), r.VolumeRecord)
    if volume.state != r.VOLUME_STATE_CREATING:
        return False
    assignments = Assignments.read(draft, volume_uid)
    for one in assignments.each:
        one.initialized = one.initialized or one.role != r.ROLE_JOINER
    assignments.save(draft)
    volume.state = r.VOLUME_STATE_AVAILABLE
    volume.reason = ""
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
    hydrate_rate_bytes_s: int,
    now_s: float,
) -> bool:
    """Record what the primary sees, if it differs from what is recorded. `health.since_time` is set here.

    Args:
        hydrate_total_bytes: 0 if nobody knows what is left, e.g. because the worker is down: then what was
            known stays. (Of a volume that was made blank that is 0 of 0.)
    """
    check_owner(draft, volume_uid, host_id, epoch)
    volume = draft.need(keys.volume(volume_uid), r.VolumeRecord)
    # What the agent says takes the place of what the control plane said while there was no primary.
    volume.ClearField("reported_health")
    set_health(volume.health, health, now_s)
    if hydrate_total_bytes:
        volume.hydrate_remaining_bytes = hydrate_remaining_bytes
        volume.hydrate_total_bytes = hydrate_total_bytes
    volume.hydrate_rate_bytes_s = hydrate_rate_bytes_s
    return draft.put(keys.volume(volume_uid), volume)


def set_health(old: r.VolumeHealth, health: r.VolumeHealth, now_s: float) -> None:
    """Say `health` in `old`. State and reason hold since they changed; a sentence may change meanwhile."""
    if (old.state, old.reason) != (health.state, health.reason) or not old.HasField("since_time"):
        old.since_time.CopyFrom(timestamp(now_s))
    old.state, old.reason, old.message = health.state, health.reason, health.message


def report_replica_trouble(
    draft: Draft, volume_uid: str, host_id: str, reason: str, message: str, now_s: float
) -> bool:
    """Record what ails the copy of a host that is not in sync; an empty reason: nothing does (any more).

    No epoch: it is a fact of that host's. What others said goes when they hold the volume no more.
    """
    replica = draft.need(keys.replica(volume_uid), r.ReplicaRecord)
    volume = draft.need(keys.volume(volume_uid), r.VolumeRecord)
    kept = [one for one in volume.replica_troubles if one.host_id in replica.host_ids]
    before = next((one for one in kept if one.host_id == host_id), None)
    said = [one for one in kept if one.host_id != host_id]
    if reason and host_id in replica.host_ids:
        trouble = r.ReplicaTrouble(host_id=host_id, reason=reason, message=message)
        since = before is not None and before.reason == reason
        trouble.since_time.CopyFrom(before.since_time if before and since else timestamp(now_s))
        said.append(trouble)
    del volume.replica_troubles[:]
    volume.replica_troubles.extend(sorted(said, key=lambda one: one.host_id))
    return draft.put(keys.volume(volume_uid), volume)


def report_sync(
    draft: Draft,
    volume_uid: str,
    host_id: str,
    epoch: int,
    remaining_bytes: int,
    total_bytes: int,
    rate_bytes_s: int,
) -> bool:
    """Record how far the joiner that is furthest behind has come; all 0: none is behind."""
    check_owner(draft, volume_uid, host_id, epoch)
    volume = draft.need(keys.volume(volume_uid), r.VolumeRecord)
    volume.sync_remaining_bytes = remaining_bytes
    volume.sync_total_bytes = total_bytes
    volume.sync_rate_bytes_s = rate_bytes_s
    return draft.put(keys.volume(volume_uid), volume)


def report_verify(
    draft: Draft, volume_uid: str, host_id: str, epoch: int, status: r.VerifyStatus, now_s: float
) -> bool:
    """Record how far the comparison `status.request` has come. Of `status`, its times and rate are ignored.

    One that has ended is asked for no more. False if it was recorded, has ended, or is not the newest.
    """
    check_owner(draft, volume_uid, host_id, epoch)
    volume = draft.need(keys.volume(volume_uid), r.VolumeRecord)
    if volume.verify.request != status.request or volume.verify.state != r.VERIFY_STATE_RUNNING:
        return False
    recorded = r.VerifyStatus()
    recorded.CopyFrom(status)
    recorded.rate_bytes_s = volume.verify.rate_bytes_s
    recorded.start_time.CopyFrom(volume.verify.start_time)
    recorded.ClearField("end_time")
    if recorded.state != r.VERIFY_STATE_RUNNING:
        recorded.end_time.CopyFrom(timestamp(now_s))
        assignments = Assignments.read(draft, volume_uid)
        for one in assignments.each:
            one.verify_request = one.verify_rate_bytes_s = 0
        assignments.save(draft)
    volume.verify.CopyFrom(recorded)
    return draft.put(keys.volume(volume_uid), volume)


def store_removed(draft: Draft, volume_uid: str, host_id: str) -> bool:
    """A host has removed its store: drop its assignment and give back the room.

    That of a host which was replaced simply goes. Of a volume that is being deleted, the last also drops
    the other records and frees the name: those that come at once cannot all think that another is left,
    because each compares the others' assignments.
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
    replica = draft.get(keys.replica(volume_uid), r.ReplicaRecord)
    if replica is not None and not Assignments.read(draft, volume_uid).each:
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
