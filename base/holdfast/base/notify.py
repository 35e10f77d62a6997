"""Telling whoever started us that we serve: systemd's notification protocol (sd_notify(3)).

So a unit of Type=notify, and the lab, wait for an event and not for a guess.
"""

import os
import socket


def ready() -> None:
    """Send READY=1 to $NOTIFY_SOCKET; without one, do nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.send(b"READY=1")
