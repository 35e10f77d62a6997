"""When a change of membership is asked for: a table of situations, one refusal at a time."""

import dataclasses
from typing import Any

import pytest

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.target import reports as say
from holdfast.target.control import Observed
from holdfast.target.membership import COLD_START_WAIT_S, Circumstances, cold_start_possible, decide
from holdfast.target.reports import Change

UID = "0123456789abcdef01234567"
B = r.Peer(host_id="b", boot_id="b1")
C = r.Peer(host_id="c")
LIVE = {"a": "a1", "b": "b1", "c": "c1"}
NOW = Circumstances("a1", LIVE)


def assigned(role: int = r.ROLE_PRIMARY, **fields: Any) -> r.Assignment:
    known: dict[str, Any] = {
        "host_id": "a", "volume_uid": UID, "role": role, "epoch": 5, "boot_id": "a1", "initialized": True,
        "primary_host_id": "a" if role == r.ROLE_PRIMARY else "b", "peers": [B],
    }  # fmt: skip
    return r.Assignment(**{**known, **fields})


def seen(role: str = "primary", **fields: Any) -> Observed:
    good = Observed(
        UID, role, 5, store_open=True, peer_connected=True, serving=True, consistent=True, store_empty=False
    )
    return dataclasses.replace(good, **fields)


ATTACHED = [r.AssignedAttachment(uid="t", initiator_iqn="iqn.x:1")]
AWAY = dataclasses.replace(NOW, path_cut_s=3.0)


def but(now: Circumstances, **leases: str) -> Circumstances:
    """With other leases; an empty boot is an absent one."""
    found = {host: boot for host, boot in {**(now.leases or {}), **leases}.items() if boot}
    return dataclasses.replace(now, leases=found)


PRIMARY_CASES: list[tuple[str, r.Assignment, Observed, Circumstances, Change | None]] = [
    ("at rest", assigned(), seen(), NOW, None),
    ("lost", assigned(), seen(wants_leave_out=("b",)), NOW, say.LeaveOut(5, ("b",))),
    ("lost, lease gone", assigned(), seen(wants_leave_out=("b",)), but(NOW, b=""), say.LeaveOut(5, ("b",))),
    ("lost first", assigned(), seen(wants_leave_out=("b",), wants_join="c", wants_join_boot="c1"), NOW,
     say.LeaveOut(5, ("b",))),
    ("join", assigned(peers=[C]), seen(wants_join="c", wants_join_boot="c1"), NOW, say.Join(5, "c", "c1")),
    ("join beside", assigned(peers=[B, C]), seen(wants_join="c", wants_join_boot="c1"), NOW,
     say.Join(5, "c", "c1")),
    ("join of a gone boot", assigned(peers=[C]), seen(wants_join="c", wants_join_boot="c0"), NOW, None),
    ("join of a dead one", assigned(peers=[C]), seen(wants_join="c", wants_join_boot="c1"), but(NOW, c=""),
     None),
    ("join without a boot", assigned(peers=[C]), seen(wants_join="c"), but(NOW, c=""), None),
    ("join of a stranger", assigned(), seen(wants_join="x", wants_join_boot="x1"), but(NOW, x="x1"), None),
    ("yielded", assigned(yield_to_host_id="b"), seen(yielded=True), NOW, say.HandOver(5, "b")),
    ("not yielded yet", assigned(yield_to_host_id="b"), seen(), NOW, None),
    ("yielded to a dead one", assigned(yield_to_host_id="b"), seen(yielded=True), but(NOW, b=""),
     say.LeaveOut(5, ("b",))),
    ("yielded to another boot", assigned(yield_to_host_id="b"), seen(yielded=True), but(NOW, b="b2"),
     say.LeaveOut(5, ("b",))),
    ("yielded, nobody asked any more", assigned(), seen(yielded=True), NOW, None),
    ("disk failed", assigned(), seen(yielded=True, wants_resign=True, heirs=("b",)), NOW, say.Resign(5, "b")),
    ("disk failed, not yielded", assigned(), seen(wants_resign=True), NOW, None),
    ("disk failed, nobody heard", assigned(), seen(wants_resign=True, gives_up=True), NOW, say.Release(5)),
    ("released before", assigned(released_epoch=4), seen(wants_resign=True, gives_up=True), NOW,
     say.Release(5)),
    ("released", assigned(released_epoch=5), seen(wants_resign=True, gives_up=True), NOW, None),
    ("nobody heard, nor alive", assigned(), seen(wants_resign=True, gives_up=True), but(NOW, b=""), None),
    ("disk failed, mirror dead", assigned(), seen(yielded=True, wants_resign=True, heirs=("b",)),
     but(NOW, b=""), None),
    ("disk failed, to whom it was asked", assigned(peers=[B, r.Peer(host_id="d", boot_id="d1")],
     yield_to_host_id="d"), seen(yielded=True, wants_resign=True, heirs=("b", "d")), but(NOW, d="d1"),
     say.Resign(5, "d")),
    ("disk failed, to the one that was heard", assigned(peers=[B, r.Peer(host_id="d", boot_id="d1")],
     yield_to_host_id="b"), seen(yielded=True, wants_resign=True, heirs=("d",)), but(NOW, d="d1"),
     say.Resign(5, "d")),
    ("path", assigned(attachments=ATTACHED), seen(), AWAY, say.PathMove(5, "b")),
    ("path, logged in here", assigned(attachments=ATTACHED), seen(), NOW, None),
    ("path, not for long", assigned(attachments=ATTACHED), seen(),
     dataclasses.replace(NOW, path_cut_s=2.9), None),
    ("path, nobody attached", assigned(), seen(), AWAY, None),
    ("path, link down", assigned(attachments=ATTACHED), seen(peer_connected=False), AWAY, None),
    ("path, not serving", assigned(attachments=ATTACHED), seen(serving=False), AWAY, None),
    ("path, mirror not in sync", assigned(attachments=ATTACHED, peers=[C]), seen(), AWAY, None),
    ("path, mirror dead", assigned(attachments=ATTACHED), seen(), but(AWAY, b=""), None),
    ("path, moving", assigned(attachments=ATTACHED, yield_to_host_id="b"), seen(), AWAY, None),
]  # fmt: skip

