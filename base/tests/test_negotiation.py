"""The handshake's two machines: against each other, against the protocol's bytes, and against garbage."""

import struct
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.base.errors import Denied, HoldfastError, NotFound, Unavailable
from holdfast.base.nbd import wire
from holdfast.base.nbd.handshake import Handshake
from holdfast.base.nbd.negotiation import Negotiation, Phase
from holdfast.base.nbd.wire import ProtocolError

_CHANGED = "holdfast:changed"


@dataclass
class _Info:
    size_bytes: int = 1 << 30
    read_only: bool = False
    contexts: tuple[str, ...] = (wire.CONTEXT_ALLOCATION, _CHANGED)


def _open(name: str) -> _Info:
    if name == "good":
        return _Info()
    if name == "frozen":
        return _Info(read_only=True)
    if name == "denied":
        raise Denied("STALE_EPOCH", "Epoch 6 is over.")
    raise NotFound("NO_SUCH_EXPORT", f"There is no export {name!r}.")


def _option(option: int, data: bytes = b"", length: int | None = None) -> bytes:
    return wire.OPTION.pack(wire.IHAVEOPT, option, len(data) if length is None else length) + data


def _go(name: str, *wanted: int, option: int = wire.OPT_GO) -> bytes:
    data = wire.U32.pack(len(name)) + name.encode() + struct.pack(f"!H{len(wanted)}H", len(wanted), *wanted)
    return _option(option, data)


def _contexts(option: int, name: str, *queries: str) -> bytes:
    data = wire.U32.pack(len(name)) + name.encode() + wire.U32.pack(len(queries))
    return _option(option, data + b"".join(wire.U32.pack(len(q)) + q.encode() for q in queries))


def _server(*, tls: bool = False, flags: int = 3) -> Negotiation:
    """A server that has had the client's flags, and whose greeting was taken."""
    server = Negotiation(_open, tls=tls)
    assert server.take_output() == b"NBDMAGICIHAVEOPT\x00\x03"
    server.feed(struct.pack("!I", flags))
    return server


def _replies(server: Negotiation) -> list[tuple[int, int, bytes]]:
    """(option, reply type, data) of all that the server says."""
    data, found = server.take_output(), []
    while data:
        magic, option, kind, length = wire.OPTION_REPLY.unpack_from(data)
        assert magic == 0x3E889045565A9
        found.append((option, kind, data[20 : 20 + length]))
        data = data[20 + length :]
    return found


def _answers(server: Negotiation, request: bytes) -> list[tuple[int, bytes]]:
    server.feed(request)
    return [(kind, data) for _option, kind, data in _replies(server)]


def test_go_describes_the_export_and_enters_transmission() -> None:
    server = _server()
    answers = _answers(server, _go("good", wire.INFO_NAME))
    flags = 1 | 4 | 8 | 32 | 64 | 1024  # has flags, flush, FUA, trim, write zeroes, cache
    assert answers == [
        (wire.REP_INFO, struct.pack("!HQH", 0, 1 << 30, flags)),
        (wire.REP_INFO, struct.pack("!HIII", 3, 1, 4096, 32 << 20)),
        (wire.REP_INFO, struct.pack("!H", 1) + b"good"),
        (wire.REP_ACK, b""),
    ]
    assert server.phase is Phase.TRANSMISSION and server.agreed.export_name == "good"


def test_info_describes_and_stays() -> None:
    server = _server()
    kinds = [kind for kind, _ in _answers(server, _go("frozen", option=wire.OPT_INFO))]
    assert kinds == [wire.REP_INFO, wire.REP_INFO, wire.REP_ACK] and server.phase is Phase.OPTIONS


