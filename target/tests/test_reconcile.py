"""What an agent does, as a table of situations; and a model of a host that it brings to rest."""

import dataclasses
import json
import random

import pytest

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.target import reports as say
from holdfast.target.control import (
    Answer,
    Apply,
    Desired,
    DesiredGate,
    DesiredPeer,
    DesiredSnapshot,
    Observed,
    ObservedSnapshot,
    decode_answer,
    decode_apply,
    encode,
)
from holdfast.target.lio_export import Backstore, Present, PresentAcl
from holdfast.target.lio_reservations import Reservations, Tenure
from holdfast.target.reconcile import Host, Plan, Situation, decide, frozen_so_far

UID = "0123456789abcdef01234567"
HOST = Host(
    "a", "boot-1", "10.0.0.1", "10.0.0.1:3260", "/config/core", (("10.0.0.9", 7411),),
    leases={"a": "boot-1", "b": "boot-7"},
)  # fmt: skip
IQN = "iqn.2026-01.com.example:one"
SERVING = Observed(UID, "primary", 3, store_open=True, peer_connected=True, serving=True)
MADE = Present(Backstore.ENABLED, 1 << 30)
EXPORTED = dataclasses.replace(
    MADE, target=True, groups=(1,), enabled=True, acls=(PresentAcl(IQN, "u", "s", ((0, True),)),)
)


PEER = r.Peer(host_id="b", boot_id="boot-7", address="10.0.0.2", nbd_port=20001, portal_group=2)
AWAY = r.Peer(host_id="b", address="10.0.0.2", nbd_port=20001, portal_group=2)


def assigned(**fields: object) -> r.Assignment:
    assignment = r.Assignment(
        host_id="a", volume_uid=UID, size_bytes=1 << 30, role=r.ROLE_PRIMARY, epoch=3, boot_id="boot-1",
        peers=[PEER], nbd_port=20000, initialized=True, primary_host_id="a", portal_group=1,
    )  # fmt: skip
    for name, value in fields.items():
        if isinstance(value, list):
            assignment.ClearField(name)  # type: ignore[arg-type]
            getattr(assignment, name).extend(value)
        else:
            setattr(assignment, name, value)
    return assignment


def attachment(uid: str = "t1", initiator: str = IQN, detaching: bool = False) -> r.AssignedAttachment:
    return r.AssignedAttachment(uid=uid, initiator_iqn=initiator, chap_user="u", detaching=detaching)


def situation(assignment: r.Assignment | None, **fields: object) -> Situation:
    known: dict[str, object] = {
        "worker_alive": True, "observed": SERVING, "present": Present(), "store_exists": True,
        "secrets": {"t1": "s", "t2": "s"},
    }  # fmt: skip
    now = Situation(assignment, **{**known, **fields})  # type: ignore[arg-type]
    if now.worker_alive and now.observed and "desired" not in fields:
        now = dataclasses.replace(now, desired=decide(UID, HOST, now).desired)
    return now


def plan(assignment: r.Assignment | None, host: Host = HOST, **fields: object) -> Plan:
    return decide(UID, host, situation(assignment, **fields))


def told(assignment: r.Assignment, host: Host = HOST, **fields: object) -> Desired:
    desired = plan(assignment, host, **fields).desired
    assert desired is not None
    return desired


def test_what_a_worker_is_told() -> None:
    desired = told(assigned())
    assert (desired.role, desired.epoch, desired.initialized) == ("primary", 3, True)
    assert desired.members == ("a", "b") and desired.primary_host_id == "a"
    assert desired.peers == (DesiredPeer("b", "10.0.0.2", 20001, 2, True),) and desired.portal_group == 1
    assert desired.snapshotters == (("10.0.0.9", 7411),) and desired.ring is None
    mirror = told(assigned(role=r.ROLE_MIRROR, primary_host_id="b"))
    assert (mirror.role, mirror.primary_host_id) == ("mirror", "b")
    alone = told(assigned(peers=[AWAY], needs_mirror=True, cold_epoch=2))
    assert alone.members == ("a",) and alone.needs_mirror and alone.cold_epoch == 2
    slow = assigned()
    slow.limits.CopyFrom(r.VolumeLimits(iops=200, bytes_s=7))
    limited = told(slow)
    assert (limited.limit_iops, limited.limit_bytes_s) == (200, 7) and not alone.limit_iops
    joiner = told(assigned(role=r.ROLE_JOINER, boot_id="", primary_host_id="b"))
    assert (joiner.role, joiner.members, joiner.initialized) == ("joiner", ("b",), False)


