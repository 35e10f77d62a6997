"""`holdfast snapshot …`: deleting, and what hinders or undoes it. Joined to the group by snapshot.py."""

from datetime import datetime

import click
from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.api.snapshot.v1 import snapshot_pb2 as pb
from holdfast.base.errors import HoldfastError, NotFound
from holdfast.base.ids import is_uid
from holdfast.cli.session import Session, session
from holdfast.cli.show import emit, moment, output_option, table
from holdfast.cli.sizes import show_size
from holdfast.cli.times import MOMENT


@click.command()
@click.argument("snapshot_id")
@click.option("--now", is_flag=True, help="For good: not to the recycle bin.")
@click.option("--owner", default="", help="Somebody else's (operators only).")
@output_option
def delete(snapshot_id: str, now: bool, owner: str) -> None:
    """Delete a snapshot and its grants. Harms no other snapshot, and no volume made from it.

    It can be restored for a while: `snapshot list --deleted`, `settings show`.
    """
    with session() as at:
        request = pb.DeleteSnapshotRequest(snapshot_id=snapshot_id, now=now, owner=owner)
        response = at.call(at.client.snapshots.DeleteSnapshot, request)
    until = moment(response.recycle_until_time)
    kept = f" It can be restored until {until}." if until else ""
    emit(response, lambda: click.echo(f"Snapshot {snapshot_id} is deleted.{kept}"))


@click.command()
@click.argument("snapshot_id")
@click.option("--until", type=MOMENT, required=True, metavar="DATE", help="2027-01-31, or 30d from now.")
@output_option
def lock(snapshot_id: str, until: datetime) -> None:
    """Let nobody delete a snapshot before DATE: not you, not an operator.

    A lock can be made longer, and never shorter. The metadata service's clock counts.
    """
    stamp = Timestamp()
    stamp.FromDatetime(until)
    with session() as at:
        request = pb.LockSnapshotRequest(snapshot_id=snapshot_id, until_time=stamp)
        snapshot = at.call(at.client.snapshots.LockSnapshot, request).snapshot
    locked = moment(snapshot.lock_until_time)
    emit(snapshot, lambda: click.echo(f"Snapshot {snapshot_id} cannot be deleted before {locked}."))


@click.command()
@click.argument("snapshot")
@click.option("--as", "snapshot_id", default="", metavar="SNAPSHOT_ID", help="Under another id.")
@output_option
def restore(snapshot: str, snapshot_id: str) -> None:
    """Take SNAPSHOT (its id, or its uid) out of the recycle bin. It has no grants then."""
    with session() as at:
        request = pb.RestoreSnapshotRequest(uid=_deleted_uid(at, snapshot), snapshot_id=snapshot_id)
        restored = at.call(at.client.snapshots.RestoreSnapshot, request).snapshot
    emit(restored, lambda: click.echo(f"Snapshot {restored.snapshot_id} is there again."))


@click.command()
@click.argument("snapshot")
def purge(snapshot: str) -> None:
    """Empty the recycle bin of SNAPSHOT (its id, or its uid), for good."""
    with session() as at:
        at.call(at.client.snapshots.PurgeSnapshot, pb.PurgeSnapshotRequest(uid=_deleted_uid(at, snapshot)))


def show_deleted(at: Session, volume_id: str) -> None:
    """The recycle bin, as a list."""
    request = pb.ListSnapshotsRequest(volume_id=volume_id, deleted=True)
    response = at.pages(at.client.snapshots.ListSnapshots, request)
    rows = [
        [
            one.snapshot_id,
            one.uid,
            one.volume_id,
            show_size(one.size_bytes),
            moment(one.create_time),
            moment(one.delete_time),
            moment(one.recycle_until_time),
        ]
        for one in response.snapshots
    ]
    heads = ["SNAPSHOT", "UID", "VOLUME", "SIZE", "CREATED", "DELETED", "GONE AT"]
    emit(response, lambda: table(heads, rows, "The recycle bin is empty."))


def _deleted_uid(at: Session, named: str) -> str:
    """Of a snapshot in the bin, by its uid or by the id that it had."""
    if is_uid(named):
        return named
    response = at.pages(at.client.snapshots.ListSnapshots, pb.ListSnapshotsRequest(deleted=True))
    uids = [one.uid for one in response.snapshots if one.snapshot_id == named]
    if not uids:
        raise NotFound("NOT_FOUND", f"There is no snapshot {named!r} in your recycle bin.")
    if len(uids) > 1:
        which = ", ".join(uids)
        raise HoldfastError("AMBIGUOUS", f"Several deleted snapshots were {named!r}: say which of {which}.")
    return uids[0]
