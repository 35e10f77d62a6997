"""Who holds a volume: what the control plane and operators do to its replica record.

Decisions over a draft (see cas.py), each idempotent: False if there is nothing to do. Refusals are
Precondition with the reasons named in each docstring, Exhausted NO_ROOM, NotFound.

`request_switch` and `path_move` record a wish and leave the epoch: the primary lets go and hands over
itself. The others change which hosts are assigned, or the set, and raise it.
"""

from dataclasses import dataclass

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import DataLoss, Exhausted, Precondition
from holdfast.base.limits import PATH_MOVE_MIN_S
from holdfast.metadata import keys
from holdfast.metadata.assigned import check_owner, timestamp
from holdfast.metadata.cas import Draft
from holdfast.metadata.derived import HOSTS_MAX, may_let_go, remove_host, write
from holdfast.metadata.placement import next_port
from holdfast.metadata.records import clear
from holdfast.metadata.replica_record import (
    boot_of,
    in_sync_ids,
    keeps_memory,
    live_boot,
    live_boots,
    may_start_cold,
    need_assigned,
    need_live,
    need_member,
    need_rest,
    record_of,
    set_in_sync,
)
from holdfast.metadata.seal import KEY_BYTES, SERVICE, host_recipient, seal, unseal

LIVING_STATES = (r.VOLUME_STATE_CREATING, r.VOLUME_STATE_AVAILABLE)


@dataclass(frozen=True)
class NewReplica:
    """Where another replica is to be made, and what that takes.

    `seal_key` is the service's X25519 private key: CHAP secrets are opened and sealed to the new host.
    """

    host_id: str
    overcommit: float
    seal_key: bytes

    def __repr__(self) -> str:
        return f"NewReplica({self.host_id})"


def force_start(
    draft: Draft,
    volume_uid: str,
    host_id: str,
    by: str,
    loss: str,
    accept_half_synced: bool,
    now_s: float,
) -> bool:
    """An operator starts the volume from one host's copy, whatever it lacks. It is recorded for good.

    Raises Precondition GOOD_COPY_LIVES (nothing need be given up: a member lives, or all are back and one
    will start cold by itself), NOT_ASSIGNED, NOT_LIVE, NOT_AVAILABLE.
    """
    replica = record_of(draft, volume_uid)
    _need_living(draft, volume_uid, (r.VOLUME_STATE_AVAILABLE,))
    forced = r.ForcedStart(time=timestamp(now_s), by=by, host_id=host_id, loss=loss)
    if any(_same_request(one, forced) for one in replica.forced):
        return True  # this very request, whose answer was lost
    live = live_boots(draft, replica)
    kept = keeps_memory(replica, live)
    if kept or may_start_cold(replica, live):
        which = f"Host {kept[0]} holds" if kept else f"Hosts {', '.join(live)} are back and hold"
        raise Precondition(
            "GOOD_COPY_LIVES",
            f"{which} every acknowledged write of the volume: nothing need be given up, it starts by itself. "
            "If the volume's status says that the copy there is no good, power that host off first.",
        )
    need_assigned(replica, host_id)
    boot_id = live_boot(draft, host_id)
    if not boot_id:
        raise Precondition("NOT_LIVE", f"Host {host_id} holds no lease: start its agent first.")
    set_in_sync(replica, [r.InSync(host_id=host_id, boot_id=boot_id)])
    replica.primary_host_id = host_id
    forced.epoch = replica.epoch + 1
    replica.forced.append(forced)
    key = keys.assignment(host_id, volume_uid)
    assignment = draft.need(key, r.Assignment)
    # A store that is not there is an error from now on, never an empty volume.
    assignment.initialized = True
    draft.put(key, assignment)
    return write(draft, replica, cold=True, accept_half_synced=accept_half_synced)


def request_switch(draft: Draft, volume_uid: str, to_host_id: str) -> bool:
    """Ask the primary to hand over to `to_host_id`. False if that is asked already, or done.

    Raises Precondition NOT_ASSIGNED, NOT_IN_SYNC, NOT_LIVE, NOT_AVAILABLE.
    """
    replica = record_of(draft, volume_uid)
    _need_living(draft, volume_uid)
    if to_host_id in (replica.primary_host_id, replica.wanted_primary_host_id):
        return False
    need_assigned(replica, to_host_id)
    need_live(draft, to_host_id, need_member(replica, to_host_id), "the volume cannot be switched to it")
    replica.wanted_primary_host_id = to_host_id
    return write(draft, replica, epoch_rises=False)


