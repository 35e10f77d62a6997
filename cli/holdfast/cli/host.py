"""`holdfast host …`"""

import click

from holdfast.api.host.v1 import host_pb2 as pb
from holdfast.base.errors import HoldfastError, NotFound
from holdfast.cli.session import Session, session
from holdfast.cli.show import emit, facts, moment, output_option, table
from holdfast.cli.sizes import show_size
from holdfast.cli.waiting import Narrator, until, wait_options


@click.group("host")
def command() -> None:
    """Storage hosts (operators only). A host registers itself: its agent does."""


@command.command("list")
@output_option
def list_() -> None:
    """List the storage hosts."""
    with session() as at:
        response = at.pages(at.client.hosts.ListHosts, pb.ListHostsRequest())
    rows = [
        [
            one.host_id,
            _standing(one),
            one.portal,
            show_size(one.capacity_bytes),
            show_size(one.allocated_bytes),
            str(one.volume_count),
            "yes" if one.exports else f"no: {one.exports_message}",
            one.drain_reason,
        ]
        for one in response.hosts
    ]
    heads = ["HOST", "STANDING", "PORTAL", "CAPACITY", "ALLOCATED", "VOLUMES", "EXPORTS", "REASON"]
    emit(response, lambda: table(heads, rows, "No host has registered: start holdfast-agent on two."))


@command.command()
@click.argument("host_id")
@output_option
def show(host_id: str) -> None:
    """Show one storage host."""
    with session() as at:
        host = at.call(at.client.hosts.GetHost, pb.GetHostRequest(host_id=host_id)).host
    emit(host, lambda: _show(host))


@command.command()
@click.argument("host_id")
@click.option("--gone", is_flag=True, help="It never comes back: what waits only for it is finished.")
def delete(host_id: str, gone: bool) -> None:
    """Forget a host whose agent is gone and that holds no copy that is needed."""
    with session() as at:
        at.call(at.client.hosts.DeleteHost, pb.DeleteHostRequest(host_id=host_id, gone=gone))


@command.command()
@click.argument("host_id")
@wait_options(default=False)
@output_option
def drain(host_id: str, wait: bool, timeout_s: float) -> None:
    """Move every volume off a host, without an I/O error; it gets nothing new.

    `host show` says how far it is, and why it does not go on.
    """
    with session() as at:
        at.call(at.client.hosts.DrainHost, pb.DrainHostRequest(host_id=host_id))
        if wait:
            host = _wait_empty(at, host_id, timeout_s)
        else:
            host = at.call(at.client.hosts.GetHost, pb.GetHostRequest(host_id=host_id)).host
    emit(host, lambda: click.echo(f"Host {host_id} is being drained: {_left(host)}."))


@command.command()
@click.argument("host_id")
def undrain(host_id: str) -> None:
    """Let a host hold volumes again. What has moved stays where it is."""
    with session() as at:
        at.call(at.client.hosts.UndrainHost, pb.UndrainHostRequest(host_id=host_id))


def _wait_empty(at: Session, host_id: str, timeout_s: float) -> pb.Host:
    """The host once it holds no volume, stores that are still being removed included."""
    narrate = Narrator()

    def done(answer: pb.WatchHostResponse) -> bool:
        if answer.deleted:
            raise NotFound("NOT_FOUND", f"Somebody has deleted host {host_id!r}.")
        if answer.host.volume_count and not answer.host.draining:
            raise HoldfastError(
                "NOT_DRAINING", f"Somebody let host {host_id!r} hold volumes again: {_left(answer.host)}."
            )
        return not answer.host.volume_count

    def show_it(answer: pb.WatchHostResponse) -> None:
        if not answer.deleted:
            narrate(f"host {host_id}: {_left(answer.host)}. {answer.host.drain_reason}".rstrip())

    request = pb.WatchHostRequest(host_id=host_id)
    what = f"Host {host_id!r} was not emptied"
    answer = until(at, at.client.hosts.WatchHost, request, done, show_it, timeout_s, what)
    return answer.host  # type: ignore[no-any-return]


def _left(host: pb.Host) -> str:
    count = host.volume_count
    return f"{count} volume{'s'[: count != 1]} left" if count else "nothing is left on it"


def _standing(host: pb.Host) -> str:
    """As in docs/states/host.md."""
    return ("live" if host.live else "lost") + (", draining" if host.draining else "")


def _show(host: pb.Host) -> None:
    facts(
        [
            ("Host", host.host_id),
            ("Standing", _standing(host)),
            ("Lost since", moment(host.lost_time)),
            ("Boot", host.boot_id),
            ("Address", host.address),
            ("Portal", host.portal),
            ("Capacity", show_size(host.capacity_bytes)),
            ("Allocated", show_size(host.allocated_bytes)),
            ("Volumes", str(host.volume_count)),
            ("Draining", f"{_left(host)}. {host.drain_reason}".rstrip() if host.draining else ""),
            ("Exports", "yes" if host.exports else f"no: {host.exports_message}"),
        ]
    )
