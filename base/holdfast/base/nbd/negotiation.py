"""The server's side of the fixed newstyle handshake, as a machine that is fed bytes and gives bytes.

It owns no socket. Whoever drives it feeds what arrived, sends what `take_output` gives, and looks at
`phase`. With `tls` it is in the protocol's FORCEDTLS mode: until TLS is up, every option but STARTTLS and
ABORT is refused, so nobody learns whether an export exists. Exports are never listed: names are known
to those who were told them, and a list would tell a stranger (I-10).
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from holdfast.base.errors import HoldfastError, NotFound
from holdfast.base.nbd import wire
from holdfast.base.nbd.wire import ProtocolError


class Phase(Enum):
    """Where a handshake stands."""

    GREETING = "greeting"
    """Waiting for the client's flags."""
    OPTIONS = "options"
    """Answering options."""
    STARTTLS = "starttls"
    """Once the output is sent, TLS begins; call `tls_established` when it is up."""
    TRANSMISSION = "transmission"
    """Over: `agreed` says what was agreed, `leftover` holds the first bytes of the next phase."""
    ENDED = "ended"
    """Once the output is sent, the connection is to be closed."""


class ExportInfo(Protocol):
    """What the handshake has to know of an export."""

    @property
    def size_bytes(self) -> int: ...
    @property
    def read_only(self) -> bool: ...
    @property
    def contexts(self) -> tuple[str, ...]: ...


@dataclass
class Agreed:
    """What a finished handshake leaves."""

    export_name: str = ""
    structured: bool = False
    contexts: list[tuple[int, str]] = field(default_factory=list)
    """Selected metadata contexts, each with its id on the wire."""


def transmission_flags(export: ExportInfo, structured: bool) -> int:
    """What the export can do, for its client."""
    flags = wire.FLAG_HAS_FLAGS | wire.FLAG_SEND_FLUSH | wire.FLAG_SEND_FUA | wire.FLAG_SEND_CACHE
    if export.read_only:
        # Only views that nobody writes through are read over several connections.
        flags |= wire.FLAG_READ_ONLY | wire.FLAG_CAN_MULTI_CONN
    else:
        flags |= wire.FLAG_SEND_TRIM | wire.FLAG_SEND_WRITE_ZEROES
    return flags | (wire.FLAG_SEND_DF if structured else 0)


class _Refusal(Exception):
    """This option gets an error reply; the handshake goes on."""

    def __init__(self, reply_type: int, message: str) -> None:
        super().__init__(message)
        self.reply_type = reply_type
        self.message = message


