"""`holdfast snapshot verify`, and what is shown of a snapshot's integrity."""

from collections.abc import Iterator

import click

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot.v1 import snapshot_pb2 as pb
from holdfast.base.errors import HoldfastError, NotFound
from holdfast.base.limits import EXTENT_BYTES
from holdfast.cli.failures import Differed
from holdfast.cli.session import Session, session
from holdfast.cli.show import emit, moment, output_option
from holdfast.cli.sizes import show_size
from holdfast.cli.waiting import Bar, until, wait_options

_RUNS_SHOWN = 4


@click.command()
@click.argument("snapshot_id")
@click.option("--owner", default="", help="Somebody else's (operators only).")
@click.option(
    "--sample",
    type=click.IntRange(1, 100),
    default=100,
    metavar="PERCENT",
    help="Read only so much of the bytes; the length of every object is looked at in any case.",
)
@wait_options(default=False)
@output_option
def verify(snapshot_id: str, owner: str, sample: int, wait: bool, timeout_s: float) -> None:
    """Read a snapshot from the object store and check every byte, as a reader does.

    While one is under way that reads as much, nothing new begins: that one is followed. With --wait, exit
    status 6 if something cannot be read.
    """
    request = pb.VerifySnapshotRequest(snapshot_id=snapshot_id, owner=owner, sample_percent=sample)
    with session() as at:
        answer = at.call(at.client.snapshots.VerifySnapshot, request)
        number = answer.snapshot.verify.request
        if not wait:
            begun = "is asked for" if answer.changed else "was under way already"
            emit(answer, lambda: click.echo(f"Verification {number} {begun}; `snapshot show` follows it."))
            return
        snapshot = _wait_verified(at, snapshot_id, owner, number, timeout_s)
    if snapshot.verify.state == r.SNAPSHOT_VERIFY_STATE_FAILED:
        raise HoldfastError("FAILED", f"Snapshot {snapshot_id!r} was not verified: {snapshot.verify.reason}")
    emit(snapshot, lambda: click.echo("\n".join(_report(snapshot))))
    if snapshot.verify.damaged_objects:
        raise Differed("DAMAGED", f"Snapshot {snapshot_id!r} is damaged.")


def _wait_verified(at: Session, snapshot_id: str, owner: str, number: int, timeout_s: float) -> pb.Snapshot:
    """The snapshot once that verification, or a newer one, has ended."""
    bar = Bar(f"verifying {snapshot_id}")

    def done(answer: pb.WatchSnapshotResponse) -> bool:
        if answer.deleted:
            raise NotFound("NOT_FOUND", f"Snapshot {snapshot_id!r} is deleted.")
        found = answer.snapshot.verify
        under_way = (r.SNAPSHOT_VERIFY_STATE_WAITING, r.SNAPSHOT_VERIFY_STATE_RUNNING)
        return found.request >= number and found.state not in under_way

    def show_it(answer: pb.WatchSnapshotResponse) -> None:
        found = answer.snapshot.verify
        bar.show(found.done_bytes, found.total_bytes, _result(answer.snapshot))

    request = pb.WatchSnapshotRequest(snapshot_id=snapshot_id, owner=owner, until_verified=number)
    what = f"Verification {number} of snapshot {snapshot_id!r} did not end"
    try:
        answer = until(at, at.client.snapshots.WatchSnapshot, request, done, show_it, timeout_s, what)
    finally:
        bar.close()
    return answer.snapshot  # type: ignore[no-any-return]


def _report(snapshot: pb.Snapshot) -> Iterator[str]:
    found = snapshot.verify
    share = f"{found.sample_percent} % of " if found.sample_percent < 100 else ""
    sizes = f"{share}{show_size(found.total_bytes)} verified ({show_size(found.read_bytes)} read)"
    yield f"{sizes}: {_result(snapshot)}."
    yield from damaged_lines(snapshot)


def _result(snapshot: pb.Snapshot) -> str:
    found = snapshot.verify
    if not found.damaged_objects:
        return "nothing is wrong"
    lost = show_size(found.damaged_extents * EXTENT_BYTES)
    return f"{lost} in {found.damaged_objects} objects cannot be read"


def damaged_lines(snapshot: pb.Snapshot) -> Iterator[str]:
    """Each damaged object that is named, and which bytes of the volume it has."""
    for one in snapshot.verify.damaged:
        runs = [
            f"{first * EXTENT_BYTES}-{end * EXTENT_BYTES - 1}"
            for first, end in zip(one.runs[::2], one.runs[1::2], strict=True)
        ]
        more = ", …" if len(runs) > _RUNS_SHOWN else ""
        yield f"{one.name} is {one.problem}: bytes {', '.join(runs[:_RUNS_SHOWN])}{more} of the snapshot"
    others = snapshot.verify.damaged_objects - len(snapshot.verify.damaged)
    if others > 0:
        yield f"and {others} more"


def health_facts(snapshot: pb.Snapshot) -> list[tuple[str, str]]:
    """For `snapshot show`."""
    health = r.SnapshotHealth.Name(snapshot.health).removeprefix("SNAPSHOT_HEALTH_")
    repaired = ""
    if snapshot.repaired_extents:
        size = show_size(snapshot.repaired_extents * EXTENT_BYTES)
        repaired = f"{size}, last at {moment(snapshot.repair_time)}"
    return [
        ("Health", health if snapshot.health else ""),
        ("Verified", _verified(snapshot.verify)),
        ("All verified", moment(snapshot.whole_verify_time)),
        *(("Damaged", line) for line in damaged_lines(snapshot)),
        ("Repaired", repaired),
    ]


def _verified(found: r.SnapshotVerify) -> str:
    if found.state == r.SNAPSHOT_VERIFY_STATE_DONE:
        share = f", {found.sample_percent} % of its bytes" if found.sample_percent < 100 else ""
        return f"{moment(found.end_time)}{share} ({show_size(found.read_bytes)} read)"
    if found.state == r.SNAPSHOT_VERIFY_STATE_FAILED:
        return f"not: {found.reason}"
    if not found.request:
        return ""
    word = r.SnapshotVerifyState.Name(found.state).removeprefix("SNAPSHOT_VERIFY_STATE_")
    return f"{word}, {show_size(found.done_bytes)} of {show_size(found.total_bytes)}"
