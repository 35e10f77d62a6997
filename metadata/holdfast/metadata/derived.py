"""The one door through which a replica record is written, and all that follows from it.

`write` is given a changed ReplicaRecord. In the same transaction it raises the epoch, makes the
assignments of every assigned host agree with the record, retires those of hosts that it no longer names,
orders the attachments' portals, and strikes hosts off the frozen views that they can no longer vouch for.
Nothing else writes `replicas/`, and nothing else writes the fields of an assignment that come from it.

The epoch stays only when nothing but a wish is recorded (a planned switch, a release): who may acknowledge,
and which hosts are assigned, are as before.
"""

from collections.abc import Mapping, Sequence

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.metadata import keys, snapshot_changes
from holdfast.metadata.assigned import Assignments
from holdfast.metadata.cas import Draft
from holdfast.metadata.records import clear
from holdfast.metadata.replica_record import boot_of, in_sync_ids
from holdfast.metadata.seal import SERVICE, host_recipient

HOSTS_MAX = 3
"""That a volume is assigned to: two, and one that takes the place of another."""


def write(
    draft: Draft,
    replica: r.ReplicaRecord,
    *,
    epoch_rises: bool = True,
    cold: bool = False,
    accept_half_synced: bool = False,
) -> bool:
    """Put `replica`, and everything that follows from it. True.

    Args:
        cold: the new epoch begins without what had not been flushed.
        accept_half_synced: of a cold one: also if the primary's copy is not whole.
    """
    before = draft.get(keys.replica(replica.volume_uid), r.ReplicaRecord)
    if epoch_rises:
        _let_go(draft, replica)
        replica.epoch = (before.epoch if before else 0) + 1
    if cold:
        replica.cold_epoch = replica.epoch
    if replica.wanted_primary_host_id not in set(in_sync_ids(replica)) - {replica.primary_host_id}:
        replica.wanted_primary_host_id = ""
    _set_joining(draft, replica)
    _check(replica)
    draft.put(keys.replica(replica.volume_uid), replica)
    assignments = Assignments.read(draft, replica.volume_uid)
    if cold:
        for one in assignments.each:
            one.accept_half_synced = accept_half_synced
    hosts = {one: draft.peek(keys.host(one), r.HostRecord) or r.HostRecord() for one in replica.host_ids}
    derive(replica, assignments.each, hosts)
    assignments.save(draft)
    if before is not None:
        for gone_id in set(before.host_ids) - set(replica.host_ids):
            _retire(draft, gone_id, replica)
        _write_attachments(draft, replica, hosts)
        _strike_views(draft, replica, assignments)
    return True


def derive(
    replica: r.ReplicaRecord, assignments: Sequence[r.Assignment], hosts: Mapping[str, r.HostRecord]
) -> None:
    """Make the assignments of a volume say what its record says. Pure, but for changing `assignments`.

    An assignment may be missing only while the volume is being deleted.
    """
    order = {host_id: place for place, host_id in enumerate(replica.host_ids)}
    peers = {
        one.host_id: r.Peer(
            host_id=one.host_id,
            boot_id=boot_of(replica, one.host_id),
            address=hosts[one.host_id].address,
            nbd_port=one.nbd_port,
            portal=hosts[one.host_id].portal,
            portal_group=one.portal_group,
        )
        for one in sorted(assignments, key=lambda one: order[one.host_id])
    }
    for own in assignments:
        own.epoch = replica.epoch
        own.role = role_of(replica, own.host_id)
        own.boot_id = boot_of(replica, own.host_id)
        own.primary_host_id = replica.primary_host_id
        primary = own.role == r.ROLE_PRIMARY
        own.yield_to_host_id = replica.wanted_primary_host_id if primary else ""
        own.cold_epoch = replica.cold_epoch
        own.released_epoch = replica.released_epoch
        own.accept_half_synced = own.accept_half_synced and primary
        del own.peers[:]
        own.peers.extend(peer for host_id, peer in peers.items() if host_id != own.host_id)


def role_of(replica: r.ReplicaRecord, host_id: str) -> "r.Role.ValueType":
    if host_id == replica.primary_host_id:
        return r.ROLE_PRIMARY
    return r.ROLE_MIRROR if boot_of(replica, host_id) else r.ROLE_JOINER


def may_let_go(draft: Draft, replica: r.ReplicaRecord) -> bool:
    """Whether the host that is to leave may: two others are in sync, and no snapshot's only view is on it."""
    leaving = replica.leaving_host_id
    if not leaving or leaving == replica.primary_host_id:
        return False
    others = [host_id for host_id in in_sync_ids(replica) if host_id != leaving]
    return len(others) >= 2 and not _holds_only_view(draft, replica, leaving)


def _let_go(draft: Draft, replica: r.ReplicaRecord) -> None:
    """Take the leaving host off, if it may go. Of three in sync one must: by default the newest mirror."""
    if not replica.leaving_host_id and len(replica.in_sync) >= HOSTS_MAX:
        mirrors = [one for one in replica.host_ids if one != replica.primary_host_id]
        replica.leaving_host_id = mirrors[-1]
    if not may_let_go(draft, replica):
        return
    remove_host(replica, replica.leaving_host_id)