def path_move(draft: Draft, volume_uid: str, host_id: str, epoch: int, to_host_id: str, now_s: float) -> bool:
    """By the primary: an initiator reaches only `to_host_id`. As request_switch, but seldom.

    Raises StaleEpoch, and Precondition TOO_SOON within PATH_MOVE_MIN_S of the last one.
    """
    replica = check_owner(draft, volume_uid, host_id, epoch)
    if to_host_id in (replica.primary_host_id, replica.wanted_primary_host_id):
        return False
    need_rest(replica, "path_move_time", now_s, PATH_MOVE_MIN_S, "an initiator had lost its path")
    # Before the switch: it writes the record, and this goes with it.
    draft.put(keys.replica(volume_uid), replica)
    return request_switch(draft, volume_uid, to_host_id)


def replace(draft: Draft, volume_uid: str, gone_host_id: str, new: NewReplica) -> bool:
    """Assign another host, in the place of `gone_host_id`, or beside the others if that is empty.

    A host that is not in sync is dropped at once, with a note to clean up if it ever returns; one that is
    leaves as soon as another has joined. False if this was done.

    Raises Precondition NOT_AVAILABLE, NOT_ASSIGNED, IS_PRIMARY (switch first), BEING_REPLACED (wait),
    ALREADY_ASSIGNED, STILL_REMOVING (the new host has yet to remove an older replica), DRAINING, NOT_LIVE;
    Exhausted NO_ROOM.
    """
    replica = record_of(draft, volume_uid)
    _need_living(draft, volume_uid)
    if new.host_id in replica.host_ids and (
        gone_host_id not in replica.host_ids or replica.leaving_host_id == gone_host_id
    ):
        return False
    _need_replaceable(replica, gone_host_id)
    if new.host_id in replica.host_ids:
        raise Precondition("ALREADY_ASSIGNED", f"Host {new.host_id} holds the volume: choose another.")
    model = draft.need(keys.assignment(replica.primary_host_id, volume_uid), r.Assignment)
    assignment = _new_assignment(draft, replica, model, new)
    secrets = _seal_attachments(draft, volume_uid, assignment, new)
    draft.put(keys.assignment(new.host_id, volume_uid), assignment)
    replica.host_ids.append(new.host_id)
    if boot_of(replica, gone_host_id):
        replica.leaving_host_id = gone_host_id
    elif gone_host_id:
        remove_host(replica, gone_host_id)
    write(draft, replica)
    for uid, secret in secrets.items():
        key = keys.attachment(volume_uid, uid)
        record = draft.need(key, r.AttachmentRecord)
        record.secrets.append(secret)
        draft.put(key, record)
    return True


def drop(draft: Draft, volume_uid: str, host_id: str) -> bool:
    """Take a host that is not in sync off the volume, with nothing in its place yet.

    False if it was not assigned. Raises Precondition IN_SYNC.
    """
    replica = record_of(draft, volume_uid)
    if host_id not in replica.host_ids:
        return False
    if boot_of(replica, host_id):
        raise Precondition(
            "IN_SYNC", f"Host {host_id} holds a good copy of volume {volume_uid}: it cannot be dropped."
        )
    remove_host(replica, host_id)
    return write(draft, replica)


def let_go(draft: Draft, volume_uid: str) -> bool:
    """The host that is to leave goes, if it may by now (a snapshot's only view may have kept it)."""
    replica = record_of(draft, volume_uid)
    return may_let_go(draft, replica) and write(draft, replica)


def stay(draft: Draft, volume_uid: str, host_id: str) -> bool:
    """A host that was to leave, and is in sync, stays after all: what was to take its place goes instead.

    False if it was not to leave, or is not in sync (then the replacement goes on).
    """
    replica = record_of(draft, volume_uid)
    if replica.leaving_host_id != host_id or not boot_of(replica, host_id):
        return False
    replica.leaving_host_id = ""
    members = in_sync_ids(replica)
    for other in list(replica.host_ids):
        if other not in members and len(members) >= 2:
            remove_host(replica, other)
    if len(members) > 2:
        # Too late to undo: the newest of the others goes, as soon as it may.
        others = [one for one in replica.host_ids if one not in (host_id, replica.primary_host_id)]
        replica.leaving_host_id = others[-1]
    return write(draft, replica)


def _same_request(one: r.ForcedStart, other: r.ForcedStart) -> bool:
    return (one.time, one.by, one.host_id, one.loss) == (other.time, other.by, other.host_id, other.loss)


