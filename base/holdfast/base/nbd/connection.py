"""One client of an NBD server, from its first byte to its last: what its socket does in which state.

All states but SERVING are bounded in time. Nothing that a client does gets out of here: it is dropped
with a sentence in the log. What an export raises does get out: a broken invariant stops the process.
"""

import logging
import socket
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from holdfast.base.errors import HoldfastError, Unauthenticated, Unavailable
from holdfast.base.limits import KIB
from holdfast.base.loop import READABLE, WRITABLE, Loop, Timer
from holdfast.base.nbd.chunks import ChunkPool
from holdfast.base.nbd.export import Export, OpenExport
from holdfast.base.nbd.negotiation import Negotiation, Phase
from holdfast.base.nbd.replies import Replies
from holdfast.base.nbd.stream import ClearStream, Lost, Stream, secured
from holdfast.base.nbd.transmission import BUDGET_BYTES, Transmission
from holdfast.base.nbd.wire import ProtocolError
from holdfast.base.tls import PeerIdentity, peer_identity

if TYPE_CHECKING:
    import ssl

    from holdfast.base.nbd.tls_stream import TlsStream

_log = logging.getLogger(__name__)
HANDSHAKE_MAX_S = 10.0
"""From the connection to the transmission phase."""
DRAIN_MAX_S = 30.0
"""From the last request taken to the end of the connection."""
_HANDSHAKE_BYTES = 64 * KIB
"""Most that is received at a time before the transmission phase."""


class State(Enum):
    """What a connection is at."""

    HANDSHAKE = "handshake"
    """Agreeing on TLS and an export."""
    TLS = "tls"
    """TLS's own handshake."""
    SERVING = "serving"
    """Taking requests."""
    DRAINING = "draining"
    """Answering those in flight, taking no more."""
    CLOSED = "closed"
    """Over."""


