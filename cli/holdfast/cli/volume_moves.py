"""`holdfast volume switch`, `verify`, `limit` and `force-start`: what may be asked of a volume's replicas."""

import sys

import click

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.volume.v1 import volume_pb2 as pb
from holdfast.base.errors import HoldfastError, NotFound
from holdfast.cli.failures import Differed
from holdfast.cli.session import Session, session
from holdfast.cli.show import duration, emit, output_option
from holdfast.cli.sizes import SIZE, show_size
from holdfast.cli.volume_show import differences, limited
from holdfast.cli.waiting import Bar, until, wait_options

_OWNER = click.option("--owner", default="", help="Somebody else's (operators only).")


@click.command()
@click.argument("volume_id")
@_OWNER
@click.option("--to", "to_host_id", default="", help="This host (operators only); else any that is in sync.")
@output_option
def switch(volume_id: str, owner: str, to_host_id: str) -> None:
    """Make a mirror the primary, without an I/O error. Returns when it is asked for.

    The epoch rises when it is done: `volume show --output json` has it.
    """
    request = pb.SwitchPrimaryRequest(volume_id=volume_id, owner=owner, to_host_id=to_host_id)
    with session() as at:
        answer = at.call(at.client.volumes.SwitchPrimary, request)
    said = "Asked for" if answer.changed else "It was asked for already, or is so"
    emit(answer, lambda: click.echo(f"{said}, in epoch {answer.epoch}."))


@click.command()
@click.argument("volume_id")
@_OWNER
@click.option("--rate", type=SIZE, default=0, help="Of reading, a second, e.g. 100MiB. Else 64MiB.")
@wait_options(default=False)
@output_option
def verify(volume_id: str, owner: str, rate: int, wait: bool, timeout_s: float) -> None:
    """Compare the replicas block by block, with writes going on, and repair what differs.

    While a comparison is under way nothing new begins: that one is followed. With --wait, exit status 6
    if anything differed, repaired or not.
    """
    request = pb.VerifyVolumeRequest(volume_id=volume_id, owner=owner, rate_bytes_s=rate)
    with session() as at:
        answer = at.call(at.client.volumes.VerifyVolume, request)
        if not wait:
            begun = "is under way" if answer.changed else "was under way already"
            emit(
                answer, lambda: click.echo(f"Comparison {answer.request} {begun}; `volume show` follows it.")
            )
            return
        status = _wait_verified(at, volume_id, owner, answer.request, timeout_s)
    emit(status, lambda: click.echo(f"{show_size(status.done_bytes)} compared: {differences(status)}."))
    _judge(volume_id, status)


@click.command()
@click.argument("volume_id")
@click.option("--owner", required=True, help="Whose it is.")
@click.option("--iops", type=click.IntRange(min=0), default=0, help="Operations a second; 0: no limit.")
@click.option("--rate", type=SIZE, default=0, help="Bytes a second, e.g. 200MiB; 0: no limit.")
@output_option
def limit(volume_id: str, owner: str, iops: int, rate: int) -> None:
    """How fast a volume may be used, all of its initiators together (operators only).

    Replaces what was set before: without --iops and --rate it is as fast as it goes.
    """
    request = pb.LimitVolumeRequest(volume_id=volume_id, owner=owner, iops=iops, bytes_s=rate)
    with session() as at:
        answer = at.call(at.client.volumes.LimitVolume, request)
    said = limited(answer.volume.limits) or "no limit"
    emit(answer, lambda: click.echo(f"Volume {volume_id} has {said}."))


@click.command("force-start")
@click.argument("volume_id")
@click.option("--owner", required=True, help="Whose it is.")
@click.option("--host", "host_id", required=True, help="Whose copy it starts from.")
@click.option("--loss", default="", help="What is given up, in words; asked for on a terminal if not given.")
@click.option("--accept-half-synced", is_flag=True, help="Even if that copy is between two moments.")
@output_option
def force_start(volume_id: str, owner: str, host_id: str, loss: str, accept_half_synced: bool) -> None:
    """The last resort (operators only): go on with a copy that may lack acknowledged writes.

    Who gave up what, and when, is recorded with the volume for good. It is refused while a good copy
    lives or can start by itself.
    """
    loss = loss or _ask_loss(volume_id, host_id)
    request = pb.ForceStartVolumeRequest(
        volume_id=volume_id, owner=owner, host_id=host_id, loss=loss, accept_half_synced=accept_half_synced
    )
    with session() as at:
        answer = at.call(at.client.volumes.ForceStartVolume, request)
    emit(answer, lambda: click.echo(f"It starts in epoch {answer.epoch}."))


def _ask_loss(volume_id: str, host_id: str) -> str:
    """The operator's words. Raises click.UsageError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise click.UsageError("Say with --loss, in words, what is given up: it is recorded.")
    click.echo(f"Volume {volume_id} goes on with what host {host_id} has: other writes are lost.", err=True)
    return str(click.prompt("What is given up, in words (it is recorded)", err=True))


def _wait_verified(at: Session, volume_id: str, owner: str, number: int, timeout_s: float) -> r.VerifyStatus:
    """The comparison `number`, or a newer one, once it has ended."""
    bar = Bar(f"comparing {volume_id}")

    def done(answer: pb.WatchVolumeResponse) -> bool:
        if answer.deleted or answer.volume.state == r.VOLUME_STATE_DELETING:
            raise NotFound("NOT_FOUND", f"Volume {volume_id!r} is deleted.")
        found = answer.volume.verify
        return found.request >= number and found.state != r.VERIFY_STATE_RUNNING

    def show_it(answer: pb.WatchVolumeResponse) -> None:
        found = answer.volume.verify
        bar.show(found.done_bytes, found.total_bytes, f"{differences(found)}{_expected(found)}")

    request = pb.WatchVolumeRequest(volume_id=volume_id, owner=owner)
    what = f"Comparison {number} of volume {volume_id!r} did not end"
    try:
        answer = until(at, at.client.volumes.WatchVolume, request, done, show_it, timeout_s, what)
    finally:
        bar.close()
    return answer.volume.verify  # type: ignore[no-any-return]


def _expected(found: r.VerifyStatus) -> str:
    left_bytes = found.total_bytes - found.done_bytes
    return f", at most {duration(left_bytes / found.rate_bytes_s)} to go"


def _judge(volume_id: str, status: r.VerifyStatus) -> None:
    """Raise unless all of it was compared and nothing differed. A difference counts, however it ended."""
    if status.state == r.VERIFY_STATE_FAILED:
        sentence = f"The comparison of volume {volume_id!r} did not end: {status.reason or 'interrupted'}"
        error = Differed if status.differing_bytes else HoldfastError
        raise error("VERIFY_FAILED", f"{sentence.rstrip('.')}. Ask again.")
    if status.differing_bytes:
        raise Differed("DIFFERED", f"The replicas of volume {volume_id!r} differed: {differences(status)}.")
