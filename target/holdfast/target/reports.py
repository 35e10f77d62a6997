"""What an agent has to tell etcd about one volume, as values: compared, remembered, carried out once."""

from dataclasses import dataclass

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.metadata.group_changes import Word
from holdfast.metadata.host_actions import HostActions


@dataclass(frozen=True)
class Available:
    """Both stores exist and are in sync."""

    epoch: int

    def send(self, actions: HostActions, volume_uid: str) -> None:
        actions.volume_became_available(volume_uid, self.epoch)


@dataclass(frozen=True)
class CreationWaits:
    epoch: int
    reason: str

    def send(self, actions: HostActions, volume_uid: str) -> None:
        actions.volume_waits(volume_uid, self.epoch, self.reason)


@dataclass(frozen=True)
class Health:
    """`state` is a HealthState of the records."""

    epoch: int
    state: int
    reason: str = ""
    message: str = ""
    hydrate_remaining_bytes: int = 0
    hydrate_total_bytes: int = 0
    hydrate_rate_bytes_s: int = 0

    def send(self, actions: HostActions, volume_uid: str) -> None:
        health = r.VolumeHealth(
            state=r.HealthState.ValueType(self.state), reason=self.reason, message=self.message
        )
        copied = self.hydrate_remaining_bytes, self.hydrate_total_bytes, self.hydrate_rate_bytes_s
        actions.report_health(volume_uid, self.epoch, health, *copied)


@dataclass(frozen=True)
class CopyTrouble:
    """What ails this host's copy, which is not in sync; empty: it can be brought up to date, or has been."""

    epoch: int
    reason: str = ""
    message: str = ""

    def send(self, actions: HostActions, volume_uid: str) -> None:
        actions.report_replica_trouble(volume_uid, self.reason, self.message)


@dataclass(frozen=True)
class SyncProgress:
    """Of the joiner that is furthest behind; all 0: none is."""

    epoch: int
    remaining_bytes: int = 0
    total_bytes: int = 0
    rate_bytes_s: int = 0

    def send(self, actions: HostActions, volume_uid: str) -> None:
        actions.report_sync(volume_uid, self.epoch, self.remaining_bytes, self.total_bytes, self.rate_bytes_s)


@dataclass(frozen=True)
class VerifyProgress:
    """`state` is a VerifyState of the records."""

    epoch: int
    request: int
    state: int
    done_bytes: int
    total_bytes: int
    differing_bytes: int
    repaired_bytes: int
    reason: str = ""

    def send(self, actions: HostActions, volume_uid: str) -> None:
        status = r.VerifyStatus(
            request=self.request,
            state=r.VerifyState.ValueType(self.state),
            done_bytes=self.done_bytes,
            total_bytes=self.total_bytes,
            differing_bytes=self.differing_bytes,
            repaired_bytes=self.repaired_bytes,
            reason=self.reason,
        )
        actions.report_verify(volume_uid, self.epoch, status)


@dataclass(frozen=True)
class AttachmentPath:
    """This host exports it, or does not, whatever its role."""

    uid: str
    ready: bool

    def send(self, actions: HostActions, volume_uid: str) -> None:
        actions.attachment_path_ready(volume_uid, self.uid, self.ready)


@dataclass(frozen=True)
class AttachmentReady:
    epoch: int
    uid: str

    def send(self, actions: HostActions, volume_uid: str) -> None:
        actions.attachment_ready(volume_uid, self.uid, self.epoch)


@dataclass(frozen=True)
class AttachmentWaits:
    epoch: int
    uid: str
    reason: str

    def send(self, actions: HostActions, volume_uid: str) -> None:
        actions.attachment_waits(volume_uid, self.uid, self.epoch, self.reason)


@dataclass(frozen=True)
class Detached:
    epoch: int
    uid: str

    def send(self, actions: HostActions, volume_uid: str) -> None:
        actions.attachment_detached(volume_uid, self.uid, self.epoch)


@dataclass(frozen=True)
class Frozen:
    epoch: int
    snapshot_uid: str
    generation: int
    freeze_time_s: float
    frozen_on: tuple[str, ...]

    def send(self, actions: HostActions, volume_uid: str) -> None:
        actions.snapshot_frozen(
            volume_uid, self.snapshot_uid, self.epoch, self.generation, self.freeze_time_s, self.frozen_on
        )


