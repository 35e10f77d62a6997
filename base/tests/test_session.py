"""The session against the server, and the loss of the link at every point."""

import mmap
import random
import socket
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest

from holdfast.base.device import Op, Outcome, Request
from holdfast.base.errors import BadInput, Denied, NotFound, Unauthenticated
from holdfast.base.limits import KIB, MIB
from holdfast.base.loop import READABLE, WRITABLE, Loop
from holdfast.base.nbd import wire
from holdfast.base.nbd.export import Export
from holdfast.base.nbd.session import Session, State
from holdfast.base.nbd.testing import MemoryExport, run_until
from holdfast.base.nbd.testing_pki import TestAuthority
from holdfast.base.tls import PeerIdentity, TlsFiles, client_context

_HOST_B = PeerIdentity("host-b", "host")


class _Serving(Protocol):
    exports: dict[str, Export]
    peers: list[PeerIdentity | None]
    clear_port: int
    tls_port: int


class _Owner:
    """Owns a session as a primary does: knows what is unanswered, and what it was told."""

    def __init__(
        self,
        loop: Loop,
        port: int,
        name: str = "x",
        tls: TlsFiles | None = None,
        expected: PeerIdentity = _HOST_B,
    ) -> None:
        self.loop = loop
        self.ready = 0
        self.lost: list[str] = []
        self.unanswered: set[int] = set()
        self.answered: list[tuple[int, Outcome]] = []
        self._number = 0
        self.session = Session(
            loop,
            ("127.0.0.1", port),
            name,
            on_ready=self._on_ready,
            on_lost=self._on_lost,
            tls=client_context(tls) if tls else None,
            expected=expected if tls else None,
        )

    def _on_ready(self) -> None:
        assert not self.lost
        self.ready += 1

    def _on_lost(self, reason: str) -> None:
        self.lost.append(reason)

    def done(self) -> Callable[[Outcome], None]:
        """For one more request."""
        self._number += 1
        self.unanswered.add(self._number)
        return partial(self._answer, self._number)

    def _answer(self, number: int, outcome: Outcome) -> None:
        assert not self.lost, "an answer after the link was lost"
        self.unanswered.remove(number)
        self.answered.append((number, outcome))

    def open(self) -> "_Owner":
        run_until(self.loop, lambda: bool(self.ready or self.lost))
        assert self.ready == 1, self.lost
        return self

    def settle(self) -> None:
        run_until(self.loop, lambda: not self.unanswered)

    def wait_lost(self) -> str:
        run_until(self.loop, lambda: bool(self.lost))
        self.loop.run_once(0)
        assert len(self.lost) == 1 and self.session.state is State.CLOSED
        return self.lost[0]


@pytest.fixture(params=["clear", "tls"])
def owner(request: pytest.FixtureRequest, loop: Loop, serving: _Serving, authority: TestAuthority) -> _Owner:
    """A session that is ready, to a private export of 4 MiB called `x`."""
    serving.exports["x"] = MemoryExport(4 * MIB, private=True)
    if request.param == "clear":
        return _Owner(loop, serving.clear_port).open()
    return _Owner(loop, serving.tls_port, tls=authority.issue("host-a", "host")).open()


def _export(serving: _Serving) -> MemoryExport:
    export = serving.exports["x"]
    assert isinstance(export, MemoryExport)
    return export


def test_every_request(owner: _Owner, serving: _Serving) -> None:
    export, session = _export(serving), owner.session
    assert session.size_bytes == 4 * MIB and not session.read_only
    data = random.Random(3).randbytes(1 * MIB)
    parts = [memoryview(data)[:1000], memoryview(data)[1000:700_000], memoryview(data)[700_000:]]
    session.write(4096, parts, True, owner.done())
    session.write(0, [memoryview(b"head")], False, owner.done())
    assert session.pending == 2
    owner.settle()
    assert export.data[:4] == b"head" and export.data[4096 : 4096 + len(data)] == data
    assert export.fua_writes == 1
    session.zero(8192, 4096, False, owner.done())
    session.flush(owner.done())
    owner.settle()
    assert export.data[8192:12288] == bytes(4096) and export.flushes == 1
    got = [memoryview(bytearray(size)) for size in (1, 0, 300_000, 70_000)]
    small = memoryview(bytearray(4))
    session.read(12288, 370_001, got, owner.done())
    session.read(0, 4, [small], owner.done())
    owner.settle()
    assert b"".join(got) == data[8192 : 8192 + 370_001] and bytes(small) == b"head"
    assert {outcome for _number, outcome in owner.answered} == {Outcome.OK}
    assert session.pending == 0


