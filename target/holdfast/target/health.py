"""How a volume is, for people and programs, as the agent of its primary's host sees it: pure.

Each message is a sentence or two: what happened, to what, and what to do. Since when it is so, the record
says (VolumeHealth.since_time). The first row that fits is told.

| state | reason | when |
|---|---|---|
| unavailable | WORKER_DOWN | the worker does not run, or does not stay |
| unavailable | what the worker says | the primary's host lost its memory, and its copy is no good either |
| unavailable | NO_GOOD_COPY | the same, and no cold start is possible yet |
| unavailable | WAITING_FOR_ETCD | a change of members cannot be recorded; nothing is acknowledged before |
| unavailable | MIRROR_LOST | it is being recorded |
| unavailable | NEEDS_MIRROR | no other host is in sync, and the volume's policy is not to go on alone |
| unavailable | what the worker says | e.g. DISK_FAILED, NO_SPACE, STORE_ABSENT |
| degraded | what the worker says | it serves, and something is wrong all the same |
| degraded | SYNCING | it goes on alone, and a host is being brought up to date, or recorded as in sync |
| degraded | SYNC_WAITS | it goes on alone; a host is back, and waits for its turn (syncs.py) |
| degraded | MIRROR_LOST | it goes on alone |
| degraded | EXPORT_TROUBLE | |
| degraded | what the worker says of its origin | it is still being copied, and that does not go on |
| degraded | HYDRATING | it is still being copied |
| healthy | | |
"""

from collections.abc import Iterable
from dataclasses import dataclass

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.limits import MIB
from holdfast.replicator.hydrate import ORIGIN_LOST
from holdfast.target import reports as say
from holdfast.target.control import Observed
from holdfast.target.membership import Leases, cold_start_possible
from holdfast.target.role_names import JOINER
from holdfast.target.roles import joiners, members_seen

_Word = tuple["r.HealthState.ValueType", str, str]
_UNAVAILABLE, _DEGRADED = r.HEALTH_STATE_UNAVAILABLE, r.HEALTH_STATE_DEGRADED


@dataclass(frozen=True)
class Known:
    """What is known besides assignment and worker."""

    boot_id: str
    leases: Leases | None
    trouble: str = ""
    """What keeps the worker or the export from working, one sentence."""
    etcd_away: bool = False
    """The change of members that is wanted cannot be recorded: etcd does not answer."""


def health(assignment: r.Assignment, role: str, observed: Observed | None, known: Known) -> say.Health | None:
    """None while there is nothing to say: the worker is starting, or has not heard of this epoch."""
    if observed is None:
        word = (_UNAVAILABLE, "WORKER_DOWN", known.trouble) if known.trouble else None
    elif role == JOINER:
        word = _without_primary(assignment, observed, known)
    elif observed.serving:
        word = _serving(assignment, observed, known)
    else:
        word = _not_serving(assignment, observed, known)
    if word is None:
        return None
    if observed is None:
        return say.Health(assignment.epoch, *word)
    copied = observed.hydrate_remaining_bytes, observed.hydrate_total_bytes, observed.hydrate_rate_bytes_s
    return say.Health(assignment.epoch, *word, *copied)


def _without_primary(assignment: r.Assignment, observed: Observed, known: Known) -> _Word | None:
    """The recorded primary restarted. If a member lives on, it takes over at once, and says how it is."""
    boots = {peer.host_id: peer.boot_id for peer in assignment.peers if peer.boot_id}
    if known.leases is None or any(known.leases.get(host_id) == boot for host_id, boot in boots.items()):
        return None
    if observed.reason not in ("", "RING_FAILED"):
        return _UNAVAILABLE, observed.reason, observed.message
    if cold_start_possible(assignment, known.boot_id, known.leases):
        return None
    away = _names(host_id for host_id in boots if host_id not in known.leases)
    return (
        _UNAVAILABLE,
        "NO_GOOD_COPY",
        f"Host {assignment.host_id} restarted, and {away} does not answer: only that host may hold every "
        "acknowledged write. Bring it back and the volume starts by itself; if it is gone for good, "
        "`holdfast volume force-start` goes on with what another host has, and loses the rest.",
    )


def _not_serving(assignment: r.Assignment, observed: Observed, known: Known) -> _Word | None:
    members = members_seen(assignment, known.boot_id)
    if observed.wants_leave_out:
        lost = _names(observed.wants_leave_out)
        if known.etcd_away:
            return (
                _UNAVAILABLE,
                "WAITING_FOR_ETCD",
                f"The mirror {lost} is out of reach, and so is etcd, where that must be recorded before "
                "writes go on. Bring either back.",
            )
        return (
            _UNAVAILABLE,
            "MIRROR_LOST",
            f"The mirror {lost} is out of reach; writes wait until it is left out. Nothing need be done.",
        )
    if assignment.needs_mirror and len(members) < 2 and observed.reason in ("", "NEEDS_MIRROR"):
        return (
            _UNAVAILABLE,
            "NEEDS_MIRROR",
            "No mirror is in sync, and this volume writes to two hosts or not at all: writes wait for one."
            + _about_joiners(assignment, observed),
        )
    if not observed.reason:
        return None
    return _UNAVAILABLE, observed.reason, observed.message


