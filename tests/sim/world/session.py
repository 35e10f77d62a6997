"""The NBD session from a primary to another host's replica (replicator.talk.Session), over a Connection.

Memory is treated as the real session treats it: buffers are read when they are sent, a moment after they
were given, so whoever reuses them too early is found out; what the server received is poisoned once the
export is done with it.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from holdfast.base.device import Done, Op, Outcome, Request
from holdfast.base.errors import HoldfastError
from holdfast.base.nbd.export import ControlDone
from holdfast.base.tls import PeerIdentity
from holdfast.replicator.mirror import MirrorExport

from .net import Connection, Network
from .process import Process

_POISON = b"\xee"
CONNECT_MAX_S = 5.0
DEAD_AFTER_S = 8.0

OnReady = Callable[["ClientSession"], None]
OnLost = Callable[[str], None]


class Listener(Protocol):
    """A host's process that serves its replica, as a connection finds it."""

    loop: Process

    def open_export(self, peer_host_id: str, epoch: int) -> MirrorExport: ...


class Watcher(Protocol):
    """Who judges sessions (checks.py)."""

    def copy_sent(self, session: "ClientSession", offset: int, content: bytes) -> None: ...
    def session_heard(self, session: "ClientSession", payload: bytes) -> None: ...
    def session_said(self, session: "ClientSession", payload: bytes, answer: bytes | None) -> None: ...
    def session_applied(self, session: "ClientSession", message: "Sending", outcome: Outcome) -> None: ...


class Sending:
    """One request on its way. `memory`: where its bytes were before they were sent."""

    __slots__ = ("buffers", "content", "done", "fua", "length", "memory", "offset", "op", "payload")

    def __init__(
        self,
        op: Op | None,
        offset: int,
        length: int,
        done: Callable[..., None],
        buffers: list[memoryview] | None = None,
        fua: bool = False,
        payload: bytes = b"",
    ) -> None:
        self.op = op
        self.offset = offset
        self.length = length
        self.done = done
        self.buffers = buffers or []
        self.fua = fua
        self.payload = payload
        self.content = bytearray()
        self.memory: object = buffers[0].obj if buffers else None

    @property
    def is_copy(self) -> bool:
        """Its bytes were in memory of their own: a command's are in the ring's."""
        return isinstance(self.memory, bytearray) and len(self.memory) == self.length


