"""`holdfast-metadata`: the metadata service as a process."""

import logging
import signal
import sys
from pathlib import Path
from queue import SimpleQueue

import click

from holdfast.base import notify
from holdfast.base.errors import HoldfastError
from holdfast.base.tls import TlsFiles
from holdfast.metadata.etcd import Etcd
from holdfast.metadata.keeper import Keeper
from holdfast.metadata.seal import read_private_key
from holdfast.metadata.server import MetadataServer
from holdfast.metadata.warden import Warden
from holdfast.metadata.warden_decisions import Settings

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(context_settings={"show_default": True, "auto_envvar_prefix": "HOLDFAST_METADATA"})
@click.option("--listen", default="[::]:7400", help="Address and port to serve at.")
@click.option("--etcd", "endpoints", multiple=True, default=["127.0.0.1:2379"], help="A member; repeatable.")
@click.option("--etcd-ca", type=_FILE, help="etcd's authority; with it, etcd is spoken to over TLS.")
@click.option("--etcd-cert", type=_FILE, help="Our certificate for etcd.")
@click.option("--etcd-key", type=_FILE, help="Its key.")
@click.option("--ca", type=_FILE, required=True, help="The authority whose users are known.")
@click.option("--cert", type=_FILE, required=True, help="The service's certificate.")
@click.option("--key", type=_FILE, required=True, help="Its key.")
@click.option("--seal-key", type=_FILE, required=True, help="The .seal file, the same in every copy.")
@click.option(
    "--overcommit",
    type=click.FloatRange(min=0.01),
    default=1.0,
    help="How many times a host's capacity may be promised.",
)
@click.option(
    "--replace-after",
    "replace_after_s",
    type=click.FloatRange(min=10),
    default=900,
    help="Seconds after which the replicas of a lost host are made anew elsewhere.",
)
@click.option(
    "--max-replacements",
    type=click.IntRange(min=0),
    default=4,
    help="Full copies of volumes under way at once in the cluster.",
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning"]), default="info")
def main(
    listen: str,
    endpoints: tuple[str, ...],
    etcd_ca: Path | None,
    etcd_cert: Path | None,
    etcd_key: Path | None,
    ca: Path,
    cert: Path,
    key: Path,
    seal_key: Path,
    overcommit: float,
    replace_after_s: float,
    max_replacements: int,
    log_level: str,
) -> None:
    """Serve Holdfast's API to users and operators: volumes, snapshots, grants, attachments, hosts.

    State is in etcd. The service starts without it, and answers UNAVAILABLE until it is there. SIGTERM
    lets the calls in progress finish.
    """
    logging.basicConfig(
        level=log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    etcd_files = [file for file in (etcd_ca, etcd_cert, etcd_key) if file is not None]
    if len(etcd_files) not in (0, 3):
        raise click.UsageError("--etcd-ca, --etcd-cert and --etcd-key go together.")
    # Not an Event: its lock may be held by the very thread that the signal interrupts.
    ended: SimpleQueue[int] = SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: ended.put(got))
    try:
        etcd = Etcd(endpoints, TlsFiles(*etcd_files) if etcd_files else None)
        private_key = read_private_key(seal_key)
        server = MetadataServer(listen, TlsFiles(ca, cert, key), etcd, private_key, overcommit)
    except HoldfastError as error:
        raise click.ClickException(error.message) from error
    warden = Warden(etcd, private_key, Settings(replace_after_s, max_replacements, overcommit))
    keeper = Keeper(etcd)
    server.start()
    warden.start()
    keeper.start()
    logging.getLogger(__name__).info("serving at %s, port %d", listen, server.port)
    notify.tell_supervisor(notify.READY)
    ended.get()
    notify.tell_supervisor(notify.STOPPING)
    keeper.stop()
    warden.stop()
    server.stop()
    etcd.close()


if __name__ == "__main__":
    main()
