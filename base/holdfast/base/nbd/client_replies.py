"""Taking replies, simple and structured, off a blocking socket.

Every kind that the protocol has for what we ask is understood, not only what our server sends: the
client is also used against servers that nobody here wrote.
"""

import struct
from typing import Protocol

from holdfast.base.nbd import wire
from holdfast.base.nbd.wire import ProtocolError

_SIMPLE_REST = struct.Struct("!IQ")
_CHUNK_REST = struct.Struct("!HHQI")
# What follows the magic number of a simple reply, and of a chunk.
_PAYLOAD_MAX_BYTES = wire.U32.size + wire.DESCRIPTOR.size * (1 << 20)
"""Longest payload of a chunk other than data: a million descriptors."""


class Receiver(Protocol):
    """A socket, or TLS on one."""

    def recv_into(self, buffer: memoryview, /) -> int: ...


class Reading:
    """A request that waits for its reply; `view` is where a READ's data goes."""

    __slots__ = ("complete", "error", "length", "message", "missing", "offset", "status", "view")

    def __init__(self, offset: int, length: int, view: memoryview | None) -> None:
        self.offset = offset
        self.length = length
        self.view = view
        self.missing = length if view is not None else 0
        self.complete = view is not None and not length
        self.error = 0
        self.message = ""
        self.status: dict[int, list[tuple[int, int]]] = {}

    def finish(self) -> None:
        if self.missing and not self.error:
            raise ProtocolError(f"the server left out {self.missing} bytes of a read")
        self.complete = True

    def place(self, offset: int, length: int) -> memoryview:
        """Where [offset, offset + length) of this read goes."""
        start = offset - self.offset
        if self.view is None or not length or start < 0 or start + length > self.length:
            raise ProtocolError(f"the server sent {length} bytes at {offset}, which were not asked for")
        self.missing -= length
        return self.view[start : start + length]


def read_reply(sock: Receiver, waiting: dict[int, Reading]) -> None:
    """Take one simple reply or one structured chunk, and take a request out of `waiting` that is complete.

    Raises:
        ProtocolError, OSError: the connection is of no use any more.
    """
    (magic,) = wire.U32.unpack(_take(sock, wire.U32.size))
    if magic == wire.SIMPLE_REPLY_MAGIC:
        error, cookie = _SIMPLE_REST.unpack(_take(sock, _SIMPLE_REST.size))
        reading = _of(waiting, cookie)
        reading.error = error
        if not error and reading.view is not None:
            _fill(sock, reading.place(reading.offset, reading.length))
        done = True
    elif magic == wire.STRUCTURED_REPLY_MAGIC:
        flags, kind, cookie, length = _CHUNK_REST.unpack(_take(sock, _CHUNK_REST.size))
        reading = _of(waiting, cookie)
        _chunk(sock, reading, kind, length)
        done = bool(flags & wire.REPLY_FLAG_DONE)
    else:
        raise ProtocolError(f"a reply starts with {magic:#x} instead of a magic number")
    if done:
        del waiting[cookie]
        reading.finish()


def _chunk(sock: Receiver, reading: Reading, kind: int, length: int) -> None:
    if kind == wire.REPLY_TYPE_OFFSET_DATA:
        if length <= wire.U64.size:
            raise ProtocolError("the server sent a data chunk without data")
        (offset,) = wire.U64.unpack(_take(sock, wire.U64.size))
        _fill(sock, reading.place(offset, length - wire.U64.size))
        return
    if length > _PAYLOAD_MAX_BYTES:
        raise ProtocolError(f"the server sent a chunk of type {kind} of {length} bytes")
    payload = _take(sock, length)
    if kind == wire.REPLY_TYPE_OFFSET_HOLE and length == wire.OFFSET_HOLE.size:
        offset, size = wire.OFFSET_HOLE.unpack(payload)
        hole = reading.place(offset, size)
        hole[:] = bytes(len(hole))
    elif kind == wire.REPLY_TYPE_BLOCK_STATUS and length > wire.U32.size and length % 8 == wire.U32.size:
        (context,) = wire.U32.unpack_from(payload)
        reading.status[context] = list(wire.DESCRIPTOR.iter_unpack(payload[wire.U32.size :]))
    elif kind & wire.REPLY_TYPE_ERROR_BIT and length >= wire.CHUNK_ERROR.size:
        error, size = wire.CHUNK_ERROR.unpack_from(payload)
        reading.error = error or wire.EIO
        reading.message = payload[wire.CHUNK_ERROR.size :][:size].decode(errors="replace")
    elif kind != wire.REPLY_TYPE_NONE or length:
        raise ProtocolError(f"the server sent a chunk of type {kind} and {length} bytes")


def _of(waiting: dict[int, Reading], cookie: int) -> Reading:
    reading = waiting.get(cookie)
    if reading is None:
        raise ProtocolError(f"the server answered request {cookie}, which nobody waits for")
    return reading


def _take(sock: Receiver, count: int) -> bytes:
    data = bytearray(count)
    _fill(sock, memoryview(data))
    return bytes(data)


def _fill(sock: Receiver, view: memoryview) -> None:
    filled = 0
    while filled < len(view):
        count = sock.recv_into(view[filled:])
        if not count:
            raise ConnectionError("the server closed the connection")
        filled += count
