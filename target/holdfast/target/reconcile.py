"""What an agent should do about one volume, from what is wanted and what is: pure.

The decision is made anew from scratch each time, and says where to go, not what has changed; so a lost
message, a restart or a failure in the middle needs nothing but another turn.

Order of things that go away: the export while the worker still serves it, then the ring, then the
backstore, then the worker, then the store, then the assignment's key. The worker of a volume that is not
assigned here any more ends at once; what it leaves in the ring volume_export.py answers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.limits import SYNC_MAX_BYTES_S
from holdfast.target import health
from holdfast.target import reports as say
from holdfast.target.control import (
    Desired,
    DesiredGate,
    DesiredPeer,
    DesiredRing,
    DesiredSnapshot,
    Observed,
)
from holdfast.target.gates import STEPS, gate_says
from holdfast.target.lio_export import Acl, Backstore, Export, Present, uio_name
from holdfast.target.lio_reservations import NO_RESERVATIONS
from holdfast.target.membership import Leases
from holdfast.target.paths import told
from holdfast.target.rebuilding import may_throw_away
from holdfast.target.reports import GateReport, Report
from holdfast.target.role_names import JOINER, PRIMARY
from holdfast.target.roles import members_seen, role_here


@dataclass(frozen=True)
class Host:
    """What is the same for all volumes of a host."""

    host_id: str
    boot_id: str
    address: str
    portal: str
    backstores: str
    """The directory that backstores are in."""
    snapshotters: tuple[tuple[str, int], ...] = ()
    no_lio: str = ""
    """Why this host cannot export volumes, one sentence; empty if it can."""
    leases: Leases | None = None
    """The boots of the live hosts; None until they were listed once."""
    sync_max_bytes_s: int = SYNC_MAX_BYTES_S
    """Of one resync."""


@dataclass(frozen=True)
class Situation:
    """What is known of one volume here and now."""

    assignment: r.Assignment | None
    """None: this host has nothing to do with it any more; what is left is taken away, but for the store."""
    worker_alive: bool
    observed: Observed | None
    """The worker's last word; None while it is not connected."""
    present: Present | None
    """What the kernel exports; None while that is not known."""
    store_exists: bool
    secrets: Mapping[str, str]
    """CHAP secrets by attachment uid; those that do not open are absent."""
    trouble: str = ""
    """What keeps the worker or the export from working, one sentence."""
    desired: Desired | None = None
    """What the worker has last answered to; None if it has not yet."""
    frozen: frozenset[str] = frozenset()
    """Snapshots that a worker has reported as frozen: see `frozen_so_far`."""
    may_sync: bool = True
    """The turn of this volume has come (syncs.py): to bring others up to date, or to be."""
    may_rebuild: bool = True
    """Its copy was not thrown away a moment ago."""
    renounced_epoch: int = 0
    """See rebuilding.py."""
    etcd_away: bool = False
    """A change of members that is wanted could not be recorded: etcd does not answer."""
    crash_looping: bool = False
    """The worker does not stay."""

    @property
    def ring_open(self) -> bool:
        return self.worker_alive and self.observed is not None and self.observed.ring_open

    @property
    def ring_in_use(self) -> bool:
        """A worker has the ring open, or may be opening it: it must not be reset under it."""
        if not self.worker_alive:
            return False
        told_to_let_go = self.desired is not None and self.desired.ring is None
        return not told_to_let_go or self.observed is None or self.observed.ring_open

    @property
    def nothing_exported(self) -> bool:
        return self.present is not None and self.present.nothing


@dataclass(frozen=True)
class Plan:
    """Where to go.

    `desired` is for the worker, if it is to run (None: say nothing yet). `export` is for the kernel; None is
    no target any more, and no backstore once the worker has let go of its ring.
    """

    run_worker: bool
    desired: Desired | None = None
    export: Export | None = None
    remove_store: bool = False
    reports: tuple[Report, ...] = ()
    gates: tuple[GateReport, ...] = ()


