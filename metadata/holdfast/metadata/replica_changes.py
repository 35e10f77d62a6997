"""Who may acknowledge: what a host's agent does to a volume's replica record (I-1 to I-5).

Each is a decision over a draft (see cas.py) that returns True, or raises: StaleEpoch (the record is of
another epoch: read the assignment again), NotFound, or Precondition with the reasons below. Done again it
is StaleEpoch, because each raises the epoch by one; so an outcome that was lost is found out by looking at
the record, and never done twice. The transaction compares everything that was looked at, leases included.

| change | by | what it needs | then |
|---|---|---|---|
| leave_out | primary | | in_sync loses the hosts; the epoch rises even if none was in it |
| join | primary | NOT_ASSIGNED, NOT_LIVE, STILL_IN_SYNC | in_sync gains the joiner |
| take_over | mirror | NOT_IN_SYNC, PRIMARY_LIVES | in_sync is the mirror alone, and it is the primary |
| hand_over | primary | NOT_IN_SYNC, NOT_LIVE | another member is the primary |
| resign | primary | NOT_IN_SYNC, NOT_LIVE | the same, and the old one is out |
| release | primary | | the epoch stays; a mirror may take over although the primary lives |
| crash_move | primary | TOO_SOON | the same |
| cold_start | any member | NOT_IN_SYNC, NOT_LIVE, MEMORY_KEPT | it alone, under its new boot |
| renounce | any joiner | NOT_ASSIGNED, IN_SYNC | a new epoch, no more: a join that was asked for is refused |

replica_decisions.py has those of the control plane; `derived.write` is where either is written.

A breach that loses data: an in_sync that lacks a host which may have acknowledged (none here can: only the
primary removes others, and only a host of the set becomes primary); an epoch that does not rise with a
change of members.
"""

from collections.abc import Collection

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import Precondition
from holdfast.base.limits import CRASH_MOVE_MIN_S
from holdfast.metadata import keys
from holdfast.metadata.cas import Draft
from holdfast.metadata.derived import write
from holdfast.metadata.replica_decisions import (
    NewReplica,
    drop,
    force_start,
    let_go,
    path_move,
    replace,
    request_switch,
    stay,
)
from holdfast.metadata.replica_record import (
    at_epoch,
    boot_of,
    live_boot,
    live_boots,
    may_start_cold,
    need_assigned,
    need_live,
    need_member,
    need_rest,
    owned,
    set_in_sync,
)

__all__ = [
    "NewReplica",
    "cold_start",
    "crash_move",
    "drop",
    "force_start",
    "hand_over",
    "join",
    "leave_out",
    "let_go",
    "path_move",
    "release",
    "renounce",
    "replace",
    "request_switch",
    "resign",
    "stay",
    "take_over",
]


def leave_out(draft: Draft, volume_uid: str, host_id: str, epoch: int, hosts: Collection[str]) -> bool:
    """The primary goes on without `hosts`. Hosts that are not members do no harm.

    The epoch rises even if none of them was in sync: that fences a join whose outcome is unknown.
    """
    replica = owned(draft, volume_uid, host_id, epoch)
    if host_id in hosts:
        raise Precondition(
            "IS_PRIMARY", f"Host {host_id} is the primary and cannot leave itself out: resign."
        )
    set_in_sync(replica, [one for one in replica.in_sync if one.host_id not in hosts])
    return write(draft, replica)


def join(
    draft: Draft, volume_uid: str, host_id: str, epoch: int, joiner_host_id: str, joiner_boot_id: str
) -> bool:
    """The joiner has everything that the primary has. The host that is to leave, if any, goes with it."""
    replica = owned(draft, volume_uid, host_id, epoch)
    need_assigned(replica, joiner_host_id)
    if boot_of(replica, joiner_host_id):
        raise Precondition(
            "STILL_IN_SYNC",
            f"Host {joiner_host_id} is in the set of volume {volume_uid}: leave it out before it joins anew.",
        )
    need_live(draft, joiner_host_id, joiner_boot_id, "it cannot join")
    replica.in_sync.add(host_id=joiner_host_id, boot_id=joiner_boot_id)
    key = keys.assignment(joiner_host_id, volume_uid)
    assignment = draft.need(key, r.Assignment)
    assignment.initialized = True
    draft.put(key, assignment)
    write(draft, replica)
    _is_well(draft, volume_uid, joiner_host_id)
    if not replica.joining:
        _no_more_to_sync(draft, volume_uid)
    return True


def take_over(draft: Draft, volume_uid: str, host_id: str, boot_id: str, epoch: int) -> bool:
    """A mirror becomes the primary, alone: the old one's lease is gone or of another boot, or it has released
    the volume (I-3, I-4).
    """
    replica = at_epoch(draft, volume_uid, epoch)
    if boot_of(replica, host_id) != boot_id or not boot_id or host_id == replica.primary_host_id:
        raise Precondition(
            "NOT_IN_SYNC",
            f"Host {host_id} in boot {boot_id} is no mirror of volume {volume_uid}: it cannot take over.",
        )
    primary = replica.primary_host_id
    if live_boot(draft, primary) == boot_of(replica, primary) and replica.released_epoch != epoch:
        raise Precondition(
            "PRIMARY_LIVES", f"The primary of volume {volume_uid}, host {primary}, holds its lease: wait."
        )
    set_in_sync(replica, [r.InSync(host_id=host_id, boot_id=boot_id)])
    replica.primary_host_id = host_id
    return write(draft, replica)