def test_control_echoes(owner: _Owner) -> None:
    answers: list[tuple[Outcome, bytes]] = []
    payloads = [b"", b"x", random.Random(4).randbytes(300 * KIB), bytes(wire.CONTROL_MAX_BYTES)]
    for payload in payloads:
        owner.session.control(payload, lambda outcome, answer: answers.append((outcome, answer)))
        owner.session.flush(owner.done())
    run_until(owner.loop, lambda: len(answers) == len(payloads))
    assert answers == [(Outcome.OK, payload) for payload in payloads]
    with pytest.raises(ValueError, match="over"):
        owner.session.control(bytes(wire.CONTROL_MAX_BYTES + 1), lambda _outcome, _answer: None)


@pytest.mark.parametrize("outcome", [o for o in Outcome if o not in (Outcome.OK, Outcome.MISCOMPARE)])
def test_outcomes_come_through(owner: _Owner, serving: _Serving, outcome: Outcome) -> None:
    export = _export(serving)
    export.fail = lambda _request: outcome
    export.control = lambda _payload, done: done(outcome, b"ignored")  # type: ignore
    session, controls = owner.session, []
    session.write(0, [memoryview(b"x")], False, owner.done())
    session.read(0, 5, [memoryview(bytearray(5))], owner.done())
    session.control(b"x", lambda *answer: controls.append(answer))
    session.zero(0, 1, False, owner.done())
    session.flush(owner.done())
    owner.settle()
    assert owner.answered == [(number, outcome) for number in (1, 2, 3, 4)]
    assert controls == [(outcome, b"")]
    export.fail = lambda _request: None
    session.write(0, [memoryview(b"x")], False, owner.done())
    owner.settle()
    assert owner.answered[-1] == (5, Outcome.OK)


def test_many_requests_answered_in_any_order(owner: _Owner, serving: _Serving) -> None:
    """Random requests, ended in random order, against a model: disjoint ranges, so order means nothing."""
    chance = random.Random(5)
    export = _export(serving)
    waiting: list[Request] = []
    apply = export._apply
    export.submit = waiting.append  # type: ignore
    slot = 16 * KIB
    contents = {number: chance.randbytes(chance.randrange(1, slot)) for number in range(200)}
    for number, data in contents.items():
        owner.session.write(number * slot, [memoryview(data)], False, owner.done())
        if chance.random() < 0.3:
            owner.loop.run_once(0)
        while waiting and chance.random() < 0.5:
            request = waiting.pop(chance.randrange(len(waiting)))
            request.done(apply(request))
    while owner.unanswered:
        owner.loop.run_once(0)
        chance.shuffle(waiting)
        while waiting:
            request = waiting.pop()
            request.done(apply(request))
    got = {number: memoryview(bytearray(len(data))) for number, data in contents.items()}
    for number, view in got.items():
        owner.session.read(number * slot, len(view), [view[:100], view[100:]], owner.done())
    while owner.unanswered:
        owner.loop.run_once(0)
        chance.shuffle(waiting)
        while waiting:
            request = waiting.pop()
            request.done(apply(request))
    assert all(got[number] == data for number, data in contents.items())


def test_more_than_the_socket_takes_at_once(owner: _Owner, serving: _Serving) -> None:
    data = memoryview(random.Random(6).randbytes(4 * MIB))
    for _ in range(10):
        owner.session.write(0, [data], False, owner.done())
    for _ in range(3000):
        owner.session.write(4096, [data[4096:8192]], False, owner.done())
    owner.settle()
    assert _export(serving).data == data


def test_requests_may_be_made_from_answers(owner: _Owner) -> None:
    left = [300]

    def again(outcome: Outcome) -> None:
        assert outcome is Outcome.OK
        left[0] -= 1
        if left[0] > 0:
            owner.session.write(0, [memoryview(b"x" * left[0])], False, again)

    again(Outcome.OK)
    run_until(owner.loop, lambda: left[0] == 0)


