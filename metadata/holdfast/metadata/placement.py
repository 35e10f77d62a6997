"""Where a new volume goes: two different live hosts with room, the one with most room first. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import BadInput, Exhausted, Precondition
from holdfast.base.limits import NBD_PORT_END, NBD_PORT_FIRST


@dataclass(frozen=True)
class Candidate:
    """A storage host as placement sees it. `live`: its agent's lease is held by the boot it registered.

    One that is being drained gets nothing, live or not.
    """

    host_id: str
    live: bool
    exports: bool
    capacity_bytes: int
    allocated_bytes: int
    draining: bool = False


def candidate_of(host: r.HostRecord, live_boot_id: str) -> Candidate:
    return Candidate(
        host.host_id,
        bool(live_boot_id) and live_boot_id == host.boot_id,
        host.exports,
        host.capacity_bytes,
        host.allocated_bytes,
        host.draining,
    )


def free_bytes(candidate: Candidate, overcommit: float) -> int:
    """May be negative: the room that is left, if `overcommit` times the capacity may be promised."""
    return int(candidate.capacity_bytes * overcommit) - candidate.allocated_bytes


def place(candidates: Sequence[Candidate], size_bytes: int, overcommit: float) -> tuple[str, str]:
    """The ids of the primary and of the mirror.

    Hosts that can export come first, then those with most room, then by id: the same hosts always give
    the same answer. Raises BadInput SIZE_TOO_LARGE, Precondition NO_SECOND_HOST, Exhausted NO_ROOM.
    """
    largest = max((int(one.capacity_bytes * overcommit) for one in candidates), default=0)
    if candidates and size_bytes > largest:
        raise BadInput(
            "SIZE_TOO_LARGE",
            f"A volume of {size_bytes} bytes fits on no storage host: the largest holds {largest} bytes.",
        )
    live = [one for one in candidates if one.live and not one.draining]
    if len(live) < 2:
        raise Precondition(
            "NO_SECOND_HOST",
            "A volume needs two live storage hosts that are not being drained, and there "
            f"{'is' if len(live) == 1 else 'are'} {len(live)}: start another.",
        )
    roomy = [one for one in live if free_bytes(one, overcommit) >= size_bytes]
    if len(roomy) < 2:
        raise Exhausted(
            "NO_ROOM",
            f"{len(roomy)} of {len(live)} live storage hosts have room for {size_bytes} bytes, and two are "
            "needed: add hosts, or delete volumes.",
        )
    roomy.sort(key=lambda one: _preference(one, overcommit))
    return roomy[0].host_id, roomy[1].host_id


def place_another(
    candidates: Sequence[Candidate], size_bytes: int, overcommit: float, besides: Collection[str]
) -> str | None:
    """The host for one more replica of a volume that `besides` hold; None if none has room."""
    fit = [one for one in candidates if one.live and not one.draining and one.host_id not in besides]
    fit = [one for one in fit if free_bytes(one, overcommit) >= size_bytes]
    return min(fit, key=lambda one: _preference(one, overcommit)).host_id if fit else None


def _preference(candidate: Candidate, overcommit: float) -> tuple[bool, int, str]:
    return (not candidate.exports, -free_bytes(candidate, overcommit), candidate.host_id)


def next_port(next_nbd_port: int, in_use: Collection[int]) -> tuple[int, int]:
    """A free NBD port of a host, going round [NBD_PORT_FIRST, NBD_PORT_END), and where to look next time.

    Going round keeps a port unused for long after its volume was deleted. Raises Exhausted NO_ROOM.
    """
    count = NBD_PORT_END - NBD_PORT_FIRST
    start = next_nbd_port if NBD_PORT_FIRST <= next_nbd_port < NBD_PORT_END else NBD_PORT_FIRST
    for step in range(count):
        port = NBD_PORT_FIRST + (start - NBD_PORT_FIRST + step) % count
        if port not in in_use:
            return port, NBD_PORT_FIRST + (port - NBD_PORT_FIRST + 1) % count
    raise Exhausted("NO_ROOM", f"A storage host holds {count} volumes, the most it can: add hosts.")
