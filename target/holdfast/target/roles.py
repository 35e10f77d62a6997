"""What an assignment says about who is what, for this host in this boot: pure."""

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.target.role_names import JOINER, MIRROR, PRIMARY


def role_here(assignment: r.Assignment, boot_id: str) -> str:
    """A host in another boot than the one that is in sync has lost its memory: whatever is written, it is
    a joiner until somebody has brought it up to date, or a cold start has chosen it.
    """
    if assignment.boot_id != boot_id:
        return JOINER
    return {r.ROLE_PRIMARY: PRIMARY, r.ROLE_MIRROR: MIRROR}.get(assignment.role, JOINER)


def members_seen(assignment: r.Assignment, boot_id: str) -> tuple[str, ...]:
    """The hosts that are in sync, in order; this one only if it is so in this boot."""
    found = [peer.host_id for peer in assignment.peers if peer.boot_id]
    if role_here(assignment, boot_id) != JOINER:
        found.append(assignment.host_id)
    return tuple(sorted(found))


def peer_of(assignment: r.Assignment, host_id: str) -> r.Peer | None:
    return next((peer for peer in assignment.peers if peer.host_id == host_id), None)


def joiners(assignment: r.Assignment) -> list[r.Peer]:
    """Other assigned hosts that are not in sync."""
    return [peer for peer in assignment.peers if not peer.boot_id]