def frozen_so_far(
    before: frozenset[str], assignment: r.Assignment | None, observed: Observed | None
) -> frozenset[str]:
    """The snapshots under way that the primary of this epoch has frozen: kept, and never frozen anew.

    The assignment may lag behind what was recorded, for as long as etcd is away. A worker that was started
    meanwhile, and told to freeze, would replace a view that others know and copy from by a later one (I-8).
    Not those of a group: there a new process says that it cannot count, and drops nothing (gate.py).
    """
    if assignment is None or assignment.role != r.ROLE_PRIMARY:
        return frozenset()
    ready: set[str] = set()
    if observed is not None and (observed.epoch, observed.role) == (assignment.epoch, "primary"):
        ready = {one.uid for one in observed.snapshots if one.frozen}
    return (before | ready) & {one.uid for one in assignment.snapshots if not one.HasField("group")}


def decide(uid: str, host: Host, now: Situation) -> Plan:
    assignment = now.assignment
    if assignment is None:
        return Plan(run_worker=False)
    if assignment.deleting:
        return _deleting(assignment, host, now)
    desired = _desired(assignment, host, now)
    reports = tuple(_reports(assignment, host, now))
    gates = tuple(_gates(assignment, host, now))
    export = _export(assignment, host, now)
    if export is None or now.present is None:
        return Plan(True, _keep_ring(desired, host, now), export, reports=reports, gates=gates)
    if now.present.backstore is Backstore.ENABLED:
        desired = replace(desired, ring=_ring(uid, host))
    return Plan(True, desired, export, reports=reports, gates=gates)


def _keep_ring(desired: Desired, host: Host, now: Situation) -> Desired | None:
    """No ring is opened, and none closed under an export: the kernel takes that away only when what is in
    flight has been answered, and waits for ever if nobody serves it.
    """
    if now.present is not None and not now.present.target:
        return desired
    if now.observed is None:
        # Perhaps the worker has its ring open already. It says so before long, and then it must hear its
        # role and epoch, however long the kernel takes to answer.
        return None
    return replace(desired, ring=_ring(desired.volume_uid, host)) if now.ring_open else desired


def _ring(uid: str, host: Host) -> DesiredRing:
    return DesiredRing(f"{host.backstores}/{uid}", uio_name(uid))


def _deleting(assignment: r.Assignment, host: Host, now: Situation) -> Plan:
    """One thing at a time: export, ring, backstore, worker, store, key."""
    if not now.nothing_exported:
        # A worker that runs is kept, to serve what is in flight; one that does not is not started for it.
        return Plan(now.worker_alive, _keep_ring(_desired(assignment, host, now), host, now))
    if now.worker_alive:
        return Plan(False)
    if now.store_exists:
        return Plan(False, remove_store=True)
    return Plan(False, reports=(say.StoreRemoved(),))


def _desired(assignment: r.Assignment, host: Host, now: Situation) -> Desired:
    role = role_here(assignment, host.boot_id)
    members = members_seen(assignment, host.boot_id)
    return Desired(
        volume_uid=assignment.volume_uid,
        size_bytes=assignment.size_bytes,
        role=role,
        epoch=assignment.epoch,
        members=members,
        primary_host_id=assignment.primary_host_id,
        # The store of a member that restarted must be there: it may be the only good copy.
        initialized=assignment.initialized and assignment.role != r.ROLE_JOINER,
        listen_address=host.address,
        nbd_port=assignment.nbd_port,
        peers=tuple(
            DesiredPeer(peer.host_id, peer.address, peer.nbd_port, peer.portal_group, peer.boot_id != "")
            for peer in assignment.peers
        ),
        portal_group=assignment.portal_group or 1,
        # To one that is not in sync it cannot go: asked so, it would let go for nothing.
        yield_to=assignment.yield_to_host_id if assignment.yield_to_host_id in members else "",
        needs_mirror=assignment.needs_mirror,
        cold_epoch=assignment.cold_epoch,
        accept_half_synced=assignment.accept_half_synced,
        rebuild=now.may_rebuild and may_throw_away(assignment, now.observed, now.renounced_epoch),
        may_sync=now.may_sync,
        sync_max_bytes_s=host.sync_max_bytes_s,
        verify_request=assignment.verify_request,
        verify_rate_bytes_s=assignment.verify_rate_bytes_s,
        limit_iops=assignment.limits.iops,
        limit_bytes_s=assignment.limits.bytes_s,
        snapshots=tuple(_desired_snapshots(assignment, role, now.frozen)),
        keep_generation=assignment.keep_generation,
        origin_snapshot_uid=assignment.origin_snapshot_uid,
        snapshotters=host.snapshotters,
        kernel_tells_paths=assignment.multi_attach,
        reserved_since=_reserved_since(assignment, host, now),
    )


