"""The server's side of the transmission phase: bytes in, requests to the export, replies out.

The hot path of the mirror: one receive brings many requests, each WRITE's data is handed on where it was
received, and the replies of one turn leave together. What a client can make this hold is bounded: over
the budget nothing more is taken (`paused`) until replies have been sent.

Refused commands are answered and change nothing. What leaves the place of the next request in doubt
raises ProtocolError, and the connection is dropped.
"""

from collections.abc import Callable
from functools import partial

from holdfast.base.device import Done, Op, Outcome, Request
from holdfast.base.limits import KIB, MIB
from holdfast.base.nbd import wire
from holdfast.base.nbd.chunks import CHUNK_BYTES, Chunk, ChunkPool
from holdfast.base.nbd.export import Export
from holdfast.base.nbd.negotiation import Agreed
from holdfast.base.nbd.replies import Replies, StatusGather
from holdfast.base.nbd.wire import ProtocolError
from holdfast.base.twins import twin

REQUESTS_MAX = 1024
"""Most requests in flight on one connection."""
BUDGET_BYTES = 64 * MIB
"""Past this much memory held for one connection no further request is taken. One request may overshoot."""
REPLIES_MAX_BYTES = 8 * MIB
"""Past this much in replies not yet sent no further request is taken. One reply may overshoot."""
_CONTIGUOUS_MAX_BYTES = 64 * KIB
"""A WRITE up to this long is handed on as one buffer; a longer one as several if it does not fit a chunk."""
_ROOM_MIN_BYTES = 16 * KIB
"""A chunk with less room than this is not received into any more."""

_quick = twin("holdfast.base.nbd._wire")
_OK = Outcome.OK
_WRITE = Op.WRITE
_CMD_WRITE = wire.CMD_WRITE
_REQUEST_MAGIC = wire.REQUEST_MAGIC
_HEADER_BYTES = wire.REQUEST.size
_unpack_request = wire.REQUEST.unpack_from


class _Write(Request):
    """A WRITE whose payload lies in one chunk. Made by _wire.c too, which knows these slots and Request's."""

    __slots__ = ("chunk", "cookie", "transmission")

    def __init__(
        self,
        transmission: "Transmission",
        chunk: Chunk,
        cookie: int,
        offset: int,
        view: memoryview,
        fua: bool,
    ) -> None:
        self.transmission = transmission
        self.chunk = chunk
        self.cookie = cookie
        self.came_s = 0.0
        self.op = _WRITE
        self.offset = offset
        self.length = len(view)
        self.buffers = [view]
        self.fua = fua
        self.expected = b""
        self.miscompare_offset = 0

    def done(self, outcome: Outcome) -> None:
        self.transmission.written(self.cookie, self.chunk, outcome)


class _Gathered:
    """A request whose payload spans chunks, while it arrives."""

    __slots__ = ("chunks", "cookie", "flags", "kind", "length", "missing", "offset", "views")

    def __init__(self, flags: int, kind: int, cookie: int, offset: int, length: int) -> None:
        self.flags = flags
        self.kind = kind
        self.cookie = cookie
        self.offset = offset
        self.length = length
        self.missing = length
        self.views: list[memoryview] = []
        self.chunks: list[Chunk] = []

    def add(self, chunk: Chunk, start: int, end: int) -> None:
        if end > start:
            chunk.users += 1
            self.chunks.append(chunk)
            self.views.append(chunk.view[start:end])
            self.missing -= end - start