class Connection:
    """See the module. `name` is where it comes from, for the log; `ended` is called once, when CLOSED."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        name: str,
        open_export: OpenExport,
        tls: "ssl.SSLContext | None",
        pool: ChunkPool,
        ended: Callable[["Connection"], None],
        budget_bytes: int = BUDGET_BYTES,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._open_export = open_export
        self._tls = tls
        self._pool = pool
        self._on_ended = ended
        self._budget_bytes = budget_bytes
        self._name = name
        self._stream: Stream = ClearStream(sock)
        self._secured: TlsStream | None = None
        self._negotiation = Negotiation(self._lookup, tls=tls is not None)
        self._transmission: Transmission | None = None
        self._replies: Replies | None = None
        self._export: Export | None = None
        self._interest = READABLE
        self._read_step = self._guard(self._readable)
        self._write_step = self._guard(self._writable)
        self._replies_step = self._guard(self._send_replies)
        self._timer: Timer = loop.call_later(HANDSHAKE_MAX_S, self._too_late)
        self.state = State.HANDSHAKE
        self.peer: PeerIdentity | None = None
        loop.add(self._fd, READABLE, self._ready)
        loop.call_soon(self._guard(self._send_handshake))

    @property
    def in_flight(self) -> int:
        return self._transmission.in_flight if self._transmission else 0

    def drain(self) -> None:
        """See export.Served."""
        if self.state is State.SERVING and self._transmission is not None:
            self._transmission.stop()
            self._loop.call_soon(self._replies_step)
        elif self.state in (State.HANDSHAKE, State.TLS):
            self.close("it is draining")

    def close(self, reason: str) -> None:
        """See export.Served."""
        if self.state is State.CLOSED:
            return
        _log.info("NBD client %s: closed in state %s: %s", self._name, self.state.value, reason)
        self.state = State.CLOSED
        self._timer.cancel()
        self._loop.remove(self._fd)
        if self._transmission is not None and self._replies is not None:
            self._replies.close()
            self._transmission.end()
        self._stream.close()
        self._on_ended(self)
        if self._export is not None:
            self._export.closed()

    def _guard(self, step: Callable[[], None]) -> Callable[[], None]:
        """`step`, with what a client can cause ending the connection and nothing else."""

        def guarded() -> None:
            if self.state is State.CLOSED:
                return
            try:
                step()
            except Lost as lost:
                self.close(str(lost))
            except ProtocolError as error:
                _log.warning("NBD client %s broke the protocol: %s", self._name, error)
                self.close(f"it broke the protocol: {error}")

        return guarded

    def _ready(self, events: int) -> None:
        if events & WRITABLE:
            self._write_step()
        if events & ~WRITABLE:
            if self._interest & READABLE:
                self._read_step()
            else:
                # Only an error or a hang-up is told unasked.
                self.close("the other end is gone")

    def _writable(self) -> None:
        if self._transmission is None:
            self._send_handshake()
        else:
            self._send_replies()

    def _readable(self) -> None:
        if self.state in (State.SERVING, State.DRAINING):
            self._receive_requests()
        elif self.state is State.TLS:
            self._tls_handshake()
        else:
            self._receive_options()

    def _want(self, *, read: bool, write: bool) -> None:
        interest = (READABLE if read else 0) | (WRITABLE if write else 0)
        if interest != self._interest and self.state is not State.CLOSED:
            self._interest = interest
            self._loop.modify(self._fd, interest)

    def _too_late(self) -> None:
        self.close(f"it took too long in state {self.state.value}")

    # The handshake.

    def _lookup(self, export_name: str) -> Export:
        try:
            return self._open_export(export_name, self.peer)
        except HoldfastError:
            raise
        except Exception as error:
            # The name is a stranger's input: whatever it trips over must not stop everybody's loop.
            _log.exception("NBD client %s: opening export %r failed", self._name, export_name)
            raise Unavailable("INTERNAL", "The server failed to open the export; see its log.") from error

    def _receive_options(self) -> None:
        view = memoryview(bytearray(_HANDSHAKE_BYTES))
        count = self._stream.receive_into(view)
        if count:
            self._negotiation.feed(view[:count])
        self._send_handshake()

    def _send_handshake(self) -> None:
        """Send what is due, then go on to what comes after it."""
        if self.state is State.TLS:
            self._want(read=True, write=not self._stream.flush())
            return
        output = self._negotiation.take_output()
        if output:
            self._stream.out.append(output)
        sent = self._stream.flush()
        self._want(read=sent, write=not sent)
        if not sent:
            return  # No more is read before: what a client makes us say is bounded by what we read.
        phase = self._negotiation.phase
        if phase is Phase.ENDED:
            self.close("it ended the handshake")
        elif phase is Phase.STARTTLS and self._tls is not None:
            self.state = State.TLS
            self._stream = self._secured = secured(self._sock, self._tls, server_side=True)
        elif phase is Phase.TRANSMISSION:
            self._serve()
        elif self._stream.buffered:
            self._loop.call_soon(self._read_step)

    def _tls_handshake(self) -> None:
        stream = self._secured
        assert stream is not None
        done = stream.handshake()
        sent = stream.flush()
        self._want(read=True, write=not sent)
        if not done:
            return
        try:
            self.peer = peer_identity(stream.tls)
        except Unauthenticated as error:
            raise Lost(error.message) from error
        self.state = State.HANDSHAKE
        self._negotiation.tls_established()
        self._receive_options()

    # The transmission.

    def _serve(self) -> None:
        export = self._negotiation.export
        agreed = self._negotiation.agreed
        self._timer.cancel()
        self.state = State.SERVING
        self._export = export  # type: ignore[assignment]  # It is what `_lookup` gave.
        assert self._export is not None
        _log.info("NBD client %s: opened %r as %s", self._name, agreed.export_name, self.peer)
        self._replies = Replies(
            self._stream, agreed.structured, partial(self._loop.call_soon, self._replies_step)
        )
        self._transmission = Transmission(self._export, agreed, self._pool, self._replies, self._budget_bytes)
        self._export.opened(self)
        if self.state is State.SERVING:
            self._transmission.preload(self._negotiation.leftover)
            self._after_requests(self._transmission)

    def _receive_requests(self) -> None:
        transmission = self._transmission
        assert transmission is not None
        if transmission.paused or transmission.stopped:
            return
        count = self._stream.receive_into(transmission.space())
        if count:
            transmission.received(count)
            self._after_requests(transmission)

    def _after_requests(self, transmission: Transmission) -> None:
        if self.state is State.CLOSED:
            return
        if transmission.paused or transmission.stopped or transmission.over_budget:
            transmission.paused = True
            self._loop.call_soon(self._replies_step)
        elif self._stream.buffered:
            self._loop.call_soon(self._read_step)

    def _send_replies(self) -> None:
        """The end of a turn: replies leave, and more requests are taken if there is room for them."""
        replies, transmission = self._replies, self._transmission
        assert replies is not None and transmission is not None
        sent = replies.send()
        if transmission.stopped:
            self._drained(sent, transmission)
            return
        if transmission.paused and not transmission.over_budget:
            transmission.parse()
            self._after_requests(transmission)
        self._want(read=not transmission.paused, write=not sent)

    def _drained(self, sent: bool, transmission: Transmission) -> None:
        if self.state is State.SERVING:
            self.state = State.DRAINING
            self._timer = self._loop.call_later(DRAIN_MAX_S, self._too_late)
        if sent and not transmission.in_flight:
            self.close("every request is answered")
        else:
            self._want(read=False, write=not sent)
