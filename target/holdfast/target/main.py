"""`holdfast-agent`: a storage host's agent as a process. End it at any time: what it manages goes on."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base import notify
from holdfast.base.errors import HoldfastError, Unavailable
from holdfast.base.limits import HOST_LEASE_TTL_S, MIB, SYNC_MAX_BYTES_S
from holdfast.base.loop import Loop
from holdfast.base.tls import TlsFiles
from holdfast.metadata.etcd import Etcd
from holdfast.metadata.host_actions import HostActions
from holdfast.metadata.lease import LeaseKeeper
from holdfast.metadata.seal import public_key, read_private_key
from holdfast.target.agent import Agent
from holdfast.target.lio import Lio
from holdfast.target.metrics import serve
from holdfast.target.reconcile import Host
from holdfast.target.upgrades import code_id
from holdfast.target.workers import Workers, worker_command

log = logging.getLogger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
ETCD_RETRY_S = 1.0
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_DIR = click.Path(file_okay=False, path_type=Path)


@click.command(context_settings={"show_default": True, "auto_envvar_prefix": "HOLDFAST_AGENT"})
@click.option("--host-id", required=True, help="This host's id; its certificate's name.")
@click.option("--address", required=True, help="Where other hosts and snapshotters reach it.")
@click.option("--portal", required=True, help="address:port at which initiators log in.")
@click.option(
    "--store",
    type=_DIR,
    required=True,
    help="Folder of the replicas, in a file system of its own. It must exist.",
)
@click.option("--run-dir", type=_DIR, default=Path("/run/holdfast"), help="Sockets, process ids, logs.")
@click.option("--etcd", "endpoints", multiple=True, default=["127.0.0.1:2379"], help="A member; repeatable.")
@click.option("--etcd-ca", type=_FILE, help="etcd's authority; with it, etcd is spoken to over TLS.")
@click.option("--etcd-cert", type=_FILE, help="Our certificate for etcd.")
@click.option("--etcd-key", type=_FILE, help="Its key.")
@click.option("--ca", type=_FILE, help="The authority of hosts and snapshotters.")
@click.option("--cert", type=_FILE, help="This host's certificate.")
@click.option("--key", type=_FILE, help="Its key.")
@click.option("--clear", is_flag=True, help="No TLS between hosts: the storage network is trusted.")
@click.option("--seal-key", type=_FILE, required=True, help="The host's .seal file: opens CHAP secrets.")
@click.option(
    "--lease-ttl",
    "lease_ttl_s",
    type=click.IntRange(2, 60),
    default=HOST_LEASE_TTL_S,
    help="Seconds without a sign of life after which this host is taken for dead.",
)
@click.option(
    "--sync-max-mib",
    type=click.IntRange(1, 1 << 20),
    default=SYNC_MAX_BYTES_S // MIB,
    help="MiB a second that bringing one replica up to date, or filling one volume from its snapshot, may"
    " take while nothing else needs the disks.",
)
@click.option("--metrics", default="", help="address:port for GET /metrics (Prometheus); none by default.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning"]), default="info")
def main(
    host_id: str,
    address: str,
    portal: str,
    store: Path,
    run_dir: Path,
    endpoints: tuple[str, ...],
    etcd_ca: Path | None,
    etcd_cert: Path | None,
    etcd_key: Path | None,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    clear: bool,
    seal_key: Path,
    lease_ttl_s: int,
    sync_max_mib: int,
    metrics: str,
    log_level: str,
) -> None:
    """Keep this storage host what etcd says that it should be: its volumes, their mirrors, their exports.

    Volumes are served by processes of their own, which this starts, and which outlive it. It needs root.
    """
    logging.basicConfig(
        level=log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    etcd_tls = _tls("etcd-ca, --etcd-cert and --etcd-key", etcd_ca, etcd_cert, etcd_key)
    tls = _tls("ca, --cert and --key", ca, cert, key)
    if (tls is None) != clear:
        raise click.UsageError("Give --ca, --cert and --key, or --clear.")
    if not store.is_dir():
        # Never made here: below a mount point that is empty for now, replicas would be lost from sight.
        raise click.ClickException(
            f"There is no folder {store} for the replicas: mount its file system, or make the folder in it."
        )
    run_dir.mkdir(parents=True, exist_ok=True)
    run_dir.chmod(0o700)
    words = ["--clear"]
    if tls is not None:
        words = ["--tls-ca", str(tls.ca.resolve()), "--tls-cert", str(tls.certificate.resolve())]
        words += ["--tls-key", str(tls.key.resolve())]
    command = worker_command(host_id, store.resolve(), run_dir.resolve(), words)
    boot_id = BOOT_ID.read_text().strip()
    host = Host(host_id, boot_id, address, portal, "", sync_max_bytes_s=sync_max_mib * MIB)
    try:
        private_key = read_private_key(seal_key)
        actions = HostActions(Etcd(endpoints, etcd_tls), host_id)
    except HoldfastError as error:
        raise click.ClickException(error.message) from error
    if metrics:
        _serve_metrics(metrics, run_dir)
    loop = Loop()
    agent = Agent(
        loop,
        actions,
        Lio(),
        Workers(run_dir.resolve(), command, code_id()),
        host,
        store.resolve(),
        private_key,
    )
    record = partial(_host_record, agent, store, public_key(private_key))
    _run(loop, agent, actions, partial(actions.keep_registered, record, lease_ttl_s))


def _run(loop: Loop, agent: Agent, actions: HostActions, register: Callable[[], LeaseKeeper]) -> None:
    stop = threading.Event()

    def end(*_: object) -> None:
        # In a thread: the one that the signal interrupts may be just about to wait, with the event's lock.
        threading.Thread(target=stop.set, daemon=True).start()
        loop.call_from_thread(loop.stop)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    trouble = agent.prepare_exports()
    if trouble:
        log.warning("%s It serves as a mirror only.", trouble)
    keeper = _register(register, stop)
    if keeper is not None:
        agent.start()
        notify.tell_supervisor(notify.READY)
        loop.run()
        notify.tell_supervisor(notify.STOPPING)
        # The lease is left to the next agent, which adopts it: a restart is no failure of the host.
        keeper.stop(revoke=False)
    agent.close()
    actions.etcd.close()
    loop.close()


def _serve_metrics(where: str, run_dir: Path) -> None:
    address, _, port = where.rpartition(":")
    try:
        serve(address.strip("[]"), int(port), run_dir)
    except (OSError, ValueError, OverflowError) as error:
        raise click.ClickException(f"--metrics {where} cannot be listened at: {error}.") from error


def _register(register: Callable[[], LeaseKeeper], stop: threading.Event) -> LeaseKeeper | None:
    """The host's registration, kept from now on; None if told to stop before etcd was reached."""
    while not stop.is_set():
        try:
            return register()
        except Unavailable as error:
            log.warning("the host is not registered yet: %s", error)
            stop.wait(ETCD_RETRY_S)
    return None


def _host_record(agent: Agent, store: Path, seal_public_key: bytes) -> r.HostRecord:
    room = os.statvfs(store)
    host = agent.host
    return r.HostRecord(
        host_id=host.host_id,
        boot_id=host.boot_id,
        address=host.address,
        portal=host.portal,
        capacity_bytes=room.f_blocks * room.f_frsize,
        seal_public_key=seal_public_key,
        exports=not host.no_lio,
        exports_message=host.no_lio,
    )


def _tls(names: str, ca: Path | None, cert: Path | None, key: Path | None) -> TlsFiles | None:
    files = [path for path in (ca, cert, key) if path is not None]
    if len(files) not in (0, 3):
        raise click.UsageError(f"--{names} go together.")
    return TlsFiles(*files) if files else None


if __name__ == "__main__":
    main()
