"""`holdfast grant …`"""

import click

from holdfast.api.grant.v1 import grant_pb2 as pb
from holdfast.cli.granted import PERMISSIONS, permitted
from holdfast.cli.session import session
from holdfast.cli.show import emit, moment, output_option, table


@click.group("grant")
def command() -> None:
    """Who else may make volumes from a snapshot, or read its blocks."""


@command.command()
@click.argument("snapshot_id")
@click.argument("user")
@click.option(
    "--permit",
    "permitted_words",
    multiple=True,
    type=click.Choice(list(PERMISSIONS)),
    default=["make-volumes"],
    show_default=True,
    help="What it lets USER do; repeatable.",
)
@click.option("--key", default="", help="Of an encrypted snapshot: USER's key for it, if not `default`.")
@output_option
def create(snapshot_id: str, user: str, permitted_words: tuple[str, ...], key: str) -> None:
    """Let USER (or '*', everyone) make volumes from your snapshot SNAPSHOT_ID, or read its blocks."""
    with session() as at:
        request = pb.CreateGrantRequest(
            snapshot_id=snapshot_id,
            user=user,
            permissions=[PERMISSIONS[one] for one in permitted_words],
            encryption_key=key,
        )
        response = at.call(at.client.grants.CreateGrant, request)
    grant = response.grant
    how = "is granted" if response.created else "was granted already"
    emit(grant, lambda: click.echo(f"{grant.owner}/{grant.snapshot_id} {how} to {_who(grant.user)}."))


@command.command("list")
@click.argument("snapshot_id")
@output_option
def list_(snapshot_id: str) -> None:
    """List who may use your snapshot SNAPSHOT_ID."""
    with session() as at:
        response = at.pages(at.client.grants.ListGrants, pb.ListGrantsRequest(snapshot_id=snapshot_id))
    rows = [
        [_who(one.user), permitted(one.permissions), moment(one.create_time), one.encryption_key or "-"]
        for one in response.grants
    ]
    emit(response, lambda: table(["USER", "MAY", "SINCE", "KEY"], rows, "Nobody but you may use it."))


@command.command()
@click.argument("snapshot_id")
@click.argument("user")
def delete(snapshot_id: str, user: str) -> None:
    """Take a grant back. Volumes already made live on."""
    with session() as at:
        request = pb.DeleteGrantRequest(snapshot_id=snapshot_id, user=user)
        at.call(at.client.grants.DeleteGrant, request)


def _who(user: str) -> str:
    return "everyone" if user == "*" else user
