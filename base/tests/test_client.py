"""The blocking client: against our server, against qemu's, and against servers that lie."""

import contextlib
import random
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from holdfast.base.device import Outcome
from holdfast.base.errors import (
    BadInput,
    DataLoss,
    Denied,
    Exhausted,
    HoldfastError,
    NotFound,
    OutcomeUnknown,
    StaleEpoch,
    Unauthenticated,
    Unavailable,
)
from holdfast.base.limits import KIB, MIB
from holdfast.base.loop import Loop
from holdfast.base.nbd import wire
from holdfast.base.nbd.client import Client
from holdfast.base.nbd.export import Export
from holdfast.base.nbd.testing import MemoryExport, drive
from holdfast.base.nbd.testing_pki import TestAuthority
from holdfast.base.tls import PeerIdentity, TlsFiles, client_context

_CHANGED = "holdfast:changed"


class _Serving(Protocol):
    exports: dict[str, Export]
    clear_port: int
    tls_port: int


@pytest.fixture
def export(serving: _Serving) -> MemoryExport:
    export = MemoryExport(64 * MIB, contexts=(wire.CONTEXT_ALLOCATION, _CHANGED))
    serving.exports["x"] = export
    return export


@pytest.fixture(params=["clear", "tls"])
def connect(
    request: pytest.FixtureRequest, serving: _Serving, export: MemoryExport, authority: TestAuthority
) -> Callable[[], Client]:
    if request.param == "clear":
        return lambda: Client(
            ("127.0.0.1", serving.clear_port), "x", contexts=(wire.CONTEXT_ALLOCATION, _CHANGED)
        )
    context = client_context(authority.issue("snapshotter-1", "service"))
    return lambda: Client(
        ("127.0.0.1", serving.tls_port),
        "x",
        contexts=(wire.CONTEXT_ALLOCATION, _CHANGED),
        tls=context,
        expected=PeerIdentity("host-b", "host"),
    )


def test_reads_and_writes_of_any_length(
    loop: Loop, export: MemoryExport, connect: Callable[[], Client]
) -> None:
    data = random.Random(7).randbytes(33 * MIB)

    def talk() -> None:
        with connect() as client:
            assert client.size_bytes == 64 * MIB and not client.read_only
            client.write(100, data)
            client.write(0, b"fua", fua=True)
            client.flush()
            assert client.read(0, 0) == b""
            assert client.read(100, len(data)) == data
            client.zero(200, 5000)
            assert client.read(190, 5020) == data[90:100] + bytes(5000) + data[5100:5110]

    drive(loop, talk)
    assert export.fua_writes == 1 and export.flushes == 1


def test_read_many_gives_ranges_in_order(
    loop: Loop, export: MemoryExport, connect: Callable[[], Client]
) -> None:
    chance = random.Random(8)
    export.data[:] = chance.randbytes(1 * MIB) * 64
    ranges = [(chance.randrange(60 * MIB), chance.choice([0, 1, 4096, 128 * KIB])) for _ in range(300)]

    def talk() -> None:
        with connect() as client:
            taken = [(offset, bytes(data)) for offset, data in client.read_many(ranges, depth=16)]
            assert taken == [(at, bytes(export.data[at : at + length])) for at, length in ranges]
            assert client.read(5, 5) == export.data[5:10]

    drive(loop, talk)


def test_reading_ahead_broken_off_leaves_the_client_unusable(
    loop: Loop, export: MemoryExport, connect: Callable[[], Client]
) -> None:
    def talk() -> None:
        client = connect()
        for _offset, _data in client.read_many([(0, 4096)] * 10):
            break
        client.read(0, 1)

    with pytest.raises(Unavailable, match="broken off"):
        drive(loop, talk)


def test_block_status_of_the_whole_range(
    loop: Loop, export: MemoryExport, connect: Callable[[], Client]
) -> None:
    export.dirty = {2, 3, 9}

    def talk() -> None:
        with connect() as client:
            client.write(4096, bytes(8192))
            assert client.contexts == (wire.CONTEXT_ALLOCATION, _CHANGED)
            assert client.block_status(wire.CONTEXT_ALLOCATION, 0, 64 * MIB) == [
                (0, 4096, 3),
                (4096, 8192, 0),
                (12288, 64 * MIB - 12288, 3),
            ]
            assert client.block_status(_CHANGED, 5000, 40000) == [
                (5000, 3192, 0),
                (8192, 8192, 1),
                (16384, 20480, 0),
                (36864, 4096, 1),
                (40960, 4040, 0),
            ]
            with pytest.raises(BadInput, match="no context"):
                client.block_status("other:one", 0, 1)

    drive(loop, talk)


