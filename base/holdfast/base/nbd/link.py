"""Socket options of a link between hosts: no delay, and a limit to how long a dead peer goes unnoticed."""

import socket

KEEPALIVE_IDLE_S = 3
KEEPALIVE_INTERVAL_S = 2
KEEPALIVE_PROBES = 3


def configure(sock: socket.socket, *, dead_after_s: float | None = None) -> None:
    """Make `sock` non-blocking and set its options.

    Args:
        dead_after_s: the connection fails when what was sent stays unconfirmed, or the peer's window
            closed, for this long. Without it an idle dead peer is still found by keepalive.
    """
    sock.setblocking(False)
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    if dead_after_s is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(dead_after_s * 1000))
