"""What operators do to a storage host's record: decisions over a draft (see cas.py).

A host that is gone for good is forgotten in several transactions, one for each volume that it had: each
leaves a state from which the next attempt goes on.
"""

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import Precondition
from holdfast.metadata import keys, replica_decisions, volume_changes
from holdfast.metadata.cas import Draft
from holdfast.metadata.lookups import is_name, not_found
from holdfast.metadata.replica_record import boot_of


def host_of(draft: Draft, host_id: str) -> r.HostRecord:
    """Raises NotFound."""
    host = draft.get(keys.host(host_id), r.HostRecord) if is_name(host_id) else None
    if host is None:
        raise not_found("host", host_id)
    return host


def delete(draft: Draft, host_id: str) -> bool:
    """Forget a host that holds nothing. Raises NotFound, Precondition ALIVE, IN_USE."""
    need_dead(draft, host_id)
    # Placement changes the host's record with each assignment, and that is compared.
    if draft.peek_under(keys.assignments(host_id), r.Assignment):
        raise Precondition(
            "IN_USE",
            f"Volumes are assigned to host {host_id!r}: drain it first, or if it will never come back say so "
            "(--gone).",
        )
    draft.delete(keys.host(host_id))
    return True


def need_dead(draft: Draft, host_id: str) -> None:
    host_of(draft, host_id)
    if draft.entry(keys.host_lease(host_id)) is not None:
        raise Precondition("ALIVE", f"The agent of host {host_id!r} still runs: stop it first.")


def need_given_up(draft: Draft, host_id: str) -> list[str]:
    """The volumes still assigned to a dead host, if none of them needs its copy. Raises as `delete`."""
    need_dead(draft, host_id)
    assigned = draft.peek_under(keys.assignments(host_id), r.Assignment)
    for one in assigned:
        _check_given_up(draft, one.volume_uid, host_id)
    return [one.volume_uid for one in assigned]


def give_up(draft: Draft, volume_uid: str, host_id: str) -> bool:
    """A host that will never come back: forget its replica of one volume, as if it had cleaned up.

    Raises Precondition ALIVE, or IN_USE if the volume is not being deleted and the host is in sync.
    """
    need_dead(draft, host_id)
    assignment = draft.get(keys.assignment(host_id, volume_uid), r.Assignment)
    if assignment is None:
        return False
    _check_given_up(draft, volume_uid, host_id)
    if not assignment.deleting:
        replica_decisions.drop(draft, volume_uid, host_id)
    return volume_changes.store_removed(draft, volume_uid, host_id)


def _check_given_up(draft: Draft, volume_uid: str, host_id: str) -> None:
    volume = draft.get(keys.volume(volume_uid), r.VolumeRecord)
    replica = draft.get(keys.replica(volume_uid), r.ReplicaRecord)
    if volume is None or replica is None or volume.state == r.VOLUME_STATE_DELETING:
        return
    if boot_of(replica, host_id):
        raise Precondition(
            "IN_USE",
            f"Volume {volume.volume_id!r} of {volume.owner} counts on the copy on host {host_id!r}: bring "
            "the host back, or force-start the volume elsewhere, or have it deleted.",
        )


def set_draining(draft: Draft, host_id: str, draining: bool) -> bool:
    """Begin or end to empty a host. False if that was so. Raises NotFound."""
    host = host_of(draft, host_id)
    host.draining = draining
    if not draining:
        host.drain_reason = ""
    return draft.put(keys.host(host_id), host)
