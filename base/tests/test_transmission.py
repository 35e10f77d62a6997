"""The server's parser and its replies, without a socket: against a model, cut anywhere, and its bounds."""

import contextlib
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.base.device import Op, Outcome, Request
from holdfast.base.limits import KIB, MIB
from holdfast.base.nbd import wire
from holdfast.base.nbd.chunks import CHUNK_BYTES, ChunkPool
from holdfast.base.nbd.negotiation import Agreed
from holdfast.base.nbd.replies import Replies
from holdfast.base.nbd.stream import Buffer
from holdfast.base.nbd.testing import MemoryExport
from holdfast.base.nbd.transmission import BUDGET_BYTES, REPLIES_MAX_BYTES, REQUESTS_MAX, Transmission
from holdfast.base.nbd.wire import ProtocolError

_SIZE = 1 * MIB


class _Wire:
    """Stands for the stream: what was sent is in `sent`."""

    def __init__(self) -> None:
        self.out: list[Buffer] = []
        self.buffered = False
        self.sent = bytearray()

    def flush(self) -> bool:
        for piece in self.out:
            self.sent += piece
        self.out.clear()
        return True

    def receive_into(self, view: memoryview) -> int:
        raise NotImplementedError

    def close(self) -> None: ...


class _End:
    """A server's end of one connection, and what it says."""

    def __init__(
        self, export: MemoryExport, agreed: Agreed | None = None, budget_bytes: int = BUDGET_BYTES
    ) -> None:
        self.wire = _Wire()
        self.replies = Replies(self.wire, bool(agreed and agreed.structured), lambda: None)
        self.transmission = Transmission(export, agreed or Agreed(), ChunkPool(), self.replies, budget_bytes)

    def feed(self, data: bytes, sizes: Callable[[], int] = lambda: 1 << 30) -> None:
        """Let `data` arrive in pieces of `sizes()` bytes, as a connection would."""
        at = 0
        while at < len(data) and not self.transmission.stopped:
            self.resume()
            assert not self.transmission.paused, "it waits for requests that nobody ends"
            space = self.transmission.space()
            assert len(space)
            part = data[at : at + min(len(space), max(1, sizes()))]
            space[: len(part)] = part
            at += len(part)
            self.transmission.received(len(part))
        self.resume()

    def resume(self) -> None:
        self.replies.send()
        while self.transmission.paused and not self.transmission.over_budget:
            self.transmission.parse()
            self.replies.send()

    def simple_replies(self) -> list[tuple[int, int]]:
        """(error, cookie) of all replies; they have no data."""
        self.replies.send()
        found = [
            (error, cookie) for _magic, error, cookie in wire.SIMPLE_REPLY.iter_unpack(bytes(self.wire.sent))
        ]
        self.wire.sent.clear()
        return found


def _request(
    kind: int, cookie: int, offset: int = 0, length: int = 0, flags: int = 0, data: bytes = b""
) -> bytes:
    return wire.REQUEST.pack(wire.REQUEST_MAGIC, flags, kind, cookie, offset, length) + data


def _write(cookie: int, offset: int, data: bytes, flags: int = 0) -> bytes:
    return _request(wire.CMD_WRITE, cookie, offset, len(data), flags, data)


_lengths = st.integers(1, 200) | st.sampled_from([4096, 65536, 65508, 65509, 262116, 262144, 300000, 700000])


@settings(max_examples=40)
@given(st.lists(st.tuples(_lengths, st.integers(0, _SIZE)), max_size=25), st.integers(0, 2**32))
def test_writes_arrive_whole_however_they_are_cut(writes: list[tuple[int, int]], seed: int) -> None:
    chance = random.Random(seed)
    export, model, said = MemoryExport(_SIZE), bytearray(_SIZE), bytearray()
    for cookie, (length, offset) in enumerate(writes):
        offset = min(offset, _SIZE - length)
        data = chance.randbytes(length)
        model[offset : offset + length] = data
        said += _write(cookie, offset, data)
    end = _End(export)
    end.feed(bytes(said), lambda: chance.choice([1, 27, 28, 29, 4096, 70000, CHUNK_BYTES]))
    assert export.data == model
    assert end.simple_replies() == [(0, cookie) for cookie in range(len(writes))]