@pytest.mark.parametrize("role", [r.ROLE_PRIMARY, r.ROLE_MIRROR])
def test_another_boot_is_a_joiner_whose_copy_is_kept(role: int) -> None:
    """It may be the only one: an absent store is not made, and a bad one not thrown away."""
    suspect = dataclasses.replace(SERVING, role="joiner", suspect=True)
    desired = told(assigned(boot_id="boot-0", role=role), observed=suspect)
    assert (desired.role, desired.members, desired.initialized) == ("joiner", ("b",), True)
    assert not desired.rebuild


def test_only_one_that_is_in_sync_is_yielded_to() -> None:
    assert told(assigned(yield_to_host_id="b")).yield_to == "b"
    assert told(assigned(yield_to_host_id="b", peers=[AWAY])).yield_to == ""


@pytest.mark.parametrize(
    ("observed", "may", "rebuild"),
    [
        (Observed(UID, "joiner", 3, suspect=True), True, True),
        (Observed(UID, "joiner", 3, suspect=True), False, False),
        (Observed(UID, "joiner", 3, reason="STORE_DAMAGED"), True, True),
        (Observed(UID, "joiner", 3, reason="WRONG_STORE"), True, False),
        (Observed(UID, "joiner", 3), True, False),
        (None, True, False),
    ],
)
def test_rebuilding(observed: Observed | None, may: bool, rebuild: bool) -> None:
    left_out = assigned(role=r.ROLE_JOINER, boot_id="", primary_host_id="b")
    assert told(left_out, observed=observed, may_rebuild=may, renounced_epoch=2).rebuild == rebuild
    assert not told(assigned(), observed=observed, may_rebuild=may, renounced_epoch=2).rebuild


@pytest.mark.parametrize("renounced_epoch", [0, 3])
def test_a_copy_that_may_be_about_to_join_is_kept(renounced_epoch: int) -> None:
    """Until an epoch that was raised for this is read: in the one before, its primary may have it join."""
    left_out = assigned(role=r.ROLE_JOINER, boot_id="", primary_host_id="b")
    suspect = Observed(UID, "joiner", 3, suspect=True)
    assert not told(left_out, observed=suspect, renounced_epoch=renounced_epoch).rebuild


def test_turns_bind_both_ends() -> None:
    left_out = assigned(role=r.ROLE_JOINER, boot_id="", primary_host_id="b")
    for assignment in (assigned(peers=[AWAY]), left_out):
        assert not told(assignment, may_sync=False).may_sync
        assert told(assignment, may_sync=True).may_sync


def test_an_attachment_step_by_step() -> None:
    one = assigned(attachments=[attachment()])
    first = plan(one)
    assert first.export is not None and not first.export.serve and first.desired is not None
    assert first.desired.ring is None
    made = plan(one, present=MADE)
    assert made.desired is not None and made.desired.ring is not None
    assert made.desired.ring.configfs == f"/config/core/{UID}"
    opened = plan(one, present=MADE, observed=dataclasses.replace(SERVING, ring_open=True))
    assert opened.export is not None and opened.export.serve
    assert say.AttachmentReady(3, "t1") not in opened.reports
    done = plan(one, present=EXPORTED, observed=dataclasses.replace(SERVING, ring_open=True))
    assert say.AttachmentReady(3, "t1") in done.reports
    assert done.export == opened.export


def test_every_host_exports_under_its_own_tag() -> None:
    serving = dataclasses.replace(SERVING, role="mirror", ring_open=True)
    one = assigned(role=r.ROLE_MIRROR, primary_host_id="b", portal_group=2, attachments=[attachment()])
    found = plan(one, present=dataclasses.replace(EXPORTED, groups=(2,)), observed=serving)
    assert found.export is not None and (found.export.group, found.export.serve) == (2, True)
    assert found.desired is not None and found.desired.ring is not None
    assert found.reports == (say.AttachmentPath("t1", True),)
    assert plan(one, present=MADE, observed=serving).reports == (say.AttachmentPath("t1", False),)
    # While a worker is away the path is not said to be gone: it comes back.
    assert plan(one, present=EXPORTED, observed=None).reports == ()
    joiner = assigned(role=r.ROLE_JOINER, boot_id="", portal_group=3, attachments=[attachment()])
    export = plan(joiner, present=MADE, observed=dataclasses.replace(serving, role="joiner")).export
    assert export is not None and export.group == 3


