"""`holdfast-snapshotter`: uploads frozen snapshots, and serves snapshots to hosts and to users."""

import gc
import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click

from holdfast.base import notify
from holdfast.base.errors import BadInput, HoldfastError
from holdfast.base.ids import check_name
from holdfast.base.limits import EXTENT_BYTES, MIB
from holdfast.base.loop import Loop
from holdfast.base.nbd.server import Server
from holdfast.base.tls import TlsFiles, client_context, server_context
from holdfast.metadata.etcd import Etcd
from holdfast.metadata.health import HealthKeeper
from holdfast.metadata.snapshotter_actions import SNAPSHOTTER_LEASE_TTL_S, SnapshotterActions
from holdfast.snapshotter import allocator
from holdfast.snapshotter.access import Access
from holdfast.snapshotter.block_tokens import key_from
from holdfast.snapshotter.blocks_api import BlockServicer
from holdfast.snapshotter.collecting import EVERY_S, Collecting
from holdfast.snapshotter.collector import GRACE_S
from holdfast.snapshotter.copier import COPY_BYTES_S, Copier
from holdfast.snapshotter.exports import open_export
from holdfast.snapshotter.grpc_server import SERVICES, GrpcServer
from holdfast.snapshotter.guests import Guests
from holdfast.snapshotter.idle import IdleDirects
from holdfast.snapshotter.key_api import KeyServicer
from holdfast.snapshotter.keys_url import open_keys
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.objects_url import open_store
from holdfast.snapshotter.scrubber import SCRUB_BYTES_S
from holdfast.snapshotter.serve import Readers
from holdfast.snapshotter.service import Service
from holdfast.snapshotter.staging import Stagers
from holdfast.snapshotter.task import nbd_views
from holdfast.snapshotter.upload import Settings

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
ETCD_ASK_TIMEOUT_S = 2.0
"""Who may open an export is asked on the NBD server's own thread: not for long."""
REGISTERED_WAIT_S = 5.0
"""For the first registration, before we say that we serve; etcd may come later, too."""
STOP_GRACE_S = 5.0
"""For an end in good order."""
NBD_CONNECTIONS_MAX = 1024
NBD_CONNECTION_BYTES = 16 * MIB
"""What one connection may have asked for: as much as nbdcopy's does."""