def test_block_status_asks_again_where_the_answer_ends(
    loop: Loop, export: MemoryExport, connect: Callable[[], Client]
) -> None:
    asked: list[int] = []

    def status(
        _context: str, offset: int, length: int, done: Callable[[list[tuple[int, int]]], None]
    ) -> None:
        asked.append(offset)
        done([(min(length, 1 * MIB), offset // MIB // 3)])

    export.block_status = status  # type: ignore

    def talk() -> list[tuple[int, int, int]]:
        with connect() as client:
            return client.block_status(_CHANGED, 0, 8 * MIB)

    assert drive(loop, talk) == [(0, 3 * MIB, 0), (3 * MIB, 3 * MIB, 1), (6 * MIB, 2 * MIB, 2)]
    assert sorted(asked) == sorted([at * MIB for at in range(8)] * 2)  # Of both contexts each time.


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (Outcome.MEDIUM_ERROR, DataLoss),
        (Outcome.NO_SPACE, Exhausted),
        (Outcome.READ_ONLY, Denied),
        (Outcome.STALE_EPOCH, StaleEpoch),
        (Outcome.BUSY, Unavailable),
        (Outcome.INVALID, BadInput),
    ],
)
def test_errors_have_classes_and_the_connection_lives_on(
    loop: Loop, serving: _Serving, export: MemoryExport, outcome: Outcome, kind: type[HoldfastError]
) -> None:
    export.fail = lambda request: outcome if request.offset == 4096 else None

    def talk() -> None:
        with Client(("127.0.0.1", serving.clear_port), "x") as client:
            for call in (
                lambda: client.read(4096, 1),
                lambda: client.write(4096, b"x"),
                lambda: client.zero(4096, 1),
            ):
                with pytest.raises(kind) as caught:
                    call()
                assert not isinstance(caught.value, OutcomeUnknown)
            assert client.read(0, 1) == b"\0"

    drive(loop, talk)


def test_ranges_outside_are_refused_before_they_are_sent(
    loop: Loop, export: MemoryExport, connect: Callable[[], Client]
) -> None:
    def talk() -> None:
        with connect() as client:
            for offset, length in ((-1, 1), (64 * MIB, 1), (0, 64 * MIB + 1)):
                with pytest.raises(BadInput, match="not inside"):
                    client.read(offset, length)
                with pytest.raises(BadInput, match="not inside"):
                    client.zero(offset, length)

    drive(loop, talk)


def test_the_loss_of_the_connection(loop: Loop, export: MemoryExport, connect: Callable[[], Client]) -> None:
    export.hold = True

    def talk(change: bool) -> None:
        client = connect()
        loop.call_from_thread(cut_soon)
        try:
            if change:
                client.write(0, b"x")
            else:
                client.read(0, 1)
        finally:
            with pytest.raises(Unavailable, match="cannot be used"):
                client.read(0, 1)
            client.close()

    def cut_soon() -> None:
        if export.held:
            assert export.connection is not None
            export.held.clear()
            export.connection.close("cut")
        else:
            loop.call_later(0.001, cut_soon)

    with pytest.raises(OutcomeUnknown, match="may have been done"):
        drive(loop, lambda: talk(True))
    with pytest.raises(Unavailable, match="was lost") as caught:
        drive(loop, lambda: talk(False))
    assert not isinstance(caught.value, OutcomeUnknown)


def test_a_server_that_does_not_answer_is_given_up(
    loop: Loop, serving: _Serving, export: MemoryExport
) -> None:
    export.hold = True

    def talk() -> None:
        Client(("127.0.0.1", serving.clear_port), "x", timeout_s=0.05).read(0, 1)

    with pytest.raises(Unavailable, match="timed out"):
        drive(loop, talk)


def test_refusals(loop: Loop, serving: _Serving, export: MemoryExport, host: TlsFiles) -> None:
    clear, tls = ("127.0.0.1", serving.clear_port), ("127.0.0.1", serving.tls_port)
    context = client_context(host)
    with pytest.raises(NotFound, match="no export 'other'"):
        drive(loop, lambda: Client(clear, "other"))
    with pytest.raises(Denied, match="over TLS"):
        drive(loop, lambda: Client(tls, "x"))
    with pytest.raises(Unauthenticated, match="host-c"):
        drive(loop, lambda: Client(tls, "x", tls=context, expected=PeerIdentity("host-c", "host")))
    with pytest.raises(Unavailable, match="cannot be reached"):
        drive(loop, lambda: Client("/nonexistent/socket", "x"))


# A server that nobody here wrote.


@pytest.fixture(params=["clear", "tls"])
def qemu(
    request: pytest.FixtureRequest, tool: Callable[[str], str], tmp_path: Path, host: TlsFiles
) -> Iterator[Path]:
    """qemu-nbd serving a sparse qcow2 image on a Unix socket; over TLS if asked."""
    image, path = tmp_path / "image", tmp_path / "socket"
    subprocess.run([tool("qemu-img"), "create", "-q", "-f", "qcow2", str(image), "8M"], check=True)
    tls = []
    if request.param == "tls":
        tls = ["--object", f"tls-creds-x509,id=t,endpoint=server,verify-peer=yes,dir={host.ca.parent}"]
        tls += ["--tls-creds", "t"]
    command = [tool("qemu-nbd"), "-k", str(path), "-x", "x", "-f", "qcow2", "--fork", *tls]
    pid_file = tmp_path / "pid"
    subprocess.run([*command, f"--pid-file={pid_file}", str(image)], check=True)
    yield path
    # Without --persistent it ends when its last client leaves.
    pid_file.unlink(missing_ok=True)


def test_against_qemu_nbd(qemu: Path, request: pytest.FixtureRequest, authority: TestAuthority) -> None:
    tls = "tls" in request.node.callspec.id
    context = client_context(authority.issue("tool", "user")) if tls else None
    data = random.Random(9).randbytes(1 * MIB)
    with Client(str(qemu), "x", contexts=(wire.CONTEXT_ALLOCATION,), tls=context) as client:
        client.write(1 * MIB, data)
        client.zero(1 * MIB, 64 * KIB)
        client.flush()
        expected = bytes(1 * MIB) + bytes(64 * KIB) + data[64 * KIB :] + bytes(6 * MIB)
        assert client.read(0, 8 * MIB) == expected
        parts = list(client.read_many([(at, 128 * KIB) for at in range(0, 8 * MIB, 128 * KIB)]))
        assert b"".join(part for _offset, part in parts) == expected
        status = client.block_status(wire.CONTEXT_ALLOCATION, 0, 8 * MIB)
        assert status[0] == (0, 1 * MIB + 64 * KIB, 3) and status[-1] == (2 * MIB, 6 * MIB, 3)


# Servers that lie.


def _simple(error: int, cookie: int) -> bytes:
    return wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, error, cookie)


