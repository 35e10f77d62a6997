"""The mirror's side of the session: one at a time, for one epoch, drained before the next begins.

The NBD export `mirror:<volume>:<epoch>`. Writes are applied in the local order; words (messages.py) are
carried out one after another. Whether the peer may open it at all was decided before (exports.py).

A session serves from its `hello` on, which ends those before it and waits for what they have under way.
"""

import logging
from collections import deque
from collections.abc import Callable
from functools import partial

from holdfast.base.device import Done, Op, Outcome, Request
from holdfast.base.errors import HoldfastError, StaleEpoch
from holdfast.base.nbd.export import ControlDone, Served, StatusDone
from holdfast.base.steps import Resume, Steps, run
from holdfast.replicator.generations import abandon_freezes, open_generation
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.messages import FAILED, Message, decode, encode
from holdfast.replicator.order import Turn
from holdfast.replicator.settle import settle

log = logging.getLogger(__name__)


class Drain:
    """Counts what the sessions of a mirror have under way, so that a new one can wait for the old."""

    def __init__(self) -> None:
        self.current: MirrorExport | None = None
        self._busy: dict[MirrorExport, int] = {}
        self._waiting: list[tuple[MirrorExport, Resume]] = []
        self._entered = 0

    def begin(self, session: "MirrorExport") -> None:
        self._busy[session] = self._busy.get(session, 0) + 1

    def end(self, session: "MirrorExport") -> None:
        left = self._busy[session] - 1
        self._busy[session] = left
        if left == 0:
            del self._busy[session]
            if self._waiting:
                self._resume_ready()

    def enter(self, session: "MirrorExport", resume: Resume) -> None:
        """Make `session` the current one and end the one before; call `resume(None)` when nothing of
        earlier ones is under way. Later ones are not waited for: they wait for this one.
        """
        old, self.current = self.current, session
        self._entered += 1
        session.number = self._entered
        if old is not None and old is not session:
            old.end()
        self._waiting.append((session, resume))
        self._resume_ready()

    def _resume_ready(self) -> None:
        oldest = min((s.number for s in self._busy if s.number), default=self._entered + 1)
        ready = [waiting for waiting in self._waiting if waiting[0].number <= oldest]
        self._waiting = [waiting for waiting in self._waiting if waiting[0].number > oldest]
        for _session, resume in ready:
            resume(None)


