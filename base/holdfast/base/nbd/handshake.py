"""The client's side of the fixed newstyle handshake, as a machine that is fed bytes and gives bytes.

It owns no socket; the session and the blocking client drive the same machine. With `tls` it demands TLS
before anything else and takes no refusal: who offers to go on in clear may be a third party (the
protocol's "downgrade attack").
"""

import re
from collections.abc import Generator

from holdfast.base.errors import Denied, HoldfastError, NotFound, Unavailable
from holdfast.base.nbd import wire
from holdfast.base.nbd.negotiation import Phase
from holdfast.base.nbd.wire import ProtocolError

_REASON = re.compile(r"([A-Z][A-Z0-9_]{2,63}): (.*)", re.DOTALL)
_REPLIES_MAX = 256
"""Most replies to one option; ours sends a handful."""

_Step = Generator[int, bytes, None]


class Handshake:
    """One handshake, up to the transmission phase of one export.

    Args:
        export_name: the export to open.
        tls: whether TLS is demanded.
        structured: whether to ask for structured replies; a server may not have them.
        contexts: metadata contexts to ask for (they need `structured`).
    """

    def __init__(
        self, export_name: str, *, tls: bool, structured: bool = False, contexts: tuple[str, ...] = ()
    ) -> None:
        self._export_name = export_name
        self._ask_tls = tls
        self._ask_structured = structured
        self._ask_contexts = contexts
        self._input = bytearray()
        self._output = bytearray()
        self._script = self._run()
        self._needed = next(self._script)
        self.phase = Phase.GREETING
        self.size_bytes = 0
        self.flags = 0
        """Transmission flags of the export."""
        self.structured = False
        self.contexts: dict[int, str] = {}
        """The contexts that the server has, by their ids."""

    @property
    def leftover(self) -> bytes:
        """What the server sent after the handshake's last byte."""
        return bytes(self._input)

    def take_output(self) -> bytes:
        """What is to be sent now, before anything else."""
        output = bytes(self._output)
        self._output.clear()
        return output

    def tls_established(self) -> None:
        """TLS is up, and the server has been checked."""
        self.phase = Phase.OPTIONS
        self._advance(b"")

    def feed(self, data: bytes | memoryview) -> None:
        """Go on with what arrived.

        Raises:
            ProtocolError: the server breaks the protocol.
            HoldfastError: the server refuses; NotFound if it has no such export.
        """
        self._input += data
        while self.phase in (Phase.GREETING, Phase.OPTIONS) and len(self._input) >= self._needed:
            taken = bytes(self._input[: self._needed])
            del self._input[: self._needed]
            self._advance(taken)
        if self.phase is Phase.STARTTLS and self._input:
            raise ProtocolError("the server sent more after STARTTLS before TLS began")

    def _advance(self, taken: bytes) -> None:
        try:
            self._needed = self._script.send(taken)
        except StopIteration:
            self.phase = Phase.TRANSMISSION

    def _run(self) -> _Step:
        """The whole talk. Each `yield n` waits for n bytes and gives them."""
        password, magic, flags = wire.GREETING.unpack((yield wire.GREETING.size))
        if (password, magic) != (wire.INIT_PASSWD, wire.IHAVEOPT) or not flags & wire.FLAG_FIXED_NEWSTYLE:
            raise ProtocolError("the server does not speak the fixed newstyle handshake of NBD")
        self._output += wire.CLIENT_FLAGS.pack(
            wire.FLAG_C_FIXED_NEWSTYLE | (flags & wire.FLAG_NO_ZEROES and wire.FLAG_C_NO_ZEROES)
        )
        self.phase = Phase.OPTIONS
        if self._ask_tls:
            yield from self._option(wire.OPT_STARTTLS)
            self.phase = Phase.STARTTLS
            yield 0  # Until `tls_established`.
        if self._ask_structured:
            yield from self._structured()
        if self._ask_contexts and self.structured:
            yield from self._set_contexts()
        name = self._export_name.encode()
        yield from self._option(wire.OPT_GO, wire.U32.pack(len(name)) + name + b"\0\0")
        if not self.flags & wire.FLAG_HAS_FLAGS:
            raise ProtocolError("the server opened the export without saying how large it is")

    def _structured(self) -> _Step:
        try:
            yield from self._option(wire.OPT_STRUCTURED_REPLY)
            self.structured = True
        except HoldfastError:
            return  # A server that has them not may refuse them.

    def _set_contexts(self) -> _Step:
        name = self._export_name.encode()
        data = wire.U32.pack(len(name)) + name + wire.U32.pack(len(self._ask_contexts))
        for context in self._ask_contexts:
            data += wire.U32.pack(len(context.encode())) + context.encode()
        try:
            yield from self._option(wire.OPT_SET_META_CONTEXT, data)
        except NotFound:
            raise
        except HoldfastError:
            self.contexts = {}  # The same: a server may have none.

    def _option(self, option: int, data: bytes = b"") -> _Step:
        """Send an option and take its replies, up to the final one."""
        self._output += wire.OPTION.pack(wire.IHAVEOPT, option, len(data)) + data
        for _ in range(_REPLIES_MAX):
            magic, of, kind, length = wire.OPTION_REPLY.unpack((yield wire.OPTION_REPLY.size))
            if magic != wire.OPTION_REPLY_MAGIC or of != option:
                raise ProtocolError(f"the server answered something else than option {option}")
            if length > wire.OPTION_MAX_BYTES:
                raise ProtocolError(f"the server's reply to option {option} is {length} bytes long")
            reply = b""
            if length:
                reply = yield length
            if kind == wire.REP_ACK:
                return
            if kind & wire.REP_ERR:
                raise _refusal(kind, reply.decode(errors="replace"), self._export_name)
            self._take(kind, reply)
        raise ProtocolError(f"the server's replies to option {option} do not end")

    def _take(self, kind: int, reply: bytes) -> None:
        if kind == wire.REP_INFO and len(reply) == wire.INFO_EXPORT_DATA.size:
            about, size_bytes, flags = wire.INFO_EXPORT_DATA.unpack(reply)
            if about == wire.INFO_EXPORT:
                self.size_bytes, self.flags = size_bytes, flags
        elif kind == wire.REP_META_CONTEXT and len(reply) >= wire.U32.size:
            (number,) = wire.U32.unpack_from(reply)
            self.contexts[number] = reply[wire.U32.size :].decode(errors="replace")


def _refusal(kind: int, message: str, export_name: str) -> HoldfastError:
    """The error that a reply stands for. Our servers put the reason before the sentence."""
    reason = ""
    match = _REASON.fullmatch(message)
    if match:
        reason, message = match[1], match[2]
    if kind == wire.REP_ERR_UNKNOWN:
        return NotFound(reason or "NO_SUCH_EXPORT", message or f"The server has no export {export_name!r}.")
    if kind == wire.REP_ERR_POLICY:
        return Denied(reason or "EXPORT_REFUSED", message or f"The server refuses export {export_name!r}.")
    if kind == wire.REP_ERR_TLS_REQD:
        return Denied("TLS_REQUIRED", message or "The server speaks only over TLS.")
    return Unavailable(reason or "NBD_REFUSED", message or f"The server refuses with {kind - wire.REP_ERR}.")