def remove_host(replica: r.ReplicaRecord, host_id: str) -> None:
    """Out of the set and of the assigned hosts. The caller has made sure that it may."""
    kept = [one for one in replica.in_sync if one.host_id != host_id]
    del replica.in_sync[:]
    replica.in_sync.extend(kept)
    replica.host_ids[:] = [one for one in replica.host_ids if one != host_id]
    if replica.leaving_host_id == host_id:
        replica.leaving_host_id = ""


def _set_joining(draft: Draft, replica: r.ReplicaRecord) -> None:
    """Those assigned and not in sync, each with the boot of its lease as far as it is known."""
    del replica.joining[:]
    for host_id in replica.host_ids:
        if not boot_of(replica, host_id):
            lease = draft.peek(keys.host_lease(host_id), r.HostLease)
            replica.joining.add(host_id=host_id, boot_id=lease.boot_id if lease else "")


def _check(replica: r.ReplicaRecord) -> None:
    """A record that breaks these would lose data: nothing is written."""
    members, hosts = in_sync_ids(replica), list(replica.host_ids)
    sound = replica.primary_host_id in members and all(one.boot_id for one in replica.in_sync)
    sound = sound and len(set(members)) == len(members) and set(members) <= set(hosts)
    sound = sound and len(set(hosts)) == len(hosts) <= HOSTS_MAX
    if not sound:
        raise RuntimeError(f"A membership that must not be: {replica}")


def _retire(draft: Draft, host_id: str, replica: r.ReplicaRecord) -> None:
    """The host is to remove its store, whenever it reads this; it never serves again."""
    key = keys.assignment(host_id, replica.volume_uid)
    assignment = draft.get(key, r.Assignment)
    if assignment is None:
        return
    assignment.deleting = True
    assignment.role = r.ROLE_JOINER
    assignment.epoch = replica.epoch
    assignment.primary_host_id = replica.primary_host_id
    clear(assignment, "boot_id", "yield_to_host_id", "cold_epoch", "released_epoch")
    clear(assignment, "accept_half_synced")
    clear(assignment, "peers", "attachments", "snapshots")
    draft.put(key, assignment)


def _write_attachments(draft: Draft, replica: r.ReplicaRecord, hosts: Mapping[str, r.HostRecord]) -> None:
    """Portals with the primary's first; READY when the primary exports it; no secrets of other hosts."""
    primary = replica.primary_host_id
    order = [primary, *(one for one in replica.host_ids if one != primary)]
    portals = [hosts[one].portal for one in order if hosts[one].portal]
    recipients = {SERVICE, *(host_recipient(one) for one in order)}
    for one in draft.under(keys.attachments(replica.volume_uid), r.AttachmentRecord):
        one.portals[:] = portals
        one.ready_host_ids[:] = [host_id for host_id in one.ready_host_ids if host_id in order]
        kept = [secret for secret in one.secrets if secret.recipient in recipients]
        del one.secrets[:]
        one.secrets.extend(kept)
        settle_state(one, primary)
        draft.put(keys.attachment(replica.volume_uid, one.uid), one)


def settle_state(attachment: r.AttachmentRecord, primary_host_id: str) -> None:
    """PENDING → READY once the primary's host exports it."""
    if attachment.state == r.ATTACHMENT_STATE_PENDING and primary_host_id in attachment.ready_host_ids:
        attachment.state = r.ATTACHMENT_STATE_READY
        attachment.reason = ""


def _frozen(draft: Draft, snapshots: Sequence[r.AssignedSnapshot]) -> list[r.SnapshotRecord]:
    uids = [one.uid for one in snapshots if one.state == r.SNAPSHOT_STATE_FROZEN]
    found = [draft.get(keys.snapshot(uid), r.SnapshotRecord) for uid in uids]
    return [one for one in found if one is not None and one.state == r.SNAPSHOT_STATE_FROZEN]


def _holds_only_view(draft: Draft, replica: r.ReplicaRecord, host_id: str) -> bool:
    assignments = Assignments.read(draft, replica.volume_uid)
    return any(
        {on.host_id for on in one.frozen_on} == {host_id} for one in _frozen(draft, assignments.snapshots())
    )


def _strike_views(draft: Draft, replica: r.ReplicaRecord, assignments: Assignments) -> None:
    """A host that is not in sync, or not in that boot, vouches for no frozen view of the volume."""
    for snapshot in _frozen(draft, assignments.snapshots()):
        kept = [one for one in snapshot.frozen_on if boot_of(replica, one.host_id) == one.boot_id]
        if not kept:
            reason = "The last host that held its frozen content left the volume's set: take another."
            snapshot_changes.fail(draft, snapshot.uid, reason)
        elif len(kept) < len(snapshot.frozen_on):
            del snapshot.frozen_on[:]
            snapshot.frozen_on.extend(kept)
            draft.put(keys.snapshot(snapshot.uid), snapshot)