def test_a_read_only_export_says_so_and_may_be_read_over_several_connections() -> None:
    (_, data), *_rest = _answers(_server(), _go("frozen"))
    flags = wire.INFO_EXPORT_DATA.unpack(data)[2]
    assert flags & wire.FLAG_READ_ONLY and flags & wire.FLAG_CAN_MULTI_CONN
    assert not flags & (wire.FLAG_SEND_TRIM | wire.FLAG_SEND_WRITE_ZEROES)


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("strange", wire.REP_ERR_UNKNOWN, b"NO_SUCH_EXPORT: There is no export 'strange'."),
        ("denied", wire.REP_ERR_POLICY, b"STALE_EPOCH: Epoch 6 is over."),
    ],
)
def test_a_refusal_says_why_and_the_client_may_go_on(name: str, kind: int, text: bytes) -> None:
    server = _server()
    for option in (wire.OPT_INFO, wire.OPT_GO):
        assert _answers(server, _go(name, option=option)) == [(kind, text)]
    assert _answers(server, _go("good"))[-1][0] == wire.REP_ACK


@pytest.mark.parametrize("zeroes", [False, True])
def test_export_name(zeroes: bool) -> None:
    server = _server(flags=1 if zeroes else 3)
    server.feed(_option(wire.OPT_EXPORT_NAME, b"frozen"))
    size, _flags = struct.unpack_from("!QH", output := server.take_output())
    assert size == 1 << 30 and len(output) == (134 if zeroes else 10)
    assert server.phase is Phase.TRANSMISSION
    with pytest.raises(ProtocolError, match="There is no export"):
        _server().feed(_option(wire.OPT_EXPORT_NAME, b"strange"))


def test_exports_are_not_listed_and_unknown_options_are_refused() -> None:
    server = _server()
    assert [kind for kind, _ in _answers(server, _option(wire.OPT_LIST))] == [wire.REP_ERR_POLICY]
    assert [kind for kind, _ in _answers(server, _option(4711, b"data"))] == [wire.REP_ERR_UNSUP]
    assert [kind for kind, _ in _answers(server, _option(wire.OPT_ABORT))] == [wire.REP_ACK]
    assert server.phase is Phase.ENDED


def test_before_tls_nothing_is_answered_but_starttls() -> None:
    server = _server(tls=True)
    for request in (
        _go("good"),
        _go("strange"),
        _option(wire.OPT_LIST),
        _option(wire.OPT_STRUCTURED_REPLY),
        _contexts(wire.OPT_SET_META_CONTEXT, "good"),
        _option(4711),
    ):
        assert [kind for kind, _ in _answers(server, request)] == [wire.REP_ERR_TLS_REQD]
    assert _answers(server, _option(wire.OPT_STARTTLS)) == [(wire.REP_ACK, b"")]
    assert server.phase is Phase.STARTTLS
    server.tls_established()
    assert [kind for kind, _ in _answers(server, _option(wire.OPT_STARTTLS))] == [wire.REP_ERR_INVALID]
    assert _answers(server, _go("good"))[-1] == (wire.REP_ACK, b"")
    with pytest.raises(ProtocolError, match="before TLS"):
        _server(tls=True).feed(_option(wire.OPT_EXPORT_NAME, b"good"))


def test_what_is_sent_in_clear_after_starttls_is_never_taken_for_something_sent_over_tls() -> None:
    with pytest.raises(ProtocolError, match="before TLS began"):
        _server(tls=True).feed(_option(wire.OPT_STARTTLS) + _go("good"))
    server = _server(tls=True)
    server.feed(_option(wire.OPT_STARTTLS))
    with pytest.raises(ProtocolError, match="before TLS began"):
        server.feed(b"x")


def test_starttls_without_tls_is_refused() -> None:
    assert [kind for kind, _ in _answers(_server(), _option(wire.OPT_STARTTLS))] == [wire.REP_ERR_POLICY]


def test_contexts_need_structured_replies() -> None:
    server = _server()
    for option in (wire.OPT_LIST_META_CONTEXT, wire.OPT_SET_META_CONTEXT):
        assert _answers(server, _contexts(option, "good"))[0][0] == wire.REP_ERR_INVALID
    assert _answers(server, _option(wire.OPT_STRUCTURED_REPLY)) == [(wire.REP_ACK, b"")]
    assert [kind for kind, _ in _answers(server, _option(wire.OPT_STRUCTURED_REPLY, b"x"))] == [
        wire.REP_ERR_INVALID
    ]