@settings(max_examples=40)
@given(st.lists(_lengths, min_size=1, max_size=20), st.integers(0, 2**32))
def test_a_writes_buffers_stay_as_they_are_until_it_ends(lengths: list[int], seed: int) -> None:
    """Requests that wait keep their memory, whatever comes after them and in whatever order they end."""
    chance = random.Random(seed)
    export = MemoryExport(_SIZE)
    waiting: list[tuple[Request, bytes]] = []
    contents = [chance.randbytes(length) for length in lengths]
    given_data = iter(contents)
    export.submit = lambda request: waiting.append((request, next(given_data)))  # type: ignore
    end = _End(export)

    def end_one() -> None:
        request, data = waiting.pop(chance.randrange(len(waiting)))
        assert b"".join(request.buffers) == data
        if len(data) + 28 <= 64 * KIB:
            assert len(request.buffers) == 1
        request.done(Outcome.OK)

    for cookie, data in enumerate(contents):
        end.feed(_write(cookie, 0, data), lambda: chance.choice([1000, 70000, CHUNK_BYTES]))
        while waiting and chance.random() < 0.4:
            end_one()
    while waiting:
        end_one()
    assert end.transmission.in_flight == 0
    assert sorted(cookie for _error, cookie in end.simple_replies()) == list(range(len(lengths)))
    assert end.transmission._held_bytes == CHUNK_BYTES


@pytest.mark.parametrize(
    ("request_bytes", "error"),
    [
        (_write(1, _SIZE - 1, b"xx"), wire.ENOSPC),
        (_write(1, 2**64 - 1, b"x"), wire.ENOSPC),
        (_write(1, 0, b""), wire.EINVAL),
        (_write(1, 0, b"x", flags=2), wire.EINVAL),
        (_write(1, 0, b"x", flags=0x8000), wire.EINVAL),
        (_request(wire.CMD_READ, 1, 0, 0), wire.EINVAL),
        (_request(wire.CMD_READ, 1, _SIZE, 1), wire.EINVAL),
        (_request(wire.CMD_READ, 1, 2**64 - 1, 2), wire.EINVAL),
        (_request(wire.CMD_READ, 1, 0, 4096, flags=wire.CMD_FLAG_DF), wire.EINVAL),
        (_request(wire.CMD_TRIM, 1, _SIZE, 1), wire.ENOSPC),
        (_request(wire.CMD_TRIM, 1, 0, 0), wire.EINVAL),
        (_request(wire.CMD_WRITE_ZEROES, 1, 0, _SIZE + 1), wire.ENOSPC),
        (_request(wire.CMD_WRITE_ZEROES, 1, 0, 1, flags=16), wire.EINVAL),
        (_request(wire.CMD_FLUSH, 1, 1, 0), wire.EINVAL),
        (_request(wire.CMD_FLUSH, 1, 0, 1), wire.EINVAL),
        (_request(wire.CMD_CACHE, 1, _SIZE, 1), wire.EINVAL),
        (_request(wire.CMD_BLOCK_STATUS, 1, 0, 4096), wire.EINVAL),
        (_request(8, 1), wire.EINVAL),
        (_request(wire.CMD_HOLDFAST_CONTROL, 1, 0, 0), wire.EINVAL),
    ],
)
def test_bad_requests_are_answered_change_nothing_and_the_next_is_served(
    request_bytes: bytes, error: int
) -> None:
    export = MemoryExport(_SIZE)
    seen: list[Request] = []
    apply = export.submit
    export.submit = lambda request: (seen.append(request), apply(request))[1]  # type: ignore
    end = _End(export)
    end.feed(request_bytes + _request(wire.CMD_FLUSH, 2))
    assert end.simple_replies() == [(error, 1), (0, 2)]
    assert [request.op for request in seen] == [Op.FLUSH]