class Negotiation:
    """One handshake.

    Args:
        open_export: gives the export of a name, or raises HoldfastError. It may be asked several times
            for one connection and must change nothing.
        tls: whether TLS is demanded.
    """

    def __init__(self, open_export: Callable[[str], ExportInfo], *, tls: bool) -> None:
        self._open_export = open_export
        self._tls_pending = tls
        self._tls = tls
        self._input = bytearray()
        self._output = bytearray(
            wire.GREETING.pack(
                wire.INIT_PASSWD, wire.IHAVEOPT, wire.FLAG_FIXED_NEWSTYLE | wire.FLAG_NO_ZEROES
            )
        )
        self._no_zeroes = False
        self._contexts_of = ""
        self._handlers: dict[int, Callable[[bytes], None]] = {
            wire.OPT_ABORT: self._abort,
            wire.OPT_LIST: self._list,
            wire.OPT_STARTTLS: self._starttls,
            wire.OPT_INFO: self._info,
            wire.OPT_GO: self._go,
            wire.OPT_STRUCTURED_REPLY: self._structured_reply,
            wire.OPT_LIST_META_CONTEXT: self._list_contexts,
            wire.OPT_SET_META_CONTEXT: self._set_contexts,
        }
        self._option = 0
        self.phase = Phase.GREETING
        self.agreed = Agreed()
        self.export: ExportInfo | None = None
        """The export agreed on, as `open_export` gave it."""

    @property
    def leftover(self) -> bytes:
        """What the client sent after the handshake's last byte."""
        return bytes(self._input)

    def take_output(self) -> bytes:
        """What is to be sent now, before anything else."""
        output = bytes(self._output)
        self._output.clear()
        return output

    def tls_established(self) -> None:
        """TLS is up; options are expected over it."""
        self._tls_pending = False
        self.phase = Phase.OPTIONS

    def feed(self, data: bytes | memoryview) -> None:
        """Go on with what arrived.

        Raises:
            ProtocolError: the connection is to be dropped.
        """
        self._input += data
        if self.phase is Phase.GREETING:
            self._greeting()
        while self.phase is Phase.OPTIONS and self._one_option():
            pass
        if self.phase is Phase.STARTTLS and self._input:
            # Whatever was sent in clear must not be taken for something that came over TLS.
            raise ProtocolError("the client sent more after STARTTLS before TLS began")

    def _greeting(self) -> None:
        if len(self._input) < wire.CLIENT_FLAGS.size:
            return
        (flags,) = wire.CLIENT_FLAGS.unpack_from(self._input)
        del self._input[: wire.CLIENT_FLAGS.size]
        if flags & ~(wire.FLAG_C_FIXED_NEWSTYLE | wire.FLAG_C_NO_ZEROES):
            raise ProtocolError(f"the client's flags are {flags:#x}, which are not all known")
        if not flags & wire.FLAG_C_FIXED_NEWSTYLE:
            raise ProtocolError("the client does not speak the fixed newstyle handshake")
        self._no_zeroes = bool(flags & wire.FLAG_C_NO_ZEROES)
        self.phase = Phase.OPTIONS

    def _one_option(self) -> bool:
        """Answer the next option; False if it is not all here yet."""
        if len(self._input) < wire.OPTION.size:
            return False
        magic, option, length = wire.OPTION.unpack_from(self._input)
        if magic != wire.IHAVEOPT:
            raise ProtocolError(f"an option starts with {magic:#x} instead of IHAVEOPT")
        if length > wire.OPTION_MAX_BYTES:
            raise ProtocolError(f"option {option} is {length} bytes long, more than {wire.OPTION_MAX_BYTES}")
        end = wire.OPTION.size + length
        if len(self._input) < end:
            return False
        data = bytes(self._input[wire.OPTION.size : end])
        del self._input[:end]
        self._answer(option, data)
        return True

    def _answer(self, option: int, data: bytes) -> None:
        self._option = option
        if option == wire.OPT_EXPORT_NAME:
            self._export_name(data)
            return
        try:
            if self._tls_pending and option not in (wire.OPT_STARTTLS, wire.OPT_ABORT):
                raise _Refusal(
                    wire.REP_ERR_TLS_REQD, "This server speaks only over TLS: send STARTTLS first."
                )
            handler = self._handlers.get(option)
            if handler is None:
                raise _Refusal(wire.REP_ERR_UNSUP, f"Option {option} is not known here.")
            handler(data)
        except _Refusal as refusal:
            self._reply(refusal.reply_type, refusal.message.encode()[: wire.STRING_MAX_BYTES])

    def _reply(self, reply_type: int, data: bytes = b"") -> None:
        self._output += wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, self._option, reply_type, len(data))
        self._output += data

    def _abort(self, _data: bytes) -> None:
        self._reply(wire.REP_ACK)
        self.phase = Phase.ENDED

    def _list(self, _data: bytes) -> None:
        raise _Refusal(wire.REP_ERR_POLICY, "Exports are not listed here: ask for one by its name.")

    def _starttls(self, data: bytes) -> None:
        _expect_nothing(data)
        if not self._tls:
            raise _Refusal(wire.REP_ERR_POLICY, "This listener speaks in clear.")
        if not self._tls_pending:
            raise _Refusal(wire.REP_ERR_INVALID, "TLS is up already.")
        self._reply(wire.REP_ACK)
        self.phase = Phase.STARTTLS

    def _structured_reply(self, data: bytes) -> None:
        _expect_nothing(data)
        self.agreed.structured = True
        self._reply(wire.REP_ACK)

    def _export_name(self, data: bytes) -> None:
        """The oldest way to choose an export: it has no error reply, so a refusal drops the client."""
        if self._tls_pending:
            raise ProtocolError("the client asked for an export by EXPORT_NAME before TLS was up")
        try:
            name = _text(data)
            export = self._lookup(name)
        except _Refusal as refusal:
            raise ProtocolError(f"EXPORT_NAME was refused: {refusal.message}") from refusal
        self._output += wire.EXPORT_NAME_REPLY.pack(
            export.size_bytes, transmission_flags(export, self.agreed.structured)
        )
        if not self._no_zeroes:
            self._output += wire.EXPORT_NAME_ZEROES
        self._finish(name, export)

    def _info(self, data: bytes) -> None:
        self._describe(data)
        self._reply(wire.REP_ACK)

    def _go(self, data: bytes) -> None:
        name, export = self._describe(data)
        self._reply(wire.REP_ACK)
        self._finish(name, export)

    def _describe(self, data: bytes) -> tuple[str, ExportInfo]:
        reader = _Reader(data)
        name = reader.text()
        wanted = [reader.u16() for _ in range(reader.u16())]
        reader.end()
        export = self._lookup(name)
        flags = transmission_flags(export, self.agreed.structured)
        self._reply(wire.REP_INFO, wire.INFO_EXPORT_DATA.pack(wire.INFO_EXPORT, export.size_bytes, flags))
        self._reply(
            wire.REP_INFO,
            wire.INFO_BLOCK_SIZE_DATA.pack(
                wire.INFO_BLOCK_SIZE, wire.BLOCK_MIN_BYTES, wire.BLOCK_PREFERRED_BYTES, wire.BLOCK_MAX_BYTES
            ),
        )
        if wire.INFO_NAME in wanted:
            self._reply(wire.REP_INFO, struct.pack("!H", wire.INFO_NAME) + name.encode())
        return name, export

    def _list_contexts(self, data: bytes) -> None:
        _name, contexts, queries = self._context_query(data)
        for context in contexts:
            # "base:" and "holdfast:" ask for all of a namespace; no query asks for all there are.
            if not queries or context in queries or context.partition(":")[0] + ":" in queries:
                self._reply(wire.REP_META_CONTEXT, wire.U32.pack(0) + context.encode())
        self._reply(wire.REP_ACK)

    def _set_contexts(self, data: bytes) -> None:
        self.agreed.contexts = []
        name, contexts, queries = self._context_query(data)
        self._contexts_of = name
        for number, context in enumerate(contexts, start=1):
            if context in queries:
                self.agreed.contexts.append((number, context))
                self._reply(wire.REP_META_CONTEXT, wire.U32.pack(number) + context.encode())
        self._reply(wire.REP_ACK)

    def _context_query(self, data: bytes) -> tuple[str, tuple[str, ...], list[str]]:
        """The export's name, the contexts that it has, and the queries."""
        if not self.agreed.structured:
            raise _Refusal(
                wire.REP_ERR_INVALID, "Metadata contexts need structured replies: ask for them first."
            )
        reader = _Reader(data)
        name = reader.text()
        count = reader.u32()
        if count > wire.CONTEXTS_MAX:
            raise _Refusal(wire.REP_ERR_INVALID, f"{count} queries are more than {wire.CONTEXTS_MAX}.")
        queries = [reader.text() for _ in range(count)]
        reader.end()
        return name, self._lookup(name).contexts[: wire.CONTEXTS_MAX], queries

    def _lookup(self, name: str) -> ExportInfo:
        try:
            return self._open_export(name)
        except NotFound as error:
            raise _Refusal(wire.REP_ERR_UNKNOWN, f"{error.reason}: {error.message}") from error
        except HoldfastError as error:
            raise _Refusal(wire.REP_ERR_POLICY, f"{error.reason}: {error.message}") from error

    def _finish(self, name: str, export: ExportInfo) -> None:
        self.agreed.export_name = name
        self.export = export
        if name != self._contexts_of:
            self.agreed.contexts = []
        self.phase = Phase.TRANSMISSION


