"""The process `holdfast-worker`: one replica of one volume on one host. Its agent starts it and tells it
what to do over the control socket; it goes on without the agent, and ends on SIGTERM.
"""

import argparse
import fcntl
import logging
import os
import signal
import sys
from pathlib import Path
from typing import IO

from holdfast.base import notify
from holdfast.base.loop import Loop
from holdfast.base.tls import TlsFiles
from holdfast.target.meter import Meter
from holdfast.target.process_record import record_of
from holdfast.target.uio import open_uio
from holdfast.target.worker import Worker
from holdfast.target.worker_control import ControlServer
from holdfast.target.worker_ring import OpenDevice, Ring


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volume", required=True, help="uid of the volume")
    parser.add_argument("--store", required=True, type=Path, help="the host's folder of replicas")
    parser.add_argument("--run-dir", required=True, type=Path, help="where control sockets are")
    parser.add_argument("--host-id", required=True)
    parser.add_argument("--tls-ca", type=Path)
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--clear", action="store_true", help="no TLS: the storage network is trusted")
    arguments = parser.parse_args()
    tls_given = arguments.tls_ca and arguments.tls_cert and arguments.tls_key
    if bool(tls_given) == arguments.clear:
        parser.error("give --tls-ca, --tls-cert and --tls-key, or --clear")
    return arguments


def take_lock(path: Path) -> IO[str] | None:
    """A volume has one worker on a host: the lock is held until the process ends. None if another has it.

    It says who holds it, for an agent whose predecessor died before it had noted whom it started.
    """
    lock = open(path, "a+")  # noqa: SIM115 (and not "w": what another wrote stays)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    lock.truncate(0)
    lock.write(record_of(os.getpid()))
    lock.flush()
    return lock


def main(open_device: OpenDevice = open_uio) -> int:
    arguments = parse()
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    lock = take_lock(arguments.run_dir / f"{arguments.volume}.lock")
    if lock is None:
        print(f"another worker serves volume {arguments.volume}", file=sys.stderr)
        return 1
    tls = None if arguments.clear else TlsFiles(arguments.tls_ca, arguments.tls_cert, arguments.tls_key)
    loop = Loop()
    meter = Meter(loop, arguments.run_dir / f"{arguments.volume}.meter", arguments.volume)
    ring = Ring(loop, arguments.volume, open_device, meter)
    store = arguments.store / arguments.volume
    worker = Worker(loop, arguments.volume, store, arguments.host_id, tls, ring=ring)
    socket_path = arguments.run_dir / f"{arguments.volume}.sock"
    control = ControlServer(loop, socket_path, worker.apply, ring.traces.call)
    worker.tell = control.tell
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.call_from_thread(loop.stop))
    notify.tell_supervisor(notify.READY)
    try:
        loop.run()
    finally:
        control.close()
        worker.close()
        meter.close()
        lock.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