def test_closing_within_an_answer_ends_all_calls(owner: _Owner, serving: _Serving) -> None:
    owner.session.flush(lambda _outcome: owner.session.close())
    for _ in range(10):
        owner.session.flush(owner.done())
    run_until(owner.loop, lambda: owner.session.state is State.CLOSED)
    run_until(owner.loop, lambda: _export(serving).closed_count == 1)
    assert not owner.answered and not owner.lost
    owner.session.close()
    with pytest.raises(RuntimeError, match="closed"):
        owner.session.flush(owner.done())


def test_the_link_lost_with_requests_in_flight(owner: _Owner, serving: _Serving) -> None:
    export = _export(serving)
    export.hold = True
    for _ in range(5):
        owner.session.write(0, [memoryview(b"x")], False, owner.done())
    run_until(owner.loop, lambda: len(export.held) == 5)
    assert export.connection is not None
    export.connection.close("the host died")
    assert "closed the connection" in owner.wait_lost()
    export.release()
    assert len(owner.unanswered) == 5 and not owner.answered


@pytest.mark.parametrize("how", ["close", "lost", "partly sent"])
def test_no_memory_of_the_callers_is_kept_after_the_end(owner: _Owner, serving: _Serving, how: str) -> None:
    export = _export(serving)
    export.hold = True
    ring = mmap.mmap(-1, 64 * MIB)
    view = memoryview(ring)
    owner.session.write(0, [view[:8192]], False, owner.done())
    owner.session.read(0, 100, [view[:100]], owner.done())
    run_until(owner.loop, lambda: len(export.held) == 2)
    if how == "partly sent":
        owner.session.write(0, [view[: 32 * MIB]], False, owner.done())
        owner.session._send_requests()
    if how == "lost":
        assert export.connection is not None
        export.connection.close("cut")
        owner.wait_lost()
    owner.session.close()
    view.release()
    ring.close()  # BufferError if anything still points into it.


def test_a_request_before_the_session_is_ready_is_a_mistake(loop: Loop, serving: _Serving) -> None:
    owner = _Owner(loop, serving.clear_port)
    with pytest.raises(RuntimeError, match="connecting"):
        owner.session.flush(owner.done())
    owner.session.close()
    loop.run_once(0)
    assert not owner.lost and not owner.ready


# Refusals.


def test_refusals_have_a_reason(loop: Loop, serving: _Serving, authority: TestAuthority) -> None:
    serving.exports["x"] = MemoryExport(MIB)
    user = authority.issue("host-a", "host")
    for owner, kind, reason in (
        (_Owner(loop, serving.clear_port, "other"), NotFound, "NO_SUCH_EXPORT"),
        (_Owner(loop, serving.tls_port, "other", user), NotFound, "NO_SUCH_EXPORT"),
        (_Owner(loop, serving.tls_port), Denied, "TLS_REQUIRED"),
        (_Owner(loop, serving.clear_port, "x", user), Denied, "EXPORT_REFUSED"),
        (
            _Owner(loop, serving.tls_port, "x", user, PeerIdentity("host-c", "host")),
            Unauthenticated,
            "WRONG_PEER",
        ),
        (
            _Owner(loop, serving.tls_port, "x", user, PeerIdentity("host-b", "user")),
            Unauthenticated,
            "WRONG_PEER",
        ),
    ):
        sentence = owner.wait_lost()
        refusal = owner.session.refusal
        assert isinstance(refusal, kind) and refusal.reason == reason and reason in sentence
        assert not owner.ready


def test_wrong_certificates(loop: Loop, serving: _Serving, authority: TestAuthority, tmp_path: Path) -> None:
    serving.exports["x"] = MemoryExport(MIB)
    good = authority.issue("host-a", "host")
    stranger = TestAuthority(tmp_path).issue("host-a", "host")
    for files, word in (
        (stranger, "certificate signature failure"),
        (TlsFiles(good.ca, stranger.certificate, stranger.key), "alert|reset by peer"),
        (authority.issue("late", "host", expired=True), "expired"),
    ):
        owner = _Owner(loop, serving.tls_port, tls=files)
        sentence = owner.wait_lost()
        assert any(part in sentence for part in word.split("|")), sentence
    assert not serving.peers