def _expect_nothing(data: bytes) -> None:
    if data:
        raise _Refusal(wire.REP_ERR_INVALID, f"This option takes no data, not {len(data)} bytes.")


def _text(data: bytes) -> str:
    if len(data) > wire.STRING_MAX_BYTES:
        raise _Refusal(
            wire.REP_ERR_INVALID, f"A name of {len(data)} bytes is longer than {wire.STRING_MAX_BYTES}."
        )
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise _Refusal(wire.REP_ERR_INVALID, "A name is not UTF-8.") from error
    if "\0" in text:
        raise _Refusal(wire.REP_ERR_INVALID, "A name holds a NUL.")
    return text


class _Reader:
    """Takes an option's data apart; raises _Refusal where it is too short or too long."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def u16(self) -> int:
        return int.from_bytes(self._take(2), "big")

    def u32(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def text(self) -> str:
        """A U32 length and that many bytes of UTF-8."""
        return _text(self._take(self.u32()))

    def end(self) -> None:
        if self._at != len(self._data):
            raise _Refusal(wire.REP_ERR_INVALID, f"{len(self._data) - self._at} bytes too many.")

    def _take(self, length: int) -> bytes:
        end = self._at + length
        if end > len(self._data):
            raise _Refusal(wire.REP_ERR_INVALID, f"The data ends at {len(self._data)}, not at {end}.")
        part = self._data[self._at : end]
        self._at = end
        return part
