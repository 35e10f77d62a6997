"""Telling whoever started us how we are: systemd's notification protocol (sd_notify(3)).

So a unit of Type=notify, and the lab, wait for an event and not for a guess.
"""

import contextlib
import os
import socket

READY = "READY=1"
STOPPING = "STOPPING=1"


def tell_supervisor(state: str) -> None:
    """Send `state` as a datagram to $NOTIFY_SOCKET. Without one, or with nobody there any more (the lab
    listens for READY only), do nothing.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    with channel as notices, contextlib.suppress(OSError):
        notices.connect("\0" + address[1:] if address.startswith("@") else address)
        notices.send(state.encode())
