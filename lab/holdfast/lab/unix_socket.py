"""Unix sockets in folders whose path is longer than the 107 bytes that an address holds."""

import os
import socket
from pathlib import Path


def listen(path: Path) -> socket.socket:
    """A listening sequenced-packet socket at `path`, replacing what was there."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    folder = os.open(path.parent, os.O_PATH)
    try:
        sock.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
    sock.listen()
    return sock


def connect(path: Path, timeout_s: float) -> socket.socket:
    """A connection to the listener at `path`."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(timeout_s)
    folder = os.open(path.parent, os.O_PATH)
    try:
        sock.connect(f"/proc/self/fd/{folder}/{path.name}")
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(folder)
    return sock