def test_a_promotion_changes_of_the_export_only_who_keeps_reservations() -> None:
    ring = dataclasses.replace(SERVING, ring_open=True)
    before = plan(
        assigned(role=r.ROLE_MIRROR, primary_host_id="b", attachments=[attachment()]),
        present=EXPORTED, observed=dataclasses.replace(ring, role="mirror"),
    )  # fmt: skip
    after = plan(assigned(epoch=4, peers=[AWAY], attachments=[attachment()]), present=EXPORTED, observed=ring)
    assert before.export and after.export and before.desired and after.desired
    assert before.export.reserving_epoch == 0
    assert dataclasses.replace(before.export, reserving_epoch=4) == after.export
    assert before.desired.ring == after.desired.ring is not None


def test_one_initiator_may_reserve_at_the_primary() -> None:
    ring = dataclasses.replace(SERVING, ring_open=True)
    kept = Reservations(True, True, Tenure(2, 3))
    present = dataclasses.replace(EXPORTED, reservations=kept)

    def found(present: Present = present, **fields: object) -> tuple[int, int]:
        made = plan(assigned(**{"attachments": [attachment()], **fields}), present=present, observed=ring)
        assert made.export is not None and made.desired is not None
        return made.export.reserving_epoch, made.desired.reserved_since

    assert found() == (3, 2)
    assert found(epoch=4) == (4, 0), "its kernel has not been told of this epoch yet"
    assert found(dataclasses.replace(EXPORTED, reservations=dataclasses.replace(kept, kept=False))) == (3, 0)
    assert found(role=r.ROLE_MIRROR, primary_host_id="b") == found(boot_id="boot-0") == (0, 0)
    assert found(multi_attach=True) == (0, 0)
    going = attachment("t0", "iqn.2026-01.com.example:gone", detaching=True)
    assert found(attachments=[going, attachment()]) == (3, 2)
    assert found(attachments=[attachment("t0", "iqn.2026-01.com.example:other"), attachment()]) == (0, 0)


def test_where_there_may_be_several_initiators_the_kernel_tells_of_paths() -> None:
    """As soon as the worker shows them, and no sooner."""

    def paths(assignment: r.Assignment, known: Desired | None, serving: bool = True) -> str:
        observed = dataclasses.replace(SERVING, ring_open=True, serving=serving)
        found = plan(assignment, present=EXPORTED, observed=observed, desired=known)
        assert found.export is not None and found.desired is not None
        assert found.desired.kernel_tells_paths == assignment.multi_attach
        return found.export.paths

    one = assigned(attachments=[attachment()], multi_attach=True)
    known = told(one)
    assert paths(one, known) == "1:0 2:2"
    assert paths(one, None) == paths(one, known, serving=False) == ""
    assert paths(assigned(attachments=[attachment()]), known) == ""
    mirror = assigned(attachments=[attachment()], multi_attach=True, role=r.ROLE_MIRROR, primary_host_id="b")
    assert paths(mirror, known) == ""
    assert paths(mirror, told(mirror), serving=False) == "1:2 2:0"


def test_sessions_from_before_a_cold_start_end_once_on_every_path() -> None:
    ring = dataclasses.replace(SERVING, ring_open=True)
    seen = [
        plan(assigned(epoch=epoch, cold_epoch=3, attachments=[attachment()], **role),
             present=EXPORTED, observed=ring).export
        for epoch in (3, 4)
        for role in ({}, {"role": r.ROLE_MIRROR, "primary_host_id": "b"})
    ]  # fmt: skip
    assert all(one is not None and one.cold_epoch == 3 for one in seen)


def test_a_host_whose_worker_does_not_stay_sends_initiators_elsewhere() -> None:
    """Unless it is the primary still: there is no other path then."""
    for role, fenced in ((r.ROLE_PRIMARY, False), (r.ROLE_MIRROR, True), (r.ROLE_JOINER, True)):
        fields = {} if role == r.ROLE_PRIMARY else {"primary_host_id": "b"}
        assignment = assigned(role=role, attachments=[attachment()], **fields)
        export = plan(assignment, present=EXPORTED, worker_alive=False, crash_looping=True).export
        assert export is not None and export.fenced is fenced and not export.serve


