"""`holdfast settings …`: what an owner, or an operator for the cluster, has set."""

import click

from holdfast.api.settings.v1 import settings_pb2 as pb
from holdfast.cli.session import session
from holdfast.cli.show import emit, facts, output_option
from holdfast.cli.times import DURATION, show_duration


@click.group("settings")
def command() -> None:
    """How long what you delete can be restored."""


_OWNER = click.option("--owner", default="", help="Another owner's (operators only).")
_CLUSTER = click.option("--cluster", is_flag=True, help="Of owners who set nothing (operators only).")


@command.command()
@_OWNER
@_CLUSTER
@output_option
def show(owner: str, cluster: bool) -> None:
    """Show your settings."""
    with session() as at:
        request = pb.GetSettingsRequest(owner=owner, cluster=cluster)
        settings = at.call(at.client.settings.GetSettings, request).settings
    emit(settings, lambda: _show(settings))


@command.command()
@click.option("--recycle-for", "recycle_s", type=DURATION, help="In the recycle bin: 14d; 0: not at all.")
@click.option("--no-recycle-for", "inherit", is_flag=True, help="As the cluster's.")
@_OWNER
@_CLUSTER
@output_option
def update(recycle_s: int | None, inherit: bool, owner: str, cluster: bool) -> None:
    """Change your settings. What is in the recycle bin stays there as long as it was told to."""
    if (recycle_s is not None) == inherit:
        raise click.UsageError("Give --recycle-for or --no-recycle-for.")
    request = pb.UpdateSettingsRequest(owner=owner, cluster=cluster)
    request.update_mask.paths.append("recycle_s")
    if recycle_s is not None:
        request.settings.recycle_s = recycle_s
    with session() as at:
        settings = at.call(at.client.settings.UpdateSettings, request).settings
    emit(settings, lambda: _show(settings))


def _show(settings: pb.Settings) -> None:
    own = "" if settings.HasField("recycle_s") else " (the cluster's)"
    facts([("Recycle bin", show_duration(settings.effective_recycle_s) + own)])