class MirrorExport:
    """One session (holdfast.base.nbd.export.Export)."""

    read_only = False
    private = True
    contexts: tuple[str, ...] = ()

    def __init__(self, local: LocalReplica, drain: Drain) -> None:
        self._local = local
        self._drain = drain
        self._words: deque[tuple[Message, ControlDone]] = deque()
        self._speaking = False
        self._greeted = False
        self._ended = False
        self._connection: Served | None = None
        self.number = 0
        """Its place among the sessions that said hello; 0 before, when it has nothing under way."""
        self.size_bytes = local.store.size_bytes
        self.on_change: Callable[[], None] = lambda: None

    # What the NBD server calls.

    def opened(self, connection: Served) -> None:
        self._connection = connection

    def closed(self) -> None:
        self._ended = True
        self._connection = None
        if self._drain.current is self:
            self._drain.current = None
            self.on_change()

    def end(self) -> None:
        """Close it from this side: nothing more of it is begun."""
        self._ended = True
        if self._connection is not None:
            self._connection.close("another session took its place, or the host another role")

    def submit(self, request: Request) -> None:
        if self._ended or not self._greeted:
            request.done(Outcome.STALE_EPOCH)
            return
        self._drain.begin(self)
        request.done = partial(self._finished, request.done)
        if request.op is Op.FLUSH:
            self._local.flush(request.done)
            return
        exclusive = request.op is not Op.READ
        self._local.order.take(
            request.offset, request.offset + request.length, exclusive, partial(self._begin, request)
        )

    def block_status(self, context: str, offset: int, length: int, done: StatusDone) -> None:
        done(Outcome.INVALID)

    def control(self, payload: bytes, done: ControlDone) -> None:
        try:
            message = decode(payload)
        except ValueError as error:
            done(Outcome.OK, encode({FAILED: str(error)}))
            return
        word = message.get("do")
        if self._ended or not (self._greeted or word in ("hello", "beat")):
            done(Outcome.STALE_EPOCH, b"")
        elif word == "beat":
            done(Outcome.OK, b"{}")
        elif word == "clean":
            # At once: a write that follows in the stream must find its region cold.
            regions = _within(message.get("regions"), self._local.store.regions)
            self._local.intent.forget(regions)
            done(Outcome.OK, b"{}")
        else:
            self._words.append((message, done))
            if not self._speaking:
                self._next_word()

    # Requests.

    def _finished(self, done: Done, outcome: Outcome) -> None:
        self._drain.end(self)
        done(outcome)

    def _begin(self, request: Request, turn: Turn) -> None:
        local = self._local
        end = partial(self._end_turn, request, turn)
        if request.op is Op.READ:
            local.read(request, end)
        elif local.store.missing.left and local.partly_covered(request.offset, request.length):
            # The primary fills an extent before it writes to part of it.
            log.error("a write to part of a missing extent at %d: refused", request.offset)
            end(Outcome.INVALID)
        elif local.is_prepared(request.offset, request.length):
            local.apply(request, end)
        else:
            local.prepare(request.offset, request.length, partial(self._apply, request, end), end)

    def _apply(self, request: Request, end: Done) -> None:
        if self._ended:
            end(Outcome.STALE_EPOCH)
        else:
            self._local.apply(request, end)

    def _end_turn(self, request: Request, turn: Turn, outcome: Outcome) -> None:
        self._local.order.give_back(turn)
        request.done(outcome)

    # Words.

    def _next_word(self) -> None:
        if not self._words:
            return
        message, answer = self._words.popleft()
        self._speaking = True

        def end(outcome: Outcome, payload: bytes) -> None:
            self._speaking = False
            self._drain.end(self)
            answer(outcome, payload)
            if not self._speaking:
                self._next_word()

        def done(reply: Message) -> None:
            end(Outcome.OK, encode(reply))

        def failed(error: Exception) -> None:
            if not isinstance(error, HoldfastError | OSError):
                raise error
            log.warning("the primary's %s failed: %s", message.get("do"), error)
            end(Outcome.OK, encode({FAILED: str(error)}))

        self._drain.begin(self)
        if self._ended:
            end(Outcome.STALE_EPOCH, b"")
        else:
            run(self._carry_out(message), done, failed)

    def _carry_out(self, message: Message) -> Steps[Message]:
        local, store = self._local, self._local.store
        match message:
            case {"do": "hello"}:
                return (yield from self._hello())
            case {"do": "open_generation", "generation": int(generation)}:
                yield from open_generation(local, generation)
            case {"do": "drop_view", "uid": str(uid)}:
                local.views.drop(uid)
            case {"do": "unfill", "extents": extents}:
                store.missing.unfill(_within(extents, store.extents))
                yield partial(local.in_pool, store.missing.sync)
            case {"do": "prepare_view", "uid": str(uid), "generation": int(generation)}:
                if local.views.usable(uid) is not None:
                    local.views.drop(uid)
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
        yield partial(self._drain.enter, self)
        yield from abandon_freezes(self._local)
        if self._ended:
            raise StaleEpoch("this session was ended before it began.")
        store = self._local.store
        self._greeted = True
        self.on_change()
        return {
            "generation": store.generation,
            "views": sorted(store.state.views),
            "in_doubt": sorted(store.in_doubt),
        }


def _within(indexes: object, end: int) -> list[int]:
    """The indexes of [0, end) that a message names; it may come from another version."""
    named = indexes if isinstance(indexes, list) else []
    return [index for index in named if isinstance(index, int) and 0 <= index < end]
