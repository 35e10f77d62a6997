"""Which export a peer of the NBD server is given: what it may read, on the threads that are for it."""

from holdfast.base.loop import Loop
from holdfast.base.nbd.export import Export, OpenExport
from holdfast.base.tls import PeerIdentity
from holdfast.snapshotter.access import Access
from holdfast.snapshotter.guests import GuestExport, Guests
from holdfast.snapshotter.serve import Readers, SnapshotExport


def open_export(loop: Loop, access: Access, readers: Readers, guests: Guests) -> OpenExport:
    """What an NBD server is given. Each opening asks etcd, on the loop's thread, for some milliseconds."""

    def opened(name: str, peer: PeerIdentity | None) -> Export:
        snapshot = access.open(name, peer)
        if peer is not None and peer.role == "user":
            guests.check_room(peer.name)
            return GuestExport(loop, guests, snapshot, peer.name, lambda: access.open(name, peer))
        return SnapshotExport(loop, readers, snapshot, lambda: access.open(name, peer))

    return opened
