"""The server over real sockets: states, limits, goodbyes, and clients that misbehave."""

import random
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.base.errors import NotFound
from holdfast.base.limits import KIB, MIB
from holdfast.base.loop import READABLE, Loop
from holdfast.base.nbd import connection, wire
from holdfast.base.nbd.client import Client
from holdfast.base.nbd.connection import State
from holdfast.base.nbd.server import Served, Server
from holdfast.base.nbd.testing import MemoryExport, drive, run_until
from holdfast.base.nbd.testing_pki import TestAuthority
from holdfast.base.tls import PeerIdentity, TlsFiles, client_context

_GO = struct.pack("!I", 3) + wire.OPTION.pack(wire.IHAVEOPT, wire.OPT_GO, 7) + wire.U32.pack(1) + b"x\0\0"
_GO_ANSWER_BYTES = 18 + (20 + 12) + (20 + 14) + 20


class _Raw:
    """A client that says exactly what it is told to."""

    def __init__(self, loop: Loop, port: int) -> None:
        self._loop = loop
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setblocking(False)

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                self._loop.run_once(0)

    def _until(self, more: Callable[[], bool]) -> None:
        """Turn the loop, which is also woken by this socket, until `more`."""
        self._loop.add(self.sock.fileno(), READABLE, lambda _events: None)
        try:
            run_until(self._loop, more)
        finally:
            self._loop.remove(self.sock.fileno())

    def take(self, count: int) -> bytes:
        """Exactly `count` bytes."""
        data = bytearray()

        def more() -> bool:
            try:
                part = self.sock.recv(count - len(data))
                assert part, f"the server closed after {bytes(data)!r}"
                data.extend(part)
            except BlockingIOError:
                pass
            return len(data) == count

        self._until(more)
        return bytes(data)

    def ended(self) -> bytes:
        """What the server still says before it closes."""
        data, over = bytearray(), False

        def more() -> bool:
            nonlocal over
            try:
                part = self.sock.recv(1 << 16)
                data.extend(part)
                over = not part
            except BlockingIOError:
                pass
            except ConnectionError:
                over = True
            return over

        self._until(more)
        return bytes(data)

    def go(self) -> "_Raw":
        self.send(_GO)
        assert self.take(_GO_ANSWER_BYTES)[-20:] == wire.OPTION_REPLY.pack(
            wire.OPTION_REPLY_MAGIC, wire.OPT_GO, wire.REP_ACK, 0
        )
        return self


class _Lab:
    """A server of one export, and raw clients of it."""

    def __init__(self, loop: Loop, **options: bool) -> None:
        self.loop = loop
        self.export = MemoryExport(8 * MIB, **options)  # type: ignore[arg-type]
        self.server = Server(loop, lambda _name, _peer: self.export)
        self.port = self.server.listen_tcp("127.0.0.1", 0, tls=None)

    def raw(self) -> _Raw:
        return _Raw(self.loop, self.port)

    def connection(self) -> connection.Connection:
        run_until(self.loop, lambda: len(self.server.connections) == 1)
        return next(iter(self.server.connections))


@pytest.fixture
def lab(loop: Loop) -> _Lab:
    return _Lab(loop)


def _request(kind: int, cookie: int, offset: int = 0, length: int = 0, data: bytes = b"") -> bytes:
    return wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, kind, cookie, offset, length) + data


def _reply(cookie: int, error: int = 0) -> bytes:
    return wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, error, cookie)


def test_requests_in_the_same_segment_as_the_handshake_are_served(lab: _Lab) -> None:
    raw = lab.raw()
    raw.send(_GO + _request(wire.CMD_WRITE, 1, 5, 3, b"abc") + _request(wire.CMD_READ, 2, 4, 5))
    raw.take(_GO_ANSWER_BYTES)
    assert raw.take(16 + 16 + 5) == _reply(1) + _reply(2) + b"\0abc\0"
    assert lab.export.opened_count == 1


def test_replies_come_in_the_order_in_which_requests_end(lab: _Lab) -> None:
    raw = lab.raw().go()
    lab.export.hold = True
    raw.send(b"".join(_request(wire.CMD_FLUSH, cookie) for cookie in range(4)))
    run_until(lab.loop, lambda: len(lab.export.held) == 4)
    assert lab.connection().in_flight == 4
    lab.export.held.reverse()
    lab.export.release()
    assert raw.take(64) == _reply(3) + _reply(2) + _reply(1) + _reply(0)


