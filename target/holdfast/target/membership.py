"""When a volume's membership must change, and to what, as its agent on this host sees it: pure.

The worker says what it wants, and never sees etcd; the assignment says what is recorded; the leases say which
boots live. From these comes at most one change at a time, which is sent as a transaction that checks all of
it again (metadata's replica_changes.py): a decision from old news is refused there, never wrong.

| role here | change | when |
|---|---|---|
| primary | crash_move | its worker does not stay (workers.py), and a member holds its lease |
| primary | leave_out | the worker wants it: members are lost, or a join must be fenced |
| primary | resign | its disk failed, and a member that it just heard of lives (who is not left out before) |
| primary | release | it wants to resign and hears from no member, but one holds its lease |
| primary | hand_over | it has yielded because it was asked to, and that host lives |
| primary | leave_out | it has yielded to a host that does not live any more: nothing else ends the epoch |
| primary | join | the worker wants it, and that boot of the joiner lives |
| primary | path_move | a mirror refused I/O, and no initiator has been logged in here for PATH_AWAY_S |
| mirror | take_over | its beacon lease has expired (I-3), and the primary does not live, or has released |
| joiner | renounce | its copy is bad, and is to be thrown away (rebuilding.py) |
| joiner | cold_start | no member has kept its memory, all are back, and the copy here is whole |

Leases detect death, they do not fence (I-3): what keeps a wrongly declared primary from acknowledging is
that its mirror takes no more of its writes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.limits import PATH_AWAY_S
from holdfast.target import reports as say
from holdfast.target.control import Observed
from holdfast.target.rebuilding import is_bad
from holdfast.target.reports import Change
from holdfast.target.role_names import JOINER, MIRROR, PRIMARY
from holdfast.target.roles import peer_of, role_here

COLD_START_WAIT_S = 3.0
"""The recorded primary's host starts a volume cold at once; other members give it so much time."""

Leases = Mapping[str, str]
"""The boot of each host whose agent holds its lease."""


@dataclass(frozen=True)
class Circumstances:
    """What is known here and now, besides assignment and worker."""

    boot_id: str
    leases: Leases | None
    """None until they were listed once: nothing is decided before."""
    cold_possible_s: float = 0.0
    """For how long `cold_start_possible` has held without a break."""
    path_cut_s: float = 0.0
    """For how long initiators whose I/O a mirror refuses have had no session here (volume_sessions.py)."""
    renounced_epoch: int = 0
    """See rebuilding.py."""
    crash_looping: bool = False
    """The worker has ended again and again, each time soon after its start."""


def decide(
    assignment: r.Assignment | None, host_id: str, observed: Observed | None, now: Circumstances
) -> Change | None:
    """The change to ask for, or None. Asked again as long as it holds, until the assignment has changed."""
    if assignment is None or assignment.deleting or now.leases is None:
        return None
    role = role_here(assignment, now.boot_id)
    if role == PRIMARY and now.crash_looping and _heirs(assignment, now.leases) and not _released(assignment):
        return say.CrashMove(assignment.epoch)
    if observed is None or (observed.epoch, observed.role) != (assignment.epoch, role):
        return None
    if role == PRIMARY:
        return _as_primary(assignment, observed, now, now.leases)
    if role == MIRROR:
        return _as_mirror(assignment, observed, now, now.leases)
    return _as_joiner(assignment, host_id, observed, now, now.leases)


def _as_primary(
    assignment: r.Assignment, observed: Observed, now: Circumstances, leases: Leases
) -> Change | None:
    epoch = assignment.epoch
    resignation = _resignation(assignment, observed, leases)
    if resignation is not None:
        # Before anybody is left out: it may be the one who has the only sound copy.
        return resignation
    if observed.wants_resign and not observed.yielded and _heirs(assignment, leases):
        return say.Release(epoch) if observed.gives_up and not _released(assignment) else None
    if observed.wants_leave_out:
        return say.LeaveOut(epoch, observed.wants_leave_out)
    if observed.yielded and not observed.wants_resign:
        return _yielded(assignment, leases)
    joiner = peer_of(assignment, observed.wants_join) if observed.wants_join else None
    if joiner is not None and leases.get(joiner.host_id) == observed.wants_join_boot != "":
        return say.Join(epoch, joiner.host_id, observed.wants_join_boot)
    return _path_move(assignment, observed, now, leases)


