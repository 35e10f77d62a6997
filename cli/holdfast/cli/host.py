"""`holdfast host …`"""

import click

from holdfast.api.host.v1 import host_pb2 as pb
from holdfast.cli.session import session
from holdfast.cli.show import emit, facts, moment, output_option, table
from holdfast.cli.sizes import show_size


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
            "live" if one.live else "gone",
            one.portal,
            show_size(one.capacity_bytes),
            show_size(one.allocated_bytes),
            str(one.volume_count),
            "yes" if one.exports else f"no: {one.exports_message}",
        ]
        for one in response.hosts
    ]
    heads = ["HOST", "AGENT", "PORTAL", "CAPACITY", "ALLOCATED", "VOLUMES", "EXPORTS"]
    emit(response, lambda: table(heads, rows, "No host has registered: start holdfast-agent on two."))


@command.command()
@click.argument("host_id")
@output_option
def show(host_id: str) -> None:
    """Show one storage host."""
    with session() as at:
        host = at.call(at.client.hosts.GetHost, pb.GetHostRequest(host_id=host_id)).host
    emit(
        host,
        lambda: facts(
            [
                ("Host", host.host_id),
                ("Agent", "live" if host.live else "gone"),
                ("Boot", host.boot_id),
                ("Address", host.address),
                ("Portal", host.portal),
                ("Capacity", show_size(host.capacity_bytes)),
                ("Allocated", show_size(host.allocated_bytes)),
                ("Volumes", str(host.volume_count)),
                ("Draining", f"yes. {host.drain_reason}".strip() if host.draining else ""),
                ("Lost since", moment(host.lost_time) if host.HasField("lost_time") else ""),
                ("Exports", "yes" if host.exports else f"no: {host.exports_message}"),
            ]
        ),
    )


@command.command()
@click.argument("host_id")
@click.option("--gone", is_flag=True, help="It never comes back: what waits only for it is finished.")
def delete(host_id: str, gone: bool) -> None:
    """Forget a host whose agent is gone and that holds no copy that is needed."""
    with session() as at:
        at.call(at.client.hosts.DeleteHost, pb.DeleteHostRequest(host_id=host_id, gone=gone))


@command.command()
@click.argument("host_id")
def drain(host_id: str) -> None:
    """Move every volume off a host, without an I/O error. `host show` says how far it is."""
    with session() as at:
        at.call(at.client.hosts.DrainHost, pb.DrainHostRequest(host_id=host_id))


@command.command()
@click.argument("host_id")
def undrain(host_id: str) -> None:
    """Let a host hold volumes again."""
    with session() as at:
        at.call(at.client.hosts.UndrainHost, pb.UndrainHostRequest(host_id=host_id))
