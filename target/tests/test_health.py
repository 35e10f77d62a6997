"""What people are told of a volume: state, reason, and a sentence that says what to do."""

import dataclasses
from typing import Any

import pytest

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.limits import GIB, MIB
from holdfast.target import reports as say
from holdfast.target.control import Observed, ObservedSync, ObservedVerify
from holdfast.target.health import Known, copy_trouble, health, sync_progress, verify_progress
from holdfast.target.reporter import is_progress

UID = "0123456789abcdef01234567"
SERVING = Observed(UID, "primary", 3, store_open=True, peer_connected=True, serving=True)
DOWN = dataclasses.replace(SERVING, serving=False)
LOSING = dataclasses.replace(DOWN, wants_leave_out=("b",))
B = r.Peer(host_id="b", boot_id="b1")
JOINING = r.Peer(host_id="b")
KNOWN = Known("a1", {"a": "a1", "b": "b1"})
GOOD, BAD, GONE = r.HEALTH_STATE_HEALTHY, r.HEALTH_STATE_DEGRADED, r.HEALTH_STATE_UNAVAILABLE


def assigned(*peers: r.Peer, **fields: Any) -> r.Assignment:
    known: dict[str, Any] = {
        "host_id": "a", "volume_uid": UID, "role": r.ROLE_PRIMARY, "epoch": 3, "boot_id": "a1",
        "primary_host_id": "a", "peers": list(peers or (B,)),
    }  # fmt: skip
    return r.Assignment(**{**known, **fields})


def but(**fields: Any) -> Observed:
    return dataclasses.replace(SERVING, **fields)


SYNC = (ObservedSync("b", 600 * MIB, GIB, 5 * MIB),)


@pytest.mark.parametrize(
    ("assignment", "observed", "known", "state", "reason", "words"),
    [
        (assigned(), SERVING, KNOWN, GOOD, "", ()),
        (assigned(), but(hydrate_remaining_bytes=5), KNOWN, BAD, "HYDRATING", ("can be used",)),
        (assigned(), but(hydrate_remaining_bytes=5, hydrate_reason="SNAPSHOTTER_UNREACHABLE",
                         hydrate_message="none runs."), KNOWN, BAD,
         "SNAPSHOTTER_UNREACHABLE", ("can be used", "none runs. Reads of what is missing wait")),
        (assigned(), but(hydrate_remaining_bytes=5, hydrate_reason="ORIGIN_LOST", hydrate_message="lost."),
         KNOWN, BAD, "ORIGIN_LOST", ("lost. Reads of that fail",)),
        (assigned(), but(hydrate_reason="SNAPSHOTTER_UNREACHABLE"), KNOWN, GOOD, "", ()),
        (assigned(), but(reason="X", message="m"), KNOWN, BAD, "X", ("m",)),
        (assigned(), dataclasses.replace(DOWN, reason="FULL", message="m"), KNOWN, GONE, "FULL", ("m",)),
        (assigned(), DOWN, KNOWN, None, "", ()),
        (assigned(), SERVING, Known("a1", {}, "no export"), BAD, "EXPORT_TROUBLE", ("no export",)),
        (assigned(), None, Known("a1", {}, "it crashes"), GONE, "WORKER_DOWN", ("it crashes",)),
        (assigned(), None, KNOWN, None, "", ()),
        (assigned(JOINING), SERVING, KNOWN, BAD, "MIRROR_LOST", ("one host only", "b is to join")),
        (assigned(JOINING), but(syncs=SYNC), KNOWN, BAD, "SYNCING", ("600 MiB of 1024 MiB", "about 2 min")),
        (assigned(JOINING), but(syncs=SYNC, joining=("b",)), KNOWN, BAD, "SYNCING", ("600 MiB of 1024 MiB",)),
        (assigned(JOINING), but(joining=("b",)), KNOWN, BAD, "SYNC_WAITS",
         ("one host only", "b is back and waits for its turn", "nothing need be done")),
        (assigned(JOINING), but(bound=("b",)), KNOWN, BAD, "SYNCING",
         ("go to two hosts", "b is up to date and is being recorded")),
        (assigned(JOINING, r.Peer(host_id="c")), but(joining=("c",)), KNOWN, BAD, "SYNC_WAITS",
         ("c is back and waits", "b is to join")),
        (assigned(B, r.Peer(host_id="c")), but(syncs=SYNC), KNOWN, GOOD, "", ()),
        (assigned(), LOSING, KNOWN, GONE, "MIRROR_LOST", ("b is out",)),
        (assigned(), LOSING, Known("a1", {}, etcd_away=True), GONE,
         "WAITING_FOR_ETCD", ("so is etcd", "Bring either back")),
        (assigned(JOINING, needs_mirror=True), DOWN, KNOWN, GONE, "NEEDS_MIRROR", ("two hosts", "b is")),
        (assigned(JOINING, needs_mirror=True), dataclasses.replace(DOWN, joining=("b",)), KNOWN, GONE,
         "NEEDS_MIRROR", ("two hosts", "b is back and waits")),
        (assigned(JOINING, needs_mirror=True), dataclasses.replace(DOWN, reason="DISK_FAILED", message="m"),
         KNOWN, GONE, "DISK_FAILED", ("m",)),
    ],
)  # fmt: skip
def test_health(
    assignment: r.Assignment,
    observed: Observed | None,
    known: Known,
    state: int | None,
    reason: str,
    words: tuple[str, ...],
) -> None:
    found = health(assignment, "primary", observed, known)
    if state is None:
        assert found is None
        return
    assert found is not None and (found.epoch, found.state, found.reason) == (3, state, reason)
    assert all(word in found.message for word in words), found.message
    assert "is to join" not in found.message or "b" not in (*observed.joining, *observed.bound)
    assert (found.message == "") == (state == GOOD)


