"""`holdfast host …`"""

import click

from holdfast.api.host.v1 import host_pb2 as pb
from holdfast.cli.session import session
from holdfast.cli.show import emit, facts, output_option, table
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
                ("Exports", "yes" if host.exports else f"no: {host.exports_message}"),
            ]
        ),
    )


@command.command()
@click.argument("host_id")
def delete(host_id: str) -> None:
    """Forget a host that is gone and holds no volumes."""
    with session() as at:
        at.call(at.client.hosts.DeleteHost, pb.DeleteHostRequest(host_id=host_id))
