"""What an agent has to tell etcd about one volume, as values: compared, remembered, carried out once."""

from dataclasses import dataclass

from holdfast.api.records.v1 import records_pb2 as r
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

    def differs_in_progress_only(self, other: "Health") -> bool:
        """More bytes hydrated, and more to come: such a change may wait a while."""
        return (
            (self.epoch, self.state, self.reason) == (other.epoch, other.state, other.reason)
            and self.hydrate_remaining_bytes != 0
            and other.hydrate_remaining_bytes != 0
        )

    def send(self, actions: HostActions, volume_uid: str) -> None:
        health = r.VolumeHealth(
            state=r.HealthState.ValueType(self.state), reason=self.reason, message=self.message
        )
        actions.report_health(
            volume_uid, self.epoch, health, self.hydrate_remaining_bytes, self.hydrate_total_bytes
        )


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


Report = (
    Available
    | CreationWaits
    | Health
    | AttachmentReady
    | AttachmentWaits
    | Detached
    | Frozen
    | FreezeFailed
    | ViewLost
    | StoreRemoved
)
