"""The cases, by name: what is done, and how long I/O may pause meanwhile."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faults
from faults import Fault
from stage import LEASE_TTL_S

SIDES = ("primary", "mirror")
FAILOVER_S = LEASE_TTL_S + 3.0
"""From the loss of the primary to the first write completed at the mirror."""
_LEFT_OUT_S = 8.0
"""A silent mirror is noticed after 4 s, and recorded as gone."""
_RESTART_S = 10.0
_UNNOTICED_S = 3.0
_FENCED_S = 15.0
"""A primary that has lost its right answers BUSY within 10 s; then the other path is tried."""
_PATH_MOVE_S = 20.0
_REBOOT_LEASE_S = 30


@dataclass(frozen=True)
class Case:
    """`pause_limit_s` is counted without what the fault holds; `holds_io`: the hold is added to it."""

    name: str
    fault: Fault
    pause_limit_s: float
    quick: bool = False
    lease_ttl_s: int = LEASE_TTL_S
    holds_io: bool = False
    needs_room: bool = False  # the volume is discarded first, so that each write allocates
    moves: bool | None = None  # whether the other host must be primary afterwards; None: either
    most_moves: int = 2
    moves_for_path: bool = False  # because its initiator has lost the primary


def _pair(name: str, make: Callable[[str], Fault], limits_s: tuple[float, float], **more: Any) -> list[Case]:
    return [
        Case(f"{side}-{name}", make(side), limit_s, **more)
        for side, limit_s in zip(SIDES, limits_s, strict=True)
    ]


def _link(name: str, *links: tuple[str, str], limit_s: float, **more: Any) -> list[Case]:
    """A link cut whole, then each way by itself."""
    back = tuple((b, a) for a, b in links)
    a, b = name.split("+")[0], name.split("+")[1]
    return [
        Case(f"cut-{a}-{b}", faults.cut(*links), limit_s, **more),
        Case(f"cut-{a}-to-{b}", faults.cut(*links, one_way=True), limit_s),
        Case(f"cut-{b}-to-{a}", faults.cut(*back, one_way=True), limit_s),
    ]


CASES: list[Case] = [
    Case("primary-power-off", faults.power_off("primary"), FAILOVER_S, quick=True, moves=True),
    Case("mirror-power-off", faults.power_off("mirror"), _LEFT_OUT_S, moves=False),
    *_pair("fast-reboot", faults.fast_reboot, (_FENCED_S, _LEFT_OUT_S), lease_ttl_s=_REBOOT_LEASE_S),
    Case("primary-frozen", faults.frozen("primary"), FAILOVER_S, quick=True, moves=True),
    Case("mirror-frozen", faults.frozen("mirror"), _LEFT_OUT_S, moves=False),
    Case("primary-worker-killed", faults.worker_killed("primary"), _RESTART_S),
    Case("mirror-worker-killed", faults.worker_killed("mirror"), _RESTART_S),
    Case("primary-worker-stopped", faults.worker_stopped("primary"), _RESTART_S, holds_io=True),
    Case("mirror-worker-stopped", faults.worker_stopped("mirror"), _LEFT_OUT_S),
    *_pair("agent-killed", faults.agent_killed, (_UNNOTICED_S, _UNNOTICED_S)),
    *_pair("agent-stopped", faults.agent_stopped, (_UNNOTICED_S, _UNNOTICED_S)),
    *_link("primary+mirror", ("primary", "mirror"), limit_s=_FENCED_S),
    *_link("primary+etcd", ("primary", "etcd"), limit_s=_UNNOTICED_S),
    *_link(
        "primary+all-hosts",
        ("primary", "mirror"),
        ("primary", "etcd"),
        limit_s=_FENCED_S,
        quick=True,
        moves=True,
    ),
    Case("cut-mirror-etcd", faults.cut(("mirror", "etcd")), _UNNOTICED_S, moves=False),
    Case(
        "cut-mirror-all-hosts",
        faults.cut(("mirror", "primary"), ("mirror", "etcd")),
        _LEFT_OUT_S,
        moves=False,
    ),
    Case(
        "cut-initiator-primary",
        faults.cut(("initiator", "primary")),
        20.0,
        moves=True,
        most_moves=1,
        moves_for_path=True,
    ),
    Case("cut-initiator-mirror", faults.cut(("initiator", "mirror")), _UNNOTICED_S, moves=False),
    Case("etcd-killed", faults.etcd_killed, _UNNOTICED_S, moves=False),
    *_pair("disk-full", faults.disk_full, (_LEFT_OUT_S, _LEFT_OUT_S), needs_room=True),
    *_pair("disk-broken", faults.disk_broken, (_LEFT_OUT_S, _LEFT_OUT_S)),
]

SABOTAGE = Case("sabotage", faults.mirror_spoilt, _UNNOTICED_S)
"""Must fail. Played only if asked for by name."""
