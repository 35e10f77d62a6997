"""The assignments of one volume, and the check that a caller still owns it."""

from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import StaleEpoch
from holdfast.metadata import keys
from holdfast.metadata.cas import Draft


def timestamp(unix_s: float) -> Timestamp:
    """To the millisecond."""
    stamp = Timestamp()
    stamp.FromMilliseconds(int(unix_s * 1000))
    return stamp


def check_owner(draft: Draft, volume_uid: str, host_id: str, epoch: int) -> r.ReplicaRecord:
    """The volume's replicas, if `host_id` is its primary in `epoch`; raises StaleEpoch, NotFound."""
    replica = draft.need(keys.replica(volume_uid), r.ReplicaRecord)
    if replica.epoch != epoch or replica.primary_host_id != host_id:
        raise StaleEpoch(
            f"Host {host_id} acts for epoch {epoch} of volume {volume_uid}, which is now in epoch "
            f"{replica.epoch} with primary {replica.primary_host_id}: read its assignment again."
        )
    return replica


@dataclass
class Assignments:
    """The assignments of one volume to the hosts that its record names, as far as there are any; the
    primary's first. `save` writes those changed.

    A host that was replaced and has yet to remove its store is not among them.
    """

    volume_uid: str
    each: list[r.Assignment]

    @classmethod
    def read(cls, draft: Draft, volume_uid: str) -> "Assignments":
        replica = draft.get(keys.replica(volume_uid), r.ReplicaRecord)
        if replica is None:
            return cls(volume_uid, [])
        primary = replica.primary_host_id
        order = [primary, *(one for one in replica.host_ids if one != primary)]
        found = [draft.get(keys.assignment(host_id, volume_uid), r.Assignment) for host_id in order]
        return cls(volume_uid, [one for one in found if one is not None])

    def save(self, draft: Draft) -> None:
        for one in self.each:
            draft.put(keys.assignment(one.host_id, self.volume_uid), one)

    def snapshots(self) -> list[r.AssignedSnapshot]:
        """Those under way: pending or frozen."""
        return list(self.each[0].snapshots) if self.each else []

    def set_snapshot_state(self, snapshot_uid: str, state: "r.SnapshotState.ValueType") -> None:
        for one in self.each:
            for snapshot in one.snapshots:
                if snapshot.uid == snapshot_uid:
                    snapshot.state = state

    def drop_snapshot(self, snapshot_uid: str, base_generation: int) -> None:
        """Take a snapshot off the list, and forget the generations that nobody needs any more.

        Args:
            base_generation: of the volume; what the next snapshot will be incremental from.
        """
        for one in self.each:
            kept = [snapshot for snapshot in one.snapshots if snapshot.uid != snapshot_uid]
            del one.snapshots[:]
            one.snapshots.extend(kept)
            needed = [snapshot.base_generation for snapshot in kept if snapshot.incremental]
            one.keep_generation = min([*needed, base_generation])

    def drop_attachment(self, attachment_uid: str) -> None:
        for one in self.each:
            kept = [item for item in one.attachments if item.uid != attachment_uid]
            del one.attachments[:]
            one.attachments.extend(kept)
