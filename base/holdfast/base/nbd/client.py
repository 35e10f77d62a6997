"""A blocking NBD client: for the snapshotter, tools and tests. One thread at a time.

Requests of `read_many` and `block_status` are pipelined; everything else is one request after another. A
connection that failed stays failed: every later call raises, and the caller connects again.
"""

import contextlib
import socket
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from holdfast.base.errors import (
    BadInput,
    DataLoss,
    Denied,
    Exhausted,
    HoldfastError,
    OutcomeUnknown,
    StaleEpoch,
    Unauthenticated,
    Unavailable,
)
from holdfast.base.limits import EXTENT_BYTES, MIB
from holdfast.base.nbd import wire
from holdfast.base.nbd.client_replies import Reading, read_reply
from holdfast.base.nbd.handshake import Handshake
from holdfast.base.nbd.negotiation import Phase
from holdfast.base.nbd.wire import ProtocolError
from holdfast.base.tls import PeerIdentity, peer_identity

if TYPE_CHECKING:
    import ssl

    from holdfast.base.nbd.blocking_tls import TlsSocket

TIMEOUT_S = 30.0
READ_MANY_DEPTH = 8
_ZERO_BYTES = 1024 * MIB
_STATUS_BYTES = 4096 * MIB - EXTENT_BYTES
"""How much one BLOCK_STATUS asks about: nearly what 32 bits can say."""


