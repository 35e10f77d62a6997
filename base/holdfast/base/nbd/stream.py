"""Bytes over a non-blocking socket, in clear or through TLS, behind one interface.

Sending: append buffers to `out`, then `flush`; nothing is copied in clear. Receiving: `receive_into`
fills a buffer of the caller's. Nobody here waits; who owns the stream asks its loop to.
"""

import socket
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import ssl

    from holdfast.base.nbd.tls_stream import TlsStream

Buffer = bytes | bytearray | memoryview
_IOV_MAX = 1024
"""Most buffers that Linux takes in one call."""


class Lost(Exception):
    """The connection is over; the message says why."""


class Stream(Protocol):
    """See the module."""

    out: list[Buffer]
    """What is still to be sent, in order; memoryviews are of bytes (format B)."""
    buffered: bool
    """There may be more to receive without any event on the socket."""

    def receive_into(self, view: memoryview) -> int:
        """Bytes received, 0 if there are none now. Raises Lost at the end."""
        ...

    def flush(self) -> bool:
        """Send what can be sent; True if nothing is left. Raises Lost."""
        ...

    def close(self) -> None:
        """Say goodbye if that can be done at once, and close the socket."""
        ...


class ClearStream:
    """Without TLS."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.out: list[Buffer] = []
        self.buffered = False

    def receive_into(self, view: memoryview) -> int:
        try:
            count = self._sock.recv_into(view)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise Lost(f"receiving failed: {error.strerror or error}") from error
        if not count:
            raise Lost("the other end closed the connection")
        return count

    def flush(self) -> bool:
        out = self.out
        while out:
            batch = out if len(out) <= _IOV_MAX else out[:_IOV_MAX]
            size = sum(map(len, batch))
            try:
                sent = self._sock.sendmsg(batch)
            except BlockingIOError:
                return False
            except OSError as error:
                raise Lost(f"sending failed: {error.strerror or error}") from error
            if sent == size:
                del out[: len(batch)]
            else:
                _drop(out, sent)
        return True

    def close(self) -> None:
        self.out.clear()
        self._sock.close()


def secured(sock: socket.socket, context: "ssl.SSLContext", *, server_side: bool) -> "TlsStream":
    """With TLS. OpenSSL is 4 MiB of a process: only one that talks through it has it."""
    from holdfast.base.nbd.tls_stream import TlsStream

    return TlsStream(sock, context, server_side=server_side)


def _drop(out: list[Buffer], sent: int) -> None:
    """Take the first `sent` bytes away from `out`."""
    count = 0
    while count < len(out) and sent >= len(out[count]):
        sent -= len(out[count])
        count += 1
    del out[:count]
    if sent:
        out[0] = memoryview(out[0])[sent:]
