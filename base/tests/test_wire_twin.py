"""The C twins of NBD's innermost loops beside their Python forms: the same bytes in, the same requests and
the same bytes out.
"""

import random

import pytest

from holdfast.base.device import Op, Outcome, Request
from holdfast.base.limits import KIB
from holdfast.base.nbd import replies, session, transmission, wire
from holdfast.base.nbd.chunks import ChunkPool
from holdfast.base.nbd.negotiation import Agreed
from holdfast.base.nbd.replies import Replies
from holdfast.base.nbd.stream import Buffer
from holdfast.base.nbd.transmission import Transmission
from holdfast.base.nbd.wire import ProtocolError

STORIES = 150
SIZE = 64 * KIB
_HOSTILE = (0, 1, 2, 3, 28, 1 << 15, (1 << 16) - 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 64) - 1)
quick = transmission._quick

pytestmark = pytest.mark.skipif(quick is None, reason="built without a compiler")


class _Out:
    """Stands for the stream: what is to be sent."""

    def __init__(self) -> None:
        self.out: list[Buffer] = []
        self.buffered = False

    def flush(self) -> bool:
        return False

    def receive_into(self, view: memoryview) -> int:
        raise NotImplementedError

    def close(self) -> None: ...


class _Held:
    """An export whose requests wait."""

    size_bytes = SIZE
    contexts: tuple[str, ...] = ()
    private = False

    def __init__(self, read_only: bool) -> None:
        self.read_only = read_only
        self.held: list[Request] = []
        self.log: list[object] = []
        self.together = 0

    def submit(self, request: Request) -> None:
        content = [bytes(buffer) for buffer in request.buffers] if request.op is Op.WRITE else []
        self.log.append((type(request).__name__, request.op, request.offset, request.length, request.fua))
        self.log.append((content, request.came_s, request.expected, request.miscompare_offset))
        self.held.append(request)

    def submit_all(self, requests: list[Request]) -> None:
        self.together += len(requests)
        for request in requests:
            self.submit(request)

    def block_status(self, *_arguments: object) -> None:
        raise AssertionError

    control = opened = closed = block_status


def _stream(chance: random.Random) -> bytes:
    """Requests, most of them plain WRITEs, and perhaps one field of one of them spoilt."""
    said = bytearray()
    starts = []
    for cookie in range(chance.randrange(1, 40)):
        starts.append(len(said))
        kind = chance.choice([wire.CMD_WRITE] * 8 + [wire.CMD_FLUSH, wire.CMD_READ, wire.CMD_WRITE_ZEROES])
        length = 0 if kind == wire.CMD_FLUSH else chance.choice((1, 512, 4096, 5000))
        offset = 0 if kind == wire.CMD_FLUSH else chance.randrange(SIZE - length + 1)
        flags = wire.CMD_FLAG_FUA if kind == wire.CMD_WRITE and chance.random() < 0.1 else 0
        said += wire.REQUEST.pack(wire.REQUEST_MAGIC, flags, kind, cookie << 40, offset, length)
        said += chance.randbytes(length) if kind == wire.CMD_WRITE else b""
    if chance.random() < 0.5:
        where, width = chance.choice(((0, 4), (4, 2), (6, 2), (8, 8), (16, 8), (24, 4)))
        at = chance.choice(starts) + where
        value = chance.choice((*_HOSTILE, SIZE, SIZE - 1)) & ((1 << (8 * width)) - 1)
        said[at : at + width] = value.to_bytes(width, "big")
    return bytes(said)


def _serve(seed: int) -> tuple[list[object], int]:
    """All that a server's end made of a stream that came in pieces; how many WRITEs it took together."""
    chance = random.Random(seed)
    export = _Held(chance.random() < 0.1)
    out = _Out()
    answers = Replies(out, False, lambda: None)
    end = Transmission(export, Agreed(), ChunkPool(), answers)
    said = _stream(chance)
    try:
        while said and not end.stopped:
            space = end.space()
            count = min(len(space), len(said), chance.choice((1, 27, 28, 29, 4096, 20_000, 1 << 20)))
            space[:count], said = said[:count], said[count:]
            end.received(count)
            while export.held and chance.random() < 0.7:
                request = export.held.pop(chance.randrange(len(export.held)))
                request.done(chance.choice((Outcome.OK, Outcome.OK, Outcome.OK, Outcome.MEDIUM_ERROR)))
            answers.send()
            export.log.append((b"".join(out.out), end.in_flight, end._chunk.users, end.over_budget))
    except ProtocolError as error:
        export.log.append(str(error))
    return export.log, export.together


def test_requests_are_taken_and_answered_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    first, together = random.randrange(1 << 32), 0
    for seed in range(first, first + STORIES):
        monkeypatch.setattr(transmission, "_quick", quick)
        monkeypatch.setattr(replies, "_quick", quick)
        in_c, count = _serve(seed)
        monkeypatch.setattr(transmission, "_quick", None)
        monkeypatch.setattr(replies, "_quick", None)
        in_python, none = _serve(seed)
        assert in_c == in_python, f"seed {seed}"
        assert none == 0
        together += count
    assert together > STORIES