def test_a_read_only_export_refuses_changes_and_answers_flushes_itself() -> None:
    export = MemoryExport(_SIZE, read_only=True)
    end = _End(export)
    big = bytes(300 * KIB)
    end.feed(
        _write(1, 0, b"x")
        + _write(2, 0, big)
        + _request(wire.CMD_TRIM, 3, 0, 1)
        + _request(wire.CMD_WRITE_ZEROES, 4, 0, 1)
        + _request(wire.CMD_FLUSH, 5)
    )
    assert end.simple_replies() == [(wire.EPERM, cookie) for cookie in (1, 2, 3, 4)] + [(0, 5)]
    assert not export.allocated and not export.flushes


def test_flags_reach_the_device() -> None:
    export = MemoryExport(_SIZE)
    seen: list[Request] = []
    export.submit = seen.append  # type: ignore
    end = _End(export)
    end.feed(
        _write(1, 0, b"x", flags=1)
        + _write(2, 0, bytes(300 * KIB), flags=1)
        + _request(wire.CMD_TRIM, 3, 4096, 8192, flags=1)
        + _request(wire.CMD_WRITE_ZEROES, 4, 5, 6, flags=wire.CMD_FLAG_NO_HOLE)
        + _request(wire.CMD_READ, 5, 7, 8, flags=1)
        + _request(wire.CMD_FLUSH, 6, flags=1)
    )
    assert [(r.op, r.offset, r.length, r.fua) for r in seen] == [
        (Op.WRITE, 0, 1, True),
        (Op.WRITE, 0, 300 * KIB, True),
        (Op.ZERO, 4096, 8192, True),
        (Op.ZERO, 5, 6, False),
        (Op.READ, 7, 8, False),
        (Op.FLUSH, 0, 0, False),
    ]


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.OK])
def test_outcomes_become_errors(outcome: Outcome) -> None:
    export = MemoryExport(_SIZE)
    export.fail = lambda _request: outcome
    end = _End(export)
    end.feed(
        _write(1, 0, b"x")
        + _write(2, 0, bytes(300 * KIB))
        + _request(wire.CMD_READ, 3, 0, 1)
        + _request(wire.CMD_TRIM, 4, 0, 1)
        + _request(wire.CMD_FLUSH, 5)
    )
    assert end.simple_replies() == [(wire.error_of(outcome), cookie) for cookie in (1, 2, 3, 4, 5)]


@pytest.mark.parametrize(
    "data",
    [
        b"x" * 28,
        wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.CMD_WRITE, 1, 0, wire.BLOCK_MAX_BYTES + 1),
        wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.CMD_HOLDFAST_CONTROL, 1, 0, wire.CONTROL_MAX_BYTES + 1),
    ],
)
def test_what_leaves_the_next_requests_place_in_doubt_is_an_error(data: bytes) -> None:
    end = _End(MemoryExport(_SIZE, private=True))
    with pytest.raises(ProtocolError):
        end.feed(_write(1, 0, b"x") + data)


def test_structured_reads_and_their_errors() -> None:
    export = MemoryExport(_SIZE)
    export.data[:4] = b"data"
    end = _End(export, Agreed(structured=True))
    end.feed(_request(wire.CMD_READ, 1, 0, 4, flags=wire.CMD_FLAG_DF) + _request(wire.CMD_READ, 2, _SIZE, 1))
    first = wire.OFFSET_DATA_CHUNK.pack(wire.STRUCTURED_REPLY_MAGIC, 1, 1, 1, 12, 0) + b"data"
    second = wire.CHUNK.pack(wire.STRUCTURED_REPLY_MAGIC, 1, 0x8001, 2, 6) + wire.CHUNK_ERROR.pack(22, 0)
    assert end.wire.sent == first + second


def test_block_status_of_every_context_in_one_reply() -> None:
    export = MemoryExport(_SIZE, contexts=(wire.CONTEXT_ALLOCATION, "holdfast:changed"))
    export.allocated = {1}
    export.dirty = {0, 1, 3}
    agreed = Agreed(structured=True, contexts=[(1, wire.CONTEXT_ALLOCATION), (2, "holdfast:changed")])
    end = _End(export, agreed)
    end.feed(_request(wire.CMD_BLOCK_STATUS, 7, 4000, 8288))

    def chunk(flags: int, context: int, *runs: tuple[int, int]) -> bytes:
        payload = wire.U32.pack(context) + b"".join(wire.DESCRIPTOR.pack(*run) for run in runs)
        return wire.CHUNK.pack(wire.STRUCTURED_REPLY_MAGIC, flags, 5, 7, len(payload)) + payload

    assert end.wire.sent == chunk(0, 1, (96, 3), (4096, 0), (4096, 3)) + chunk(1, 2, (4192, 1), (4096, 0))
    end.wire.sent.clear()
    end.feed(_request(wire.CMD_BLOCK_STATUS, 7, 4000, 8288, flags=wire.CMD_FLAG_REQ_ONE))
    assert end.wire.sent == chunk(0, 1, (96, 3)) + chunk(1, 2, (4192, 1))


