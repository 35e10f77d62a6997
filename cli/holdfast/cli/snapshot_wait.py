"""Waiting for a snapshot to be COMPLETED."""

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot.v1 import snapshot_pb2 as pb
from holdfast.base.errors import HoldfastError, NotFound
from holdfast.cli.session import Session
from holdfast.cli.show import state_name
from holdfast.cli.sizes import show_size
from holdfast.cli.waiting import Bar, until


def wait_completed(at: Session, snapshot_id: str, owner: str, timeout_s: float) -> pb.Snapshot:
    """The snapshot once it is COMPLETED; with a progress bar meanwhile."""
    bar = Bar(f"snapshot {snapshot_id}")

    def done(answer: pb.WatchSnapshotResponse) -> bool:
        if answer.deleted:
            raise NotFound("NOT_FOUND", f"Snapshot {snapshot_id!r} is deleted.")
        if answer.snapshot.state == r.SNAPSHOT_STATE_FAILED:
            raise HoldfastError("FAILED", f"Snapshot {snapshot_id!r} failed: {answer.snapshot.reason}")
        return answer.snapshot.state == r.SNAPSHOT_STATE_COMPLETED

    def show_it(answer: pb.WatchSnapshotResponse) -> None:
        one = answer.snapshot
        text = f"{state_name(r.SnapshotState.Name(one.state))} {one.reason}".rstrip()
        if one.progress_total_bytes:
            done_size, total_size = show_size(one.progress_done_bytes), show_size(one.progress_total_bytes)
            text = f"{done_size} of {total_size} {text}"
        bar.show(one.progress_done_bytes, one.progress_total_bytes, text)

    request = pb.WatchSnapshotRequest(snapshot_id=snapshot_id, owner=owner)
    what = f"Snapshot {snapshot_id!r} was not COMPLETED"
    try:
        answer = until(at, at.client.snapshots.WatchSnapshot, request, done, show_it, timeout_s, what)
    finally:
        bar.close()
    return answer.snapshot  # type: ignore[no-any-return]