def _need_living(
    draft: Draft, volume_uid: str, states: "tuple[r.VolumeState.ValueType, ...]" = LIVING_STATES
) -> None:
    volume = draft.need(keys.volume(volume_uid), r.VolumeRecord)
    if volume.state not in states:
        state = r.VolumeState.Name(volume.state).removeprefix("VOLUME_STATE_")
        raise Precondition("NOT_AVAILABLE", f"Volume {volume_uid} is {state}: its replicas stay as they are.")


def _need_replaceable(replica: r.ReplicaRecord, gone_host_id: str) -> None:
    uid = replica.volume_uid
    if gone_host_id:
        need_assigned(replica, gone_host_id)
    if gone_host_id == replica.primary_host_id:
        raise Precondition("IS_PRIMARY", f"Host {gone_host_id} is the primary of volume {uid}: switch first.")
    if replica.leaving_host_id not in ("", gone_host_id) or len(replica.host_ids) >= HOSTS_MAX:
        raise Precondition("BEING_REPLACED", f"A host of volume {uid} is being replaced already: wait.")
    if not gone_host_id and len(replica.host_ids) >= HOSTS_MAX - 1:
        raise Precondition("BEING_REPLACED", f"Volume {uid} has two hosts: name the one to replace.")


def _new_assignment(
    draft: Draft, replica: r.ReplicaRecord, model: r.Assignment, new: NewReplica
) -> r.Assignment:
    """What the new host must know, but for what `write` derives; its room and its port are taken."""
    uid, host = replica.volume_uid, draft.need(keys.host(new.host_id), r.HostRecord)
    if draft.get(keys.assignment(new.host_id, uid), r.Assignment) is not None:
        raise Precondition(
            "STILL_REMOVING", f"Host {new.host_id} has yet to remove an older replica of the volume: wait."
        )
    if host.draining:
        raise Precondition("DRAINING", f"Host {new.host_id} is being drained: choose another.")
    need_live(draft, new.host_id, host.boot_id, "no replica can be made there")
    if host.allocated_bytes + model.size_bytes > int(host.capacity_bytes * new.overcommit):
        raise Exhausted("NO_ROOM", f"Host {new.host_id} has no room for {model.size_bytes} bytes.")
    others = draft.peek_under(keys.assignments(new.host_id), r.Assignment)
    port, host.next_nbd_port = next_port(host.next_nbd_port, {one.nbd_port for one in others})
    host.allocated_bytes += model.size_bytes
    draft.put(keys.host(new.host_id), host)
    made = r.Assignment()
    made.CopyFrom(model)
    clear(made, "boot_id", "attachments", "peers", "initialized", "deleting", "accept_half_synced")
    made.host_id, made.nbd_port = new.host_id, port
    made.portal_group = _free_tag(draft, replica)
    return made


def _free_tag(draft: Draft, replica: r.ReplicaRecord) -> int:
    """A portal group's tag that none of the volume's hosts has, the one that goes included."""
    taken = [draft.get(keys.assignment(one, replica.volume_uid), r.Assignment) for one in replica.host_ids]
    return min(set(range(1, HOSTS_MAX + 1)) - {one.portal_group for one in taken if one is not None})


def _seal_attachments(
    draft: Draft, volume_uid: str, assignment: r.Assignment, new: NewReplica
) -> dict[str, r.SealedSecret]:
    """Add the volume's attachments to `assignment`; each one's secret, sealed to the new host."""
    host = draft.need(keys.host(new.host_id), r.HostRecord)
    sealed: dict[str, r.SealedSecret] = {}
    for one in draft.under(keys.attachments(volume_uid), r.AttachmentRecord):
        if len(host.seal_public_key) != KEY_BYTES:
            raise Precondition("NOT_LIVE", f"Host {new.host_id} has not published its seal key: wait.")
        own = [secret for secret in one.secrets if secret.recipient == SERVICE]
        if not own:
            raise DataLoss("NO_SECRET", f"Attachment {one.uid} has no secret for the service: delete it.")
        secret = unseal(own[0], new.seal_key, one.uid)
        recipient = host_recipient(new.host_id)
        sealed[one.uid] = seal(secret, recipient, host.seal_public_key, one.uid)
        assignment.attachments.add(
            uid=one.uid,
            initiator_iqn=one.initiator_iqn,
            lun=one.lun,
            chap_user=one.chap_user,
            secret=sealed[one.uid],
            detaching=one.state == r.ATTACHMENT_STATE_DETACHING,
        )
    return sealed