@click.command(context_settings={"show_default": True, "auto_envvar_prefix": "HOLDFAST_SNAPSHOTTER"})
@click.option("--id", "snapshotter_id", required=True, help="Its name, unique among snapshotters.")
@click.option("--address", required=True, help="Where storage hosts reach it.")
@click.option("--listen-nbd", default="[::]:7411", help="Address and port to serve snapshots at.")
@click.option("--grpc-listen", default="[::]:7410", help="Address and port of the block API and health.")
@click.option("--objects", required=True, help="file:///dir, or s3://bucket/prefix?endpoint=http://…")
@click.option(
    "--target", "targets", multiple=True, metavar="NAME=URL", help="A store to copy snapshots to; repeatable."
)
@click.option("--keys", default="", help="Users' keys: file:///dir, or command:///program?timeout_s=10")
@click.option("--etcd", "endpoints", multiple=True, default=["127.0.0.1:2379"], help="A member; repeatable.")
@click.option("--etcd-ca", type=_FILE, help="etcd's authority; with it, etcd is spoken to over TLS.")
@click.option("--etcd-cert", type=_FILE, help="Our certificate for etcd.")
@click.option("--etcd-key", type=_FILE, help="Its key.")
@click.option("--ca", type=_FILE, required=True, help="The authority whose hosts are known.")
@click.option("--cert", type=_FILE, required=True, help="Our certificate (a service's).")
@click.option("--key", type=_FILE, required=True, help="Its key.")
@click.option(
    "--token-key",
    type=_FILE,
    help="The same in every copy, and a secret: block tokens are made with it. Without: --key's.",
)
@click.option("--uploads", type=click.IntRange(1, 64), default=2, help="Snapshots uploaded at a time.")
@click.option("--pack-mib", type=click.IntRange(1, 256), default=32, help="Size of a pack.")
@click.option("--puts", type=click.IntRange(1, 64), default=4, help="Packs on their way at once.")
@click.option(
    "--scrub-mib-s",
    type=click.FloatRange(min=0),
    default=SCRUB_BYTES_S / MIB,
    help="How fast to verify, a second, what nobody has verified in 30 days; 0: not at all.",
)
@click.option(
    "--copy-mib-s",
    type=click.FloatRange(min=0),
    default=COPY_BYTES_S / MIB,
    help="How fast to copy to another store, a second, and to read back there; 0: as fast as can be.",
)
@click.option("--checkpoint-s", type=click.FloatRange(min=0), default=5.0, help="Between checkpoints.")
@click.option(
    "--collect-every-s",
    type=click.FloatRange(min=0),
    default=EVERY_S,
    help="Between collections of objects that nothing needs; 0: this one does not collect.",
)
@click.option(
    "--collect-grace-s",
    type=click.FloatRange(min=0),
    default=GRACE_S,
    help="How long what nothing needs any more is kept. The same in every copy.",
)
@click.option(
    "--lease-ttl-s", type=click.IntRange(1, 600), default=SNAPSHOTTER_LEASE_TTL_S, help="Of its lease."
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning"]), default="info")
def main(
    snapshotter_id: str,
    address: str,
    listen_nbd: str,
    grpc_listen: str,
    objects: str,
    targets: tuple[str, ...],
    keys: str,
    endpoints: tuple[str, ...],
    etcd_ca: Path | None,
    etcd_cert: Path | None,
    etcd_key: Path | None,
    ca: Path,
    cert: Path,
    key: Path,
    token_key: Path | None,
    uploads: int,
    pack_mib: int,
    puts: int,
    scrub_mib_s: float,
    copy_mib_s: float,
    checkpoint_s: float,
    collect_every_s: float,
    collect_grace_s: float,
    lease_ttl_s: int,
    log_level: str,
) -> None:
    """Upload frozen snapshots to the object store, and serve snapshots to hosts that copy from them.

    Several may run; a snapshot is uploaded by one, and by another if that dies. Credentials for S3 come
    from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY). SIGTERM ends it at once and gives its
    work back; what it has uploaded is used by the next.
    """
    allocator.settle()
    logging.basicConfig(
        level=log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    etcd_files = [file for file in (etcd_ca, etcd_cert, etcd_key) if file is not None]
    if len(etcd_files) not in (0, 3):
        raise click.UsageError("--etcd-ca, --etcd-cert and --etcd-key go together.")
    try:
        process = Process(
            TlsFiles(ca, cert, key),
            endpoints,
            TlsFiles(*etcd_files) if etcd_files else None,
            objects,
            keys,
            listen_nbd,
            grpc_listen,
            key_from(token_key or key),
            targets_of(targets),
        )
    except (HoldfastError, OSError) as error:
        raise click.ClickException(str(error)) from error
    pack_bytes = pack_mib * MIB
    settings = Settings(
        pack_bytes=pack_bytes,
        uploads=puts,
        checkpoint_every_s=checkpoint_s,
        # A pack is full when it has reached its size: small ones are filled in small steps.
        batch_extents=min(Settings.batch_extents, pack_bytes // EXTENT_BYTES // 4),
    )
    process.run(
        snapshotter_id,
        address,
        settings,
        uploads,
        lease_ttl_s,
        (collect_every_s, collect_grace_s),
        scrub_mib_s * MIB,
        copy_mib_s * MIB or math.inf,
    )


class Process:
    """Everything that the process holds, wired."""

    def __init__(
        self,
        tls: TlsFiles,
        endpoints: tuple[str, ...],
        etcd_tls: TlsFiles | None,
        objects: str,
        keys: str,
        listen_nbd: str,
        grpc_listen: str,
        token_key: bytes,
        targets: Mapping[str, ObjectStore],
    ) -> None:
        self._store = open_store(objects)
        self._targets = targets
        self._keys = open_keys(keys)
        self._open_view = nbd_views(client_context(tls))
        self._etcd = Etcd(endpoints, etcd_tls)
        self._etcd_for_access = Etcd(endpoints, etcd_tls, ETCD_ASK_TIMEOUT_S)
        self._loop = Loop()
        self._readers = Readers(self._store, keys=self._keys)
        self._guests = Guests(self._store, keys=self._keys)
        exports = open_export(self._loop, Access(self._etcd_for_access), self._readers, self._guests)
        self._nbd = Server(
            self._loop, exports, connections_max=NBD_CONNECTIONS_MAX, budget_bytes=NBD_CONNECTION_BYTES
        )
        self.nbd_port = self._nbd.listen_tcp(*split_address(listen_nbd), tls=server_context(tls))
        self._health = HealthKeeper(self._etcd, SERVICES)
        self._stagers = Stagers(self._etcd_for_access, self._store)
        blocks = BlockServicer(
            self._etcd_for_access, self._store, self._guests.readers, self._stagers, token_key
        )
        self._grpc = GrpcServer(grpc_listen, tls, self._health, blocks, KeyServicer(self._keys))

    def run(
        self,
        snapshotter_id: str,
        address: str,
        settings: Settings,
        uploads: int,
        lease_ttl_s: int,
        collect: tuple[float, float],
        scrub_bytes_s: float,
        copy_bytes_s: float,
    ) -> None:
        """Serve until SIGTERM or SIGINT.

        Args:
            collect: seconds between collections, 0 for none; and their grace.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._loop.call_from_thread(self._loop.stop))

        def actions(on_lost: Callable[[], None]) -> SnapshotterActions:
            return SnapshotterActions(
                self._etcd,
                snapshotter_id,
                address,
                self.nbd_port,
                lease_ttl_s,
                on_lost=on_lost,
                grpc_port=self._grpc.port,
                targets=sorted(self._targets),
            )

        service = Service(actions, self._store, self._open_view, settings, uploads, self._keys, scrub_bytes_s)
        for readers in (self._readers, self._guests.readers):
            readers.on_lost = service.scrubber.suspect
        self._health.start()
        self._grpc.start()
        service.start()
        idle = IdleDirects(self._etcd)
        idle.start()
        copier = Copier(
            service.actions,
            self._store,
            self._targets,
            self._keys,
            service.scrubber.suspect,
            bytes_s=copy_bytes_s,
        )
        copier.start()
        collecting = Collecting(
            self._etcd, self._store, service.actions.claimant, *collect, key_service=self._keys
        )
        if collect[0]:
            collecting.start()
        service.actions.keeper.wait_attached(REGISTERED_WAIT_S)
        gc.freeze()  # What was loaded stays: the collector need not look through it again and again.
        notify.tell_supervisor(notify.READY)
        self._loop.run()
        _exit_after(STOP_GRACE_S)
        idle.stop()
        copier.stop()
        collecting.stop()
        service.stop()
        self._health.stop()
        self._grpc.stop()
        self._nbd.close()
        self._stagers.close()
        self._guests.close()
        self._readers.close()
        self._loop.close()
        for store in (self._store, *self._targets.values()):
            store.close()
        for etcd in (self._etcd, self._etcd_for_access):
            etcd.close()


def _exit_after(grace_s: float) -> None:
    """End the process then, whatever still waits for a host or a store: being killed costs it nothing."""
    timer = threading.Timer(grace_s, lambda: os._exit(0))
    timer.daemon = True
    timer.start()


def targets_of(words: Sequence[str]) -> dict[str, ObjectStore]:
    """Stores by name, of "NAME=URL". Raises BadInput."""
    found: dict[str, ObjectStore] = {}
    for word in words:
        name, separator, url = word.partition("=")
        check_name("target", name)
        if not separator or name in found:
            raise BadInput("BAD_TARGET", f"{word!r} is not NAME=URL, or that name is there twice.")
        found[name] = open_store(url)
    return found


def split_address(text: str) -> tuple[str, int]:
    """("host", port) of "host:port" or "[v6]:port". Raises BadInput BAD_ADDRESS."""
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65535 or not host:
        raise BadInput("BAD_ADDRESS", f"{text!r} is not an address and port, such as 10.0.0.7:7411.")
    return host.removeprefix("[").removesuffix("]"), int(port)


if __name__ == "__main__":
    main()