def _taken(said: bytes, at: int, pending: dict[int, str]) -> tuple[int, list[str]]:
    """What `take_replies` must do, by the protocol."""
    found = []
    while len(said) - at >= wire.SIMPLE_REPLY.size:
        magic, error, cookie = wire.SIMPLE_REPLY.unpack_from(said, at)
        if magic != wire.SIMPLE_REPLY_MAGIC or error or cookie not in pending:
            break
        found.append(pending.pop(cookie))
        at += wire.SIMPLE_REPLY.size
    return at, found


def test_replies_are_taken_alike() -> None:
    assert quick is not None
    for seed in range(STORIES):
        chance = random.Random(seed)
        cookies = chance.sample([*range(20), (1 << 64) - 1, 1 << 63], 12)
        said = b"".join(wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, 0, cookie) for cookie in cookies)
        if chance.random() < 0.7:
            spoilt = bytearray(said)
            spoilt[chance.randrange(len(said))] ^= 1 << chance.randrange(8)
            said = bytes(spoilt)
        said = said[: chance.randrange(len(said) + 1)]
        at = min(len(said), chance.choice((0, 16, 5)))
        pending = {cookie: str(cookie) for cookie in cookies[chance.randrange(3) :]}
        left = dict(pending)
        dones: list[str] = []
        stopped = quick.take_replies(memoryview(said), at, len(said), pending, dones)
        assert (stopped, dones) == _taken(said, at, left), f"seed {seed}"
        assert pending == left


def test_requests_are_put_alike() -> None:
    assert quick is not None

    class Client(session.Session):
        def __init__(self) -> None:
            self._cookies = iter(range(7, 1 << 20))  # type: ignore[assignment]
            self._pending, self._out = {}, []
            self._scheduled = True

    def done(_outcome: Outcome) -> None: ...

    requests = [
        Request(Op.WRITE, offset, 512, done, [memoryview(bytes(512 // parts))] * parts, fua)
        for offset, parts, fua in ((0, 1, False), (4096, 2, True), ((1 << 63) - 512, 4, False))
    ]
    client = Client()
    for request in requests:
        client.write(request.offset, request.buffers, request.fua, request.done)
    pending: dict[int, object] = {}
    out: list[Buffer] = []
    quick.put_writes(requests, [done] * 3, 7, pending, out)
    assert out == client._out and pending == client._pending
    with pytest.raises(ValueError):
        quick.put_writes(requests, [done], 7, pending, out)
    with pytest.raises(OverflowError):
        quick.put_writes([Request(Op.WRITE, 1 << 64, 512, done)], [done], 7, pending, out)


def _done(_outcome: Outcome) -> None: ...


def test_a_header_says_what_follows_it() -> None:
    """Of a request that was given up no buffer is left: its header must not claim the next one's bytes."""
    assert quick is not None
    out: list[Buffer] = []
    given_up = Request(Op.WRITE, 4096, 512, _done, [])
    quick.put_writes([given_up, given_up], [_done] * 2, 7, {}, out)
    assert [wire.REQUEST.unpack(header) for header in out] == [
        (wire.REQUEST_MAGIC, 0, wire.CMD_WRITE, cookie, 4096, 0) for cookie in (7, 8)
    ]


def test_lists_may_change_while_they_are_read() -> None:
    assert quick is not None
    dones: list[object] = [_done] * 3

    class Clearing:
        offset, fua = 0, False

        @property
        def buffers(self) -> list[memoryview]:
            dones.clear()
            return []

    pending: dict[int, object] = {}
    quick.put_writes([Clearing()] * 3, dones, 7, pending, [])
    assert pending == {7: _done}


def test_nothing_more_is_asked_after_an_error() -> None:
    assert quick is not None
    asked: list[str] = []

    class Wrong:
        @property
        def offset(self) -> int:
            raise ValueError("no offset")

        @property
        def fua(self) -> bool:
            asked.append("fua")
            return False

    with pytest.raises(ValueError, match="no offset"):
        quick.put_writes([Wrong()], [_done], 7, {}, [])
    assert not asked


def test_a_class_that_does_not_fit_changes_nothing() -> None:
    assert quick is not None

    class Other:
        __slots__ = ("chunk", "cookie", "transmission")

    said = wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.CMD_WRITE, 5, 512, 4) + b"four"

    def take(kind: type) -> list[Request]:
        taken: list[Request] = []
        view, shared = memoryview(said), ("transmission", "chunk", Op.WRITE)
        assert quick.take_writes(kind, view, 0, len(said), (SIZE, SIZE, 9), shared, taken) == len(said)
        return taken

    take(transmission._Write)
    with pytest.raises(AttributeError):
        take(Other)
    (request,) = take(transmission._Write)
    assert isinstance(request, transmission._Write)
    assert (request.transmission, request.chunk, request.cookie) == ("transmission", "chunk", 5)
    assert (request.offset, request.length, request.buffers) == (512, 4, [b"four"])
