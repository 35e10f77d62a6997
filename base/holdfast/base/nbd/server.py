"""An NBD server on the loop: listeners, and the connections that they bring.

Names are re-exported so that whoever serves an export imports this module alone.
"""

import contextlib
import errno
import logging
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.base.loop import READABLE, Loop
from holdfast.base.nbd.chunks import ChunkPool
from holdfast.base.nbd.connection import Connection
from holdfast.base.nbd.export import ControlDone, Export, OpenExport, Served, StatusDone
from holdfast.base.nbd.link import configure
from holdfast.base.nbd.transmission import BUDGET_BYTES

if TYPE_CHECKING:
    import ssl

__all__ = [
    "CONNECTIONS_MAX",
    "Connection",
    "ControlDone",
    "Export",
    "OpenExport",
    "Served",
    "Server",
    "StatusDone",
]

_log = logging.getLogger(__name__)
CONNECTIONS_MAX = 64
"""Of one server; a client past it is closed at once."""
_ACCEPTS_MAX = 16
"""Connections taken in one turn."""
_NO_DESCRIPTORS_PAUSE_S = 1.0


class Server:
    """Serves what `open_export` gives, to whom it lets.

    One server may listen in several places. Closing it closes every connection and tells every export.

    Args:
        budget_bytes: see `transmission.BUDGET_BYTES`.
    """

    def __init__(
        self,
        loop: Loop,
        open_export: OpenExport,
        *,
        connections_max: int = CONNECTIONS_MAX,
        budget_bytes: int = BUDGET_BYTES,
    ) -> None:
        self._loop = loop
        self._open_export = open_export
        self._connections_max = connections_max
        self._budget_bytes = budget_bytes
        self._listeners: dict[socket.socket, ssl.SSLContext | None] = {}
        self._pool = ChunkPool()
        self.connections: set[Connection] = set()

    def listen_tcp(self, host: str, port: int, *, tls: "ssl.SSLContext | None") -> int:
        """Listen on a TCP address and return its port (chosen by the system if `port` is 0).

        Args:
            tls: `tls.server_context`; None serves in clear, which an operator must have asked for by name.

        Raises:
            OSError: the address cannot be listened on.
        """
        listener = socket.create_server((host, port), family=_family(host), backlog=64)
        self._listen(listener, tls)
        return int(listener.getsockname()[1])

    def listen_unix(self, path: Path) -> None:
        """Listen in clear on a Unix socket at `path`, replacing what a dead process left there."""
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.listen(64)
        self._listen(listener, None)

    def close(self) -> None:
        """Stop listening and close every connection. Idempotent."""
        for listener in self._listeners:
            self._loop.remove(listener.fileno())
            listener.close()
        self._listeners.clear()
        for connection in list(self.connections):
            connection.close("the server is closing")

    def _listen(self, listener: socket.socket, tls: "ssl.SSLContext | None") -> None:
        listener.setblocking(False)
        self._listeners[listener] = tls
        self._loop.add(listener.fileno(), READABLE, lambda _events: self._accept(listener))

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_MAX):
            if listener not in self._listeners:
                return
            try:
                sock, address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._accept_failed(listener, error)
                return
            self._connected(sock, str(address or "on a Unix socket"), self._listeners[listener])

    def _accept_failed(self, listener: socket.socket, error: OSError) -> None:
        """Some errors are of the one connection that was to come; out of descriptors, it stays waiting."""
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            return
        _log.error("NBD server: cannot accept: %s; waiting %s s", error, _NO_DESCRIPTORS_PAUSE_S)
        self._loop.remove(listener.fileno())
        self._loop.call_later(_NO_DESCRIPTORS_PAUSE_S, lambda: self._accept_again(listener))

    def _accept_again(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self._loop.add(listener.fileno(), READABLE, lambda _events: self._accept(listener))

    def _connected(self, sock: socket.socket, name: str, tls: "ssl.SSLContext | None") -> None:
        if len(self.connections) >= self._connections_max:
            _log.warning("NBD client %s: refused, %d are connected", name, len(self.connections))
            sock.close()
            return
        try:
            configure(sock)
        except OSError:
            sock.close()  # Gone already.
            return
        self.connections.add(
            Connection(
                self._loop,
                sock,
                name,
                self._open_export,
                tls,
                self._pool,
                self.connections.discard,
                self._budget_bytes,
            )
        )


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