def test_an_agent_that_does_not_know_the_export_yet_closes_no_ring() -> None:
    """But it tells of epochs: a kernel that hangs holds up no change of roles."""
    one = assigned(attachments=[attachment()])
    assert plan(one, present=None, observed=None).desired is None
    ring = dataclasses.replace(SERVING, ring_open=True)
    assert told(one, present=None, observed=ring).ring == told(one, present=MADE, observed=ring).ring
    assert told(one, present=None).ring is None
    assert plan(assigned(), present=None, observed=None).desired is None
    assert told(assigned(), present=None).ring is None


def test_detaching_waits_for_the_kernel() -> None:
    one = assigned(attachments=[attachment(detaching=True)])
    assert say.Detached(3, "t1") not in plan(one, present=EXPORTED).reports
    assert say.Detached(3, "t1") not in plan(one, present=None).reports
    assert plan(one, present=EXPORTED).export is None
    assert say.Detached(3, "t1") in plan(one, present=MADE).reports
    again = assigned(attachments=[attachment(detaching=True), attachment("t2")])
    assert say.Detached(3, "t1") in plan(again, present=EXPORTED).reports


@pytest.mark.parametrize("going", [{"attachments": [attachment(detaching=True)]}, {"deleting": True}])
def test_the_ring_is_served_until_the_export_is_gone(going: dict[str, object]) -> None:
    one, ring = assigned(**going), dataclasses.replace(SERVING, ring_open=True)
    kept = told(assigned(attachments=[attachment()]), present=EXPORTED, observed=ring).ring
    for present in (EXPORTED, None):
        found = plan(one, present=present, observed=ring)
        assert found.export is None and found.desired is not None and found.desired.ring == kept is not None
        assert plan(one, present=present, observed=None).desired is None, "perhaps it serves it"
    assert told(one, present=MADE, observed=ring).ring is None
    # One that does not serve it need not begin to: what is in flight is answered without it.
    assert told(one, present=EXPORTED).ring is None


def test_without_lio_attachments_say_why_and_can_be_deleted() -> None:
    host = dataclasses.replace(HOST, no_lio="No LIO here.")
    one = assigned(attachments=[attachment(), attachment("t2", detaching=True)])
    found = plan(one, host)
    assert found.export is None and found.desired is not None and found.desired.ring is None
    assert say.AttachmentWaits(3, "t1", "No LIO here.") in found.reports
    assert say.AttachmentPath("t1", False) in found.reports
    assert say.Detached(3, "t2") in found.reports


def test_a_secret_that_does_not_open_holds_up_its_attachment_only() -> None:
    one = assigned(attachments=[attachment(), attachment("t2", "iqn.2026-01.com.example:two")])
    found = plan(one, secrets={"t2": "s"})
    assert found.export is not None and [acl.initiator[-3:] for acl in found.export.acls] == ["two"]
    (waits,) = [one for one in found.reports if isinstance(one, say.AttachmentWaits)]
    assert waits.uid == "t1" and "seal key" in waits.reason


NO_SYNC = say.SyncProgress(3)


def test_creation() -> None:
    new = assigned(initialized=False)
    assert plan(new).reports == (NO_SYNC, say.Available(3))
    lost = dataclasses.replace(SERVING, serving=False, reason="MIRROR_LOST", message="No mirror.")
    assert plan(new, observed=lost).reports == (NO_SYNC, say.CreationWaits(3, "No mirror."))
    assert plan(assigned(initialized=False, role=r.ROLE_MIRROR)).reports == ()


def test_snapshots() -> None:
    one = assigned(
        snapshots=[
            r.AssignedSnapshot(uid="p", state=r.SNAPSHOT_STATE_PENDING),
            r.AssignedSnapshot(uid="f", state=r.SNAPSHOT_STATE_FROZEN, incremental=True, base_generation=2),
        ]
    )
    desired = plan(one).desired
    assert desired is not None
    assert [(s.uid, s.freeze, s.incremental, s.base_generation) for s in desired.snapshots] == [
        ("p", True, False, 0),
        ("f", False, True, 2),
    ]
    frozen = dataclasses.replace(
        SERVING,
        snapshots=(
            ObservedSnapshot("p", True, 4, 12.5, also_on=("b",)),
            ObservedSnapshot("f", True, 3, 11.0),
        ),
    )
    assert say.Frozen(3, "p", 4, 12.5, ("a", "b")) in plan(one, observed=frozen).reports
    failed = dataclasses.replace(
        SERVING,
        snapshots=(
            ObservedSnapshot("p", False, failed="no room"),
            ObservedSnapshot("f", False, failed="gone"),
        ),
    )
    found = plan(one, observed=failed).reports
    assert say.FreezeFailed("p", "no room") in found and say.ViewLost("f", "gone") in found
    # A mirror tells only of what it has lost: the primary decides about the freeze.
    one.role, one.primary_host_id = r.ROLE_MIRROR, "b"
    assert not any(snapshot.freeze for snapshot in told(one).snapshots)
    assert plan(one, observed=failed).reports == (say.ViewLost("f", "gone"),)


