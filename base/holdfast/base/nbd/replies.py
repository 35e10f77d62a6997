"""The server's replies: how each looks on the wire, and when they leave."""

from collections.abc import Callable

from holdfast.base.device import Outcome
from holdfast.base.nbd import wire
from holdfast.base.nbd.stream import Stream
from holdfast.base.twins import twin

_MAGIC = wire.SIMPLE_REPLY_MAGIC
_pack_simple = wire.SIMPLE_REPLY.pack


_quick = twin("holdfast.base.nbd._wire")


def _pack_good(cookies: list[int]) -> bytes:
    if _quick is not None and len(cookies) > 1:
        packed: bytes = _quick.replies(cookies)
        return packed
    return b"".join([_pack_simple(_MAGIC, 0, cookie) for cookie in cookies])


class Replies:
    """Collects the replies of one turn in the stream's `out`.

    Args:
        stream: where they go.
        structured: whether the client agreed to structured replies.
        schedule: called once when there is something to send; `sent` makes it be called again.
    """

    def __init__(self, stream: Stream, structured: bool, schedule: Callable[[], None]) -> None:
        self._stream = stream
        self._out = stream.out
        self._good: list[int] = []
        self._structured = structured
        self._schedule = schedule
        self._scheduled = False
        self._closed = False
        self.backlog_bytes = 0
        """What the last `send` could not send, and replies with data since."""

    def simple(self, cookie: int, error: int) -> None:
        """Header only: any reply but one to READ or BLOCK_STATUS."""
        if self._good:
            self._pack_good()
        self._out.append(_pack_simple(_MAGIC, error, cookie))
        if not self._scheduled:
            self._wake()

    def good(self, cookie: int) -> None:
        """As `simple` without an error; many are packed at once."""
        self._good.append(cookie)
        if not self._scheduled:
            self._wake()

    def read(self, cookie: int, offset: int, length: int, views: list[memoryview]) -> None:
        """`views` hold `length` bytes, which do not change any more."""
        if self._structured:
            flags, kind = wire.REPLY_FLAG_DONE, wire.REPLY_TYPE_OFFSET_DATA
            self._add(
                wire.OFFSET_DATA_CHUNK.pack(
                    wire.STRUCTURED_REPLY_MAGIC, flags, kind, cookie, wire.U64.size + length, offset
                ),
                *views,
            )
        else:
            self._add(_pack_simple(_MAGIC, 0, cookie), *views)

    def read_error(self, cookie: int, error: int) -> None:
        """For READ and BLOCK_STATUS, whose errors must be structured where replies are."""
        if not self._structured:
            self.simple(cookie, error)
            return
        payload = wire.CHUNK_ERROR.pack(error, 0)
        self._add(self._chunk(wire.REPLY_FLAG_DONE, wire.REPLY_TYPE_ERROR, cookie, payload))

    def block_status(self, cookie: int, payloads: list[bytes]) -> None:
        for number, payload in enumerate(payloads, start=1):
            flags = wire.REPLY_FLAG_DONE if number == len(payloads) else 0
            self._add(self._chunk(flags, wire.REPLY_TYPE_BLOCK_STATUS, cookie, payload))

    def control(self, cookie: int, answer: bytes) -> None:
        self._add(_pack_simple(_MAGIC, 0, cookie) + wire.U32.pack(len(answer)) + answer)

    def send(self) -> bool:
        """Send what can be sent; True if nothing is left. Raises Lost."""
        self._scheduled = False
        if self._good:
            self._pack_good()
        done = self._stream.flush()
        self.backlog_bytes = 0 if done else sum(map(len, self._out))
        return done

    def close(self) -> None:
        """The connection is over: what comes from now on goes nowhere."""
        self._closed = self._scheduled = True
        self._out = []
        self._good = []

    def _add(self, *pieces: bytes | memoryview) -> None:
        if self._good:
            self._pack_good()
        self._out.extend(pieces)
        self.backlog_bytes += sum(map(len, pieces))
        if not self._scheduled:
            self._wake()
        elif self._closed:
            self._out.clear()

    def _pack_good(self) -> None:
        self._out.append(_pack_good(self._good))
        self._good = []

    def _wake(self) -> None:
        self._scheduled = True
        self._schedule()

    @staticmethod
    def _chunk(flags: int, kind: int, cookie: int, payload: bytes) -> bytes:
        header = wire.CHUNK.pack(wire.STRUCTURED_REPLY_MAGIC, flags, kind, cookie, len(payload))
        return header + payload


class StatusGather:
    """Waits until every metadata context has answered one request, then calls `done`.

    Args:
        length: of the range asked about; runs are cut to it.
        limit: most runs of one context.
        waiting_for: how many contexts.
    """

    def __init__(
        self, length: int, limit: int, waiting_for: int, done: Callable[["StatusGather"], None]
    ) -> None:
        self._length = length
        self._limit = limit
        self._waiting_for = waiting_for
        self._done = done
        self.outcome = Outcome.OK
        self.payloads: list[bytes] = []
        """Of BLOCK_STATUS chunks, one for each context."""

    def take(self, context: int, answer: list[tuple[int, int]] | Outcome) -> None:
        if isinstance(answer, Outcome):
            self.outcome = answer
        else:
            self.payloads.append(wire.U32.pack(context) + self._descriptors(answer))
        self._waiting_for -= 1
        if not self._waiting_for:
            self._done(self)

    def _descriptors(self, runs: list[tuple[int, int]]) -> bytes:
        left, packed = self._length, bytearray()
        for length, flags in runs[: self._limit]:
            if length <= 0:
                raise ValueError(f"an export reported a run of {length} bytes")
            packed += wire.DESCRIPTOR.pack(min(length, left), flags)
            left -= min(length, left)
            if not left:
                break
        if not packed:
            raise ValueError("an export reported no run at all")
        return bytes(packed)
