"""TLS over a blocking socket, through memory (`ssl.MemoryBIO`) and not on the socket itself.

`SSLSocket` makes two system calls for each record of 16 KiB; here one brings many. Of a long read that is a
third of the client's processor time.
"""

import socket
import ssl

from holdfast.base.limits import KIB

_PIECE_BYTES = 256 * KIB
"""How much is taken from the socket, or sealed, at a time, at most."""


class TlsSocket:
    """What `nbd.client` uses of a socket, once TLS has been agreed on.

    Raises, from every method: OSError, of which `ssl.SSLError` is one.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing)
        self._received = memoryview(bytearray(_PIECE_BYTES))
        self._handshake()

    def recv_into(self, view: memoryview) -> int:
        """At least a byte of what comes, 0 at the end; `view` is not empty."""
        filled = 0
        while filled < len(view):
            try:
                count = int(self.tls.read(len(view) - filled, view[filled:]))
            except ssl.SSLWantReadError:
                if filled:
                    break
                self._send_pending()  # Perhaps TLS has something of its own to say, such as a new key.
                self._receive()
                continue
            if not count:
                break
            filled += count
        return filled

    def recv(self, length: int) -> bytes:
        data = bytearray(length)
        return bytes(data[: self.recv_into(memoryview(data))])

    def sendall(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[self.tls.write(view[:_PIECE_BYTES]) :]
            self._send_pending()

    def close(self) -> None:
        self._sock.close()

    def _handshake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self._send_pending()
                self._receive()
                continue
            finally:
                self._send_pending()  # An alert, if it failed.
            return

    def _receive(self) -> None:
        count = self._sock.recv_into(self._received)
        if count:
            self._incoming.write(self._received[:count])
        else:
            self._incoming.write_eof()

    def _send_pending(self) -> None:
        if self._outgoing.pending:
            self._sock.sendall(self._outgoing.read())