def test_a_goodbye_is_honoured_when_all_is_answered(lab: _Lab) -> None:
    raw = lab.raw().go()
    lab.export.hold = True
    raw.send(_request(wire.CMD_WRITE, 1, 0, 1, b"x") + _request(wire.CMD_DISC, 2))
    run_until(lab.loop, lambda: lab.connection().state is State.DRAINING)
    assert lab.export.closed_count == 0
    lab.export.release()
    assert raw.ended() == _reply(1)
    assert lab.export.closed_count == 1 and not lab.server.connections


def test_drain_answers_what_is_in_flight_takes_nothing_more_and_closes(lab: _Lab) -> None:
    raw = lab.raw().go()
    lab.export.hold = True
    raw.send(_request(wire.CMD_WRITE, 1, 0, 1, b"x"))
    run_until(lab.loop, lambda: len(lab.export.held) == 1)
    lab.connection().drain()
    lab.connection().drain()
    run_until(lab.loop, lambda: lab.connection().state is State.DRAINING)
    lab.export.release()
    assert raw.ended() == _reply(1)
    assert lab.export.closed_count == 1


def test_drain_with_nothing_in_flight_closes(lab: _Lab) -> None:
    raw = lab.raw().go()
    lab.connection().drain()
    assert raw.ended() == b"" and lab.export.closed_count == 1
    early = lab.raw()
    lab.connection().drain()
    early.ended()


def test_close_tells_the_export_at_once_and_requests_run_on(lab: _Lab) -> None:
    raw = lab.raw().go()
    lab.export.hold = True
    raw.send(_request(wire.CMD_WRITE, 1, 0, 1, b"x"))
    run_until(lab.loop, lambda: len(lab.export.held) == 1)
    served = lab.connection()
    served.close("a newer epoch")
    served.close("again")
    assert lab.export.closed_count == 1 and served.in_flight == 1
    lab.export.release()
    assert served.in_flight == 0 and lab.export.data[0] == ord("x")
    assert raw.ended() == b""


@pytest.mark.parametrize("how", ["close", "drain"])
@pytest.mark.parametrize("when", ["opened", "submit"])
def test_an_export_may_end_its_connection_from_within(lab: _Lab, when: str, how: str) -> None:
    def end() -> None:
        served = lab.export.connection
        assert served is not None
        if how == "close":
            served.close("said so")
        else:
            served.drain()

    opened, submit = lab.export.opened, lab.export.submit
    if when == "opened":
        lab.export.opened = lambda served: (opened(served), end())[1]  # type: ignore
    else:
        lab.export.submit = lambda request: (end(), submit(request))[1]  # type: ignore
    raw = lab.raw()
    raw.send(_GO + b"".join(_request(wire.CMD_WRITE, cookie, 0, 4, b"data") for cookie in range(100)))
    raw.ended()
    assert lab.export.opened_count == lab.export.closed_count == 1


def test_closing_the_server_closes_every_connection(lab: _Lab) -> None:
    raws = [lab.raw().go() for _ in range(3)]
    lab.server.close()
    lab.server.close()
    assert [raw.ended() for raw in raws] == [b""] * 3
    assert lab.export.closed_count == 3
    with pytest.raises(ConnectionRefusedError):
        lab.raw()


def test_a_client_that_takes_no_replies_is_not_read_from(lab: _Lab) -> None:
    raw = lab.raw().go()
    raw.send(b"".join(_request(wire.CMD_READ, cookie, 0, 1 * MIB) for cookie in range(200)))
    served = lab.connection()
    transmission = served._transmission
    assert transmission is not None
    run_until(lab.loop, lambda: transmission.paused)
    for _ in range(20):
        lab.loop.run_once(0)
    assert sum(map(len, served._stream.out)) < 20 * MIB
    for cookie in range(200):
        assert raw.take(16 + 1 * MIB)[:16] == _reply(cookie)
    assert not transmission.paused


def test_options_that_nobody_takes_the_answers_of_are_not_read(lab: _Lab) -> None:
    raw = lab.raw()
    raw.send(struct.pack("!I", 3))
    view = memoryview(wire.OPTION.pack(wire.IHAVEOPT, wire.OPT_LIST, 0) * 2_000_000)
    idle = 0
    while view and idle < 50:
        try:
            view = view[raw.sock.send(view) :]
            idle = 0
        except BlockingIOError:
            idle += 1
        lab.loop.run_once(0)
    assert len(view) and sum(map(len, lab.connection()._stream.out)) < 1 * MIB