def test_views_of_another_boot_are_struck_off() -> None:
    one = assigned(
        boot_id="boot-0",
        snapshots=[
            r.AssignedSnapshot(uid="p", state=r.SNAPSHOT_STATE_PENDING),
            r.AssignedSnapshot(uid="f", state=r.SNAPSHOT_STATE_FROZEN),
        ],
    )
    for role in (r.ROLE_PRIMARY, r.ROLE_MIRROR):
        one.role = role
        lost = [report for report in plan(one).reports if isinstance(report, say.ViewLost)]
        assert [report.snapshot_uid for report in lost] == ["f"]
        assert "restarted" in lost[0].reason


def test_what_was_frozen_is_not_frozen_anew() -> None:
    """Whether it was recorded or not: the assignment may lag, and others may copy from the view already."""
    one = assigned(snapshots=[r.AssignedSnapshot(uid="p", state=r.SNAPSHOT_STATE_PENDING)])
    seen = dataclasses.replace(SERVING, snapshots=(ObservedSnapshot("p", True, 4, 12.5, also_on=("b",)),))
    frozen = frozen_so_far(frozenset(), one, seen)
    assert frozen == {"p"}
    # The worker is another one now, and has said nothing of it yet.
    assert frozen_so_far(frozen, one, None) == frozen_so_far(frozen, one, SERVING) == {"p"}
    desired = plan(one, frozen=frozen).desired
    assert desired is not None and not desired.snapshots[0].freeze
    assert say.Frozen(3, "p", 4, 12.5, ("a", "b")) in plan(one, observed=seen, frozen=frozen).reports
    # What ended is forgotten; what another epoch or a mirror says is not heard.
    assert frozen_so_far(frozen, assigned(), seen) == frozenset()
    assert frozen_so_far(frozenset(), one, dataclasses.replace(seen, epoch=2)) == frozenset()
    assert frozen_so_far(frozenset(), one, dataclasses.replace(seen, role="mirror")) == frozenset()


def test_what_is_not_assigned_is_ended_and_its_store_left() -> None:
    found = plan(None)
    assert found == Plan(run_worker=False)