def test_block_status_is_cut_to_what_one_reply_may_hold() -> None:
    export = MemoryExport(_SIZE)
    runs = [(1, number % 2) for number in range(20_000)]
    export.block_status = lambda _context, _offset, _length, done: done(runs)  # type: ignore
    end = _End(export, Agreed(structured=True, contexts=[(1, wire.CONTEXT_ALLOCATION)]))
    end.feed(_request(wire.CMD_BLOCK_STATUS, 1, 0, 100))
    assert len(end.wire.sent) == 20 + 4 + 8 * 100
    end.wire.sent.clear()
    end.feed(_request(wire.CMD_BLOCK_STATUS, 1, 0, _SIZE))
    assert len(end.wire.sent) == 20 + 4 + 8 * wire.STATUS_MAX_RUNS


def test_the_private_command_is_for_private_exports() -> None:
    end = _End(MemoryExport(_SIZE, private=True))
    payload = random.Random(1).randbytes(300 * KIB)
    for data in (b"", b"hello", payload, bytes(wire.CONTROL_MAX_BYTES)):
        end.feed(_request(wire.CMD_HOLDFAST_CONTROL, 9, 0, len(data), data=data), lambda: 50_000)
        assert end.wire.sent == wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, 0, 9) + wire.U32.pack(
            len(data)
        ) + (data)
        end.wire.sent.clear()
    structured = _End(MemoryExport(_SIZE, private=True), Agreed(structured=True))
    structured.feed(_request(wire.CMD_HOLDFAST_CONTROL, 9))
    assert structured.simple_replies() == [(wire.EINVAL, 9)]


def test_a_failed_control_has_no_answer_bytes() -> None:
    export = MemoryExport(_SIZE, private=True)
    export.control = lambda _payload, done: done(Outcome.STALE_EPOCH, b"ignored")  # type: ignore
    end = _End(export)
    end.feed(_request(wire.CMD_HOLDFAST_CONTROL, 9, 0, 1, data=b"x"))
    assert end.simple_replies() == [(wire.ESHUTDOWN, 9)]


def test_nothing_is_taken_past_the_request_limit() -> None:
    export = MemoryExport(_SIZE)
    export.hold = True
    end = _End(export)
    data = b"".join(_request(wire.CMD_FLUSH, cookie) for cookie in range(REQUESTS_MAX + 100))
    space = end.transmission.space()
    space[: len(data)] = data
    end.transmission.received(len(data))
    assert end.transmission.paused and end.transmission.in_flight == REQUESTS_MAX
    export.release(50)
    end.resume()
    assert end.transmission.in_flight == REQUESTS_MAX and end.transmission.paused
    export.release()
    export.hold = False
    end.resume()
    export.release()
    assert not end.transmission.paused and end.transmission.in_flight == 0
    assert end.simple_replies() == [(0, cookie) for cookie in range(REQUESTS_MAX + 100)]


@pytest.mark.parametrize("budget_bytes", [BUDGET_BYTES, 4 * MIB])
def test_nothing_is_taken_past_the_memory_budget(budget_bytes: int) -> None:
    export = MemoryExport(4 * MIB)
    export.hold = True
    end = _End(export, budget_bytes=budget_bytes)
    taken = 0
    while not end.transmission.over_budget:
        end.feed(_write(taken, 0, bytes(1 * MIB)))
        taken += 1
    assert taken + 2 >= budget_bytes // MIB and end.transmission._held_bytes <= budget_bytes + 2 * MIB
    export.release()
    assert not end.transmission.over_budget and end.transmission._held_bytes == CHUNK_BYTES


