"""A pipelined NBD client on the loop: the link from a primary to its mirror.

Requests of one turn leave together, straight from the caller's memory (in clear the kernel takes them
from there; TLS encrypts them from there). Replies come in any order.

Losing the link is told once, by `on_lost`, never by ending requests: only the owner knows what a request
that may or may not have been applied means to it (I-6). It keeps its own list of what is unanswered; this
class calls no `done` after `on_lost` was called or `close` was.

Structured replies are not asked for: a simple reply is 16 bytes, and the private command needs them.
"""

import contextlib
import errno
import ipaddress
import itertools
import logging
import os
import socket
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from holdfast.base.device import Done, Outcome, Request
from holdfast.base.errors import BadInput, HoldfastError, Unauthenticated
from holdfast.base.limits import KIB
from holdfast.base.loop import READABLE, WRITABLE, Loop, Timer
from holdfast.base.nbd import wire
from holdfast.base.nbd.export import ControlDone
from holdfast.base.nbd.handshake import Handshake
from holdfast.base.nbd.link import configure
from holdfast.base.nbd.negotiation import Phase
from holdfast.base.nbd.stream import ClearStream, Lost, Stream, secured
from holdfast.base.nbd.wire import ProtocolError
from holdfast.base.tls import PeerIdentity, peer_identity
from holdfast.base.twins import twin

if TYPE_CHECKING:
    import ssl

    from holdfast.base.nbd.tls_stream import TlsStream

_log = logging.getLogger(__name__)
CONNECT_MAX_S = 5.0
"""From `Session()` to `on_ready`."""
DEAD_AFTER_S = 8.0
"""How long the other host may confirm nothing at all (TCP_USER_TIMEOUT) before the link is lost."""
_RECEIVE_BYTES = 64 * KIB

_quick = twin("holdfast.base.nbd._wire")
_OK = Outcome.OK
_MAGIC = wire.REQUEST_MAGIC
_REPLY_MAGIC = wire.SIMPLE_REPLY_MAGIC
_CMD_WRITE = wire.CMD_WRITE
_REPLY_BYTES = wire.SIMPLE_REPLY.size
_pack_request = wire.REQUEST.pack
_unpack_reply = wire.SIMPLE_REPLY.unpack_from


class State(Enum):
    """What a session is at."""

    CONNECTING = "connecting"
    """TCP's handshake."""
    HANDSHAKE = "handshake"
    """NBD's handshake."""
    TLS = "tls"
    """TLS's handshake."""
    READY = "ready"
    """Taking requests."""
    CLOSED = "closed"
    """Lost or closed; for ever."""


class _Payload:
    """A reply's data, and where it goes. `size` 0: not known before the reply says it (control)."""

    __slots__ = ("finish", "refuse", "size", "targets")

    def __init__(
        self,
        targets: list[memoryview],
        size: int,
        finish: Callable[[list[memoryview]], None],
        refuse: Callable[[Outcome], None],
    ) -> None:
        self.targets = targets
        self.size = size
        self.finish = finish
        self.refuse = refuse


