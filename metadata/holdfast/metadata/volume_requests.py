"""What owners and operators ask of a volume's replicas: decisions over a draft (see cas.py).

What an owner is told names no host: that is for operators.
"""

from dataclasses import dataclass

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import BadInput, Precondition, StaleEpoch
from holdfast.base.limits import LIMIT_MIN_BYTES_S, LIMIT_MIN_IOPS, MIB
from holdfast.metadata import keys, replica_decisions
from holdfast.metadata.assigned import Assignments, timestamp
from holdfast.metadata.cas import Draft
from holdfast.metadata.lookups import volume_of
from holdfast.metadata.replica_record import keeps_memory, live_boots, record_of

VERIFY_DEFAULT_BYTES_S = 64 * MIB
LOSS_MIN_CHARS, LOSS_MAX_CHARS = 10, 500


@dataclass(frozen=True)
class Named:
    """A volume, as it was named in a request that the caller may make."""

    owner: str
    volume_id: str


def switch(draft: Draft, named: Named, to_host_id: str, epoch: int) -> tuple[bool, int]:
    """Ask for another primary: whether that is new, and the epoch. Errors: VolumeService.SwitchPrimary."""
    volume = volume_of(draft, named.owner, named.volume_id)
    replica = record_of(draft, volume.uid)
    if epoch not in (0, replica.epoch):
        raise StaleEpoch(
            f"Volume {named.volume_id!r} is in epoch {replica.epoch} by now, not {epoch}: look at it again."
        )
    if not to_host_id and replica.wanted_primary_host_id:
        return False, replica.epoch
    to_host_id = to_host_id or _heir(draft, named, replica)
    return replica_decisions.request_switch(draft, volume.uid, to_host_id), replica.epoch


def verify(draft: Draft, named: Named, rate_bytes_s: int, now_s: float) -> tuple[int, bool]:
    """Ask for a comparison: its number, and whether it is new. Errors: VolumeService.VerifyVolume."""
    volume = volume_of(draft, named.owner, named.volume_id)
    if volume.verify.state == r.VERIFY_STATE_RUNNING:
        return volume.verify.request, False
    if volume.state != r.VOLUME_STATE_AVAILABLE:
        state = r.VolumeState.Name(volume.state).removeprefix("VOLUME_STATE_")
        raise Precondition("NOT_AVAILABLE", f"Volume {named.volume_id!r} is {state}, not AVAILABLE: wait.")
    replica = record_of(draft, volume.uid)
    if len(replica.in_sync) < 2:
        raise _no_mirror(named)
    rate = rate_bytes_s or VERIFY_DEFAULT_BYTES_S
    asked = r.VerifyStatus(
        request=volume.verify.request + 1,
        state=r.VERIFY_STATE_RUNNING,
        total_bytes=volume.size_bytes,
        start_time=timestamp(now_s),
        rate_bytes_s=rate,
    )
    volume.verify.CopyFrom(asked)
    draft.put(keys.volume(volume.uid), volume)
    assignments = Assignments.read(draft, volume.uid)
    for one in assignments.each:
        one.verify_request, one.verify_rate_bytes_s = asked.request, rate
    assignments.save(draft)
    return asked.request, True


def check_limits(iops: int, bytes_s: int) -> r.VolumeLimits:
    """Raises BadInput BAD_LIMIT."""
    for value, least, what in ((iops, LIMIT_MIN_IOPS, "operations"), (bytes_s, LIMIT_MIN_BYTES_S, "bytes")):
        if value and value < least:
            raise BadInput(
                "BAD_LIMIT", f"{value} {what} a second is less than {least}, the least: ask for more, or 0."
            )
    return r.VolumeLimits(iops=iops, bytes_s=bytes_s)


def limit(draft: Draft, named: Named, limits: r.VolumeLimits) -> tuple[r.VolumeRecord, bool]:
    """Set a volume's limits: the volume, and whether they are new. Errors: VolumeService.LimitVolume."""
    volume = volume_of(draft, named.owner, named.volume_id)
    if volume.state not in (r.VOLUME_STATE_CREATING, r.VOLUME_STATE_AVAILABLE):
        raise Precondition("NOT_AVAILABLE", f"Volume {named.volume_id!r} is being deleted.")
    if volume.limits == limits:
        return volume, False
    _set_limits(volume, limits)
    draft.put(keys.volume(volume.uid), volume)
    assignments = Assignments.read(draft, volume.uid)
    for one in assignments.each:
        _set_limits(one, limits)
    assignments.save(draft)
    return volume, True


def _set_limits(of: r.VolumeRecord | r.Assignment, limits: r.VolumeLimits) -> None:
    of.ClearField("limits")
    if limits != r.VolumeLimits():
        of.limits.CopyFrom(limits)


@dataclass(frozen=True)
class Force:
    host_id: str
    by: str
    loss: str
    accept_half_synced: bool
    now_s: float


def check_loss(loss: str) -> str:
    """What an operator says is given up. Raises BadInput BAD_LOSS."""
    loss = " ".join(loss.split())
    if not (LOSS_MIN_CHARS <= len(loss) <= LOSS_MAX_CHARS and loss.isprintable()):
        raise BadInput(
            "BAD_LOSS",
            f"Say in {LOSS_MIN_CHARS} to {LOSS_MAX_CHARS} characters what is given up: it is recorded.",
        )
    return loss


def force_start(draft: Draft, named: Named, force: Force) -> int:
    """Start from the copy on one host: the epoch that begins. Errors: VolumeService.ForceStartVolume."""
    uid = volume_of(draft, named.owner, named.volume_id).uid
    replica_decisions.force_start(
        draft, uid, force.host_id, force.by, force.loss, force.accept_half_synced, force.now_s
    )
    return record_of(draft, uid).epoch


def _heir(draft: Draft, named: Named, replica: r.ReplicaRecord) -> str:
    alive = keeps_memory(replica, live_boots(draft, replica))
    heirs = [host_id for host_id in alive if host_id != replica.primary_host_id]
    if not heirs:
        raise _no_mirror(named)
    # One that is to leave only if there is no other.
    return sorted(heirs, key=lambda host_id: host_id == replica.leaving_host_id)[0]


def _no_mirror(named: Named) -> Precondition:
    return Precondition(
        "NO_MIRROR",
        f"Volume {named.volume_id!r} has no second copy that is in sync and alive: wait until it is HEALTHY.",
    )
