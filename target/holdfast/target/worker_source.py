"""A volume's origin, read from whichever snapshotter is there. Blocking; used by the hydrator's threads."""

import threading
from collections.abc import Sequence

from holdfast.base.errors import DataLoss, HoldfastError, Unauthenticated, Unavailable
from holdfast.base.nbd.client import Client
from holdfast.base.tls import TlsFiles, client_context

TIMEOUT_S = 8.0


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
        client: Client = getattr(self._thread, "client", None) or self._connect()
        end = min(offset + length, client.size_bytes)
        try:
            content = client.read(offset, end - offset) if end > offset else b""
        except DataLoss:
            raise
        except (HoldfastError, OSError):
            self._thread.client = None
            client.close()
            raise
        return content + bytes(length - len(content))

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
        client = Client(address, self._export, tls=self._tls, timeout_s=TIMEOUT_S)
        if self._tls is not None and (client.peer is None or client.peer.role != "service"):
            client.close()
            raise Unauthenticated("NOT_A_SERVICE", f"{client.peer} at {address} is not a snapshotter.")
        return client
