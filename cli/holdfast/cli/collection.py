"""`holdfast collection …`"""

import click

from holdfast.api.collection.v1 import collection_pb2 as pb
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import HoldfastError
from holdfast.cli.session import Session, session
from holdfast.cli.show import emit, facts, moment, output_option, state_name
from holdfast.cli.sizes import show_size
from holdfast.cli.waiting import until, wait_options


@click.group("collection")
def command() -> None:
    """Objects that nothing needs any more (operators only). Snapshotters collect them by themselves."""


@command.command()
@output_option
def status() -> None:
    """The collection that is running, or the last one: what it freed, what waits, why it failed."""
    with session() as at:
        found = at.call(at.client.collection.GetCollection, pb.GetCollectionRequest()).collection
    emit(found, lambda: _show(found))


@command.command()
@wait_options(default=False)
@output_option
def run(wait: bool, timeout_s: float) -> None:
    """Collect now. The grace of what is deleted is kept: this frees what is due, no more."""
    with session() as at:
        found = at.call(at.client.collection.RunCollection, pb.RunCollectionRequest()).collection
        if wait:
            found = _wait(at, found.request, timeout_s)
    if wait and found.state == r.COLLECTION_STATE_FAILED:
        raise HoldfastError("COLLECTION_FAILED", found.reason)
    emit(found, lambda: _show(found))


def _wait(at: Session, request: int, timeout_s: float) -> pb.Collection:
    def done(answer: pb.WatchCollectionResponse) -> bool:
        found = answer.collection
        return found.served >= request and found.state != r.COLLECTION_STATE_RUNNING

    answer = until(
        at,
        at.client.collection.WatchCollection,
        pb.WatchCollectionRequest(),
        done,
        lambda _: None,
        timeout_s,
        "No collection ended",
    )
    return answer.collection  # type: ignore[no-any-return]


def _show(found: pb.Collection) -> None:
    if not found.state:
        requested = " One is asked for." if found.requested else ""
        click.echo(f"There has been none yet: is a snapshotter running?{requested}")
        return
    counts = found.counts
    repacked = (
        f"{counts.repacked_objects} objects: {show_size(counts.repacked_written_bytes)} written, "
        f"{show_size(counts.repacked_dead_bytes)} go after their grace"
    )
    lost = f"{counts.missing_objects} objects that are needed: see the snapshotter's log"
    facts(
        [
            ("State", state_name(r.CollectionState.Name(found.state))),
            ("Reason", found.reason),
            ("At", found.snapshotter_id),
            ("Began", moment(found.start_time)),
            ("Ended", moment(found.end_time)),
            ("Asked for", "yes: one begins soon" if found.requested else ""),
            ("Freed", _objects(counts.freed_objects, counts.freed_bytes)),
            ("Freed ever", show_size(found.freed_bytes_ever)),
            ("Needed", _objects(counts.kept_objects, counts.kept_bytes)),
            ("In grace", _objects(counts.waiting_objects, counts.waiting_bytes)),
            ("Condemned", f"{counts.condemned} snapshots" if counts.condemned else ""),
            ("Forgotten", f"{counts.forgotten} snapshots" if counts.forgotten else ""),
            ("Repacked", repacked if counts.repacked_objects else ""),
            ("Lost", lost if counts.missing_objects else ""),
        ]
    )


def _objects(number: int, size_bytes: int) -> str:
    return f"{number} objects, {show_size(size_bytes)}"
