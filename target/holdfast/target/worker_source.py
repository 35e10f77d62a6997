"""A volume's origin, read from whichever snapshotter is there. Blocking; used by the hydrator's threads."""

import contextlib
import threading
from collections.abc import Iterator, Sequence

from holdfast.base.errors import DataLoss, HoldfastError, Unauthenticated, Unavailable
from holdfast.base.nbd.client import Client
from holdfast.base.tls import TlsFiles, client_context

TIMEOUT_S = 8.0
ALLOCATION = "base:allocation"
READS_AS_ZERO = 2
"""Flag of base:allocation (the NBD protocol's STATE_ZERO)."""


class SnapshotSource:
    """Implements holdfast.replicator.hydrate.Source. A connection a thread, opened when first needed."""

    def __init__(self, snapshot_uid: str, endpoints: Sequence[tuple[str, int]], tls: TlsFiles | None) -> None:
        self._export = f"snapshot:{snapshot_uid}"
        self._endpoints = tuple(endpoints)
        self._tls = client_context(tls) if tls else None
        self._thread = threading.local()

    def read(self, offset: int, length: int) -> bytes:
        """Zeros beyond the snapshot's end: a volume may be larger than its origin.

        Raises DataLoss if the snapshot's bytes are lost, Unavailable if nobody serves it now.
        """
        with self._connected() as client:
            end = min(offset + length, client.size_bytes)
            content = client.read(offset, end - offset) if end > offset else b""
        return content + bytes(length - len(content))

    def holes(self, offset: int, length: int) -> list[tuple[int, int]]:
        """(offset, length) of what reads as zeros within the range."""
        with self._connected() as client:
            here = max(0, min(offset + length, client.size_bytes) - offset)
            status = client.block_status(ALLOCATION, offset, here) if here else []
        found = [(at, count) for at, count, flags in status if flags & READS_AS_ZERO]
        return [*found, (offset + here, length - here)] if here < length else found

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Client]:
        """This thread's connection; given up when anything but lost data goes wrong with it."""
        client: Client = getattr(self._thread, "client", None) or self._connect()
        try:
            yield client
        except DataLoss:
            raise
        except (HoldfastError, OSError):
            self._thread.client = None
            client.close()
            raise

    def _connect(self) -> Client:
        trouble: Exception = Unavailable("NO_SNAPSHOTTER", "no snapshotter is running.")
        for address, port in self._endpoints:
            try:
                client = self._open((address, port))
            except (HoldfastError, OSError) as error:
                trouble = error
                continue
            self._thread.client = client
            return client
        raise Unavailable("NO_SNAPSHOTTER", f"the origin is not served: {trouble}")

    def _open(self, address: tuple[str, int]) -> Client:
        client = Client(address, self._export, contexts=(ALLOCATION,), tls=self._tls, timeout_s=TIMEOUT_S)
        if self._tls is not None and (client.peer is None or client.peer.role != "service"):
            client.close()
            raise Unauthenticated("NOT_A_SERVICE", f"{client.peer} at {address} is not a snapshotter.")
        return client
