"""What an agent should do about one volume, from what is wanted and what is: pure.

The decision is made anew from scratch each time, and says where to go, not what has changed; so a lost
message, a restart or a failure in the middle needs nothing but another turn.

Order of things that go away: the export while the worker still serves it, then the ring, then the
backstore, then the worker, then the store, then the assignment's key.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.target import reports as say
from holdfast.target.control import Desired, DesiredPeer, DesiredRing, DesiredSnapshot, Observed
from holdfast.target.lio_export import Acl, Backstore, Export, Present, uio_name
from holdfast.target.reports import Report


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


def frozen_so_far(
    before: frozenset[str], assignment: r.Assignment | None, observed: Observed | None
) -> frozenset[str]:
    """The snapshots under way that the primary of this epoch has frozen: kept, and never frozen anew.

    The assignment may lag behind what was recorded, for as long as etcd is away. A worker that was started
    meanwhile, and told to freeze, would replace a view that others know and copy from by a later one (I-8).
    """
    if assignment is None or assignment.role != r.ROLE_PRIMARY:
        return frozenset()
    ready: set[str] = set()
    if observed is not None and (observed.epoch, observed.role) == (assignment.epoch, "primary"):
        ready = {one.uid for one in observed.snapshots if one.frozen}
    return (before | ready) & {one.uid for one in assignment.snapshots}


def decide(uid: str, host: Host, now: Situation) -> Plan:
    assignment = now.assignment
    if assignment is None:
        return Plan(run_worker=False)
    if assignment.deleting:
        return _deleting(assignment, host, now)
    desired = _desired(assignment, host, now.frozen)
    if assignment.role != r.ROLE_PRIMARY:
        return Plan(True, desired, reports=_views_lost(assignment, host, now))
    export = _export(assignment, host, now)
    reports = _primary_reports(assignment, host, now)
    if export is None:
        return Plan(True, desired, reports=reports)
    if now.present is None:
        # Perhaps the worker has its ring open already: it must not be told to close it.
        return Plan(True, None, export, reports=reports)
    if now.present.backstore is Backstore.ENABLED:
        desired = replace(desired, ring=DesiredRing(f"{host.backstores}/{uid}", uio_name(uid)))
    return Plan(True, desired, export, reports=reports)


def _deleting(assignment: r.Assignment, host: Host, now: Situation) -> Plan:
    """One thing at a time: export, ring, backstore, worker, store, key."""
    if not now.nothing_exported:
        # A worker that runs is kept, to serve what is in flight; one that does not is not started for it.
        return Plan(now.worker_alive, _desired(assignment, host, now.frozen))
    if now.worker_alive:
        return Plan(False)
    if now.store_exists:
        return Plan(False, remove_store=True)
    return Plan(False, reports=(say.StoreRemoved(),))


def _desired(assignment: r.Assignment, host: Host, frozen: frozenset[str]) -> Desired:
    peer = assignment.peer
    return Desired(
        volume_uid=assignment.volume_uid,
        size_bytes=assignment.size_bytes,
        role="primary" if assignment.role == r.ROLE_PRIMARY else "mirror",
        epoch=assignment.epoch,
        may_serve=_may_serve(assignment, host),
        initialized=assignment.initialized,
        listen_address=host.address,
        nbd_port=assignment.nbd_port,
        peer=DesiredPeer(peer.host_id, peer.address, peer.nbd_port),
        snapshots=tuple(
            DesiredSnapshot(
                one.uid,
                one.state == r.SNAPSHOT_STATE_PENDING and one.uid not in frozen,
                one.incremental,
                one.base_generation,
            )
            for one in assignment.snapshots
        ),
        keep_generation=assignment.keep_generation,
        origin_snapshot_uid=assignment.origin_snapshot_uid,
        snapshotters=host.snapshotters,
    )


def _export(assignment: r.Assignment, host: Host, now: Situation) -> Export | None:
    """What a primary exports. Without attachments: nothing."""
    if host.no_lio:
        return None
    wanted = [one for one in assignment.attachments if not one.detaching and one.uid in now.secrets]
    if not wanted:
        return None
    acls = tuple(Acl(one.initiator_iqn, one.chap_user, now.secrets[one.uid], one.lun) for one in wanted)
    return Export(assignment.volume_uid, assignment.size_bytes, host.portal, serve=now.ring_open, acls=acls)


def _primary_reports(assignment: r.Assignment, host: Host, now: Situation) -> tuple[Report, ...]:
    found: list[Report] = [*_attachments(assignment, host, now), *_views_lost(assignment, host, now)]
    observed = now.observed
    if observed is not None and (observed.epoch, observed.role) != (assignment.epoch, "primary"):
        observed = None
    if observed is not None:
        found += _snapshots(assignment, host, observed)
    health = _health(assignment.epoch, now.trouble, observed)
    if assignment.initialized:
        found += [health] if health else []
    elif observed is not None and observed.serving:
        found.append(say.Available(assignment.epoch))
    elif health is not None:
        found.append(say.CreationWaits(assignment.epoch, health.message))
    return tuple(found)


def _health(epoch: int, trouble: str, observed: Observed | None) -> say.Health | None:
    """None while there is nothing to say: the worker is starting, or has not heard of this epoch."""
    if observed is None:
        if not trouble:
            return None
        return say.Health(epoch, r.HEALTH_STATE_UNAVAILABLE, "WORKER_DOWN", trouble)
    reason, message = observed.reason, observed.message
    left, total = observed.hydrate_remaining_bytes, observed.hydrate_total_bytes
    if not observed.serving:
        if not reason:
            return None
        return say.Health(epoch, r.HEALTH_STATE_UNAVAILABLE, reason, message, left, total)
    if not reason and trouble:
        reason, message = "EXPORT_TROUBLE", trouble
    if not reason and left:
        reason = "HYDRATING"
        message = "It is still being copied from the snapshot it was made from; it can be used meanwhile."
    state = r.HEALTH_STATE_DEGRADED if reason else r.HEALTH_STATE_HEALTHY
    return say.Health(epoch, state, reason, message, left, total)


def _attachments(assignment: r.Assignment, host: Host, now: Situation) -> list[Report]:
    epoch = assignment.epoch
    exported = {acl.initiator for acl in now.present.acls} if now.present else set()
    known = bool(host.no_lio) or now.present is not None
    open_now = now.present is not None and now.present.enabled and now.ring_open
    wanted = {one.initiator_iqn for one in assignment.attachments if not one.detaching}
    found: list[Report] = []
    for one in assignment.attachments:
        if one.detaching:
            # If the same initiator was attached again meanwhile, the ACL is the new attachment's.
            if known and (one.initiator_iqn not in exported or one.initiator_iqn in wanted):
                found.append(say.Detached(epoch, one.uid))
        elif host.no_lio:
            found.append(say.AttachmentWaits(epoch, one.uid, host.no_lio))
        elif one.uid not in now.secrets:
            sentence = "Its CHAP secret does not open with this host's seal key: attach it again."
            found.append(say.AttachmentWaits(epoch, one.uid, sentence))
        elif open_now and one.initiator_iqn in exported:
            found.append(say.AttachmentReady(epoch, one.uid))
        elif now.trouble or (now.observed is not None and now.observed.reason):
            sentence = now.trouble or (now.observed.message if now.observed else "")
            found.append(say.AttachmentWaits(epoch, one.uid, sentence))
    return found


def _snapshots(assignment: r.Assignment, host: Host, observed: Observed) -> list[Report]:
    """The primary's freeze covers both hosts; it is told to etcd when both have it on disk."""
    pending = {one.uid for one in assignment.snapshots if one.state == r.SNAPSHOT_STATE_PENDING}
    on = (host.host_id, assignment.peer.host_id)
    found: list[Report] = []
    for one in observed.snapshots:
        if one.uid in pending and one.frozen:
            found.append(say.Frozen(assignment.epoch, one.uid, one.generation, one.freeze_time, on))
        elif one.uid in pending and one.failed:
            found.append(say.FreezeFailed(one.uid, one.failed))
    return found


def _views_lost(assignment: r.Assignment, host: Host, now: Situation) -> tuple[Report, ...]:
    frozen = {one.uid for one in assignment.snapshots if one.state == r.SNAPSHOT_STATE_FROZEN}
    if not _may_serve(assignment, host):
        # The store is opened for nobody, so no worker will say it: copies of another boot are not good.
        lost = "the host restarted before the snapshot was copied"
        return tuple(say.ViewLost(uid, lost) for uid in sorted(frozen))
    return tuple(
        say.ViewLost(one.uid, one.failed)
        for one in (now.observed.snapshots if now.observed else ())
        if one.uid in frozen and one.failed
    )


def _may_serve(assignment: r.Assignment, host: Host) -> bool:
    """Only the boot that is in sync may open the replica: another one has lost its memory."""
    return assignment.boot_id == host.boot_id
