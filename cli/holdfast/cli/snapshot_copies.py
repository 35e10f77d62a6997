"""`holdfast snapshot copy`, `copies` and `uncopy`: snapshots in other object stores."""

import click

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot.v1 import snapshot_pb2 as pb
from holdfast.base.errors import HoldfastError, NotFound
from holdfast.cli.session import Session, session
from holdfast.cli.show import emit, moment, output_option, state_name, table
from holdfast.cli.sizes import show_size
from holdfast.cli.waiting import Bar, until, until_deleted, wait_options


@click.command()
@click.argument("snapshot_id")
@click.option("--to", "target", required=True, help="A target's name at the snapshotters.")
@wait_options(default=False)
@output_option
def copy(snapshot_id: str, target: str, wait: bool, timeout_s: float) -> None:
    """Copy a snapshot to another object store, complete by itself; it is read back before it counts.

    Typed again, it follows the same copy; one that FAILED is begun again: what is there is not
    sent again.
    """
    request = pb.CopySnapshotRequest(snapshot_id=snapshot_id, target=target)
    with session() as at:
        answer = at.call(at.client.snapshots.CopySnapshot, request)
        made = answer.copy
        if wait:
            made = _wait_completed(at, made, timeout_s)
    begun = "" if answer.created else ", as was asked for before"
    emit(made, lambda: click.echo(f"Copy {made.uid} of {snapshot_id} at {target}: {_state(made)}{begun}."))


@click.command()
@output_option
def copies() -> None:
    """List your copies in other object stores, also those whose snapshots are no more."""
    with session() as at:
        response = at.pages(at.client.snapshots.ListSnapshotCopies, pb.ListSnapshotCopiesRequest())
    rows = [
        [
            one.uid,
            one.snapshot_id,
            one.target,
            show_size(one.size_bytes),
            _state(one),
            f"{one.done_bytes / one.total_bytes:.0%}" if one.total_bytes else "-",
            moment(one.complete_time),
            one.reason,
        ]
        for one in response.copies
    ]
    heads = ["COPY", "SNAPSHOT", "TARGET", "SIZE", "STATE", "DONE", "COMPLETED", "REASON"]
    emit(response, lambda: table(heads, rows, "There are none."))


@click.command()
@click.argument("uid")
@wait_options(default=False)
@output_option
def uncopy(uid: str, wait: bool, timeout_s: float) -> None:
    """Delete a copy: its objects, then its record. The snapshot, if there is one, stays."""
    with session() as at:
        response = at.call(at.client.snapshots.DeleteSnapshotCopy, pb.DeleteSnapshotCopyRequest(uid=uid))
        if wait:
            request = pb.WatchSnapshotCopyRequest(uid=uid)
            what = f"Copy {uid} was not gone"
            until_deleted(at, at.client.snapshots.WatchSnapshotCopy, request, timeout_s, what)
    done = "is gone" if wait else "is being deleted"
    emit(response, lambda: click.echo(f"Copy {uid} {done}."))


def _wait_completed(at: Session, copy: pb.SnapshotCopy, timeout_s: float) -> pb.SnapshotCopy:
    """The copy once it is COMPLETED; with a progress bar meanwhile."""
    bar = Bar(f"copying {copy.snapshot_id}")

    def done(answer: pb.WatchSnapshotCopyResponse) -> bool:
        if answer.deleted:
            raise NotFound("NOT_FOUND", f"Copy {copy.uid} is deleted.")
        if answer.copy.state == r.COPY_STATE_FAILED:
            raise HoldfastError("FAILED", f"Copy {copy.uid} failed: {answer.copy.reason}")
        return answer.copy.state == r.COPY_STATE_COMPLETED

    def show_it(answer: pb.WatchSnapshotCopyResponse) -> None:
        one = answer.copy
        bar.show(one.done_bytes, one.total_bytes, f"{_state(one)} {one.reason}".rstrip())

    request = pb.WatchSnapshotCopyRequest(uid=copy.uid)
    what = f"Copy {copy.uid} was not COMPLETED"
    try:
        answer = until(at, at.client.snapshots.WatchSnapshotCopy, request, done, show_it, timeout_s, what)
    finally:
        bar.close()
    return answer.copy  # type: ignore[no-any-return]


def _state(copy: pb.SnapshotCopy) -> str:
    return state_name(r.CopyState.Name(copy.state))