def test_writes_wait_in_the_socket_while_the_budget_is_used_up(lab: _Lab) -> None:
    raw = lab.raw().go()
    lab.export.hold = True
    unsent = [_request(wire.CMD_WRITE, cookie, 0, 1 * MIB, bytes(1 * MIB)) for cookie in range(100)]
    view = memoryview(b"".join(unsent))
    idle = 0
    while idle < 50:
        try:
            view = view[raw.sock.send(view) :]
            idle = 0
        except BlockingIOError:
            idle += 1
        lab.loop.run_once(0)
    assert len(view) > 0 and len(lab.export.held) < 70
    lab.export.hold = False
    lab.export.release()
    raw.send(bytes(view))
    assert raw.take(1600) == b"".join(_reply(cookie) for cookie in range(100))


def test_too_many_connections_are_refused(loop: Loop) -> None:
    export = MemoryExport(MIB)
    server = Server(loop, lambda _name, _peer: export, connections_max=2)
    port = server.listen_tcp("127.0.0.1", 0, tls=None)
    kept = [_Raw(loop, port).go() for _ in range(2)]
    assert _Raw(loop, port).ended() == b""
    kept[0].sock.close()
    run_until(loop, lambda: len(server.connections) == 1)
    _Raw(loop, port).go()
    server.close()


def test_a_handshake_must_not_take_for_ever(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HANDSHAKE_MAX_S", 0.02)
    assert len(_Lab(loop).raw().ended()) == 18


def test_a_resolver_that_fails_refuses_and_the_server_goes_on(loop: Loop) -> None:
    export = MemoryExport(MIB)

    def resolve(name: str, _peer: PeerIdentity | None) -> MemoryExport:
        if name == "y":
            raise KeyError(name)
        return export

    server = Server(loop, resolve)
    port = server.listen_tcp("127.0.0.1", 0, tls=None)
    raw = _Raw(loop, port)
    raw.send(_GO.replace(b"x\0\0", b"y\0\0"))
    raw.take(18)
    assert wire.OPTION_REPLY.unpack(raw.take(20))[2] == wire.REP_ERR_POLICY
    _Raw(loop, port).go()
    server.close()


def test_a_unix_socket_is_served_and_a_dead_one_replaced(loop: Loop, tmp_path: Path) -> None:
    export = MemoryExport(MIB)
    path = tmp_path / "nbd"
    socket.socket(socket.AF_UNIX).bind(str(path))
    server = Server(loop, lambda _name, _peer: export)
    server.listen_unix(path)

    def talk() -> bytes:
        with Client(str(path), "x") as client:
            client.write(3, b"hello")
            return client.read(0, 10)

    assert drive(loop, talk) == b"\0\0\0hello\0\0"
    server.close()


def test_ipv6_is_served(loop: Loop) -> None:
    export = MemoryExport(MIB)
    server = Server(loop, lambda _name, _peer: export)
    port = server.listen_tcp("::1", 0, tls=None)
    assert drive(loop, lambda: Client(("::1", port), "x").size_bytes) == MIB
    server.close()


# TLS.


def _tls_server(loop: Loop, host: TlsFiles) -> tuple[MemoryExport, Server, int, list[PeerIdentity | None]]:
    from holdfast.base.tls import server_context

    export = MemoryExport(MIB)
    peers: list[PeerIdentity | None] = []

    def resolve(name: str, peer: PeerIdentity | None) -> MemoryExport:
        peers.append(peer)
        if name != "x":
            raise NotFound("NO_SUCH_EXPORT", "no")
        return export

    server = Server(loop, resolve)
    return export, server, server.listen_tcp("127.0.0.1", 0, tls=server_context(host)), peers


def test_tls_is_demanded_and_tells_the_resolver_who_it_is(
    loop: Loop, host: TlsFiles, authority: TestAuthority
) -> None:
    export, server, port, peers = _tls_server(loop, host)
    raw = _Raw(loop, port)
    raw.send(_GO)
    assert wire.OPTION_REPLY.unpack_from(raw.take(18 + 20), 18)[2] == wire.REP_ERR_TLS_REQD
    raw.sock.close()
    context = client_context(authority.issue("ann", "user"))
    data = random.Random(2).randbytes(700 * KIB)

    def talk() -> bytes:
        with Client(("127.0.0.1", port), "x", tls=context, expected=PeerIdentity("host-b", "host")) as client:
            client.write(1000, data)
            return client.read(1000, len(data))

    assert drive(loop, talk) == data
    assert set(peers) == {PeerIdentity("ann", "user")}
    run_until(loop, lambda: export.closed_count == 1)
    server.close()


def test_a_stranger_or_an_expired_certificate_gets_no_further_than_tls(
    loop: Loop, host: TlsFiles, authority: TestAuthority, tmp_path: Path
) -> None:
    export, server, port, peers = _tls_server(loop, host)
    stranger = TestAuthority(tmp_path).issue("ann", "user")
    mixed = TlsFiles(host.ca, stranger.certificate, stranger.key)
    for files in (mixed, authority.issue("late", "user", expired=True)):
        context = client_context(files)
        with pytest.raises(Exception, match=r"lost|opened|TLS") as caught:
            drive(loop, lambda context=context: Client(("127.0.0.1", port), "x", tls=context))  # type: ignore[misc]
        assert not isinstance(caught.value, AssertionError)
    assert not peers and not export.opened_count
    run_until(loop, lambda: not server.connections)
    server.close()


def test_garbage_instead_of_a_client_hello_ends_only_that_connection(loop: Loop, host: TlsFiles) -> None:
    _export, server, port, _peers = _tls_server(loop, host)
    raw = _Raw(loop, port)
    raw.send(struct.pack("!I", 3) + wire.OPTION.pack(wire.IHAVEOPT, wire.OPT_STARTTLS, 0))
    raw.take(18 + 20)
    raw.send(b"GET / HTTP/1.1\r\n\r\n" * 100)
    raw.ended()
    run_until(loop, lambda: not server.connections)
    server.close()


# Clients that break off, or talk nonsense, anywhere.


def _conversation() -> bytes:
    return (
        _GO
        + _request(wire.CMD_WRITE, 1, 0, 5000, bytes(5000))
        + _request(wire.CMD_READ, 2, 0, 5000)
        + _request(wire.CMD_FLUSH, 3)
    )


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    "after", [0, 3, 4, 15, 20, len(_GO) - 1, len(_GO), len(_GO) + 27, len(_GO) + 4000, -1]
)
def test_a_client_may_break_off_anywhere(lab: _Lab, after: int, reset: bool) -> None:
    raw = lab.raw()
    raw.send(_conversation()[:after])
    for _ in range(5):
        lab.loop.run_once(0)
    if reset:
        raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.sock.close()
    run_until(lab.loop, lambda: not lab.server.connections)
    assert lab.export.opened_count == lab.export.closed_count
    lab.raw().go()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 200), st.binary(min_size=1, max_size=200), st.booleans())
