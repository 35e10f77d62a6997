"""The mirror's side of the session: one at a time, for one epoch, drained before the next begins.

The NBD export `mirror:<volume>:<epoch>`. Writes are applied in the local order; words (messages.py) are
carried out one after another. Whether the peer may open it at all was decided before (exports.py).
"""

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from holdfast.base.device import Done, Op, Outcome, Request
from holdfast.base.errors import HoldfastError
from holdfast.base.steps import Steps, run
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.messages import Message, decode, encode
from holdfast.replicator.order import Turn
from holdfast.replicator.settle import settle

log = logging.getLogger(__name__)

Answer = Callable[[Outcome, bytes], None]


class Drain:
    """Counts what the sessions of a mirror have under way, so that a new one can wait for the old."""

    def __init__(self) -> None:
        self.current: MirrorExport | None = None
        self._busy: dict[MirrorExport, int] = {}
        self._waiting: list[tuple[MirrorExport, Callable[[None], None]]] = []

    def begin(self, session: "MirrorExport") -> None:
        self._busy[session] = self._busy.get(session, 0) + 1

    def end(self, session: "MirrorExport") -> None:
        self._busy[session] -= 1
        if self._busy[session] == 0:
            del self._busy[session]
            ready = [w for w in self._waiting if self._others_idle(w[0])]
            self._waiting = [w for w in self._waiting if w not in ready]
            for _session, resume in ready:
                resume(None)

    def wait(self, session: "MirrorExport", resume: Callable[[None], None]) -> None:
        """Call `resume(None)` when only `session` itself has anything under way."""
        if self._others_idle(session):
            resume(None)
        else:
            self._waiting.append((session, resume))

    def _others_idle(self, session: "MirrorExport") -> bool:
        return not (self._busy.keys() - {session})


class MirrorExport:
    """One session. `close_connection` is set by whoever opens it, to end it from this side."""

    read_only = False
    private = True
    contexts: tuple[str, ...] = ()

    def __init__(self, local: LocalReplica, drain: Drain) -> None:
        self._local = local
        self._drain = drain
        self._words: deque[tuple[Message, Answer]] = deque()
        self._speaking = False
        self._greeted = False
        self._ended = False
        self._close: Callable[[], None] = lambda: None
        self.size_bytes = local.store.size_bytes
        self.on_change: Callable[[], None] = lambda: None

    # What the NBD server calls.

    def opened(self, connection: Any) -> None:
        self._close = connection.close

    def closed(self) -> None:
        self._ended = True
        if self._drain.current is self:
            self._drain.current = None
            self.on_change()

    def end(self) -> None:
        """Close it from this side: nothing more of it is begun."""
        self._ended = True
        self._close()

    def submit(self, request: Request) -> None:
        if self._ended or (not self._greeted and request.op is not Op.READ):
            request.done(Outcome.STALE_EPOCH)
            return
        self._drain.begin(self)
        done, request.done = request.done, lambda outcome: self._finished(done, outcome)
        if request.op is Op.FLUSH:
            self._local.flush(request.done)
            return
        exclusive = request.op is not Op.READ
        self._local.order.take(
            request.offset, request.offset + request.length, exclusive, partial(self._begin, request)
        )

    def block_status(self, context: str, offset: int, length: int, done: Callable[[Any], None]) -> None:
        done(Outcome.INVALID)

    def control(self, payload: bytes, done: Answer) -> None:
        try:
            message = decode(payload)
        except ValueError as error:
            done(Outcome.INVALID, str(error).encode())
            return
        if message.get("do") == "clean":
            # At once: a write that follows in the stream must find its region cold.
            self._local.intent.forget(message["regions"])
        if message.get("do") in ("beat", "clean"):
            done(Outcome.OK, b"{}")
            return
        self._words.append((message, done))
        if not self._speaking:
            self._next_word()

    # Requests.

    def _finished(self, done: Done, outcome: Outcome) -> None:
        self._drain.end(self)
        done(outcome)

    def _begin(self, request: Request, turn: Turn) -> None:
        def end(outcome: Outcome) -> None:
            self._local.order.give_back(turn)
            request.done(outcome)

        if request.op is Op.READ:
            self._local.read(request, end)
        elif self._local.partly_covered(request.offset, request.length):
            # The primary fills an extent before it writes to part of it.
            log.error("a write to part of a missing extent at %d: refused", request.offset)
            end(Outcome.INVALID)
        else:
            self._local.prepare(request.offset, request.length, partial(self._apply, request, end), end)

    def _apply(self, request: Request, end: Done) -> None:
        if self._ended:
            end(Outcome.STALE_EPOCH)
        else:
            self._local.apply(request, end)

    # Words.

    def _next_word(self) -> None:
        if not self._words:
            return
        message, answer = self._words.popleft()
        self._speaking = True
        self._drain.begin(self)

        def end(outcome: Outcome, payload: bytes) -> None:
            self._speaking = False
            self._drain.end(self)
            answer(outcome, payload)
            self._next_word()

        def done(reply: Message) -> None:
            end(Outcome.OK, encode(reply))

        def failed(error: Exception) -> None:
            log.warning("the primary's %s failed: %s", message.get("do"), error)
            end(Outcome.MEDIUM_ERROR, str(error).encode())

        if self._ended:
            end(Outcome.STALE_EPOCH, b"this session is over")
        else:
            run(self._carry_out(message), done, failed)

    def _carry_out(self, message: Message) -> Steps[Message]:
        local, store = self._local, self._local.store
        match message:
            case {"do": "hello"}:
                return (yield from self._hello())
            case {"do": "open_generation", "generation": int(generation)}:
                yield partial(local.in_pool, partial(store.open_generation, generation))
            case {"do": "drop_view", "uid": str(uid)}:
                local.views.drop(uid)
            case {"do": "prepare_view", "uid": str(uid), "generation": int(generation)}:
                yield partial(local.in_pool, partial(store.prepare_view, uid, generation))
            case {"do": "flip", "uid": str(uid)}:
                store.flip(uid)
            case {"do": "record_view", "uid": str(uid), "freeze_time": float(at)}:
                yield partial(local.in_pool, partial(store.record_view, uid, at))
                self.on_change()
            case {"do": "settle"}:
                yield from settle(local)
            case {"do": "synced"}:
                store.in_doubt.clear()
            case _:
                raise HoldfastError("UNKNOWN_WORD", f"the mirror does not know {message.get('do')!r}.")
        return {}

    def _hello(self) -> Steps[Message]:
        old = self._drain.current
        self._drain.current = self
        if old is not None:
            old.end()
        yield partial(self._drain.wait, self)
        store = self._local.store
        yield partial(self._local.in_pool, store.abandon_freezes)
        self._greeted = True
        self.on_change()
        return {
            "generation": store.state.generation,
            "views": sorted(store.state.views),
            "in_doubt": sorted(store.in_doubt),
        }
