"""Between what an agent says (control.py) and what a replica is told, and reports."""

from collections.abc import Callable
from typing import Protocol

from holdfast.base.device import Device
from holdfast.base.limits import SYNC_MAX_BYTES_S
from holdfast.replicator.chores import Snapshots
from holdfast.replicator.following import Role
from holdfast.replicator.gate import Gate, GateWanted, Step
from holdfast.replicator.hydrate import Source
from holdfast.replicator.mirror import MirrorExport
from holdfast.replicator.pace import Limits
from holdfast.replicator.replica import ReplicaReport
from holdfast.replicator.state import State
from holdfast.replicator.verify import Verification
from holdfast.replicator.wanted import Wanted
from holdfast.target.control import (
    Desired,
    Observed,
    ObservedGate,
    ObservedSnapshot,
    ObservedSync,
    ObservedVerify,
)


class ReplicaLike(Protocol):
    """holdfast.replicator.replica.Replica, as far as a worker needs it."""

    on_change: Callable[[], None]

    @property
    def device(self) -> Device: ...

    @property
    def drained(self) -> bool: ...

    def apply(self, wanted: Wanted) -> None: ...

    def use_source(self, source: Source | None) -> None: ...

    def open_session(self, peer: str, epoch: int) -> MirrorExport: ...

    def report(self) -> ReplicaReport: ...

    def close(self) -> None: ...


def wanted_of(desired: Desired) -> Wanted:
    return Wanted(
        role=Role(desired.role),
        epoch=desired.epoch,
        members=frozenset(desired.members),
        peers=tuple(sorted(peer.host_id for peer in desired.peers)),
        yield_to=desired.yield_to,
        needs_mirror=desired.needs_mirror,
        # In a set whose copies were all made, one that never was in sync is not the one that is meant.
        may_be_new=not desired.initialized,
        accept_half_synced=desired.accept_half_synced,
        may_sync=desired.may_sync,
        sync_max_bytes_s=desired.sync_max_bytes_s,
        verify_request=desired.verify_request,
        verify_rate_bytes_s=desired.verify_rate_bytes_s or SYNC_MAX_BYTES_S,
        limits=Limits(desired.limit_iops, desired.limit_bytes_s),
        snapshots=Snapshots(
            freeze=tuple(one.uid for one in desired.snapshots if one.freeze),
            keep=tuple(one.uid for one in desired.snapshots if not one.freeze),
            groups=tuple(
                (one.uid, GateWanted(one.gate.attempt, Step(one.gate.step), one.gate.token))
                for one in desired.snapshots
                if one.freeze and one.gate is not None
            ),
        ),
    )


def observed_of(desired: Desired, report: ReplicaReport, state: State, suspect: str) -> Observed:
    """What the agent is told, but for the ring, the snapshots, and troubles outside the replica.

    While a role is being taken there is none, and nothing is wanted; a failure of that is the role's.
    """
    begun = report.role is not None
    role = report.role.value if report.role else (desired.role if report.reason else "")
    return Observed(
        volume_uid=desired.volume_uid,
        role=role,
        epoch=report.epoch if begun else desired.epoch,
        store_open=True,
        peer_connected=report.connected,
        serving=report.serving,
        # The one trouble of a primary that has no name: its disk failed a request.
        reason=report.reason or (("DISK_FAILED" if suspect else "NO_SPACE") if report.message else ""),
        message=report.message,
        hydrate_remaining_bytes=report.hydrate_remaining_bytes,
        hydrate_total_bytes=report.hydrate_total_bytes,
        hydrate_rate_bytes_s=report.hydrate_rate_bytes_s,
        hydrate_reason=report.hydrate_trouble[0],
        hydrate_message=report.hydrate_trouble[1],
        wants_leave_out=report.wants_leave_out,
        wants_join=report.wants_join,
        wants_join_boot=report.wants_join_boot,
        yielded=report.yielded,
        heirs=report.heirs,
        wants_resign=report.wants_resign,
        gives_up=report.gives_up,
        may_take_over=report.may_take_over,
        standby_io_age_s=report.standby_io_age_s,
        suspect=suspect != "",
        consistent=state.consistent,
        store_empty=state.synced_epoch == 0,
        syncs=tuple(
            ObservedSync(one.host_id, one.remaining_bytes, one.total_bytes, one.rate_bytes_s)
            for one in report.syncs
        ),
        joining=report.joining,
        syncable=report.syncable,
        left_bytes=report.left_bytes,
        bound=report.bound,
        verify=_verify(report.verification),
    )


def snapshots_of(
    desired: Desired, report: ReplicaReport, state: State, lost: dict[str, str]
) -> tuple[ObservedSnapshot, ...]:
    """What there is of each snapshot that is listed."""
    ready, gates = dict(report.frozen), dict(report.gates)
    found = []
    for uid in (snapshot.uid for snapshot in desired.snapshots):
        view, gate = state.views.get(uid), _gate(gates.get(uid))
        if uid in lost:
            found.append(ObservedSnapshot(uid, False, failed=lost[uid]))
        elif view is not None and uid in ready:
            also_on = ready[uid]
            found.append(
                ObservedSnapshot(uid, True, view.generation, view.freeze_time, also_on=also_on, gate=gate)
            )
        else:
            found.append(ObservedSnapshot(uid, False, gate=gate))
    return tuple(found)


def _gate(gate: Gate | None) -> ObservedGate | None:
    if gate is None:
        return None
    return ObservedGate(gate.attempt, gate.state.value, gate.token, gate.reason)


def _verify(found: Verification | None) -> ObservedVerify | None:
    if found is None:
        return None
    return ObservedVerify(
        found.request,
        found.running,
        found.done_bytes,
        found.total_bytes,
        found.differing_bytes,
        found.repaired_bytes,
        found.failed,
    )
