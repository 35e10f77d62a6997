"""`holdfast volume …`"""

import click

from holdfast.api.encryption.v1 import encryption_pb2 as eb
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.volume.v1 import volume_pb2 as pb
from holdfast.base.errors import BadInput, NotFound
from holdfast.cli import volume_moves
from holdfast.cli.session import Session, session
from holdfast.cli.show import emit, output_option, state_name, table
from holdfast.cli.sizes import SIZE, show_size
from holdfast.cli.volume_show import health_word, show_volume, source_of
from holdfast.cli.waiting import Narrator, until, until_deleted, wait_options


@click.group("volume")
def command() -> None:
    """Disks, each held on two storage hosts."""


@command.command()
@click.argument("volume_id")
@click.option("--size", type=SIZE, default=0, help="e.g. 10GiB. With --from: the snapshot's, if not given.")
@click.option("--from", "source", metavar="[OWNER/]SNAPSHOT", help="Make it from a snapshot.")
@click.option(
    "--multi-attach",
    is_flag=True,
    help="Several initiators may be attached at a time; reservations are refused then.",
)
@click.option("--needs-mirror", is_flag=True, help="Writes wait while only one host has the volume.")
@click.option("--key", default="", help="Encrypt its snapshots with this key of yours.")
@wait_options(default=True)
@output_option
def create(
    volume_id: str,
    size: int,
    source: str | None,
    multi_attach: bool,
    needs_mirror: bool,
    key: str,
    wait: bool,
    timeout_s: float,
) -> None:
    """Create a volume, and wait until it can be attached."""
    request = pb.CreateVolumeRequest(
        volume_id=volume_id,
        size_bytes=size,
        multi_attach=multi_attach,
        needs_mirror=needs_mirror,
        encryption_key=key,
    )
    if source is not None:
        owner, _, snapshot_id = source.rpartition("/")
        if not snapshot_id:
            raise BadInput("BAD_ID", f"{source!r} names no snapshot: write SNAPSHOT or OWNER/SNAPSHOT.")
        request.source_snapshot.CopyFrom(pb.SnapshotRef(owner=owner, snapshot_id=snapshot_id))
    with session() as at:
        volume = at.call(at.client.volumes.CreateVolume, request).volume
        if wait:
            volume = wait_available(at, volume_id, timeout_s)
        emit(volume, lambda: show_volume(volume))


@command.command()
@click.argument("volume_id")
@click.option("--key", help="This key of yours, for snapshots to come.")
@click.option("--off", is_flag=True, help="Snapshots to come are not encrypted.")
@output_option
def encrypt(volume_id: str, key: str | None, off: bool) -> None:
    """Have snapshots of a volume encrypted, or no longer. The first one after that is a full one."""
    if off == bool(key):
        raise click.UsageError("Give either --key or --off.")
    with session() as at:
        request = eb.SetVolumeKeyRequest(volume_id=volume_id, encryption_key=key or "")
        response = at.call(at.client.encryption.SetVolumeKey, request)
    what = "not encrypted" if off else f"encrypted with key {key}"
    emit(response, lambda: click.echo(f"Snapshots of {volume_id} to come are {what}."))


@command.command("list")
@click.option("--all-owners", is_flag=True, help="Everybody's (operators only).")
@output_option
def list_(all_owners: bool) -> None:
    """List your volumes."""
    with session() as at:
        response = at.pages(at.client.volumes.ListVolumes, pb.ListVolumesRequest(all_owners=all_owners))
    rows = [
        [
            *([one.owner] if all_owners else []),
            one.volume_id,
            show_size(one.size_bytes),
            state_name(r.VolumeState.Name(one.state)),
            health_word(one),
            source_of(one) or "-",
            one.reason or one.health.message,
        ]
        for one in response.volumes
    ]
    heads = ["VOLUME", "SIZE", "STATE", "HEALTH", "SOURCE", "REASON"]
    heads = ["OWNER", *heads] if all_owners else heads
    emit(
        response,
        lambda: table(heads, rows, "You have no volumes. Make one: holdfast volume create ID --size 10GiB"),
    )


@command.command()
@click.argument("volume_id")
@click.option("--owner", default="", help="Somebody else's (operators only).")
@output_option
def show(volume_id: str, owner: str) -> None:
    """Show one volume."""
    with session() as at:
        request = pb.GetVolumeRequest(volume_id=volume_id, owner=owner)
        volume = at.call(at.client.volumes.GetVolume, request).volume
    emit(volume, lambda: show_volume(volume))


@command.command()
@click.argument("volume_id")
@click.option(
    "--for",
    "goal",
    type=click.Choice(["available", "hydrated", "deleted"]),
    default="available",
    show_default=True,
    help="hydrated: nothing is left to copy from its snapshot.",
)
@click.option("--timeout", "timeout_s", type=float, default=600.0, show_default=True, metavar="SECONDS")
@output_option
def wait(volume_id: str, goal: str, timeout_s: float) -> None:
    """Wait for a volume."""
    with session() as at:
        if goal == "deleted":
            _wait_deleted(at, volume_id, timeout_s)
            return
        volume = wait_available(at, volume_id, timeout_s, hydrated=goal == "hydrated")
    emit(volume, lambda: show_volume(volume))


@command.command()
@click.argument("volume_id")
@wait_options(default=True)
def delete(volume_id: str, wait: bool, timeout_s: float) -> None:
    """Delete a volume and its data. Its snapshots stay."""
    with session() as at:
        at.call(at.client.volumes.DeleteVolume, pb.DeleteVolumeRequest(volume_id=volume_id))
        if wait:
            _wait_deleted(at, volume_id, timeout_s)


command.add_command(volume_moves.switch)
command.add_command(volume_moves.verify)
command.add_command(volume_moves.limit)
command.add_command(volume_moves.force_start)


def wait_available(at: Session, volume_id: str, timeout_s: float, hydrated: bool = False) -> pb.Volume:
    """The volume once it is AVAILABLE (and all of its source is copied)."""
    narrate = Narrator()

    def done(answer: pb.WatchVolumeResponse) -> bool:
        if answer.deleted or answer.volume.state == r.VOLUME_STATE_DELETING:
            raise NotFound("NOT_FOUND", f"Volume {volume_id!r} is deleted.")
        left_bytes = answer.volume.hydrate_remaining_bytes if hydrated else 0
        return answer.volume.state == r.VOLUME_STATE_AVAILABLE and not left_bytes

    def show_it(answer: pb.WatchVolumeResponse) -> None:
        if answer.volume.state == r.VOLUME_STATE_CREATING:
            narrate(f"volume {volume_id} is being made. {answer.volume.reason}".rstrip())

    request = pb.WatchVolumeRequest(volume_id=volume_id)
    what = f"Volume {volume_id!r} did not become {'hydrated' if hydrated else 'AVAILABLE'}"
    answer = until(at, at.client.volumes.WatchVolume, request, done, show_it, timeout_s, what)
    return answer.volume  # type: ignore[no-any-return]


def _wait_deleted(at: Session, volume_id: str, timeout_s: float) -> None:
    request = pb.WatchVolumeRequest(volume_id=volume_id)
    what = f"Volume {volume_id!r} was not removed"
    until_deleted(at, at.client.volumes.WatchVolume, request, timeout_s, what)