def _desired_snapshots(
    assignment: r.Assignment, role: str, frozen: frozenset[str]
) -> Iterator[DesiredSnapshot]:
    for one in assignment.snapshots:
        freeze = role == PRIMARY and one.state == r.SNAPSHOT_STATE_PENDING and one.uid not in frozen
        gate = None
        if freeze and one.HasField("group"):
            gate = DesiredGate(one.group.attempt, STEPS[one.group.step], one.group.token)
        yield DesiredSnapshot(one.uid, freeze, one.incremental, one.base_generation, gate)


def _export(assignment: r.Assignment, host: Host, now: Situation) -> Export | None:
    """What this host exports, whatever its role: initiators have a path to each. None without attachments."""
    if host.no_lio:
        return None
    wanted = [one for one in assignment.attachments if not one.detaching and one.uid in now.secrets]
    if not wanted:
        return None
    acls = tuple(Acl(one.initiator_iqn, one.chap_user, now.secrets[one.uid], one.lun) for one in wanted)
    return Export(
        assignment.volume_uid,
        assignment.size_bytes,
        host.portal,
        group=assignment.portal_group or 1,
        serve=now.ring_open,
        acls=acls,
        cold_epoch=assignment.cold_epoch,
        fenced=_fenced(assignment, host, now),
        reserving_epoch=_reserving_epoch(assignment, host),
        paths=_paths_shown(assignment, host, now),
    )


def _paths_shown(assignment: r.Assignment, host: Host, now: Situation) -> str:
    """Empty until the worker shows them so: who is told earlier looks, and finds the old states."""
    if not assignment.multi_attach or now.desired is None or now.observed is None:
        return ""
    if (now.desired.epoch, now.desired.role) != (assignment.epoch, role_here(assignment, host.boot_id)):
        return ""
    shown = now.desired.role != PRIMARY or now.observed.serving
    return told(now.desired) if shown else ""


def _reserving_epoch(assignment: r.Assignment, host: Host) -> int:
    """Reservations are for the primary's kernel, and for volumes of one initiator (lio_reservations.py)."""
    several = assignment.multi_attach or sum(not one.detaching for one in assignment.attachments) > 1
    if several or role_here(assignment, host.boot_id) != PRIMARY:
        return 0
    return assignment.epoch


def _reserved_since(assignment: r.Assignment, host: Host, now: Situation) -> int:
    epoch = _reserving_epoch(assignment, host)
    found = now.present.reservations if now.present is not None else NO_RESERVATIONS
    return found.tenure.since if epoch and found.kept and found.tenure.seen == epoch else 0


def _fenced(assignment: r.Assignment, host: Host, now: Situation) -> bool:
    """The primary of the last epoch that is known here has lost sight of a mirror and of etcd: that mirror
    may have taken over by now. Or it is not the primary, and nobody stays to say so to initiators.
    """
    observed = now.observed
    if role_here(assignment, host.boot_id) != PRIMARY:
        return now.crash_looping
    if observed is None:
        return False
    return now.etcd_away and bool(observed.wants_leave_out) and not observed.serving


def _reports(assignment: r.Assignment, host: Host, now: Situation) -> Iterator[Report]:
    role = role_here(assignment, host.boot_id)
    yield from _views_lost(assignment, host, now)
    if assignment.role != r.ROLE_PRIMARY:
        yield from _paths(assignment, host, now)
        trouble = health.copy_trouble(assignment, role, now.observed, now.trouble)
        if trouble is not None:
            yield trouble
        return
    yield from _attachments(assignment, host, now)
    observed = now.observed
    if observed is not None and (observed.epoch, observed.role) != (assignment.epoch, role):
        observed = None
    known = health.Known(host.boot_id, host.leases, now.trouble, now.etcd_away)
    found = health.health(assignment, role, observed, known)
    if observed is not None and role == PRIMARY:
        yield from _progress(assignment, host, observed)
    if assignment.initialized:
        if found is not None:
            yield found
    elif observed is not None and observed.serving:
        yield say.Available(assignment.epoch)
    elif found is not None:
        yield say.CreationWaits(assignment.epoch, found.message)


def _progress(assignment: r.Assignment, host: Host, observed: Observed) -> Iterator[Report]:
    yield from _snapshots(assignment, host, observed)
    yield health.sync_progress(assignment, observed)
    verify = health.verify_progress(assignment, observed)
    if verify is not None:
        yield verify