@pytest.mark.parametrize(
    ("queries", "listed", "selected"),
    [
        ((), [wire.CONTEXT_ALLOCATION, _CHANGED], []),
        (("base:",), [wire.CONTEXT_ALLOCATION], []),
        (("holdfast:", "base:allocation"), [wire.CONTEXT_ALLOCATION, _CHANGED], [wire.CONTEXT_ALLOCATION]),
        ((_CHANGED, _CHANGED), [_CHANGED], [_CHANGED]),
        (("other:thing", ""), [], []),
    ],
)
def test_contexts(queries: tuple[str, ...], listed: list[str], selected: list[str]) -> None:
    server = _server()
    server.feed(_option(wire.OPT_STRUCTURED_REPLY))
    server.take_output()
    answers = _answers(server, _contexts(wire.OPT_LIST_META_CONTEXT, "good", *queries))
    assert [data[4:].decode() for kind, data in answers[:-1]] == listed
    answers = _answers(server, _contexts(wire.OPT_SET_META_CONTEXT, "good", *queries))
    assert [data[4:].decode() for kind, data in answers[:-1]] == selected
    assert [struct.unpack("!I", data[:4])[0] for _, data in answers[:-1]] == [
        number for number, _ in server.agreed.contexts
    ]
    # They were selected for one export: another has none.
    server.feed(_go("frozen"))
    assert server.agreed.contexts == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0\x05good",
        wire.U32.pack(4) + b"good",
        wire.U32.pack(4) + b"good\0\1",
        wire.U32.pack(4) + b"good\0\0more",
        wire.U32.pack(4) + b"\xff\xfe\xfd\xfc\0\0",
        wire.U32.pack(4) + b"go\0d\0\0",
        wire.U32.pack(0xFFFFFFFF) + b"good\0\0",
        wire.U32.pack(5000) + b"g" * 5000 + b"\0\0",
    ],
)
def test_malformed_options_are_refused_and_the_handshake_goes_on(data: bytes) -> None:
    server = _server()
    assert [kind for kind, _ in _answers(server, _option(wire.OPT_GO, data))] == [wire.REP_ERR_INVALID]
    assert _answers(server, _go("good"))[-1][0] == wire.REP_ACK


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!I", 4),
        struct.pack("!I", 0x80000001),
        struct.pack("!I", 0),
        struct.pack("!I", 3) + b"x" * 16,
        struct.pack("!I", 3) + _option(wire.OPT_GO, length=wire.OPTION_MAX_BYTES + 1),
        struct.pack("!I", 3) + _option(wire.OPT_GO, length=0xFFFFFFFF),
    ],
)
def test_what_cannot_be_answered_ends_the_connection(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Negotiation(_open, tls=False).feed(data)


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(places)]


@given(st.lists(st.integers(0, 500), max_size=30), st.binary(max_size=40))
def test_how_the_bytes_are_cut_changes_nothing(cuts: list[int], after: bytes) -> None:
    said = (
        struct.pack("!I", 3)
        + _option(wire.OPT_STRUCTURED_REPLY)
        + _contexts(wire.OPT_SET_META_CONTEXT, "good", _CHANGED)
        + _go("strange")
        + _go("good")
        + after
    )
    whole, cut = Negotiation(_open, tls=False), Negotiation(_open, tls=False)
    whole.feed(said)
    for piece in _cut(said, cuts):
        cut.feed(piece)
    assert cut.take_output() == whole.take_output()
    assert cut.agreed == whole.agreed and cut.phase is whole.phase is Phase.TRANSMISSION
    assert cut.leftover == whole.leftover == after


_OPTIONS = st.sampled_from([1, 2, 3, 5, 6, 7, 8, 9, 10, 99])