class ClientSession:
    """Both ends of one session. The methods up to `close` are the client's."""

    def __init__(
        self,
        net: Network,
        client: Process,
        hosts: tuple[str, str],
        epoch: int,
        find: Callable[[], Listener | None],
        watcher: Watcher,
        on_ready: OnReady,
        on_lost: OnLost,
    ) -> None:
        self.net = net
        self.epoch = epoch
        self.hosts = hosts
        self.connection = Connection(net, *hosts)
        self.connection.client_over = lambda why: client.deliver(partial(self._lost, why))
        self.connection.server_over = lambda _why: self._server_over()
        self.number = 0
        self.discarded = False
        """What it serves was thrown away: what it still does there is nobody's."""
        self._client = client
        self._server: Process | None = None
        self._export: MirrorExport | None = None
        self._find = find
        self._watcher = watcher
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._unsent: list[Sending] = []
        self._open = True
        self._ready = False
        self._timer = client.call_later(CONNECT_MAX_S, partial(self._lost, "no answer"))
        self.connection.there.send(self._accept)

    # The client's side.

    def write(self, offset: int, buffers: list[memoryview], fua: bool, done: Done) -> None:
        length = sum(len(buffer) for buffer in buffers)
        self._queue(Sending(Op.WRITE, offset, length, done, buffers, fua))

    def write_all(self, requests: list[Request], dones: list[Done]) -> None:
        """They leave at once: before the primary has applied them."""
        for request, done in zip(requests, dones, strict=True):
            self.write(request.offset, request.buffers, request.fua, done)
        self._send()

    def zero(self, offset: int, length: int, fua: bool, done: Done) -> None:
        self._queue(Sending(Op.ZERO, offset, length, done, None, fua))

    def flush(self, done: Done) -> None:
        self._queue(Sending(Op.FLUSH, 0, 0, done))

    def control(self, payload: bytes, done: Callable[[Outcome, bytes], None]) -> None:
        self._queue(Sending(None, 0, 0, done, payload=payload))

    @property
    def finished(self) -> bool:
        """Neither side has anything to do with it any more."""
        return not self._open and not self.connection.server_open

    def close(self) -> None:
        if self._open:
            self._open = False
            self._timer.cancel()
            self._unsent.clear()
            self.connection.close_client()

    def _queue(self, sending: Sending) -> None:
        assert self._open and self._ready, "a request on a session that is not open"
        if not self._unsent:
            if self.net.chance.random() < 0.9:
                self._client.call_soon(self._send)
            else:
                self._client.call_later(self.net.delay_s(), self._send)
        self._unsent.append(sending)

    def _send(self) -> None:
        if not self._open:
            return
        unsent, self._unsent = self._unsent, []
        for sending in unsent:
            sending.content = bytearray().join(sending.buffers)
            if sending.is_copy:
                self._watcher.copy_sent(self, sending.offset, bytes(sending.content))
        there = self.connection.there
        while unsent:
            count = self.net.chance.randrange(1, 5)
            there.send(partial(self._deliver, unsent[:count]))
            del unsent[:count]

    def _lost(self, why: str) -> None:
        if self._open:
            self.close()
            self._on_lost(why)

    def _accepted(self) -> None:
        if self._open:
            self._ready = True
            self._timer.cancel()
            self._on_ready(self)

    def _refused(self, why: str) -> None:
        self._lost(why)

    # The server's side.

    def _accept(self) -> None:
        listener = self._find()
        if listener is None or listener.loop.dead:
            self.connection.back.send(lambda: self._client.deliver(partial(self._refused, "refused")))
            return
        self._server = listener.loop
        listener.loop.deliver(partial(self._negotiate, listener))

    def _negotiate(self, listener: Listener) -> None:
        if not self.connection.server_open:
            return
        try:
            self._export = listener.open_export(self.hosts[0], self.epoch)
        except HoldfastError as error:
            why = error.message
            self.connection.back.send(lambda: self._client.deliver(partial(self._refused, why)))
            self.connection.close_server()
            return
        self._export.opened(_Served(self))
        self.connection.back.send(lambda: self._client.deliver(self._accepted))

    def _deliver(self, messages: list[Sending]) -> None:
        if self._server is not None:
            self._server.deliver(partial(self._take, messages))

    def _take(self, messages: list[Sending]) -> None:
        together: list[Request] = []
        for message in messages:
            if self._export is None or not self.connection.server_open:
                return
            if message.op is Op.WRITE:
                together.append(self._request(message, message.op))
                continue
            self._export.submit_all(together)
            together = []
            if message.op is None:
                self._watcher.session_heard(self, message.payload)
                self._export.control(message.payload, self._said(message))
            else:
                self._export.submit(self._request(message, message.op))
        if self._export is not None and self.connection.server_open:
            self._export.submit_all(together)

    def _said(self, message: Sending) -> ControlDone:
        def said(outcome: Outcome, payload: bytes) -> None:
            self._watcher.session_said(self, message.payload, payload if outcome is Outcome.OK else None)
            self._answer(partial(message.done, outcome, payload))

        return said

    def _request(self, message: Sending, op: Op) -> Request:
        buffers = [memoryview(message.content)] if message.content else []
        ended = False

        def end(outcome: Outcome) -> None:
            nonlocal ended
            assert not ended, "a request was ended twice"
            ended = True
            if buffers:
                buffers[0][:] = _POISON * len(buffers[0])
            self._watcher.session_applied(self, message, outcome)
            self._answer(partial(message.done, outcome))

        return Request(op, message.offset, message.length, end, buffers, message.fua)

    def _answer(self, tell: Callable[[], None]) -> None:
        if self.connection.server_open:
            self.connection.back.send(lambda: self._client.deliver(partial(self._hear, tell)))

    def _hear(self, tell: Callable[[], None]) -> None:
        if self._open:
            tell()

    def server_closes(self) -> None:
        if self._export is not None:
            export, self._export = self._export, None
            self.connection.close_server()
            export.closed()

    def _server_over(self) -> None:
        """The server's machine learns that the client is gone."""
        if self._server is not None:
            self._server.deliver(self.server_closes)

    # What the world does to it.

    def client_killed(self) -> None:
        self._open = False
        self.connection.close_client()

    def server_killed(self) -> None:
        self._export = None
        self.connection.close_server()

    def client_gone(self) -> None:
        """Its machine lost power."""
        self._open = False
        self.connection.silence_client()

    def server_gone(self) -> None:
        """Its machine lost power. What the client still sends is confirmed by nobody."""
        self._export = None
        self.connection.silence_server()
        self.net.timeline.after(DEAD_AFTER_S, self.connection._tell_client)


class _Served:
    """holdfast.base.nbd.export.Served."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session
        self.in_flight = 0
        self.peer: PeerIdentity | None = None

    def drain(self) -> None:
        self._session.server_closes()

    def close(self, reason: str) -> None:
        self._session.server_closes()
