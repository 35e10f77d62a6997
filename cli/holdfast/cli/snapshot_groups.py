"""`holdfast snapshot …-group`: snapshots of several volumes at one instant. Joined by snapshot.py."""

import click

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot_group.v1 import snapshot_group_pb2 as pb
from holdfast.base.errors import HoldfastError, NotFound
from holdfast.cli.session import Session, session
from holdfast.cli.show import emit, facts, moment, output_option, state_name, table
from holdfast.cli.sizes import show_size
from holdfast.cli.waiting import Bar, until, wait_options


@click.command("create-group")
@click.argument("group_id")
@click.option(
    "--volume",
    "volumes",
    multiple=True,
    required=True,
    metavar="VOLUME[=SNAPSHOT_ID]",
    help="One of the volumes, 12 at most. Its snapshot is called GROUP_ID-VOLUME if nothing is said.",
)
@click.option("--key", default="", help="Encrypt with this key of yours. Without: each as its volume says.")
@wait_options(default=False)
@output_option
def create_group(group_id: str, volumes: tuple[str, ...], key: str, wait: bool, timeout_s: float) -> None:
    """Take snapshots of several volumes of yours at one instant.

    If a write was acknowledged before another was issued, to whichever of them, no group has the later
    without the earlier. With --wait: until all are COMPLETED.
    """
    request = pb.CreateSnapshotGroupRequest(group_id=group_id, encryption_key=key)
    for one in volumes:
        volume_id, _, snapshot_id = one.partition("=")
        request.volumes.add(volume_id=volume_id, snapshot_id=snapshot_id)
    with session() as at:
        group = at.call(at.client.groups.CreateSnapshotGroup, request).group
        if wait:
            group = _wait_completed(at, group_id, timeout_s)
        emit(group, lambda: _show(group))


@click.command("show-group")
@click.argument("group_id")
@output_option
def show_group(group_id: str) -> None:
    """Show a group of snapshots, and how each of them stands."""
    with session() as at:
        request = pb.GetSnapshotGroupRequest(group_id=group_id)
        group = at.call(at.client.groups.GetSnapshotGroup, request).group
    emit(group, lambda: _show(group))


@click.command("list-groups")
@output_option
def list_groups() -> None:
    """List your groups of snapshots."""
    with session() as at:
        response = at.pages(at.client.groups.ListSnapshotGroups, pb.ListSnapshotGroupsRequest())
    rows = [
        [
            one.group_id,
            _state(one),
            str(len(one.members)),
            moment(one.create_time),
            moment(one.freeze_time),
            one.reason,
        ]
        for one in response.groups
    ]
    heads = ["GROUP", "STATE", "SNAPSHOTS", "CREATED", "FROZEN", "REASON"]
    emit(response, lambda: table(heads, rows, "There are none."))


@click.command("delete-group")
@click.argument("group_id")
@click.option("--now", is_flag=True, help="The snapshots for good: not to the recycle bin.")
@output_option
def delete_group(group_id: str, now: bool) -> None:
    """Delete a group and all of its snapshots, as `snapshot delete` does each. None if one is locked."""
    with session() as at:
        request = pb.DeleteSnapshotGroupRequest(group_id=group_id, now=now)
        response = at.call(at.client.groups.DeleteSnapshotGroup, request)
    emit(response, lambda: click.echo(f"Group {group_id} and its snapshots are deleted."))


def _wait_completed(at: Session, group_id: str, timeout_s: float) -> pb.SnapshotGroup:
    bar = Bar(f"group {group_id}")

    def done(answer: pb.WatchSnapshotGroupResponse) -> bool:
        if answer.deleted:
            raise NotFound("NOT_FOUND", f"Group {group_id!r} is deleted.")
        if answer.group.state == r.SNAPSHOT_GROUP_STATE_FAILED:
            raise HoldfastError("FAILED", f"Group {group_id!r} failed: {answer.group.reason}")
        return answer.group.state == r.SNAPSHOT_GROUP_STATE_COMPLETED

    def show_it(answer: pb.WatchSnapshotGroupResponse) -> None:
        group = answer.group
        done_bytes = sum(one.progress_done_bytes for one in group.members)
        total_bytes = sum(one.progress_total_bytes for one in group.members)
        text = f"{_state(group)} {group.reason}".rstrip()
        if total_bytes:
            text = f"{show_size(done_bytes)} of {show_size(total_bytes)} {text}"
        bar.show(done_bytes, total_bytes, text)

    request = pb.WatchSnapshotGroupRequest(group_id=group_id)
    what = f"Group {group_id!r} was not COMPLETED"
    try:
        answer = until(at, at.client.groups.WatchSnapshotGroup, request, done, show_it, timeout_s, what)
    finally:
        bar.close()
    return answer.group  # type: ignore[no-any-return]


def _state(group: pb.SnapshotGroup) -> str:
    return state_name(r.SnapshotGroupState.Name(group.state))


def _show(group: pb.SnapshotGroup) -> None:
    facts(
        [
            ("Group", group.group_id),
            ("Uid", group.uid),
            ("State", _state(group)),
            ("Reason", group.reason),
            ("Attempts", str(group.attempt) if group.attempt > 1 else ""),
            ("Created", moment(group.create_time)),
            ("Frozen", moment(group.freeze_time)),
            ("Completed", moment(group.complete_time)),
        ]
    )
    click.echo()
    rows = [
        [one.volume_id, one.snapshot_id, state_name(r.SnapshotState.Name(one.state)), one.reason]
        for one in group.members
    ]
    table(["VOLUME", "SNAPSHOT", "STATE", "REASON"], rows, "It has none.")
