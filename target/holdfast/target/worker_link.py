"""How a primary reaches the other hosts: NBD sessions, made for `holdfast.replicator.replica.Replica`."""

from collections.abc import Callable

from holdfast.base.loop import Loop
from holdfast.base.nbd.session import Session
from holdfast.base.tls import PeerIdentity, TlsFiles, client_context
from holdfast.target.control import Desired, DesiredPeer


class Dialler:
    """Callable as a replica's `dial`. `update` says where the other hosts are."""

    def __init__(self, loop: Loop, volume_uid: str, tls: TlsFiles | None) -> None:
        self._loop = loop
        self._uid = volume_uid
        self._context = client_context(tls) if tls else None
        self._peers: dict[str, DesiredPeer] = {}

    def update(self, desired: Desired) -> None:
        self._peers = {peer.host_id: peer for peer in desired.peers}

    def __call__(
        self,
        host_id: str,
        epoch: int,
        on_ready: Callable[[Session], None],
        on_lost: Callable[[str], None],
    ) -> Session:
        """Start a session of `epoch` to that host and nobody else. Raises OSError if none can be begun."""
        peer = self._peers.get(host_id)
        if peer is None:
            raise ConnectionError(f"the volume is not assigned to host {host_id}")
        session = Session(
            self._loop,
            (peer.address, peer.nbd_port),
            f"mirror:{self._uid}:{epoch}",
            on_ready=lambda: on_ready(session),
            on_lost=on_lost,
            tls=self._context,
            expected=PeerIdentity(host_id, "host") if self._context else None,
        )
        return session
