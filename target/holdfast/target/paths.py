"""The target port groups of a volume, from what its worker is told: one for each assigned host. Pure.

Every host answers REPORT TARGET PORT GROUPS from the same assignment, so the answers agree as soon as both
have heard of an epoch; what a host says of itself follows its role here, so that one that restarted shows
itself unavailable before anybody else has noticed.
"""

from holdfast.target.control import Desired
from holdfast.target.role_names import MIRROR, PRIMARY
from holdfast.target.scsi.unit import ACTIVE_OPTIMIZED, STANDBY, UNAVAILABLE, PortGroup

_OWN = {PRIMARY: ACTIVE_OPTIMIZED, MIRROR: STANDBY}


def port_groups(desired: Desired) -> tuple[tuple[PortGroup, ...], int]:
    """All groups by their tags, and which of them is this host's (its index).

    The relative port identifier is the group's tag: a group has one port.
    """
    states = {
        peer.portal_group: _of_peer(peer.host_id == desired.primary_host_id, peer.in_sync)
        for peer in desired.peers
        if peer.portal_group
    }
    states[desired.portal_group] = _OWN.get(desired.role, UNAVAILABLE)
    tags = sorted(states)
    return tuple(PortGroup(tag, tag, states[tag]) for tag in tags), tags.index(desired.portal_group)


def told(desired: Desired) -> str:
    """The states in a word, to compare with: "1:0 2:2" are groups 1, active/optimized, and 2, standby."""
    groups, _here = port_groups(desired)
    return " ".join(f"{one.group}:{one.state}" for one in groups)


def _of_peer(primary: bool, in_sync: bool) -> int:
    if not in_sync:
        return UNAVAILABLE
    return ACTIVE_OPTIMIZED if primary else STANDBY
