"""`holdfast snapshot …`"""

import click

from holdfast.api.encryption.v1 import encryption_pb2 as eb
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot.v1 import snapshot_pb2 as pb
from holdfast.cli import images, keeping, snapshot_copies, snapshot_groups, snapshot_verify
from holdfast.cli.granted import permitted, show_granted
from holdfast.cli.session import session
from holdfast.cli.show import emit, facts, moment, output_option, state_name, table
from holdfast.cli.sizes import show_size
from holdfast.cli.snapshot_sizes import counted, exclusive
from holdfast.cli.snapshot_wait import wait_completed
from holdfast.cli.waiting import wait_options


@click.group("snapshot")
def command() -> None:
    """Volumes' content at one instant, in the object store."""


@command.command()
@click.argument("snapshot_id")
@click.option("--volume", "volume_id", required=True, help="Of this volume of yours.")
@click.option("--key", default="", help="Encrypt it with this key of yours. Without: as the volume says.")
@wait_options(default=False)
@output_option
def create(snapshot_id: str, volume_id: str, key: str, wait: bool, timeout_s: float) -> None:
    """Take a snapshot: every write acknowledged before this command. The upload goes on by itself."""
    with session() as at:
        request = pb.CreateSnapshotRequest(snapshot_id=snapshot_id, volume_id=volume_id, encryption_key=key)
        snapshot = at.call(at.client.snapshots.CreateSnapshot, request).snapshot
        if wait:
            snapshot = wait_completed(at, snapshot_id, "", timeout_s)
        emit(snapshot, lambda: _show(snapshot))


@command.command()
@click.argument("snapshot_id")
@click.option("--owner", default="", help="Somebody else's, that you are granted.")
@click.option("--timeout", "timeout_s", type=float, default=600.0, show_default=True, metavar="SECONDS")
@output_option
def wait(snapshot_id: str, owner: str, timeout_s: float) -> None:
    """Wait until a snapshot is COMPLETED, showing its progress."""
    with session() as at:
        snapshot = wait_completed(at, snapshot_id, owner, timeout_s)
    emit(snapshot, lambda: _show(snapshot))


@command.command("list")
@click.option("--volume", "volume_id", default="", help="Only of this volume of yours.")
@click.option("--granted", is_flag=True, help="Those that others granted to you.")
@click.option("--public", is_flag=True, help="Those that others granted to everyone.")
@click.option("--owner", default="", help="Only those that this owner granted to you.")
@click.option("--deleted", is_flag=True, help="Those that you can still restore.")
@output_option
def list_(volume_id: str, granted: bool, public: bool, owner: str, deleted: bool) -> None:
    """List your snapshots."""
    with session() as at:
        if deleted:
            keeping.show_deleted(at, volume_id)
            return
        if granted or public or owner:
            show_granted(at, public, owner)
            return
        request = pb.ListSnapshotsRequest(volume_id=volume_id)
        response = at.pages(at.client.snapshots.ListSnapshots, request)
    rows = [
        [
            one.snapshot_id,
            one.volume_id,
            show_size(one.size_bytes),
            state_name(r.SnapshotState.Name(one.state))
            + (", DAMAGED" if one.health == r.SNAPSHOT_HEALTH_DAMAGED else ""),
            _progress(one),
            "incremental" if one.base_snapshot_uid else "full",
            show_size(one.stored_bytes) if one.stored_bytes else "-",
            exclusive(one),
            moment(one.create_time),
            one.reason,
        ]
        for one in response.snapshots
    ]
    heads = [
        "SNAPSHOT",
        "VOLUME",
        "SIZE",
        "STATE",
        "DONE",
        "KIND",
        "STORED",
        "EXCLUSIVE",
        "CREATED",
        "REASON",
    ]
    emit(response, lambda: table(heads, rows, "There are none."))


@command.command()
@click.argument("snapshot_id")
@click.option("--owner", default="", help="Somebody else's, that you are granted.")
@output_option
def show(snapshot_id: str, owner: str) -> None:
    """Show one snapshot."""
    with session() as at:
        request = pb.GetSnapshotRequest(snapshot_id=snapshot_id, owner=owner)
        snapshot = at.call(at.client.snapshots.GetSnapshot, request).snapshot
    emit(snapshot, lambda: _show(snapshot))


_COPIES = (snapshot_copies.copy, snapshot_copies.copies, snapshot_copies.uncopy)
_KEEPING = (keeping.delete, keeping.lock, keeping.restore, keeping.purge)
_GROUPS = (
    snapshot_groups.create_group,
    snapshot_groups.show_group,
    snapshot_groups.list_groups,
    snapshot_groups.delete_group,
)
for one in (
    *_KEEPING,
    *_GROUPS,
    *_COPIES,
    images.blocks,
    images.export,
    images.import_,
    images.nbd,
    snapshot_verify.verify,
):
    command.add_command(one)


@command.command()
@click.argument("snapshot_id")
@click.option("--key", default="", help="Another key of yours. Without: a new one of the same name.")
@output_option
def rekey(snapshot_id: str, key: str) -> None:
    """Put another key in the place of the one that a snapshot is encrypted with.

    Nothing in the object store changes. The old key is then needed for nothing of this snapshot; who has it
    and an old copy of the records or of the object store can still read it.
    """
    with session() as at:
        request = eb.RekeySnapshotRequest(snapshot_id=snapshot_id, encryption_key=key)
        response = at.call(at.client.encryption.RekeySnapshot, request)
    now = response.encryption_key
    emit(response, lambda: click.echo(f"Snapshot {snapshot_id} is encrypted with key {now} from now on."))


def _progress(snapshot: pb.Snapshot) -> str:
    if snapshot.state == r.SNAPSHOT_STATE_COMPLETED:
        return "100%"
    if not snapshot.progress_total_bytes:
        return "-"
    return f"{snapshot.progress_done_bytes / snapshot.progress_total_bytes:.0%}"


def _show(snapshot: pb.Snapshot) -> None:
    base = snapshot.base_snapshot_uid
    uploaded = snapshot.state == r.SNAPSHOT_STATE_COMPLETED
    facts(
        [
            ("Snapshot", snapshot.snapshot_id),
            ("Owner", snapshot.owner),
            ("Uid", snapshot.uid),
            ("Volume", "none: it was made from outside" if snapshot.direct else snapshot.volume_id),
            ("Size", f"{show_size(snapshot.size_bytes)} ({snapshot.size_bytes} bytes)"),
            ("State", state_name(r.SnapshotState.Name(snapshot.state))),
            ("Reason", snapshot.reason),
            ("Done", _progress(snapshot)),
            ("You may", permitted(snapshot.granted_permissions)),
            ("Kind", f"incremental from {base}" if base else "" if snapshot.granted_permissions else "full"),
            ("Encrypted", f"with key {snapshot.encryption_key}" if snapshot.encryption_key else ""),
            ("Uploaded", f"{show_size(snapshot.uploaded_bytes)} of changed extents" if uploaded else ""),
            ("Stored", f"{show_size(snapshot.stored_bytes)} of new objects" if uploaded else ""),
            *counted(snapshot),
            ("Manifest", snapshot.manifest),
            ("Created", moment(snapshot.create_time)),
            ("Frozen", moment(snapshot.freeze_time)),
            ("Completed", moment(snapshot.complete_time)),
            ("Schedule", snapshot.schedule_id),
            ("Group", snapshot.group_id),
            ("Locked until", moment(snapshot.lock_until_time)),
            *snapshot_verify.health_facts(snapshot),
        ]
    )