def _resignation(assignment: r.Assignment, observed: Observed, leases: Leases) -> Change | None:
    """Without an heir it stays: it would be asked in vain."""
    heirs = [host for host in _heirs(assignment, leases) if host in observed.heirs]
    if not (observed.wants_resign and heirs):
        return None
    wanted = assignment.yield_to_host_id
    return say.Resign(assignment.epoch, wanted if wanted in heirs else heirs[0])


def _yielded(assignment: r.Assignment, leases: Leases) -> Change | None:
    heirs = _heirs(assignment, leases)
    wanted = assignment.yield_to_host_id
    if wanted in heirs:
        return say.HandOver(assignment.epoch, wanted)
    return say.LeaveOut(assignment.epoch, (wanted,)) if wanted else None


def _path_move(
    assignment: r.Assignment, observed: Observed, now: Circumstances, leases: Leases
) -> Change | None:
    """Only when everything else is well: the mirror must be able to take it at once."""
    attached = any(not one.detaching for one in assignment.attachments)
    well = observed.serving and observed.peer_connected and not assignment.yield_to_host_id
    if not (attached and well and now.path_cut_s >= PATH_AWAY_S):
        return None
    heirs = _heirs(assignment, leases)
    return say.PathMove(assignment.epoch, heirs[0]) if heirs else None


def _as_mirror(
    assignment: r.Assignment, observed: Observed, now: Circumstances, leases: Leases
) -> Change | None:
    primary = peer_of(assignment, assignment.primary_host_id)
    if primary is None or (_keeps_memory(primary, leases) and not _released(assignment)):
        return None
    if not observed.may_take_over or not observed.store_open or observed.suspect:
        return None
    return say.TakeOver(assignment.epoch, now.boot_id)


def _as_joiner(
    assignment: r.Assignment, host_id: str, observed: Observed, now: Circumstances, leases: Leases
) -> Change | None:
    if is_bad(assignment, observed):
        return say.Renounce(assignment.epoch) if not now.renounced_epoch else None
    if not cold_start_possible(assignment, now.boot_id, leases):
        return None
    if not observed.store_open or observed.suspect or not observed.consistent:
        return None
    if observed.reason not in ("", "RING_FAILED"):
        return None
    if observed.store_empty and assignment.initialized:
        # It is not the copy that is in the set: that one is not in its place.
        return None
    if host_id != assignment.primary_host_id and now.cold_possible_s < COLD_START_WAIT_S:
        return None
    return say.ColdStart(assignment.epoch, now.boot_id)


def cold_start_possible(assignment: r.Assignment, boot_id: str, leases: Leases) -> bool:
    """This host is a member, and every member lives in another boot than the one that was in sync."""
    if role_here(assignment, boot_id) != JOINER or not assignment.boot_id:
        return False
    boots = {peer.host_id: peer.boot_id for peer in assignment.peers if peer.boot_id}
    boots[assignment.host_id] = assignment.boot_id
    return all(leases.get(host_id, "") not in ("", boot) for host_id, boot in boots.items())


def _released(assignment: r.Assignment) -> bool:
    return assignment.released_epoch == assignment.epoch


def _heirs(assignment: r.Assignment, leases: Leases) -> list[str]:
    return [peer.host_id for peer in assignment.peers if _keeps_memory(peer, leases)]


def _keeps_memory(peer: r.Peer, leases: Leases) -> bool:
    """It is in sync, and lives in the boot that is."""
    return peer.boot_id != "" and leases.get(peer.host_id) == peer.boot_id