def _chunk(
    kind: int, payload: bytes, *, cookie: int = 1, done: bool = True, length: int | None = None
) -> bytes:
    size = len(payload) if length is None else length
    return wire.CHUNK.pack(wire.STRUCTURED_REPLY_MAGIC, done, kind, cookie, size) + payload


def _data(offset: int, data: bytes) -> bytes:
    return wire.U64.pack(offset) + data


def _answering(answer: bytes) -> tuple[tuple[str, int], threading.Thread]:
    """A server of one client, which says `answer` to whatever is asked first, and closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as sock:
            reply = wire.OPTION_REPLY
            info = wire.INFO_EXPORT_DATA.pack(wire.INFO_EXPORT, MIB, 1)
            sock.sendall(
                wire.GREETING.pack(wire.INIT_PASSWD, wire.IHAVEOPT, 3)
                + reply.pack(wire.OPTION_REPLY_MAGIC, wire.OPT_STRUCTURED_REPLY, wire.REP_ACK, 0)
            )
            sock.recv(20, socket.MSG_WAITALL)
            sock.sendall(
                reply.pack(wire.OPTION_REPLY_MAGIC, wire.OPT_GO, wire.REP_INFO, len(info))
                + info
                + reply.pack(wire.OPTION_REPLY_MAGIC, wire.OPT_GO, wire.REP_ACK, 0)
            )
            sock.recv(23 + 28, socket.MSG_WAITALL)
            sock.sendall(answer)
            sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                sock.recv(1)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return listener.getsockname(), thread


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0" * 20,
        _simple(0, 7) + b"data",
        _simple(0, 1) + b"dat",
        _chunk(1, _data(10, b"datadata")),
        _chunk(1, _data(9, b"data")),
        _chunk(1, _data(12, b"data")),
        _chunk(1, b"short"),
        _chunk(1, _data(10, b"da")),
        _chunk(1, b"", length=0xFFFFFFFF),
        _chunk(2, wire.OFFSET_HOLE.pack(10, 5)),
        _chunk(2, b"short"),
        _chunk(5, wire.U32.pack(1)),
        _chunk(5, b"", length=0xFFFFFFFF),
        _chunk(99, b""),
        _chunk(0x8001, b"x"),
        _chunk(0, b""),
    ],
)
def test_a_server_that_lies_is_dropped(answer: bytes) -> None:
    address, thread = _answering(answer)
    with pytest.raises(Unavailable, match="was lost"):
        Client(address, "x", timeout_s=10).read(10, 4)
    thread.join()


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (_simple(0, 1) + b"data", b"data"),
        (_chunk(1, _data(10, b"data")), b"data"),
        (_chunk(1, _data(12, b"ta"), done=False) + _chunk(1, _data(10, b"da")), b"data"),
        (
            _chunk(1, _data(10, b"d"), done=False)
            + _chunk(2, wire.OFFSET_HOLE.pack(11, 3), done=False)
            + _chunk(0, b""),
            b"d\0\0\0",
        ),
    ],
)
def test_every_way_to_answer_a_read(answer: bytes, result: bytes) -> None:
    address, thread = _answering(answer)
    with Client(address, "x", timeout_s=10) as client:
        assert client.read(10, 4) == result
    thread.join()


def test_a_servers_message_is_shown() -> None:
    address, thread = _answering(_chunk(0x8002, wire.CHUNK_ERROR.pack(5, 8) + b"bad disk" + bytes(8)))
    with Client(address, "x", timeout_s=10) as client, pytest.raises(DataLoss, match="bad disk"):
        client.read(10, 4)
    thread.join()