def hand_over(draft: Draft, volume_uid: str, host_id: str, epoch: int, to_host_id: str) -> bool:
    """The primary, which has yielded, makes another member the primary. The set stays as it is."""
    replica = _to_another(draft, volume_uid, host_id, epoch, to_host_id)
    return write(draft, replica)


def resign(draft: Draft, volume_uid: str, host_id: str, epoch: int, to_host_id: str) -> bool:
    """The primary, whose disk failed and which has yielded, makes another the primary and is out."""
    replica = _to_another(draft, volume_uid, host_id, epoch, to_host_id)
    set_in_sync(replica, [one for one in replica.in_sync if one.host_id != host_id])
    return write(draft, replica)


def release(draft: Draft, volume_uid: str, host_id: str, epoch: int) -> bool:
    """The primary, whose disk failed and which hears from no mirror, lets one that lives take over. False if
    it has done so.

    It must not name one itself (`resign`): a lease tells of a death late, and then nobody would be left who
    holds what was acknowledged. The epoch stays, so that whoever takes over still takes over from it.
    """
    return _let_take(draft, owned(draft, volume_uid, host_id, epoch))


def crash_move(draft: Draft, volume_uid: str, host_id: str, epoch: int, now_s: float) -> bool:
    """The primary's agent, whose worker does not stay: as release, but seldom.

    The worker may be running again by now. As at a takeover, that does no harm: what it acknowledges the
    mirror has applied, and that takes over only when its promise to it is over (I-3).

    Raises Precondition TOO_SOON within CRASH_MOVE_MIN_S of the last one: what ends the worker may be what it
    is asked to do, and would go back and forth with the volume.
    """
    replica = owned(draft, volume_uid, host_id, epoch)
    if replica.released_epoch != epoch:
        need_rest(replica, "crash_move_time", now_s, CRASH_MOVE_MIN_S, "its process did not stay")
    return _let_take(draft, replica)


def _let_take(draft: Draft, replica: r.ReplicaRecord) -> bool:
    if replica.released_epoch == replica.epoch:
        return False
    replica.released_epoch = replica.epoch
    return write(draft, replica, epoch_rises=False)


def cold_start(draft: Draft, volume_uid: str, host_id: str, boot_id: str, epoch: int) -> bool:
    """No member has kept its memory and all are back: one of them starts from what is on its disk."""
    replica = at_epoch(draft, volume_uid, epoch)
    if boot_of(replica, host_id) in ("", boot_id):
        raise Precondition(
            "NOT_IN_SYNC",
            f"Host {host_id} was in the set of volume {volume_uid} in no earlier boot: it cannot start it.",
        )
    need_live(draft, host_id, boot_id, "it cannot start the volume")
    if not may_start_cold(replica, live_boots(draft, replica)):
        raise Precondition(
            "MEMORY_KEPT",
            f"A member of volume {volume_uid} may have kept its memory, or is not back yet: wait for it.",
        )
    set_in_sync(replica, [r.InSync(host_id=host_id, boot_id=boot_id)])
    replica.primary_host_id = host_id
    return write(draft, replica, cold=True)


def renounce(draft: Draft, volume_uid: str, host_id: str, epoch: int) -> bool:
    """A host outside the set is about to throw its copy away: it must not join as what it was until now."""
    replica = at_epoch(draft, volume_uid, epoch)
    need_assigned(replica, host_id)
    if boot_of(replica, host_id):
        raise Precondition(
            "IN_SYNC", f"Host {host_id} is in the set of volume {volume_uid}: it keeps its copy."
        )
    return write(draft, replica)


def _to_another(draft: Draft, volume_uid: str, host_id: str, epoch: int, to_host_id: str) -> r.ReplicaRecord:
    replica = owned(draft, volume_uid, host_id, epoch)
    if to_host_id == host_id:
        raise Precondition("IS_PRIMARY", f"Host {host_id} is the primary already: choose another.")
    need_live(draft, to_host_id, need_member(replica, to_host_id), "it cannot become the primary")
    replica.primary_host_id = to_host_id
    return replica


def _is_well(draft: Draft, volume_uid: str, host_id: str) -> None:
    """What ailed its copy does so no more: left out again one day, that must not count from then."""
    volume = draft.get(keys.volume(volume_uid), r.VolumeRecord)
    if volume is None or all(one.host_id != host_id for one in volume.replica_troubles):
        return
    others = [one for one in volume.replica_troubles if one.host_id != host_id]
    del volume.replica_troubles[:]
    volume.replica_troubles.extend(others)
    draft.put(keys.volume(volume_uid), volume)


def _no_more_to_sync(draft: Draft, volume_uid: str) -> None:
    volume = draft.get(keys.volume(volume_uid), r.VolumeRecord)
    if volume is not None and volume.sync_total_bytes:
        volume.sync_remaining_bytes = volume.sync_total_bytes = volume.sync_rate_bytes_s = 0
        draft.put(keys.volume(volume_uid), volume)