def _paths(assignment: r.Assignment, host: Host, now: Situation) -> Iterator[Report]:
    """What a host that is not the primary says of attachments: whether it is a path to the volume."""
    for one in assignment.attachments:
        ready = _exported(one, host, now)
        if ready is not None and not one.detaching:
            yield say.AttachmentPath(one.uid, ready)


def _exported(one: r.AssignedAttachment, host: Host, now: Situation) -> bool | None:
    """Whether the initiator can log in here; None while that is not known, or about to change."""
    if host.no_lio or one.uid not in now.secrets:
        return False
    if now.present is None:
        return None
    there = one.initiator_iqn in {acl.initiator for acl in now.present.acls}
    if there and now.present.enabled and now.ring_open:
        return True
    return None if there else False


def _attachments(assignment: r.Assignment, host: Host, now: Situation) -> list[Report]:
    epoch = assignment.epoch
    present = {acl.initiator for acl in now.present.acls} if now.present else set()
    known = bool(host.no_lio) or now.present is not None
    wanted = {one.initiator_iqn for one in assignment.attachments if not one.detaching}
    found: list[Report] = []
    for one in assignment.attachments:
        exported = _exported(one, host, now)
        if one.detaching:
            # If the same initiator was attached again meanwhile, the ACL is the new attachment's.
            if known and (one.initiator_iqn not in present or one.initiator_iqn in wanted):
                found.append(say.Detached(epoch, one.uid))
            continue
        if exported is False:
            found.append(say.AttachmentPath(one.uid, False))
        if host.no_lio:
            found.append(say.AttachmentWaits(epoch, one.uid, host.no_lio))
        elif one.uid not in now.secrets:
            sentence = "Its CHAP secret does not open with this host's seal key: attach it again."
            found.append(say.AttachmentWaits(epoch, one.uid, sentence))
        elif exported:
            found.append(say.AttachmentReady(epoch, one.uid))
        elif now.trouble or (now.observed is not None and now.observed.reason):
            # Why is the volume's health. This is told to its owner, who is not to learn of hosts.
            sentence = "The host that serves the volume cannot export it yet: see the volume's health."
            found.append(say.AttachmentWaits(epoch, one.uid, sentence))
    return found


def _snapshots(assignment: r.Assignment, host: Host, observed: Observed) -> Iterator[Report]:
    """The primary's freeze covers every member; it is told to etcd when those have it on disk that will."""
    pending = {one.uid: one for one in assignment.snapshots if one.state == r.SNAPSHOT_STATE_PENDING}
    for one in observed.snapshots:
        if one.uid in pending and one.frozen and not pending[one.uid].HasField("group"):
            on = (host.host_id, *one.also_on)
            yield say.Frozen(assignment.epoch, one.uid, one.generation, one.freeze_time, on)
        elif one.uid in pending and one.failed:
            yield say.FreezeFailed(one.uid, one.failed)


def _gates(assignment: r.Assignment, host: Host, now: Situation) -> Iterator[GateReport]:
    """What the gates of groups say: of the attempt that is wanted, by the primary of this epoch."""
    observed = now.observed
    if observed is None or role_here(assignment, host.boot_id) != PRIMARY:
        return
    if (observed.epoch, observed.role) != (assignment.epoch, PRIMARY):
        return
    seen = {one.uid: one for one in observed.snapshots}
    for one in assignment.snapshots:
        if one.state == r.SNAPSHOT_STATE_PENDING and one.HasField("group") and one.uid in seen:
            said = gate_says(one.group, assignment.epoch, host.host_id, seen[one.uid])
            if said is not None:
                yield said


def _views_lost(assignment: r.Assignment, host: Host, now: Situation) -> Iterator[Report]:
    frozen = {one.uid for one in assignment.snapshots if one.state == r.SNAPSHOT_STATE_FROZEN}
    if role_here(assignment, host.boot_id) == JOINER and assignment.boot_id:
        # Copies of another boot are not good, whatever the worker finds.
        lost = "the host restarted before the snapshot was copied"
        for uid in sorted(frozen):
            yield say.ViewLost(uid, lost)
        return
    for one in now.observed.snapshots if now.observed else ():
        if one.uid in frozen and one.failed:
            yield say.ViewLost(one.uid, one.failed)