def test_how_far_the_copying_is() -> None:
    filling = but(hydrate_remaining_bytes=5, hydrate_total_bytes=9, hydrate_rate_bytes_s=2)
    found = health(assigned(), "primary", filling, KNOWN)
    assert isinstance(found, say.Health)
    told = found.hydrate_remaining_bytes, found.hydrate_total_bytes, found.hydrate_rate_bytes_s
    assert told == (5, 9, 2)


def test_a_primary_that_restarted_says_whom_it_waits_for() -> None:
    """But not while somebody else will start the volume."""
    lost = Observed(UID, "joiner", 3, store_open=True)
    old = assigned(boot_id="a0")
    found = health(old, "joiner", lost, Known("a1", {"a": "a1"}))
    assert found is not None and (found.state, found.reason) == (GONE, "NO_GOOD_COPY")
    assert "b does not answer" in found.message and "force" in found.message
    for leases in (None, {"a": "a1", "b": "b1"}, {"a": "a1", "b": "b2"}):
        assert health(old, "joiner", lost, Known("a1", leases)) is None
    # Its own copy is no good: whoever else is back starts the volume, and if nobody does, that is why.
    bad = dataclasses.replace(lost, reason="STORE_ABSENT", message="mount it")
    found = health(old, "joiner", bad, Known("a1", {"a": "a1", "b": "b2"}))
    assert found is not None and (found.state, found.reason) == (GONE, "STORE_ABSENT")
    assert health(old, "joiner", bad, Known("a1", {"a": "a1", "b": "b1"})) is None


def test_sync_progress_is_that_of_the_last_one() -> None:
    syncs = (ObservedSync("b", 5, 10, 1), ObservedSync("c", 7, 9, 2))
    assert sync_progress(assigned(), but(syncs=syncs)) == say.SyncProgress(3, 7, 9, 2)
    assert sync_progress(assigned(), SERVING) == say.SyncProgress(3)


def test_what_ails_a_copy_is_said_by_its_own_host() -> None:
    joiner = assigned(r.Peer(host_id="p", boot_id="p1"), role=r.ROLE_JOINER, boot_id="", primary_host_id="p")
    bad = but(role="joiner", serving=False, reason="WRONG_STORE", message="another volume's")
    assert copy_trouble(joiner, "joiner", bad, "") == say.CopyTrouble(3, "WRONG_STORE", "another volume's")
    assert copy_trouble(joiner, "joiner", but(role="joiner"), "") == say.CopyTrouble(3), "nothing (any more)"
    assert copy_trouble(joiner, "joiner", None, "it ended") == say.CopyTrouble(3, "WORKER_DOWN", "it ended")
    assert copy_trouble(joiner, "joiner", None, "") is None, "it is starting"
    assert copy_trouble(assigned(), "mirror", bad, "it ended") is None, "its primary notices"


def test_verify_progress() -> None:
    asked = assigned(verify_request=2)
    assert verify_progress(asked, SERVING) is None
    assert verify_progress(asked, but(verify=ObservedVerify(1, False))) is None
    assert verify_progress(assigned(), but(verify=ObservedVerify(2, True))) is None
    for found, state in [
        (ObservedVerify(2, True, 1, 4), r.VERIFY_STATE_RUNNING),
        (ObservedVerify(2, False, 4, 4), r.VERIFY_STATE_DONE),
        (ObservedVerify(2, False, 1, 4, failed="why"), r.VERIFY_STATE_FAILED),
    ]:
        told = verify_progress(asked, but(verify=found))
        assert told is not None and (told.request, told.state, told.reason) == (2, state, found.failed)


def test_only_progress_may_wait() -> None:
    one = say.Health(3, BAD, "SYNCING", "600 MiB")
    assert is_progress(one, dataclasses.replace(one, message="500 MiB"))
    assert not is_progress(one, dataclasses.replace(one, reason="MIRROR_LOST"))
    assert not is_progress(one, dataclasses.replace(one, state=GOOD, reason=""))
    assert not is_progress(say.Health(3, GOOD), say.Health(4, GOOD))
    assert is_progress(say.SyncProgress(3, 5, 9), say.SyncProgress(3, 4, 9))
    assert not is_progress(say.SyncProgress(3, 5, 9), say.SyncProgress(3))
    running = say.VerifyProgress(3, 1, r.VERIFY_STATE_RUNNING, 1, 9, 0, 0)
    assert is_progress(running, dataclasses.replace(running, done_bytes=2))
    assert not is_progress(running, dataclasses.replace(running, state=r.VERIFY_STATE_DONE))
