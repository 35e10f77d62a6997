"""`holdfast login`: try the connection, then keep its settings."""

import json
import os

import click

from holdfast.api.volume.v1 import volume_pb2 as pb
from holdfast.cli.session import session
from holdfast.cli.settings import Settings


@click.command("login")
@click.pass_obj
def command(settings: Settings) -> None:
    """Keep the connection's settings in a file.

    \b
    holdfast --server HOST:PORT --ca ca.crt --cert me.crt --key me.key login
    """
    server, tls = Settings(settings.server, settings.ca, settings.cert, settings.key, None, "").connection()
    with session() as at:
        at.call(at.client.volumes.ListVolumes, pb.ListVolumesRequest(page_size=1))
    files = {"ca": tls.ca, "cert": tls.certificate, "key": tls.key}
    kept = {"server": server, **{name: str(file.resolve()) for name, file in files.items()}}
    path = settings.file()
    path.parent.mkdir(parents=True, exist_ok=True)
    # A JSON string is a TOML string.
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in kept.items()]
    scratch = path.with_name(path.name + ".new")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.writelines(lines)
    scratch.replace(path)
    click.echo(f"Kept in {path}.")