@dataclass(frozen=True)
class FreezeFailed:
    snapshot_uid: str
    reason: str

    def send(self, actions: HostActions, _volume_uid: str) -> None:
        actions.snapshot_failed(self.snapshot_uid, self.reason)


@dataclass(frozen=True)
class GateSays:
    """Of a volume that is frozen together with others: a step is done."""

    word: Word

    def send(self, actions: HostActions, volume_uid: str) -> None:
        actions.gate_says(volume_uid, self.word)


@dataclass(frozen=True)
class GateFailed:
    epoch: int
    group_uid: str
    attempt: int
    reason: str

    def send(self, actions: HostActions, volume_uid: str) -> None:
        actions.gate_failed(volume_uid, self.epoch, self.group_uid, self.attempt, self.reason)


@dataclass(frozen=True)
class ViewLost:
    """This host no longer holds a good frozen view."""

    snapshot_uid: str
    reason: str

    def send(self, actions: HostActions, _volume_uid: str) -> None:
        actions.snapshot_lost_here(self.snapshot_uid, self.reason)


@dataclass(frozen=True)
class StoreRemoved:
    def send(self, actions: HostActions, volume_uid: str) -> None:
        actions.store_removed(volume_uid)


@dataclass(frozen=True)
class LeaveOut:
    epoch: int
    hosts: tuple[str, ...]

    def send(self, actions: HostActions, volume_uid: str) -> None:
        actions.leave_out(volume_uid, self.epoch, self.hosts)


@dataclass(frozen=True)
class Join:
    epoch: int
    host_id: str
    boot_id: str

    def send(self, actions: HostActions, volume_uid: str) -> None:
        actions.join(volume_uid, self.epoch, self.host_id, self.boot_id)


@dataclass(frozen=True)
class TakeOver:
    epoch: int
    boot_id: str

    def send(self, actions: HostActions, volume_uid: str) -> None:
        actions.take_over(volume_uid, self.boot_id, self.epoch)


@dataclass(frozen=True)
class HandOver:
    epoch: int
    to_host_id: str

    def send(self, actions: HostActions, volume_uid: str) -> None:
        actions.hand_over(volume_uid, self.epoch, self.to_host_id)


@dataclass(frozen=True)
class Resign:
    epoch: int
    to_host_id: str

    def send(self, actions: HostActions, volume_uid: str) -> None:
        actions.resign(volume_uid, self.epoch, self.to_host_id)


@dataclass(frozen=True)
class Release:
    epoch: int

    def send(self, actions: HostActions, volume_uid: str) -> None:
        actions.release(volume_uid, self.epoch)


@dataclass(frozen=True)
class CrashMove:
    epoch: int

    def send(self, actions: HostActions, volume_uid: str) -> None:
        actions.crash_move(volume_uid, self.epoch)


@dataclass(frozen=True)
class ColdStart:
    epoch: int
    boot_id: str

    def send(self, actions: HostActions, volume_uid: str) -> None:
        actions.cold_start(volume_uid, self.boot_id, self.epoch)


@dataclass(frozen=True)
class Renounce:
    epoch: int

    def send(self, actions: HostActions, volume_uid: str) -> None:
        actions.renounce(volume_uid, self.epoch)


@dataclass(frozen=True)
class PathMove:
    epoch: int
    to_host_id: str

    def send(self, actions: HostActions, volume_uid: str) -> None:
        actions.path_move(volume_uid, self.epoch, self.to_host_id)


Change = (
    LeaveOut | Join | TakeOver | HandOver | Resign | Release | CrashMove | ColdStart | Renounce | PathMove
)
"""A change of who may acknowledge, or where: decided in membership.py, sent ahead of everything else."""

GateReport = GateSays | GateFailed
"""Of a group's gates: writes may be waiting. Sent in threads of their own, in order (gate_sender.py)."""

Report = (
    Available
    | CreationWaits
    | Health
    | SyncProgress
    | CopyTrouble
    | VerifyProgress
    | AttachmentPath
    | AttachmentReady
    | AttachmentWaits
    | Detached
    | Frozen
    | FreezeFailed
    | ViewLost
    | StoreRemoved
)
"""Everything else, in no hurry."""