class Transmission:
    """One connection's requests. `replies` is told whenever a reply has been added."""

    def __init__(
        self,
        export: Export,
        agreed: Agreed,
        pool: ChunkPool,
        replies: Replies,
        budget_bytes: int = BUDGET_BYTES,
    ) -> None:
        self._export = export
        self._agreed = agreed
        self._pool = pool
        self._replies = replies
        self._chunk = pool.take()
        self._at = 0
        self._end = 0
        self._gathering: _Gathered | None = None
        self._size_bytes = export.size_bytes
        self._writable = not export.read_only
        self._submit_all: Callable[[list[Request]], None] | None = getattr(export, "submit_all", None)
        self._lends: bool = getattr(export, "lends", False)
        self._held_bytes = CHUNK_BYTES
        self._budget_bytes = budget_bytes
        self.in_flight = 0
        self.paused = False
        """Over the budget: call `parse` once `over_budget` is False."""
        self.stopped = False
        """The client has said goodbye, or `stop` was called: nothing more is taken."""
        self._ended = False
        self._commands: dict[int, Callable[[int, int, int, int], None]] = {
            wire.CMD_READ: self._read,
            wire.CMD_DISC: self._disconnect,
            wire.CMD_FLUSH: self._flush,
            wire.CMD_TRIM: self._zero,
            wire.CMD_CACHE: self._cache,
            wire.CMD_WRITE_ZEROES: self._zero,
            wire.CMD_BLOCK_STATUS: self._block_status,
        }
        # Where a payload follows, and how long it may be.
        self._payload_max_bytes = {wire.CMD_WRITE: wire.BLOCK_MAX_BYTES}
        if export.private and not agreed.structured:
            self._payload_max_bytes[wire.CMD_HOLDFAST_CONTROL] = wire.CONTROL_MAX_BYTES

    @property
    def over_budget(self) -> bool:
        return (
            self.in_flight >= REQUESTS_MAX
            or self._held_bytes > self._budget_bytes
            or self._replies.backlog_bytes > REPLIES_MAX_BYTES
        )

    def space(self) -> memoryview:
        """Where to receive to; then call `received`."""
        if self._gathering is None and self._at == self._end:
            if not self._chunk.users:
                self._at = self._end = 0
            elif CHUNK_BYTES - self._end < _ROOM_MIN_BYTES:
                self._next_chunk()
        return self._chunk.view[self._end :]

    def preload(self, data: bytes) -> None:
        """Bytes that came with the end of the handshake; they fit a chunk."""
        self.space()[: len(data)] = data
        self.received(len(data))

    def received(self, count: int) -> None:
        """`count` bytes are in `space()`: take the requests that are complete."""
        self._end += count
        if self._gathering is None or self._gather(self._gathering):
            self.parse()

    def stop(self) -> None:
        """Take no more requests."""
        self.stopped = True

    def end(self) -> None:
        """The connection is over: requests in flight run on, their replies go nowhere."""
        self.stopped = self._ended = True
        if self._gathering is not None:
            self._release(self._gathering.chunks)
            self._gathering = None
        self._next_chunk(last=True)

    def parse(self) -> None:
        """Take requests until there is no complete one, or no more may be taken."""
        self.paused = False
        chunk, at, end = self._chunk, self._at, self._end
        view, submit, size_bytes, writable = chunk.view, self._export.submit, self._size_bytes, self._writable
        quick = _quick is not None and writable and self._submit_all is not None
        while end - at >= _HEADER_BYTES and not self.stopped:
            if self.in_flight >= REQUESTS_MAX or self._held_bytes > self._budget_bytes:
                self.paused = True
                break
            magic, flags, kind, cookie, offset, length = _unpack_request(view, at)
            # For one alone the twin is no gain: after a sleep, all code costs what it takes to fetch it.
            several = quick and kind == _CMD_WRITE and at + _HEADER_BYTES + length < end
            if several and (after := self._take_writes(at)) > at:
                at = after
                continue
            if magic != _REQUEST_MAGIC:
                raise ProtocolError(f"a request starts with {magic:#x} instead of its magic number")
            limit = self._payload_max_bytes.get(kind)
            if limit is None:
                at += _HEADER_BYTES
                self._command(flags, kind, cookie, offset, length)
                if self._replies.backlog_bytes > REPLIES_MAX_BYTES:
                    self.paused = True
                    break
                continue
            if length > limit:
                raise ProtocolError(f"a request of type {kind} carries {length} bytes, more than {limit}")
            start = at + _HEADER_BYTES
            if start + length > end:
                break
            at = start + length
            if kind == _CMD_WRITE and flags <= 1 and writable and 0 < length <= size_bytes - offset:
                self.in_flight += 1
                chunk.users += 1
                submit(_Write(self, chunk, cookie, offset, view[start:at], flags == 1))
            else:
                self._payload_command(flags, kind, cookie, offset, length, [view[start:at]], [])
        if self._ended:
            return
        self._at = at
        if not (self.paused or self.stopped):
            self._make_room()

    def _take_writes(self, at: int) -> int:
        """Hand on the plain WRITEs from `at` on, all together; where they end."""
        assert _quick is not None and self._submit_all is not None
        taken: list[Request] = []
        limits = (self._size_bytes, wire.BLOCK_MAX_BYTES, REQUESTS_MAX - self.in_flight)
        shared, chunk = (self, self._chunk, _WRITE), self._chunk
        end: int = _quick.take_writes(_Write, chunk.view, at, self._end, limits, shared, taken)
        if taken:
            self.in_flight += len(taken)
            chunk.users += len(taken)
            self._submit_all(taken)
        return end

    def _make_room(self) -> None:
        """See that the request that starts at `_at`, and is not complete, can become so."""
        at, have = self._at, self._end - self._at
        if not have:
            return
        needed = _HEADER_BYTES
        if have >= _HEADER_BYTES:
            _magic, flags, kind, cookie, offset, length = _unpack_request(self._chunk.view, at)
            needed += length
        if at + needed <= CHUNK_BYTES:
            return
        if needed <= _CONTIGUOUS_MAX_BYTES:
            tail = bytes(self._chunk.view[at : self._end])
            self._next_chunk()
            self._chunk.view[:have] = tail
            self._end = have
        else:
            self._at += _HEADER_BYTES
            self._gathering = _Gathered(flags, kind, cookie, offset, length)
            self._gather(self._gathering)

    def _gather(self, gathering: _Gathered) -> bool:
        """Take what arrived of a payload that spans chunks; True when it is complete and handed on."""
        here = min(self._end - self._at, gathering.missing)
        if here < gathering.missing and self._end < CHUNK_BYTES:
            return False
        gathering.add(self._chunk, self._at, self._at + here)
        self._at += here
        if gathering.missing:
            self._next_chunk()
            return False
        self._gathering = None
        g = gathering
        self._payload_command(g.flags, g.kind, g.cookie, g.offset, g.length, g.views, g.chunks)
        return not self._ended

    def _next_chunk(self, *, last: bool = False) -> None:
        """Go on in another chunk. The old one goes back to the pool when its last request ends."""
        old = self._chunk
        if last:
            self._chunk = _NO_CHUNK
        else:
            self._chunk = self._pool.take()
            self._held_bytes += CHUNK_BYTES
        self._at = self._end = 0
        if not old.users and old is not _NO_CHUNK:
            self._give_back(old)

    def _give_back(self, chunk: Chunk) -> None:
        self._held_bytes -= CHUNK_BYTES
        self._pool.give_back(chunk)

    def _release(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            chunk.users -= 1
            if not chunk.users and chunk is not self._chunk:
                self._give_back(chunk)

    # Requests with a payload.

    def _payload_command(
        self,
        flags: int,
        kind: int,
        cookie: int,
        offset: int,
        length: int,
        views: list[memoryview],
        chunks: list[Chunk],
    ) -> None:
        """A WRITE of several buffers, one to be refused, or the private command."""
        if kind == wire.CMD_HOLDFAST_CONTROL:
            payload = b"".join(views)
            self._release(chunks)
            self.in_flight += 1
            self._export.control(payload, partial(self._controlled, cookie))
            return
        error = self._refuse_write(flags, wire.CMD_FLAG_FUA, offset, length)
        if error:
            self._release(chunks)
            self._replies.simple(cookie, error)
            return
        self.in_flight += 1
        done = partial(self._gathered_written, cookie, chunks)
        self._export.submit(Request(_WRITE, offset, length, done, views, bool(flags)))

    def _refuse_write(self, flags: int, allowed: int, offset: int, length: int) -> int:
        """The error that a request that changes [offset, offset + length) deserves, or 0."""
        if flags & ~allowed or not length:
            return wire.EINVAL
        if not self._writable:
            return wire.EPERM
        return wire.ENOSPC if offset + length > self._size_bytes else 0

    def written(self, cookie: int, chunk: Chunk, outcome: Outcome) -> None:
        """A WRITE out of `chunk` has ended."""
        chunk.users -= 1
        if not chunk.users and chunk is not self._chunk:
            self._give_back(chunk)
        self.in_flight -= 1
        if outcome is _OK:
            self._replies.good(cookie)
        else:
            self._replies.simple(cookie, wire.error_of(outcome))

    def _gathered_written(self, cookie: int, chunks: list[Chunk], outcome: Outcome) -> None:
        self._release(chunks)
        self._ended_simply(cookie, outcome)

    def _ended_simply(self, cookie: int, outcome: Outcome) -> None:
        self.in_flight -= 1
        self._replies.simple(cookie, wire.error_of(outcome))

    def _controlled(self, cookie: int, outcome: Outcome, answer: bytes) -> None:
        self.in_flight -= 1
        if outcome is not _OK:
            self._replies.simple(cookie, wire.error_of(outcome))
            return
        if len(answer) > wire.CONTROL_MAX_BYTES:
            raise ValueError(f"a control answer of {len(answer)} bytes is over {wire.CONTROL_MAX_BYTES}")
        self._replies.control(cookie, answer)

    # Requests without one.

    def _command(self, flags: int, kind: int, cookie: int, offset: int, length: int) -> None:
        command = self._commands.get(kind)
        if command is None:
            self._replies.simple(cookie, wire.EINVAL)
        else:
            command(flags, cookie, offset, length)

    def _disconnect(self, _flags: int, _cookie: int, _offset: int, _length: int) -> None:
        self.stopped = True

    def _read(self, flags: int, cookie: int, offset: int, length: int) -> None:
        allowed = wire.CMD_FLAG_FUA | (wire.CMD_FLAG_DF if self._agreed.structured else 0)
        outside = offset + length > self._size_bytes
        if flags & ~allowed or not 0 < length <= wire.BLOCK_MAX_BYTES or outside:
            self._replies.read_error(cookie, wire.EINVAL)
            return
        views = [] if self._lends else [memoryview(bytearray(length))]
        self.in_flight += 1
        self._held_bytes += length
        request = Request(Op.READ, offset, length, partial(self._read_done, cookie, offset, length, views))
        request.buffers = views  # An empty list is to be the very one that is filled.
        self._export.submit(request)

    def _read_done(
        self, cookie: int, offset: int, length: int, views: list[memoryview], outcome: Outcome
    ) -> None:
        self.in_flight -= 1
        self._held_bytes -= length
        if outcome is _OK:
            if sum(map(len, views)) != length:
                raise ValueError(f"an export lent {sum(map(len, views))} bytes for a read of {length}")
            self._replies.read(cookie, offset, length, views)
        else:
            self._replies.read_error(cookie, wire.error_of(outcome))

    def _zero(self, flags: int, cookie: int, offset: int, length: int) -> None:
        error = self._refuse_write(flags, wire.CMD_FLAG_FUA | wire.CMD_FLAG_NO_HOLE, offset, length)
        if error:
            self._replies.simple(cookie, error)
            return
        self.in_flight += 1
        fua = bool(flags & wire.CMD_FLAG_FUA)
        self._submit(Op.ZERO, offset, length, partial(self._ended_simply, cookie), fua=fua)

    def _flush(self, flags: int, cookie: int, offset: int, length: int) -> None:
        if flags & ~wire.CMD_FLAG_FUA or offset or length:
            self._replies.simple(cookie, wire.EINVAL)
        elif not self._writable:
            self._replies.simple(cookie, 0)
        else:
            self.in_flight += 1
            self._submit(Op.FLUSH, 0, 0, partial(self._ended_simply, cookie))

    def _cache(self, flags: int, cookie: int, offset: int, length: int) -> None:
        """A hint that nothing here can use."""
        bad = flags & ~wire.CMD_FLAG_FUA or not length or offset + length > self._size_bytes
        self._replies.simple(cookie, wire.EINVAL if bad else 0)

    def _submit(
        self,
        op: Op,
        offset: int,
        length: int,
        done: Done,
        buffers: list[memoryview] | None = None,
        fua: bool = False,
    ) -> None:
        self._export.submit(Request(op, offset, length, done, buffers, fua))

    def _block_status(self, flags: int, cookie: int, offset: int, length: int) -> None:
        allowed = wire.CMD_FLAG_FUA | wire.CMD_FLAG_REQ_ONE
        bad = flags & ~allowed or not length or offset + length > self._size_bytes
        if bad or not self._agreed.contexts:
            self._replies.read_error(cookie, wire.EINVAL)
            return
        limit = 1 if flags & wire.CMD_FLAG_REQ_ONE else wire.STATUS_MAX_RUNS
        gather = StatusGather(length, limit, len(self._agreed.contexts), partial(self._status_done, cookie))
        self.in_flight += 1
        for number, context in self._agreed.contexts:
            self._export.block_status(context, offset, length, partial(gather.take, number))

    def _status_done(self, cookie: int, gather: StatusGather) -> None:
        self.in_flight -= 1
        if gather.outcome is _OK:
            self._replies.block_status(cookie, gather.payloads)
        else:
            self._replies.read_error(cookie, wire.error_of(gather.outcome))


_NO_CHUNK = Chunk()
"""Stands where an ended connection had its chunk."""