class Session:
    """One connection to one export. It starts at once; nothing is called before the constructor returns.

    Args:
        address: (numeric IP address, port), or the path of a Unix socket.
        on_ready: the export is open; requests may be sent. Called at most once.
        on_lost: the link could not be had, or is lost: a sentence why. Called at most once, and never
            after `close`; nothing else is called after it.
        tls: `tls.client_context`; None speaks in clear.
        expected: who the server must prove to be; required with `tls`.

    Raises:
        BadInput: the address is not numeric (looking names up would block the loop).
    """

    def __init__(
        self,
        loop: Loop,
        address: tuple[str, int] | str,
        export_name: str,
        *,
        on_ready: Callable[[], None],
        on_lost: Callable[[str], None],
        tls: "ssl.SSLContext | None",
        expected: PeerIdentity | None = None,
        connect_max_s: float = CONNECT_MAX_S,
        dead_after_s: float = DEAD_AFTER_S,
    ) -> None:
        if (tls is None) != (expected is None):
            raise ValueError("TLS and the expected identity go together")
        self._loop = loop
        self._address = address
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._tls = tls
        self._expected = expected
        self._handshake = Handshake(export_name, tls=tls is not None)
        self._cookies = itertools.count(1)
        self._pending: dict[int, Done] = {}
        self._payloads: dict[int, _Payload] = {}
        self._sink: _Payload | None = None
        self._sink_left: list[memoryview] = []
        self._view = memoryview(bytearray(_RECEIVE_BYTES))
        self._at = 0
        self._end = 0
        self._scheduled = False
        self.state = State.CONNECTING
        self.refusal: HoldfastError | None = None
        """Why the server refused, if that is why the link was lost: its `reason` is for programs."""
        self._sock = _new_socket(address)
        configure(self._sock, dead_after_s=dead_after_s)
        self._fd = self._sock.fileno()
        self._interest = 0
        self._stream: Stream = ClearStream(self._sock)
        self._secured: TlsStream | None = None
        self._out = self._stream.out
        self._timer: Timer = loop.call_later(connect_max_s, self._too_late)
        loop.call_soon(self._connect)

    @property
    def size_bytes(self) -> int:
        """Of the export; known from `on_ready` on."""
        return self._handshake.size_bytes

    @property
    def read_only(self) -> bool:
        return bool(self._handshake.flags & wire.FLAG_READ_ONLY)

    @property
    def pending(self) -> int:
        """Requests without an answer."""
        return len(self._pending) + len(self._payloads)

    # Requests. Each is sent at the end of this turn; `done` is called on the loop, never before these return.

    def write(self, offset: int, buffers: list[memoryview], fua: bool, done: Done) -> None:
        """Store `buffers` (of bytes; together 1 byte to 32 MiB), which stay unchanged until `done`."""
        length = len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))
        cookie = next(self._cookies)
        self._pending[cookie] = done
        out = self._out
        out.append(_pack_request(_MAGIC, fua, _CMD_WRITE, cookie, offset, length))
        out.extend(buffers)
        if not self._scheduled:
            self._schedule()

    def write_all(self, requests: list[Request], dones: list[Done]) -> None:
        """`write` of each, with the done in the same place. They leave at once, if they can."""
        if _quick is not None:
            first = next(self._cookies)
            self._cookies = itertools.count(first + len(requests))
            _quick.put_writes(requests, dones, first, self._pending, self._out)
        else:
            for request, done in zip(requests, dones, strict=True):
                self.write(request.offset, request.buffers, request.fua, done)
        if not self._scheduled:
            self._schedule()
        with contextlib.suppress(Lost):  # `_send_requests` will find the same.
            self._stream.flush()

    def zero(self, offset: int, length: int, fua: bool, done: Done) -> None:
        """Make the range read as zeros; `length` is below 4 GiB."""
        cookie = next(self._cookies)
        self._pending[cookie] = done
        self._send(wire.CMD_WRITE_ZEROES, int(fua), cookie, offset, length)

    def flush(self, done: Done) -> None:
        """What was answered before this was sent is on disk when `done(OK)` is called."""
        cookie = next(self._cookies)
        self._pending[cookie] = done
        self._send(wire.CMD_FLUSH, 0, cookie, 0, 0)

    def read(self, offset: int, length: int, buffers: list[memoryview], done: Done) -> None:
        """Fill `buffers`, which together hold `length` bytes (1 byte to 32 MiB)."""
        cookie = next(self._cookies)
        self._payloads[cookie] = _Payload(list(buffers), length, lambda _targets: done(_OK), done)
        self._send(wire.CMD_READ, 0, cookie, offset, length)

    def control(self, payload: bytes, done: ControlDone) -> None:
        """The private command: at most 1 MiB each way; the answer's bytes come with OK only."""
        if len(payload) > wire.CONTROL_MAX_BYTES:
            raise ValueError(f"a control payload of {len(payload)} bytes is over {wire.CONTROL_MAX_BYTES}")
        cookie = next(self._cookies)
        self._payloads[cookie] = _Payload(
            [], 0, lambda targets: done(_OK, b"".join(targets)), lambda outcome: done(outcome, b"")
        )
        self._send(wire.CMD_HOLDFAST_CONTROL, 0, cookie, 0, len(payload))
        if payload:
            self._out.append(payload)

    def close(self) -> None:
        """End the link now; nothing is called any more. Idempotent.

        In clear, what was handed to the kernel may still reach the server and be applied.
        """
        if self.state is State.READY and not self._out:
            # Only if nothing is waiting: the flush would go on sending requests that were just given up.
            self._out.append(_pack_request(_MAGIC, 0, wire.CMD_DISC, 0, 0, 0))
            with contextlib.suppress(Lost):
                self._stream.flush()
        self._end_link()

    def _end_link(self) -> None:
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        self._scheduled = False
        self._timer.cancel()
        self._loop.remove(self._fd)
        self._stream.close()
        # No reference to the callers' memory is kept: it may be a mapping that they are about to close.
        self._pending.clear()
        self._payloads.clear()
        self._sink = None
        self._sink_left = []

    def _send(self, kind: int, flags: int, cookie: int, offset: int, length: int) -> None:
        self._out.append(_pack_request(_MAGIC, flags, kind, cookie, offset, length))
        if not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        if self.state is not State.READY:
            raise RuntimeError(f"a request on a session that is {self.state.value}")
        self._scheduled = True
        self._loop.call_soon(self._send_requests)

    def _send_requests(self) -> None:
        if self.state is not State.READY:
            return
        self._scheduled = False
        try:
            sent = self._stream.flush()
        except Lost as lost:
            self._lose(str(lost))
            return
        self._want(READABLE if sent else READABLE | WRITABLE)

    # The link.

    def _lose(self, reason: str) -> None:
        if self.state is State.CLOSED:
            return
        doing = "" if self.state is State.READY else f" while {self.state.value}"
        self._end_link()
        _log.info("NBD session to %s lost%s: %s", self._address, doing, reason)
        self._on_lost(f"NBD session to {self._address} lost{doing}: {reason}")

    def _too_late(self) -> None:
        self._lose("it took too long")

    def _connect(self) -> None:
        if self.state is State.CLOSED:
            return
        error = self._sock.connect_ex(self._address)
        if error not in (0, errno.EINPROGRESS):
            self._lose(os.strerror(error))
            return
        self._interest = READABLE | WRITABLE
        self._loop.add(self._fd, self._interest, self._ready)

    def _connected(self) -> bool:
        """Whether TCP's handshake is over; raises Lost if it failed."""
        error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise Lost(os.strerror(error))
        try:
            self._sock.getpeername()
        except OSError:
            return False
        self.state = State.HANDSHAKE
        return True

    def _want(self, interest: int) -> None:
        if interest != self._interest and self.state is not State.CLOSED:
            self._interest = interest
            self._loop.modify(self._fd, interest)

    def _ready(self, events: int) -> None:
        if self.state is State.READY:
            if events & WRITABLE:
                self._send_requests()
            if events & ~WRITABLE and self.state is State.READY:
                self._receive()
            return
        try:
            if self.state is not State.CONNECTING or self._connected():
                self._negotiate()
        except (Lost, ProtocolError) as error:
            self._lose(str(error))
        except HoldfastError as error:
            self.refusal = error
            self._lose(f"refused, {error.reason}: {error.message}")

    def _negotiate(self) -> None:
        if self.state is State.TLS:
            self._tls_handshake()
        if self.state is State.HANDSHAKE:
            count = self._stream.receive_into(self._view)
            if count:
                self._handshake.feed(self._view[:count])
        output = self._handshake.take_output()
        if output:
            self._stream.out.append(output)
        sent = self._stream.flush()
        self._want(READABLE if sent else READABLE | WRITABLE)
        if not sent:
            return
        if self._handshake.phase is Phase.STARTTLS and self.state is State.HANDSHAKE:
            self._start_tls()
        elif self._handshake.phase is Phase.TRANSMISSION:
            self._begin()
        elif self._stream.buffered:
            self._loop.call_soon(lambda: self._ready(READABLE))

    def _start_tls(self) -> None:
        assert self._tls is not None
        self.state = State.TLS
        self._stream = self._secured = secured(self._sock, self._tls, server_side=False)
        self._out = self._stream.out
        self._negotiate()  # The client speaks first.

    def _tls_handshake(self) -> None:
        stream = self._secured
        assert stream is not None
        if not stream.handshake():
            return
        peer = peer_identity(stream.tls)
        if peer != self._expected:
            raise Unauthenticated("WRONG_PEER", f"The server is {peer}, not {self._expected}.")
        self.state = State.HANDSHAKE
        self._handshake.tls_established()

    def _begin(self) -> None:
        if self._handshake.leftover:
            raise ProtocolError("the server sent more than the handshake")
        self._timer.cancel()
        self.state = State.READY
        self._on_ready()

    # Replies.

    def _receive(self) -> None:
        try:
            while self.state is State.READY:
                count = self._stream.receive_into(self._space())
                if count:
                    self._received(count)
                if not count or not self._stream.buffered:
                    return
        except (Lost, ProtocolError) as error:
            self._lose(str(error))

    def _space(self) -> memoryview:
        """Where the next bytes go: a reply's data straight to its place."""
        if self._sink is not None:
            return self._sink_left[0]
        if self._at == self._end:
            self._at = self._end = 0
        elif len(self._view) - self._at < _REPLY_BYTES + wire.U32.size:
            left = self._end - self._at
            self._view[:left] = bytes(self._view[self._at : self._end])
            self._at, self._end = 0, left
        return self._view[self._end :]

    def _received(self, count: int) -> None:
        if self._sink is not None:
            self._sunk(count)
        else:
            self._end += count
        while self._sink is None and self.state is State.READY and self._one_burst():
            self._pour()

    def _one_burst(self) -> bool:
        """Take replies without data; True at one that has data, which is then the sink."""
        view, pop, at, end = self._view, self._pending.pop, self._at, self._end
        if _quick is not None and end - at >= 2 * _REPLY_BYTES:
            dones: list[Done] = []
            self._at = at = _quick.take_replies(view, at, end, self._pending, dones)
            for confirm in dones:
                confirm(_OK)
                if self.state is not State.READY:
                    return False
        while end - at >= _REPLY_BYTES:
            magic, error, cookie = _unpack_reply(view, at)
            if magic != _REPLY_MAGIC:
                raise ProtocolError(f"a reply starts with {magic:#x} instead of its magic number")
            done = pop(cookie, None)
            if done is None:
                if not self._begin_payload(at, error, cookie):
                    return False
                if self._sink is not None:
                    return True
                at = self._at
                continue
            at += _REPLY_BYTES
            self._at = at
            done(wire.outcome_of(error) if error else _OK)
            if self.state is not State.READY:
                return False
        return False

    def _begin_payload(self, at: int, error: int, cookie: int) -> bool:
        """The reply at `at` is to a request that expects data; False if its length is not here yet."""
        payload = self._payloads.get(cookie)
        if payload is None:
            raise ProtocolError(f"the server answered request {cookie}, which nobody waits for")
        size = _REPLY_BYTES
        if not error and not payload.size:
            size += wire.U32.size
            if self._end - at < size:
                return False
            (length,) = wire.U32.unpack_from(self._view, at + _REPLY_BYTES)
            if length > wire.CONTROL_MAX_BYTES:
                raise ProtocolError(f"the server's control answer is {length} bytes long")
            payload.targets = [memoryview(bytearray(length))]
        del self._payloads[cookie]
        self._at = at + size
        if error:
            payload.refuse(wire.outcome_of(error))
            return self.state is State.READY
        self._sink = payload
        self._sink_left = [target for target in payload.targets if len(target)]
        self._finish_sink()
        return self.state is State.READY

    def _pour(self) -> None:
        """Data that came along with its reply's header goes to its place."""
        while self._sink is not None and self._at < self._end:
            target = self._sink_left[0]
            count = min(len(target), self._end - self._at)
            target[:count] = self._view[self._at : self._at + count]
            self._at += count
            self._sunk(count)

    def _sunk(self, count: int) -> None:
        """`count` bytes are in their place."""
        rest = self._sink_left[0][count:]
        if len(rest):
            self._sink_left[0] = rest
        else:
            del self._sink_left[0]
            self._finish_sink()

    def _finish_sink(self) -> None:
        payload = self._sink
        if payload is not None and not self._sink_left:
            self._sink = None
            payload.finish(payload.targets)


def _new_socket(address: tuple[str, int] | str) -> socket.socket:
    if isinstance(address, str):
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        version = ipaddress.ip_address(address[0]).version
    except ValueError as error:
        raise BadInput("BAD_ADDRESS", f"{address[0]!r} is not a numeric IP address.") from error
    return socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_STREAM)
