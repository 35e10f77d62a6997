"""What the warden's actions do to the records: decisions over a draft (see cas.py), each looking again.

All return whether anything changed; False also if what was seen is no longer so.
"""

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.metadata import keys, replica_decisions
from holdfast.metadata.assigned import timestamp
from holdfast.metadata.cas import Draft
from holdfast.metadata.replica_decisions import NewReplica
from holdfast.metadata.replica_record import in_sync_ids, live_boot, live_boots, record_of
from holdfast.metadata.volume_changes import set_health
from holdfast.metadata.warden_decisions import (
    LAST_COPY_AWAY,
    Replace,
    Settings,
    away_message,
    copying,
    has_turn,
    is_away,
)


def set_lost(draft: Draft, host_id: str, lost: bool, now_s: float) -> bool:
    """lost_time is when the lease was found to be gone; it goes when there is one again."""
    host = draft.get(keys.host(host_id), r.HostRecord)
    if host is None or lost == host.HasField("lost_time") or lost == bool(live_boot(draft, host_id)):
        return False
    host.ClearField("lost_time")
    if lost:
        host.lost_time.CopyFrom(timestamp(now_s))
    return draft.put(keys.host(host_id), host)


def begin_replacement(
    draft: Draft, action: Replace, settings: Settings, seal_key: bytes, now_s: float
) -> bool:
    """Assign another host, if there is a turn: the record of what is under way is changed with it.

    Raises what `replica_decisions.replace` raises.
    """
    if action.must_be_lost and live_boot(draft, action.gone_host_id):
        return False
    warden = draft.get(keys.WARDEN, r.WardenRecord) or r.WardenRecord()
    under_way = [one for one in warden.replacements if _is_under_way(draft, one)]
    wanted = r.Replacement(
        volume_uid=action.volume_uid,
        gone_host_id=action.gone_host_id,
        new_host_id=action.new_host_id,
        from_host_id=record_of(draft, action.volume_uid).primary_host_id,
        start_time=timestamp(now_s),
    )
    if not has_turn(wanted, under_way, settings):
        return False
    new = NewReplica(action.new_host_id, settings.overcommit, seal_key)
    if not replica_decisions.replace(draft, action.volume_uid, action.gone_host_id, new):
        return False
    del warden.replacements[:]
    warden.replacements.extend([*(one for one in under_way if one.volume_uid != action.volume_uid), wanted])
    return draft.put(keys.WARDEN, warden)


def look_at_health(draft: Draft, volume_uid: str, now_s: float) -> bool:
    """UNAVAILABLE, LAST_COPY_AWAY while no good copy is there; what the agent had said when one is again."""
    volume = draft.get(keys.volume(volume_uid), r.VolumeRecord)
    if volume is None or volume.state != r.VOLUME_STATE_AVAILABLE:
        return False
    replica = record_of(draft, volume_uid)
    live = live_boots(draft, replica)
    if is_away(replica, live):
        hosts = {one: draft.peek(keys.host(one), r.HostRecord) for one in in_sync_ids(replica)}
        known = {host_id: host for host_id, host in hosts.items() if host is not None}
        if volume.health.reason != LAST_COPY_AWAY:
            volume.reported_health.CopyFrom(volume.health)
        message = away_message(replica, live, known, volume)
        said = r.VolumeHealth(state=r.HEALTH_STATE_UNAVAILABLE, reason=LAST_COPY_AWAY, message=message)
        set_health(volume.health, said, now_s)
    elif volume.health.reason == LAST_COPY_AWAY:
        volume.health.CopyFrom(volume.reported_health)
        volume.ClearField("reported_health")
        if not volume.health.state:
            volume.ClearField("health")
    return draft.put(keys.volume(volume_uid), volume)


def set_drain_reason(draft: Draft, host_id: str, reason: str) -> bool:
    host = draft.get(keys.host(host_id), r.HostRecord)
    if host is None or (reason and not host.draining):
        return False
    host.drain_reason = reason
    return draft.put(keys.host(host_id), host)


def set_repair_reason(draft: Draft, volume_uid: str, reason: str) -> bool:
    volume = draft.get(keys.volume(volume_uid), r.VolumeRecord)
    if volume is None:
        return False
    volume.repair_reason = reason
    return draft.put(keys.volume(volume_uid), volume)


def _is_under_way(draft: Draft, one: r.Replacement) -> bool:
    """Not compared: that one ends meanwhile harms nobody."""
    return copying(one, draft.peek(keys.replica(one.volume_uid), r.ReplicaRecord))


def drop_lost(draft: Draft, volume_uid: str, host_id: str) -> bool:
    """Give up a host that holds no lease and lacks writes."""
    return not live_boot(draft, host_id) and replica_decisions.drop(draft, volume_uid, host_id)


def stay_undrained(draft: Draft, volume_uid: str, host_id: str) -> bool:
    """A host that was to leave stays, if it is not being drained."""
    host = draft.get(keys.host(host_id), r.HostRecord)
    return host is not None and not host.draining and replica_decisions.stay(draft, volume_uid, host_id)
