"""Which NBD exports a worker shows, and to whom.

    mirror:<volume>:<epoch>         the other hosts of the assignment, where the replica agrees to the epoch
    replica:<volume>                services and operators, and the other hosts of the assignment
    frozen:<volume>:<snapshot>      the same

An export name is no secret: who asks is proved by the certificate. To anybody else, other hosts included,
there is no such export (I-10). Without TLS the storage network is trusted, and everybody on it.
"""

from collections.abc import Callable

from holdfast.base.errors import NotFound, StaleEpoch, Unavailable
from holdfast.base.loop import Loop
from holdfast.base.nbd.export import Export
from holdfast.base.nbd.server import Server
from holdfast.base.tls import PeerIdentity, TlsFiles, server_context
from holdfast.replicator.exports import FrozenExport, ReplicaExport
from holdfast.replicator.hydrate import Source
from holdfast.replicator.local import LocalReplica
from holdfast.target.control import Desired
from holdfast.target.worker_replica import ReplicaLike

READERS = ("service", "operator")


class Exports:
    """The NBD server of a worker. Loop thread only."""

    def __init__(self, loop: Loop, volume_uid: str, tls: TlsFiles | None) -> None:
        self._loop = loop
        self._uid = volume_uid
        self._context = server_context(tls) if tls else None
        self._server: Server | None = None
        self._address: tuple[str, int] | None = None
        self._local: LocalReplica | None = None
        self._replica: ReplicaLike | None = None
        self._desired: Desired | None = None
        self._source: Callable[[], Source | None] = lambda: None

    def listen(self, address: str, port: int) -> None:
        """Raises OSError if the address cannot be had."""
        if self._address != (address, port):
            self.close()
            self._server = Server(self._loop, self._open)
            self._server.listen_tcp(address, port, tls=self._context)
            self._address = (address, port)

    def serve(self, local: LocalReplica, replica: ReplicaLike, source: Callable[[], Source | None]) -> None:
        self._local, self._replica, self._source = local, replica, source

    def update(self, desired: Desired) -> None:
        self._desired = desired

    def stop_serving(self) -> None:
        self._local = self._replica = None

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = self._address = None

    def _open(self, name: str, peer: PeerIdentity | None) -> Export:
        kind, _colon, rest = name.partition(":")
        volume, _colon, detail = rest.partition(":")
        known = volume == self._uid and kind in ("mirror", "replica", "frozen")
        if not known or not self._may_open(kind, peer):
            raise NotFound("NOT_FOUND", f"there is no export {name!r} for you here.")
        if self._local is None or self._replica is None or self._desired is None:
            raise Unavailable("NOT_READY", "this host does not serve the volume now: try again.")
        if kind == "mirror":
            return self._open_mirror(detail, peer)
        if kind == "replica":
            return ReplicaExport(self._loop, self._local, self._source)
        return self._open_frozen(detail)

    def _may_open(self, kind: str, peer: PeerIdentity | None) -> bool:
        if peer is None:
            return True
        if peer.role == "host":
            return self._desired is None or peer.name in self._others()
        return kind != "mirror" and peer.role in READERS

    def _others(self) -> tuple[str, ...]:
        return tuple(one.host_id for one in self._desired.peers) if self._desired else ()

    def _open_mirror(self, epoch: str, peer: PeerIdentity | None) -> Export:
        assert self._desired is not None and self._replica is not None
        if not (epoch.isascii() and epoch.isdigit()):
            raise StaleEpoch(f"{epoch!r} is no epoch.")
        # In clear nobody proves who it is; only a primary opens this, and only one host is.
        return self._replica.open_session(peer.name if peer else self._primary(), int(epoch))

    def _primary(self) -> str:
        assert self._desired is not None
        others = self._others()
        primary = self._desired.primary_host_id
        return primary if primary in others else next(iter(others), "")

    def _open_frozen(self, snapshot_uid: str) -> Export:
        assert self._local is not None and self._desired is not None
        view = self._local.views.usable(snapshot_uid)
        if view is None or snapshot_uid not in self._local.store.state.views:
            why = self._local.views.lost().get(snapshot_uid, "it was never frozen here, or is done with")
            raise NotFound("NOT_FROZEN", f"snapshot {snapshot_uid} has no frozen view on this host: {why}.")
        base = next(
            (s.base_generation for s in self._desired.snapshots if s.uid == snapshot_uid and s.incremental),
            None,
        )
        return FrozenExport(self._loop, self._local, self._source, view, base)
