"""A frozen view over NBD: connections to the host that has it, one for maps and some for bytes.

Bytes come over more than one, since each waits between two calls of `read_many`, and the host meanwhile.
"""

import queue
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from holdfast.base.errors import HoldfastError
from holdfast.base.nbd.client import Client
from holdfast.base.tls import PeerIdentity
from holdfast.snapshotter.frozen import ALLOCATION, CHANGED, READERS, ViewLost

DEPTH = 8
"""Requests under way: with those of READ_MAX_BYTES, 4 MiB."""


def export_name(volume_uid: str, snapshot_uid: str) -> str:
    return f"frozen:{volume_uid}:{snapshot_uid}"


class NbdView:
    """A FrozenView.

    Args:
        expected: the host that must answer; None only where `tls` is None.
        incremental: whether the `changed` map will be asked for.
    """

    def __init__(
        self,
        address: tuple[str, int],
        name: str,
        tls: ssl.SSLContext | None,
        expected: PeerIdentity | None,
        incremental: bool,
    ) -> None:
        contexts = (ALLOCATION, CHANGED) if incremental else (ALLOCATION,)

        def connect(wanted: tuple[str, ...]) -> Client:
            return Client(address, name, contexts=wanted, tls=tls, expected=expected)

        self._opened: list[Client] = []
        self._idle: queue.SimpleQueue[Client] = queue.SimpleQueue()
        self._maps_lock = threading.Lock()
        try:
            with _lost():
                self._maps = connect(contexts)
                self._opened.append(self._maps)
                for _ in range(READERS):
                    self._opened.append(connect(()))
                    self._idle.put(self._opened[-1])
        except HoldfastError:
            self.close()
            raise
        lacking = set(contexts) - set(self._maps.contexts)
        if lacking:
            self.close()
            raise ViewLost("NO_MAP", f"NBD export {name} of {address[0]} lacks {', '.join(sorted(lacking))}.")

    @property
    def size_bytes(self) -> int:
        return self._maps.size_bytes

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytearray]:
        client = self._idle.get()
        try:
            with _lost():
                return [data for _, data in client.read_many(ranges, DEPTH)]
        finally:
            self._idle.put(client)

    def block_status(self, context: str, offset: int, length: int) -> list[tuple[int, int, int]]:
        with self._maps_lock, _lost():
            return self._maps.block_status(context, offset, length)

    def close(self) -> None:
        for client in self._opened:
            client.close()


@contextmanager
def _lost() -> Iterator[None]:
    """Whatever goes wrong with this host's view: the answer is to try another host, or again later."""
    try:
        yield
    except HoldfastError as error:
        raise ViewLost(error.reason, error.message) from error