class Client:
    """One connection to one export.

    Args:
        address: (host, port), or the path of a Unix socket.
        contexts: metadata contexts that `block_status` will be asked for.
        tls: `tls.client_context`; None speaks in clear.
        expected: who the server must prove to be (only with `tls`); None takes any holder of one of the
            authority's certificates.
        timeout_s: longest wait for any one step of the socket.

    Raises:
        Unavailable: it cannot be reached, or does not speak the protocol.
        Unauthenticated: it is somebody else.
        NotFound, Denied, …: it refuses the export.
    """

    def __init__(
        self,
        address: tuple[str, int] | str,
        export_name: str,
        *,
        contexts: tuple[str, ...] = (),
        tls: "ssl.SSLContext | None" = None,
        expected: PeerIdentity | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._where = f"NBD export {export_name!r} at {address}"
        self._cookie = 0
        self._failed = ""
        self.peer: PeerIdentity | None = None
        """Who the server has proved to be; None in clear."""
        handshake = Handshake(export_name, tls=tls is not None, structured=True, contexts=contexts)
        try:
            self._sock: socket.socket | TlsSocket = _connect(address, timeout_s)
        except OSError as error:
            raise Unavailable("NBD_UNREACHABLE", f"{self._where} cannot be reached: {error}.") from error
        try:
            self._negotiate(handshake, tls, expected)
        except (OSError, ProtocolError) as error:
            self._sock.close()
            raise Unavailable("NBD_UNREACHABLE", f"{self._where} cannot be opened: {error}.") from error
        except HoldfastError:
            self._sock.close()
            raise
        self.size_bytes = handshake.size_bytes
        self.read_only = bool(handshake.flags & wire.FLAG_READ_ONLY)
        self._contexts = handshake.contexts

    @property
    def contexts(self) -> tuple[str, ...]:
        """Those of the contexts asked for that the export has."""
        return tuple(self._contexts.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye and close. Idempotent."""
        if not self._failed:
            with contextlib.suppress(OSError):  # It was about to end anyway.
                self._sock.sendall(wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.CMD_DISC, 0, 0, 0))
            self._failed = "it is closed"
        self._sock.close()

    def read(self, offset: int, length: int) -> bytes:
        """The bytes of [offset, offset + length)."""
        data = bytearray(length)
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` (of bytes, any length) from `offset` on."""
        self._check_range(offset, len(view))
        ranges = _pieces(offset, len(view))
        for at, data in self._pipeline(ranges, READ_MANY_DEPTH, view, offset):
            del at, data

    def read_many(
        self, ranges: Iterable[tuple[int, int]], depth: int = READ_MANY_DEPTH
    ) -> Iterator[tuple[int, bytearray]]:
        """The bytes of each (offset, length), as (offset, bytes) in the order asked for.

        Up to `depth` are asked for ahead; each is at most 32 MiB long. Stopping early leaves the
        connection unusable unless every range was taken.
        """
        for offset, view in self._pipeline(ranges, depth, None, 0):
            data = view.obj
            assert isinstance(data, bytearray)
            yield offset, data

    def write(self, offset: int, data: bytes | bytearray | memoryview, *, fua: bool = False) -> None:
        """Store `data`. OutcomeUnknown if the connection fails meanwhile."""
        view = memoryview(data).cast("B")
        self._check_range(offset, len(view))
        flags = wire.CMD_FLAG_FUA if fua else 0
        for at, length in _pieces(offset, len(view)):
            part = view[at - offset : at - offset + length]
            self._change(wire.CMD_WRITE, flags, at, length, part)

    def zero(self, offset: int, length: int, *, fua: bool = False) -> None:
        """Make the range read as zeros. OutcomeUnknown if the connection fails meanwhile."""
        self._check_range(offset, length)
        flags = wire.CMD_FLAG_FUA if fua else 0
        for at, piece in _pieces(offset, length, _ZERO_BYTES):
            self._change(wire.CMD_WRITE_ZEROES, flags, at, piece)

    def flush(self) -> None:
        """What was written before is on disk when this returns."""
        self._change(wire.CMD_FLUSH, 0, 0, 0)

    def block_status(self, context: str, offset: int, length: int) -> list[tuple[int, int, int]]:
        """The whole range as consecutive (offset, length, flags), neighbours of equal flags joined."""
        if context not in self._contexts.values():
            raise BadInput(
                "NO_SUCH_CONTEXT", f"{self._where} has no context {context!r}, or it was not asked for."
            )
        self._check_range(offset, length)
        joined: list[tuple[int, int, int]] = []
        pieces = list(_pieces(offset, length, _STATUS_BYTES))
        for first in range(0, len(pieces), READ_MANY_DEPTH):
            asked = pieces[first : first + READ_MANY_DEPTH]
            for (start, size), runs in zip(asked, self._status_of(context, asked), strict=True):
                at, end = start, start + size
                while at < end:
                    for run, flags in runs:
                        _join(joined, at, run, flags)
                        at += run
                    if at < end:
                        # A server may say less than it was asked.
                        (runs,) = self._status_of(context, [(at, end - at)])
        return joined

    def _status_of(self, context: str, pieces: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
        """What the server says of the beginning, at least, of each (offset, length); all asked at once."""
        self._check_usable()
        readings = [Reading(offset, length, None) for offset, length in pieces]
        try:
            waiting = {
                self._send(wire.CMD_BLOCK_STATUS, 0, reading.offset, reading.length): reading
                for reading in readings
            }
            while waiting:
                read_reply(self._sock, waiting)
        except (OSError, ProtocolError) as error:
            raise self._broken(error) from error
        found = []
        for reading in readings:
            self._raise_for(reading.error, reading.message)
            runs: list[tuple[int, int]] = []
            for number, answer in reading.status.items():
                if self._contexts.get(number) == context:
                    runs = answer
            total = sum(size for size, _flags in runs)
            if not runs or total > reading.length or not all(size for size, _ in runs):
                raise self._broken(ProtocolError("the server's block status does not fit the question"))
            found.append(runs)
        return found

    def _change(
        self, kind: int, flags: int, offset: int, length: int, data: memoryview | None = None
    ) -> None:
        try:
            self._exchange(kind, flags, Reading(offset, length, None), data)
        except Unavailable as error:
            if self._failed and error.reason == "NBD_LOST":
                raise OutcomeUnknown("NBD_LOST", f"{error.message} It may have been done.") from error
            raise

    def _exchange(self, kind: int, flags: int, reading: Reading, data: memoryview | None = None) -> None:
        """Send one request and take its reply."""
        self._check_usable()
        try:
            cookie = self._send(kind, flags, reading.offset, reading.length, data)
            while not reading.complete:
                read_reply(self._sock, {cookie: reading})
        except (OSError, ProtocolError) as error:
            raise self._broken(error) from error
        self._raise_for(reading.error, reading.message)

    def _pipeline(
        self, ranges: Iterable[tuple[int, int]], depth: int, whole: memoryview | None, base: int
    ) -> Iterator[tuple[int, memoryview]]:
        """Read ranges ahead of the caller, into `whole` (which starts at `base`) or memory of their own."""
        self._check_usable()
        waiting: dict[int, Reading] = {}
        order: deque[Reading] = deque()
        asking = iter(ranges)
        try:
            while True:
                while len(order) < depth and (item := next(asking, None)) is not None:
                    offset, length = item
                    self._check_range(offset, length)
                    view = memoryview(bytearray(length)) if whole is None else whole[offset - base :][:length]
                    reading = Reading(offset, length, view)
                    order.append(reading)
                    if length:
                        waiting[self._send(wire.CMD_READ, 0, offset, length)] = reading
                if not order:
                    return
                while not order[0].complete:
                    read_reply(self._sock, waiting)
                first = order.popleft()
                self._raise_for(first.error, first.message)
                assert first.view is not None
                yield first.offset, first.view
        except (OSError, ProtocolError) as error:
            raise self._broken(error) from error
        finally:
            if waiting and not self._failed:
                self._failed = "reading ahead was broken off"

    def _send(self, kind: int, flags: int, offset: int, length: int, data: memoryview | None = None) -> int:
        self._cookie += 1
        header = wire.REQUEST.pack(wire.REQUEST_MAGIC, flags, kind, self._cookie, offset, length)
        if data is None:
            self._sock.sendall(header)
        elif not isinstance(self._sock, socket.socket):  # TLS
            self._sock.sendall(header + data[: 16 * 1024])
            self._sock.sendall(data[16 * 1024 :])
        else:
            sent = self._sock.sendmsg([header, data])
            if sent < len(header):
                self._sock.sendall(header[sent:])
            self._sock.sendall(data[max(0, sent - len(header)) :])
        return self._cookie

    def _negotiate(
        self, handshake: Handshake, tls: "ssl.SSLContext | None", expected: PeerIdentity | None
    ) -> None:
        while handshake.phase is not Phase.TRANSMISSION:
            output = handshake.take_output()
            if output:
                self._sock.sendall(output)
            if handshake.phase is Phase.STARTTLS and tls is not None:
                self._start_tls(tls, expected)
                handshake.tls_established()
                continue
            data = self._sock.recv(4096)
            if not data:
                raise ConnectionError("the server closed the connection")
            handshake.feed(data)
        if handshake.leftover:
            raise ProtocolError("the server sent more than the handshake")

    def _start_tls(self, tls: "ssl.SSLContext", expected: PeerIdentity | None) -> None:
        import ssl  # As stream.secured: only who talks through it pays for it.

        from holdfast.base.nbd.blocking_tls import TlsSocket

        assert isinstance(self._sock, socket.socket)
        try:
            secured = TlsSocket(self._sock, tls)
        except ssl.SSLError as error:
            raise Unauthenticated("TLS_FAILED", f"{self._where}: TLS was not agreed on: {error}.") from error
        self._sock = secured
        peer = peer_identity(secured.tls)
        self.peer = peer
        if expected is not None and peer != expected:
            raise Unauthenticated("WRONG_PEER", f"{self._where}: the server is {peer}, not {expected}.")

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise BadInput(
                "BAD_RANGE",
                f"[{offset}, {offset + length}) is not inside {self._where}, {self.size_bytes} bytes.",
            )

    def _check_usable(self) -> None:
        if self._failed:
            raise Unavailable("NBD_CLOSED", f"{self._where} cannot be used any more: {self._failed}.")

    def _broken(self, error: Exception) -> Unavailable:
        self._failed = str(error) or type(error).__name__
        self._sock.close()
        return Unavailable("NBD_LOST", f"{self._where} was lost: {self._failed}.")

    def _raise_for(self, error: int, message: str) -> None:
        """Raise what an error in a reply means."""
        if not error:
            return
        text = f"{self._where}: {message or 'the server reported error ' + str(error)}."
        if error == wire.EIO:
            raise DataLoss("IO_ERROR", text)
        if error == wire.EPERM:
            raise Denied("READ_ONLY", text)
        if error == wire.ENOSPC:
            raise Exhausted("NO_SPACE", text)
        if error == wire.ESHUTDOWN:
            raise StaleEpoch(text)
        if error == wire.ENOMEM:
            raise Unavailable("BUSY", text)
        if error in (wire.EINVAL, wire.EOVERFLOW, wire.ENOTSUP):
            raise BadInput("INVALID", text)
        raise DataLoss("IO_ERROR", text)


def _connect(address: tuple[str, int] | str, timeout_s: float) -> socket.socket:
    if not isinstance(address, str):
        sock = socket.create_connection(address, timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout_s)
    try:
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def _join(joined: list[tuple[int, int, int]], at: int, length: int, flags: int) -> None:
    """Append a run; to the last one, if that is of the same flags."""
    if joined and joined[-1][2] == flags:
        start, before, _flags = joined[-1]
        joined[-1] = (start, before + length, flags)
    else:
        joined.append((at, length, flags))


def _pieces(offset: int, length: int, unit: int = wire.BLOCK_MAX_BYTES) -> Iterator[tuple[int, int]]:
    """[offset, offset + length) in pieces that one request can carry."""
    for at in range(offset, offset + length, unit):
        yield at, min(unit, offset + length - at)
