"""The cases, by name: what is done, and how long I/O may pause meanwhile."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import copies
import faults
import full
import moves
import waits
from faults import Fault
from load import FIO_MIB
from stage import LEASE_TTL_S, THREE
from volume import Made

from holdfast.lab.cluster import STORAGE_NAMES

SIDES = ("primary", "mirror")
FAILOVER_S = LEASE_TTL_S + 3.0
"""From the loss of the primary to the first write completed at the mirror."""
_FAILOVER_WITHOUT_ETCD_S = 2 * LEASE_TTL_S + 3.0
"""The same when etcd has lost its leader: two leases and 3 s, and the election, which the fault measures."""
_LEFT_OUT_S = 8.0
"""A silent mirror is noticed after 4 s, and recorded as gone."""
_RESTART_S = 10.0
_UNNOTICED_S = 3.0
_FENCED_S = 15.0
"""A primary that has lost its right answers BUSY within 10 s; then the other path is tried."""
_PATH_MOVE_S = 20.0
_REBOOT_LEASE_S = 30
_PLANNED_S = 3.0
LONG_HOLD_S = 60.0
"""Longer than any patience of the initiator's: than its timeout of a command, and its tries of a path."""
_LITTLE_MIB = 16
"""What may be copied after an outage in which one place of 4 MiB was written to."""

_SOME_MIB = 32
_FEW_MIB = 8
"""Less than tells what was compared from what was copied; and soon brought back while writes wait for it."""


@dataclass(frozen=True)
class Case:
    """`pause_limit_s` is counted without what the fault holds; `holds_io`: the hold is added to it, and I/O
    must have stood still for most of it if `must_hold`.
    """

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
    long: bool = False  # the fault must last
    must_hold: bool = False
    once: bool = False  # in a row: a volume is moved for this, and then for a quarter of an hour not again
    storage: tuple[str, ...] = STORAGE_NAMES
    made: Made | None = None  # a volume of its own
    made_fio_mib: int = 0  # on that, where fio may write; else the pulse is alone
    resync_limit_mib: int | None = None

    @property
    def fio_mib(self) -> int:
        return FIO_MIB if self.made is None else self.made_fio_mib

    @property
    def plain(self) -> bool:
        """Whether it can be played in a row with any others, on their volume."""
        return self.made is None and self.storage == STORAGE_NAMES and self.lease_ttl_s == LEASE_TTL_S


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
    Case(
        "primary-power-off-and-etcd-restart",
        faults.power_off_and_etcd_restart,
        _FAILOVER_WITHOUT_ETCD_S,
        moves=True,
    ),
    Case("mirror-power-off", faults.power_off("mirror"), _LEFT_OUT_S, moves=False),
    *_pair("fast-reboot", faults.fast_reboot, (_FENCED_S, _LEFT_OUT_S), lease_ttl_s=_REBOOT_LEASE_S),
    Case("primary-frozen", faults.primary_frozen, FAILOVER_S, quick=True, moves=True, long=True),
    Case("mirror-frozen", faults.mirror_frozen, _LEFT_OUT_S, moves=False, long=True),
    Case("primary-worker-killed", faults.worker_killed("primary"), _RESTART_S),
    Case("mirror-worker-killed", faults.worker_killed("mirror"), _RESTART_S),
    Case("primary-worker-crash-loops", faults.worker_crash_loops, 2 * _RESTART_S, moves=True, once=True),
    Case("primary-worker-stopped", faults.worker_stopped("primary"), _RESTART_S, holds_io=True, long=True),
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
        long=True,
    ),
    Case("cut-initiator-mirror", faults.cut(("initiator", "mirror")), _UNNOTICED_S, moves=False),
    Case("etcd-killed", faults.etcd_killed, _UNNOTICED_S, moves=False, long=True),
    Case(
        "mirror-and-etcd-lost",
        waits.mirror_and_etcd,
        _RESTART_S,
        moves=False,
        long=True,
        holds_io=True,
        must_hold=True,
    ),
    *_pair("disk-full", faults.disk_full, (_LEFT_OUT_S, _LEFT_OUT_S), needs_room=True),
    *_pair("disk-broken", faults.disk_broken, (_LEFT_OUT_S, _LEFT_OUT_S)),
    Case("primary-disk-broken-out-of-reach", faults.disk_broken_out_of_reach, _FENCED_S, moves=True),
    Case("switch-there-and-back", moves.switch, _PLANNED_S, moves=False),
    Case("verify-finds-and-repairs", copies.verify, _PLANNED_S, moves=False),
    Case("drain-refused", moves.drain_refused, _PLANNED_S),
    Case(
        "mirror-lost-and-needed",
        waits.mirror_needed,
        _RESTART_S,
        moves=False,
        holds_io=True,
        must_hold=True,
        made=Made(words=("--needs-mirror",)),
        made_fio_mib=_FEW_MIB,
    ),
    Case("last-copy-full", full.last_copy, _LEFT_OUT_S, moves=False, made=Made(fill_mib=8)),
    *_pair(
        "outage-with-little-written",
        copies.short_outage,
        (FAILOVER_S, _LEFT_OUT_S),
        made=Made(size_mib=2048, fill_mib=96),
        resync_limit_mib=_LITTLE_MIB,
    ),
    Case(
        "bitmap-lost",
        copies.bitmap_lost,
        _RESTART_S,
        moves=False,
        made=copies.FILLED,
        made_fio_mib=_FEW_MIB,
    ),
    Case("mirror-of-other-history", copies.other_history, _LEFT_OUT_S, moves=False, made=copies.FILLED),
    Case("mirror-with-new-disk", copies.new_disk, _LEFT_OUT_S, moves=False, made=copies.FILLED),
    Case("mirror-with-unrelated-data", copies.unrelated, _LEFT_OUT_S, moves=False, made=copies.FILLED),
    Case(
        "drain",
        moves.drain,
        _PLANNED_S,
        moves=True,
        storage=THREE,
        made=Made(fill_mib=32),
        made_fio_mib=_SOME_MIB,
    ),
    Case(
        "mirror-disk-gone",
        moves.disk_gone,
        _LEFT_OUT_S,
        moves=False,
        storage=THREE,
        made=Made(fill_mib=8),
        made_fio_mib=_SOME_MIB,
    ),
    Case(
        "storm-brake",
        moves.storm,
        _LEFT_OUT_S,
        moves=False,
        storage=THREE,
        made=Made(fill_mib=8),
        made_fio_mib=_SOME_MIB,
    ),
]

SABOTAGE = Case("sabotage", faults.mirror_spoilt, _UNNOTICED_S)
"""Must fail. Played only if asked for by name."""
