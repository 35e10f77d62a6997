"""The process `holdfast-worker`: one replica of one volume on one host. Its agent starts it and tells it
what to do over the control socket; it goes on without the agent, and ends on SIGTERM.
"""

import argparse
import logging
import signal
import socket
import sys
from pathlib import Path

from holdfast.base.loop import READABLE, Loop
from holdfast.base.tls import TlsFiles
from holdfast.target.worker import Worker
from holdfast.target.worker_control import ControlServer, live_socket


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


def main() -> int:
    arguments = parse()
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    path = arguments.run_dir / f"{arguments.volume}.sock"
    if live_socket(path):
        print(f"a worker already answers at {path}", file=sys.stderr)
        return 1
    tls = None if arguments.clear else TlsFiles(arguments.tls_ca, arguments.tls_cert, arguments.tls_key)
    loop = Loop()
    worker = Worker(loop, arguments.volume, arguments.store / arguments.volume, arguments.host_id, tls)
    control = ControlServer(loop, path, worker.apply)
    worker.tell = control.tell
    signals = _stop_on_signals(loop)
    try:
        loop.run()
    finally:
        control.close()
        worker.close()
        for end in signals:
            end.close()
    return 0


def _stop_on_signals(loop: Loop) -> tuple[socket.socket, socket.socket]:
    """SIGTERM and SIGINT end the loop. Keep what is returned: it is how a signal reaches the loop."""
    receiving, sending = socket.socketpair()
    sending.setblocking(False)
    signal.set_wakeup_fd(sending.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    loop.add(receiving.fileno(), READABLE, lambda _events: loop.stop())
    return receiving, sending


if __name__ == "__main__":
    sys.exit(main())