@given(
    st.booleans(),
    st.lists(st.tuples(_OPTIONS, st.binary(max_size=60) | st.just(_go("good")[16:])), max_size=20),
    st.binary(max_size=30),
)
def test_no_input_does_more_than_end_the_handshake(
    tls: bool, options: list[tuple[int, bytes]], end: bytes
) -> None:
    server = _server(tls=tls)
    try:
        for option, data in options:
            server.feed(_option(option, data))
            assert len(server.take_output()) < 2000
        server.feed(end)
    except ProtocolError:
        pass
    if tls:
        assert server.phase in (Phase.OPTIONS, Phase.STARTTLS, Phase.ENDED)


def _talk(client: Handshake, server: Negotiation, cuts: list[int]) -> None:
    """Let both ends talk until neither has anything more to say."""
    while True:
        said = client.take_output()
        for piece in _cut(said, cuts):
            server.feed(piece)
        answer = server.take_output()
        for piece in _cut(answer, cuts):
            client.feed(piece)
        if client.phase is Phase.STARTTLS and server.phase is Phase.STARTTLS:
            server.tls_established()
            client.tls_established()
        elif not said and not answer:
            return


@given(st.booleans(), st.booleans(), st.lists(st.integers(0, 100), max_size=10))
def test_our_client_and_our_server_agree(tls: bool, structured: bool, cuts: list[int]) -> None:
    client = Handshake("good", tls=tls, structured=structured, contexts=(_CHANGED,) if structured else ())
    server = Negotiation(_open, tls=tls)
    _talk(client, server, cuts)
    assert client.phase is server.phase is Phase.TRANSMISSION
    assert client.size_bytes == 1 << 30 and client.structured == server.agreed.structured == structured
    assert list(client.contexts.items()) == server.agreed.contexts
    assert client.leftover == b""


@pytest.mark.parametrize(
    ("name", "kind", "reason", "message"),
    [
        ("strange", NotFound, "NO_SUCH_EXPORT", "There is no export 'strange'."),
        ("denied", Denied, "STALE_EPOCH", "Epoch 6 is over."),
    ],
)
def test_our_client_learns_the_reason(
    name: str, kind: type[HoldfastError], reason: str, message: str
) -> None:
    for contexts in ((), (_CHANGED,)):
        with pytest.raises(kind) as caught:
            _talk(
                Handshake(name, tls=False, structured=True, contexts=contexts),
                Negotiation(_open, tls=False),
                [],
            )
        assert (caught.value.reason, caught.value.message) == (reason, message)


def test_our_client_takes_no_refusal_of_tls() -> None:
    with pytest.raises(Denied, match="speaks in clear"):
        _talk(Handshake("good", tls=True), Negotiation(_open, tls=False), [])
    with pytest.raises(Denied) as caught:
        _talk(Handshake("good", tls=False), Negotiation(_open, tls=True), [])
    assert caught.value.reason == "TLS_REQUIRED"


def test_our_client_bears_a_server_without_structured_replies() -> None:
    client = Handshake("x", tls=False, structured=True, contexts=(_CHANGED,))
    client.feed(wire.GREETING.pack(wire.INIT_PASSWD, wire.IHAVEOPT, 1))

    def reply(option: int, kind: int, data: bytes = b"") -> bytes:
        return wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, option, kind, len(data)) + data

    client.feed(reply(wire.OPT_STRUCTURED_REPLY, wire.REP_ERR_UNSUP))
    client.feed(reply(wire.OPT_GO, wire.REP_INFO, wire.INFO_EXPORT_DATA.pack(0, 77, 1)))
    client.feed(reply(wire.OPT_GO, wire.REP_ACK))
    assert client.phase is Phase.TRANSMISSION and client.size_bytes == 77 and not client.structured


@given(st.binary(max_size=80), st.booleans())
def test_no_servers_answer_does_more_than_fail_the_client(data: bytes, greeted: bool) -> None:
    client = Handshake("x", tls=False, structured=True)
    if greeted:
        client.feed(wire.GREETING.pack(wire.INIT_PASSWD, wire.IHAVEOPT, 3))
        data = wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, 8, 1, 0) + data
    try:
        client.feed(data)
    except (ProtocolError, NotFound, Denied, Unavailable):
        return