MIRROR = assigned(r.ROLE_MIRROR)
FREE = seen("mirror", may_take_over=True, serving=False)
MIRROR_CASES: list[tuple[str, r.Assignment, Observed, Circumstances, Change | None]] = [
    ("lease gone", MIRROR, FREE, but(NOW, b=""), say.TakeOver(5, "a1")),
    ("rebooted", MIRROR, FREE, but(NOW, b="b2"), say.TakeOver(5, "a1")),
    ("lives", MIRROR, FREE, NOW, None),
    ("lives, and has released", assigned(r.ROLE_MIRROR, released_epoch=5), FREE, NOW, say.TakeOver(5, "a1")),
    ("had released before", assigned(r.ROLE_MIRROR, released_epoch=4), FREE, NOW, None),
    ("released, promise not over", assigned(r.ROLE_MIRROR, released_epoch=5), seen("mirror"), NOW, None),
    ("promise not over", MIRROR, seen("mirror"), but(NOW, b=""), None),
    ("suspect", MIRROR, dataclasses.replace(FREE, suspect=True), but(NOW, b=""), None),
    ("not open", MIRROR, dataclasses.replace(FREE, store_open=False), but(NOW, b=""), None),
    ("wants what only a primary may", MIRROR, seen("mirror", wants_leave_out=("b",)), NOW, None),
    ("left out", assigned(r.ROLE_JOINER, boot_id=""), seen("joiner", may_take_over=True), but(NOW, b=""),
     None),
    ("rebooted itself", assigned(r.ROLE_MIRROR, boot_id="a0"), seen("joiner", may_take_over=True),
     but(NOW, b=""), None),
]  # fmt: skip