def test_garbage_anywhere_ends_only_that_connection(
    lab: _Lab, after: int, garbage: bytes, more: bool
) -> None:
    raw = lab.raw()
    raw.send(_conversation()[:after] + garbage + (b"\xff" * 300_000 if more else b""))
    raw.sock.shutdown(socket.SHUT_WR)
    raw.ended()
    run_until(lab.loop, lambda: not lab.server.connections)
    assert lab.export.opened_count == lab.export.closed_count
    raw.sock.close()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 3000), st.binary(min_size=1, max_size=50))
def test_garbage_in_the_middle_of_tls_ends_only_that_connection(
    loop: Loop, host: TlsFiles, after: int, garbage: bytes
) -> None:
    """A client's side of a conversation over TLS, with a few bytes overwritten."""
    export, server, port, _peers = _tls_server(loop, host)
    raw = _Raw(loop, port)
    raw.send(struct.pack("!I", 3) + wire.OPTION.pack(wire.IHAVEOPT, wire.OPT_STARTTLS, 0))
    raw.take(18 + 20)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context(host).wrap_bio(incoming, outgoing)
    said = 0
    for step in range(60):
        try:
            tls.do_handshake()
            tls.write(_GO[4:] if step % 2 else _request(wire.CMD_FLUSH, step))
        except ssl.SSLError:
            pass
        data = bytearray(outgoing.read())
        if said <= after < said + len(data):
            data[after - said : after - said + len(garbage)] = garbage
        said += len(data)
        try:
            raw.send(bytes(data))
            loop.run_once(0.001)
            incoming.write(raw.sock.recv(65536))
        except BlockingIOError:
            continue
        except ConnectionError:
            break
    raw.sock.close()
    run_until(loop, lambda: not server.connections)
    assert export.opened_count == export.closed_count
    server.close()


def test_the_export_knows_its_connection_and_peer(lab: _Lab) -> None:
    lab.raw().go()
    served: Served | None = lab.export.connection
    assert served is not None and served.peer is None and served.in_flight == 0