class World:
    """A host: a worker and a kernel that do what they are told, a little later and in any order."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now = situation(None, worker_alive=False, observed=None, present=Present(), store_exists=False)
        self.told: list[say.Report] = []
        self.kernel = Present()
        self.ring_open = False

    def turn(self) -> None:
        plan = decide(UID, HOST, self.now)
        new = self.now
        if self.rng.random() < 0.6:
            new = self._worker(plan, new)
        if self.rng.random() < 0.6:
            new = self._kernel(plan, new)
        if plan.remove_store:
            assert not self.now.worker_alive and self.now.nothing_exported
            new = dataclasses.replace(new, store_exists=False)
        self.told += plan.reports
        self.now = new
        if self.rng.random() < 0.05:  # the worker is killed
            self.ring_open = False
            self.now = dataclasses.replace(self.now, worker_alive=False, observed=None, desired=None)
        if self.rng.random() < 0.05:  # the agent is killed
            self.now = dataclasses.replace(self.now, observed=None, desired=None, present=None)

    def _worker(self, plan: Plan, now: Situation) -> Situation:
        if not plan.run_worker:
            self._open_ring(False)
            return dataclasses.replace(now, worker_alive=False, observed=None, desired=None)
        if not now.worker_alive:
            return dataclasses.replace(now, worker_alive=True)
        if plan.desired is None:
            # What it says by itself.
            before = now.observed or Observed(UID, ring_open=self.ring_open)
            return dataclasses.replace(now, observed=before)
        ring = plan.desired.ring is not None and self.kernel.backstore is Backstore.ENABLED
        self._open_ring(ring)
        role, epoch = plan.desired.role, plan.desired.epoch
        observed = Observed(UID, role, epoch, True, True, True, ring_open=ring)
        return dataclasses.replace(now, observed=observed, desired=plan.desired, store_exists=True)

    def _open_ring(self, open_it: bool) -> None:
        # The kernel would wait for ever for what is in flight.
        assert open_it or not self.ring_open or not self.kernel.target, "a ring was closed under its export"
        self.ring_open = open_it

    def _kernel(self, plan: Plan, now: Situation) -> Situation:
        export, kernel = plan.export, self.kernel
        if export is None:
            kernel = Present(kernel.backstore if now.ring_in_use else Backstore.ABSENT)
        else:
            acls = kernel.acls
            kept = tuple(one for one in acls if one.initiator in {acl.initiator for acl in export.acls})
            if export.serve:
                kept = tuple(
                    PresentAcl(a.initiator, a.chap_user, a.chap_secret, ((a.lun, True),)) for a in export.acls
                )
            kernel = Present(Backstore.ENABLED, 1 << 30, target=bool(kept), enabled=bool(kept), acls=kept)
        if kernel.backstore is Backstore.ABSENT and now.worker_alive:
            assert not (now.observed and now.observed.ring_open), "the backstore went under an open ring"
        self.kernel = kernel
        return dataclasses.replace(now, present=kernel)


@pytest.mark.parametrize("seed", range(60))
def test_a_host_comes_to_rest_wherever_it_is_interrupted(seed: int) -> None:
    world = World(random.Random(seed))
    attached = assigned(attachments=[attachment()])
    detached = assigned(attachments=[attachment(detaching=True)])
    wishes = [
        (attached, say.AttachmentReady(3, "t1")),
        (detached, say.Detached(3, "t1")),
        (attached, say.AttachmentReady(3, "t1")),
        (assigned(deleting=True), say.StoreRemoved()),
    ]
    for wish, wanted in wishes:
        world.now = dataclasses.replace(world.now, assignment=wish)
        world.told.clear()
        for _ in range(200):
            world.turn()
            if wanted in world.told:
                break
        assert wanted in world.told, (seed, world.now)
    assert world.kernel.nothing and not world.now.store_exists and not world.now.worker_alive


def test_a_primary_that_may_be_none_any_more_sends_its_initiators_to_other_paths() -> None:
    one = assigned(attachments=[attachment()])
    lost = dataclasses.replace(SERVING, serving=False, ring_open=True, wants_leave_out=("b",))

    def fenced(observed: Observed, etcd_away: bool) -> bool:
        export = plan(one, present=EXPORTED, observed=observed, etcd_away=etcd_away).export
        assert export is not None
        return export.fenced

    assert fenced(lost, True) and not fenced(lost, False)
    assert not fenced(dataclasses.replace(SERVING, ring_open=True), True)


def test_an_agent_and_a_worker_of_other_code_understand_each_other() -> None:
    """What one does not know is left out; what the other does not say is as by default."""
    desired = Desired(
        "v", 4096, "primary", 1, ("a",), "a", True, "127.0.0.1", 20000,
        snapshots=(DesiredSnapshot("s", True, False, 0, DesiredGate(2, "open", "t")),),
    )  # fmt: skip
    assert decode_apply(encode(Apply(7, desired))) == Apply(7, desired)
    newer = json.loads(encode(Apply(7, desired)))
    newer["apply"]["later"] = newer["apply"]["snapshots"][0]["later"] = {"more": 1}
    assert decode_apply(json.dumps(newer).encode()) == Apply(7, desired)
    observed = Observed("v", snapshots=(ObservedSnapshot("s", True, also_on=("b",)),))
    older = json.loads(encode(Answer(7, observed)))
    del older["observed"]["snapshots"][0]["gate"], older["observed"]["standby_io_age_s"]
    assert decode_answer(json.dumps(older).encode()) == Answer(7, observed)


def test_joiners_of_a_worker_of_older_code_wait_for_no_turn_of_their_own() -> None:
    observed = Observed("v", joining=("b", "c"), syncable=("b", "c"))
    older = json.loads(encode(Answer(7, observed)))
    del older["observed"]["syncable"], older["observed"]["left_bytes"]
    assert decode_answer(json.dumps(older).encode()) == Answer(7, observed)