WAS_PRIMARY = assigned(boot_id="a0")
WAS_MIRROR = assigned(r.ROLE_MIRROR, boot_id="a0")
BACK = but(NOW, b="b2")
WAITED = dataclasses.replace(BACK, cold_possible_s=COLD_START_WAIT_S)
WHOLE = seen("joiner", serving=False)
COLD = say.ColdStart(5, "a1")
COLD_CASES: list[tuple[str, r.Assignment, Observed, Circumstances, Change | None]] = [
    ("primary, at once", WAS_PRIMARY, WHOLE, BACK, COLD),
    ("mirror, not at once", WAS_MIRROR, WHOLE, BACK, None),
    ("mirror, later", WAS_MIRROR, WHOLE, WAITED, COLD),
    ("the other lives on", WAS_PRIMARY, WHOLE, NOW, None),
    ("the other is away", WAS_PRIMARY, WHOLE, but(NOW, b=""), None),
    ("own lease is not there yet", WAS_PRIMARY, WHOLE, but(BACK, a="a0"), None),
    ("alone in the set", assigned(boot_id="a0", peers=[C]), WHOLE, NOW, COLD),
    ("a joiner's lease does not matter", assigned(boot_id="a0", peers=[C]), WHOLE, but(NOW, c=""), COLD),
    ("half synced", WAS_PRIMARY, dataclasses.replace(WHOLE, consistent=False), BACK, None),
    ("suspect", WAS_PRIMARY, dataclasses.replace(WHOLE, suspect=True), BACK, None),
    ("not open", WAS_PRIMARY, dataclasses.replace(WHOLE, store_open=False), BACK, None),
    ("of a newer epoch", WAS_PRIMARY, dataclasses.replace(WHOLE, reason="STALE_EPOCH"), BACK, None),
    ("empty", WAS_PRIMARY, dataclasses.replace(WHOLE, store_empty=True), BACK, None),
    ("empty, as it was made", assigned(boot_id="a0", initialized=False),
     dataclasses.replace(WHOLE, store_empty=True), BACK, COLD),
    ("never was in the set", assigned(r.ROLE_JOINER, boot_id=""), WHOLE, WAITED, None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "assignment", "observed", "now", "wanted"),
    PRIMARY_CASES + MIRROR_CASES + COLD_CASES,
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_decide(
    name: str, assignment: r.Assignment, observed: Observed, now: Circumstances, wanted: Change | None
) -> None:
    assert decide(assignment, "a", observed, now) == wanted, name


@pytest.mark.parametrize(
    ("name", "assignment", "observed", "now"),
    [case[:4] for case in PRIMARY_CASES + MIRROR_CASES + COLD_CASES if case[4] is not None],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_nothing_is_decided_in_the_dark(
    name: str, assignment: r.Assignment, observed: Observed, now: Circumstances
) -> None:
    """Without leases, without a worker, from a worker of another epoch or role, of a volume that goes."""
    assert decide(assignment, "a", observed, dataclasses.replace(now, leases=None)) is None
    assert decide(assignment, "a", None, now) is None
    assert decide(None, "a", observed, now) is None
    for epoch in (4, 6):
        assert decide(assignment, "a", dataclasses.replace(observed, epoch=epoch), now) is None
    for role in {"primary", "mirror", "joiner", ""} - {observed.role}:
        assert decide(assignment, "a", dataclasses.replace(observed, role=role), now) is None
    going = r.Assignment()
    going.CopyFrom(assignment)
    going.deleting = True
    assert decide(going, "a", observed, now) is None


def test_a_cold_start_needs_every_member_back() -> None:
    for leases, possible in [
        ({"a": "a1", "b": "b2"}, True),
        ({"a": "a1", "b": "b1"}, False),
        ({"a": "a1"}, False),
        ({"b": "b2"}, False),
        ({}, False),
    ]:
        assert cold_start_possible(WAS_PRIMARY, "a1", leases) == possible
    assert not cold_start_possible(assigned(), "a1", {"a": "a1", "b": "b2"})


@pytest.mark.parametrize("observed", [None, seen(), seen(wants_leave_out=("b",)), seen(epoch=4)])
def test_a_worker_that_does_not_stay_is_not_asked(observed: Observed | None) -> None:
    """Whatever it says in the moments in which it runs."""
    looping = dataclasses.replace(NOW, crash_looping=True)
    assert decide(assigned(), "a", observed, looping) == say.CrashMove(5)
    released = decide(assigned(released_epoch=5), "a", observed, looping)
    assert not isinstance(released, say.CrashMove), "it has done what it can"
    for now in (but(looping, b=""), but(looping, b="b2"), dataclasses.replace(looping, leases=None)):
        assert not isinstance(decide(assigned(), "a", observed, now), say.CrashMove), "nobody could take it"
    for other in (assigned(r.ROLE_MIRROR), assigned(deleting=True), assigned(boot_id="a0")):
        assert not isinstance(decide(other, "a", observed, looping), say.CrashMove)


def test_a_bad_copy_is_renounced_once() -> None:
    left_out = assigned(r.ROLE_JOINER, boot_id="")
    suspect, damaged = seen("joiner", suspect=True), seen("joiner", reason="STORE_DAMAGED")
    for bad in (suspect, damaged):
        assert decide(left_out, "a", bad, NOW) == say.Renounce(5)
        assert decide(left_out, "a", bad, dataclasses.replace(NOW, renounced_epoch=4)) is None
        assert decide(assigned(r.ROLE_JOINER, boot_id="a0"), "a", bad, NOW) is None
    assert decide(left_out, "a", seen("joiner"), NOW) is None
