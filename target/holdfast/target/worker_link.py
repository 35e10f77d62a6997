"""How a primary reaches its mirror: the NBD session, made for `holdfast.replicator.link.Link`."""

import ssl
from collections.abc import Callable

from holdfast.base.loop import Loop
from holdfast.base.nbd.session import Session
from holdfast.base.tls import PeerIdentity
from holdfast.target.control import Desired


def dial(
    loop: Loop,
    desired: Desired,
    tls: ssl.SSLContext | None,
    on_ready: Callable[[Session], None],
    on_lost: Callable[[str], None],
) -> Session:
    """Start a session for the epoch of `desired`, to its peer and nobody else."""
    peer = desired.peer
    session = Session(
        loop,
        (peer.address, peer.nbd_port),
        f"mirror:{desired.volume_uid}:{desired.epoch}",
        on_ready=lambda: on_ready(session),
        on_lost=on_lost,
        tls=tls,
        expected=PeerIdentity(peer.host_id, "host") if tls else None,
    )
    return session