def test_replies_that_nobody_takes_stop_the_intake() -> None:
    """Reads that end at once would otherwise pile up as replies."""
    end = _End(MemoryExport(4 * MIB))
    data = b"".join(_request(wire.CMD_READ, cookie, 0, 1 * MIB) for cookie in range(1000))
    space = end.transmission.space()
    space[: len(data)] = data
    end.transmission.received(len(data))
    assert end.transmission.paused
    held = sum(map(len, end.wire.out))
    assert REPLIES_MAX_BYTES < held <= REPLIES_MAX_BYTES + 2 * MIB


def test_a_goodbye_stops_the_intake() -> None:
    export = MemoryExport(_SIZE)
    end = _End(export)
    end.feed(_write(1, 0, b"x") + _request(wire.CMD_DISC, 2) + _write(3, 0, b"y"))
    assert end.transmission.stopped and export.data[0] == ord("x")
    assert end.simple_replies() == [(0, 1)]


def test_requests_that_end_after_their_connection_say_nothing_and_give_back_their_memory() -> None:
    export = MemoryExport(_SIZE, private=True)
    export.hold = True
    end = _End(export, Agreed())
    end.feed(
        _write(1, 0, b"x")
        + _write(2, 0, bytes(500 * KIB))
        + _request(wire.CMD_READ, 3, 0, 4096)
        + _request(wire.CMD_HOLDFAST_CONTROL, 4, 0, 1, data=b"x")
        + _request(wire.CMD_FLUSH, 5)
        + _write(6, 0, bytes(500 * KIB))[:-1]
    )
    assert end.transmission.in_flight == 5
    end.replies.close()
    end.transmission.end()
    export.release()
    assert end.transmission.in_flight == 0 and end.transmission._held_bytes == 0
    assert not end.wire.sent and not end.wire.out


_fuzzed = st.builds(
    lambda kind, flags, cookie, offset, length, data, magic: (
        wire.REQUEST.pack(magic, flags, kind, cookie, offset, length) + data
    ),
    st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8, 0x4846, 0xFFFF]),
    st.integers(0, 0xFFFF) | st.integers(0, 15),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1) | st.integers(0, 8192),
    st.integers(0, 2**32 - 1) | st.integers(0, 8192),
    st.binary(max_size=100),
    st.just(wire.REQUEST_MAGIC) | st.just(wire.REQUEST_MAGIC) | st.integers(0, 2**32 - 1),
)


@given(st.lists(_fuzzed, max_size=20), st.booleans(), st.booleans(), st.integers(1, 400))
def test_no_input_does_more_than_end_the_connection(
    requests: list[bytes], structured: bool, read_only: bool, size: int
) -> None:
    contexts = [(1, wire.CONTEXT_ALLOCATION)] if structured else []
    end = _End(
        MemoryExport(8192, read_only=read_only, private=True),
        Agreed(structured=structured, contexts=contexts),
    )
    with contextlib.suppress(ProtocolError):
        end.feed(b"".join(requests), lambda: size)
    assert end.transmission._held_bytes <= BUDGET_BYTES + 33 * MIB


class _Lender(MemoryExport):
    """Lends what it has; of each read `lacking` bytes too few."""

    lends = True
    lacking = 0

    def _apply(self, request: Request) -> Outcome:
        assert not request.buffers
        middle, end = request.offset + request.length // 2, request.offset + request.length - self.lacking
        data = memoryview(self.data).toreadonly()
        request.buffers += [data[request.offset : middle], data[middle:end]]
        return Outcome.OK


def test_an_export_may_lend_what_is_read() -> None:
    export = _Lender(_SIZE)
    export.data[:] = random.Random(1).randbytes(_SIZE)
    end = _End(export)
    end.feed(_request(wire.CMD_READ, 7, 100, 70_001))
    head = wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, 0, 7)
    assert end.wire.sent == head + export.data[100:70_101]
    assert end.transmission.in_flight == 0


def test_a_loan_that_is_too_short_is_not_sent() -> None:
    export = _Lender(_SIZE)
    export.lacking = 1
    with pytest.raises(ValueError, match="lent 4095 bytes for a read of 4096"):
        _End(export).feed(_request(wire.CMD_READ, 7, 0, 4096))