def test_nobody_listens(loop: Loop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert "refused" in _Owner(loop, port).wait_lost()


def test_an_address_must_be_numeric_and_tls_needs_an_identity(loop: Loop, host: TlsFiles) -> None:
    def ignore(*_args: object) -> None: ...

    with pytest.raises(BadInput):
        Session(loop, ("localhost", 1), "x", on_ready=ignore, on_lost=ignore, tls=None)
    with pytest.raises(ValueError, match="identity"):
        Session(loop, ("::1", 1), "x", on_ready=ignore, on_lost=ignore, tls=client_context(host))


def test_a_server_that_says_nothing_is_given_up(loop: Loop) -> None:
    lost: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        Session(
            loop,
            listener.getsockname(),
            "x",
            on_ready=lambda: None,
            on_lost=lost.append,
            tls=None,
            connect_max_s=0.02,
        )
        run_until(loop, lambda: bool(lost))
    assert "too long" in lost[0]


def test_a_unix_socket(loop: Loop, tmp_path: Path) -> None:
    from holdfast.base.nbd.server import Server

    server = Server(loop, lambda _name, _peer: MemoryExport(MIB))
    server.listen_unix(tmp_path / "nbd")
    ready: list[bool] = []
    session = Session(
        loop, str(tmp_path / "nbd"), "x", on_ready=lambda: ready.append(True), on_lost=pytest.fail, tls=None
    )
    run_until(loop, lambda: bool(ready))
    session.close()
    server.close()


# The loss of the link after every byte, either way; and servers that lie.


class _Cutter:
    """Passes bytes between a session and a server, and cuts the link after so many of one direction."""

    def __init__(self, loop: Loop, port: int, limit: int, *, to_server: bool, reset: bool) -> None:
        self._loop = loop
        self._port = port
        self._left = limit
        self._cut_to_server = to_server
        self._reset = reset
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._ends: list[socket.socket] = []
        self.passed = 0
        loop.add(self._listener.fileno(), READABLE, lambda _events: self._accept())

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(("127.0.0.1", self._port))
        self._ends = [client, server]
        for source, sink, counted in (
            (client, server, self._cut_to_server),
            (server, client, not self._cut_to_server),
        ):
            source.setblocking(False)
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._loop.add(source.fileno(), READABLE, partial(self._pass, source, sink, counted))

    def _pass(self, source: socket.socket, sink: socket.socket, counted: bool, _events: int) -> None:
        try:
            data = source.recv(min(self._left, 3000) if counted and self._left else 3000)
        except (BlockingIOError, ConnectionError):
            return
        if counted:
            data = data[: self._left]
            self._left -= len(data)
            self.passed += len(data)
        if data:
            sink.setblocking(True)
            try:
                sink.sendall(data)
            except OSError:
                data = b""
            if sink.fileno() >= 0:
                sink.setblocking(False)
        if not data or (counted and not self._left):
            self.close()

    def close(self) -> None:
        self._loop.remove(self._listener.fileno()) if self._listener.fileno() >= 0 else None
        self._listener.close()
        for end in self._ends:
            if end.fileno() >= 0:
                self._loop.remove(end.fileno())
                if self._reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.close()


def _traffic(owner: _Owner) -> None:
    """What the cut-up conversation consists of."""
    session = owner.session
    for number in range(3):
        session.write(number * 4096, [memoryview(bytes([number + 1]) * 4096)], False, owner.done())
    session.read(0, 4096, [memoryview(bytearray(4096))], owner.done())
    done = owner.done()
    session.control(b"ping", lambda outcome, _answer: done(outcome))
    session.flush(owner.done())


def _cut_run(
    loop: Loop, serving: _Serving, tls: TlsFiles | None, limit: int, *, to_server: bool, reset: bool
) -> int:
    """One conversation over a link that is cut after `limit` bytes; how many bytes passed."""
    export = MemoryExport(MIB, private=True)
    serving.exports["x"] = export
    port = serving.tls_port if tls else serving.clear_port
    cutter = _Cutter(loop, port, limit, to_server=to_server, reset=reset)
    owner = _Owner(loop, cutter.port, tls=tls)
    run_until(loop, lambda: bool(owner.ready or owner.lost))
    if owner.ready and not owner.lost:
        _traffic(owner)
        run_until(loop, lambda: bool(owner.lost) or not owner.unanswered)
    if not owner.lost:
        owner.session.close()
        cutter.close()
    else:
        assert len(owner.lost) == 1 and owner.session.state is State.CLOSED
    cutter.close()
    run_until(loop, lambda: export.opened_count == export.closed_count)
    # What was answered was done; what was not may have been done whole, or not at all.
    for number in range(3):
        block = bytes(export.data[number * 4096 : (number + 1) * 4096])
        assert block in (bytes(4096), bytes([number + 1]) * 4096)
        if (number + 1, Outcome.OK) in owner.answered:
            assert block == bytes([number + 1]) * 4096
    return cutter.passed


@pytest.mark.parametrize("to_server", [True, False])
def test_a_link_cut_after_any_byte_is_told_once(loop: Loop, serving: _Serving, to_server: bool) -> None:
    whole = _cut_run(loop, serving, None, 1 << 30, to_server=to_server, reset=False)
    assert whole > 4096
    edges = [*range(1, 200), *range(200, whole, 397), *range(whole - 80, whole + 1)]
    for limit in edges:
        _cut_run(loop, serving, None, limit, to_server=to_server, reset=bool(limit % 2))


@pytest.mark.parametrize("to_server", [True, False])
def test_a_tls_link_cut_anywhere_is_told_once(
    loop: Loop, serving: _Serving, authority: TestAuthority, to_server: bool
) -> None:
    tls = authority.issue("host-a", "host")
    whole = _cut_run(loop, serving, tls, 1 << 30, to_server=to_server, reset=False)
    for limit in range(1, whole, max(1, whole // 60)):
        _cut_run(loop, serving, tls, limit, to_server=to_server, reset=bool(limit % 2))


class _Liar:
    """Shakes hands as a server does, then sends what it is given, whatever is asked."""

    def __init__(self, loop: Loop, lie: bytes) -> None:
        self._loop = loop
        self._lie = lie
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        loop.add(self._listener.fileno(), READABLE, lambda _events: self._accept())
        self._sock: socket.socket | None = None

    def _accept(self) -> None:
        self._sock, _ = self._listener.accept()
        reply = wire.OPTION_REPLY
        info = wire.INFO_EXPORT_DATA.pack(wire.INFO_EXPORT, MIB, 1)
        self._sock.sendall(
            wire.GREETING.pack(wire.INIT_PASSWD, wire.IHAVEOPT, 3)
            + reply.pack(wire.OPTION_REPLY_MAGIC, wire.OPT_GO, wire.REP_INFO, len(info))
            + info
            + reply.pack(wire.OPTION_REPLY_MAGIC, wire.OPT_GO, wire.REP_ACK, 0)
        )
        self._loop.add(self._sock.fileno(), WRITABLE, lambda _events: None)

    def speak(self) -> None:
        assert self._sock is not None
        self._sock.sendall(self._lie)

    def close(self) -> None:
        assert self._sock is not None
        for sock in (self._sock, self._listener):
            self._loop.remove(sock.fileno())
            sock.close()


def _simple(error: int, cookie: int) -> bytes:
    return wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, error, cookie)


@pytest.mark.parametrize(
    "lie",
    [
        b"\0" * 16,
        _simple(0, 99),
        _simple(0, 1) + _simple(0, 1),
        wire.CHUNK.pack(wire.STRUCTURED_REPLY_MAGIC, 1, 0, 1, 0),
        _simple(0, 3) + wire.U32.pack(wire.CONTROL_MAX_BYTES + 1),
        _simple(0, 2) + bytes(100) + b"and something more",
    ],
)
def test_a_server_that_lies_is_dropped(loop: Loop, lie: bytes) -> None:
    liar = _Liar(loop, lie)
    owner = _Owner(loop, liar.port).open()
    owner.session.write(0, [memoryview(b"x")], False, owner.done())
    owner.session.read(0, 100, [memoryview(bytearray(100))], owner.done())
    owner.session.control(b"x", lambda _outcome, _answer: None)
    liar.speak()
    assert "lost" in owner.wait_lost()
    liar.close()


def test_a_write_that_close_cut_off_is_not_applied(loop: Loop, serving: _Serving) -> None:
    export = MemoryExport(64 * MIB)
    serving.exports["x"] = export
    owner = _Owner(loop, serving.clear_port).open()
    seen: list[Op] = []
    export.submit = lambda request: seen.append(request.op)  # type: ignore
    data = memoryview(b"\xff" * (32 * MIB))
    owner.session.write(0, [data], False, owner.done())
    owner.session._send_requests()
    assert owner.session._out, "the socket took all of it"
    owner.session.close()
    run_until(loop, lambda: export.closed_count == 1)
    assert not seen