def _serving(assignment: r.Assignment, observed: Observed, known: Known) -> _Word:
    if observed.reason:
        return _DEGRADED, observed.reason, observed.message
    if len(members_seen(assignment, known.boot_id)) < 2:
        return _DEGRADED, _alone(observed), _writes(observed) + _about_joiners(assignment, observed)
    if known.trouble:
        return _DEGRADED, "EXPORT_TROUBLE", known.trouble
    if observed.hydrate_remaining_bytes:
        return _hydrating(observed)
    return r.HEALTH_STATE_HEALTHY, "", ""


def _hydrating(observed: Observed) -> _Word:
    sentence = "It is still being copied from the snapshot it was made from; it can be used meanwhile."
    if not observed.hydrate_reason:
        return _DEGRADED, "HYDRATING", sentence
    lost = observed.hydrate_reason == ORIGIN_LOST
    waits = (
        "Reads of that fail: write it anew" if lost else "Reads of what is missing wait; it goes on by itself"
    )
    return _DEGRADED, observed.hydrate_reason, f"{sentence} But {observed.hydrate_message} {waits}."


def _alone(observed: Observed) -> str:
    """The reason, while nobody else is recorded as in sync."""
    if observed.syncs or observed.bound:
        return "SYNCING"
    return "SYNC_WAITS" if observed.joining else "MIRROR_LOST"


def _writes(observed: Observed) -> str:
    hosts = "two hosts" if observed.bound else "one host only"
    disk = "the disk of this one" if observed.bound else "its disk"
    return f"Writes go to {hosts}, each to {disk} before it is acknowledged."


def _about_joiners(assignment: r.Assignment, observed: Observed) -> str:
    """What is happening to the hosts that should be in sync, and what to do."""
    waiting = sorted(peer.host_id for peer in joiners(assignment))
    if not waiting:
        return " No other host is assigned: one will be as soon as there is room."
    told = "".join(_about_attached(host_id, observed) for host_id in waiting)
    away = [host_id for host_id in waiting if host_id not in _attached(observed)]
    if not away:
        return told
    return (
        f"{told} {_names(away)} is to join as soon as it answers: bring it back, or another takes its place "
        "in time. What ails one that is there, its own host says (replica_troubles)."
    )


def _attached(observed: Observed) -> set[str]:
    return {*observed.joining, *observed.bound, *(one.host_id for one in observed.syncs)}


def _about_attached(host_id: str, observed: Observed) -> str:
    """One sentence; nothing of a host that is away."""
    for one in observed.syncs:
        if one.host_id == host_id:
            left, total = one.remaining_bytes // MIB, one.total_bytes // MIB
            duration = _duration(one.remaining_bytes, one.rate_bytes_s)
            return f" Host {host_id} is being brought up to date: {left} MiB of {total} MiB to go{duration}."
    if host_id in observed.bound:
        return f" Host {host_id} is up to date and is being recorded as in sync; nothing need be done."
    if host_id in observed.joining:
        return (
            f" Host {host_id} is back and waits for its turn to be brought up to date; nothing need be done."
        )
    return ""


def _duration(remaining_bytes: int, rate_bytes_s: int) -> str:
    if rate_bytes_s <= 0:
        return ""
    seconds = remaining_bytes / rate_bytes_s
    return f", about {seconds / 60:.0f} min" if seconds >= 120 else f", about {max(1, round(seconds))} s"


def _names(hosts: Iterable[str]) -> str:
    return ", ".join(sorted(hosts))


def sync_progress(assignment: r.Assignment, observed: Observed) -> say.SyncProgress:
    """Of the joiner that is furthest behind; all 0 while none is being brought up to date."""
    worst = max(observed.syncs, key=lambda one: one.remaining_bytes, default=None)
    if worst is None:
        return say.SyncProgress(assignment.epoch)
    return say.SyncProgress(assignment.epoch, worst.remaining_bytes, worst.total_bytes, worst.rate_bytes_s)


def copy_trouble(
    assignment: r.Assignment, role: str, observed: Observed | None, trouble: str
) -> say.CopyTrouble | None:
    """Why a copy that is not in sync cannot be brought up to date: its primary cannot know.

    None while there is nothing to say: it is in sync, or the worker is starting.
    """
    if role != JOINER:
        return None
    if observed is None:
        return say.CopyTrouble(assignment.epoch, "WORKER_DOWN", trouble) if trouble else None
    return say.CopyTrouble(assignment.epoch, observed.reason, observed.message)


def verify_progress(assignment: r.Assignment, observed: Observed) -> say.VerifyProgress | None:
    """How far the comparison that was asked for has come; None if none was, or the worker has not begun."""
    found = observed.verify
    if found is None or not assignment.verify_request or found.request != assignment.verify_request:
        return None
    if found.running:
        state = r.VERIFY_STATE_RUNNING
    else:
        state = r.VERIFY_STATE_FAILED if found.failed else r.VERIFY_STATE_DONE
    return say.VerifyProgress(
        assignment.epoch,
        found.request,
        state,
        found.done_bytes,
        found.total_bytes,
        found.differing_bytes,
        found.repaired_bytes,
        found.failed,
    )
