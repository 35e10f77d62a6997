"""The other side of the primary's session: one at a time, for one epoch, drained before the next begins.

The NBD export `mirror:<volume>:<epoch>`. Writes are applied in the local order; words (messages.py) are
carried out one after another. Whether the peer may open it at all was decided before (following.py).

A session serves from its `hello` on, which ends those before it and waits for what they have under way.
"""

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from holdfast.base.device import Done, Op, Outcome, Request
from holdfast.base.errors import HoldfastError, StaleEpoch
from holdfast.base.nbd.export import ControlDone, Served, StatusDone
from holdfast.base.steps import Resume, Steps, run
from holdfast.replicator.bitmap import Bitmap
from holdfast.replicator.bits import pages_of, some_pages
from holdfast.replicator.digests import digests
from holdfast.replicator.generations import abandon_freezes, open_generation
from holdfast.replicator.joiner import Joiner
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.messages import FAILED, HOPELESS, Message, decode, encode
from holdfast.replicator.order import Turn
from holdfast.replicator.settle import settle

log = logging.getLogger(__name__)

TAKES_NO_PART = ("DISK_FAILED", "LOCAL_DISK", "WRONG_STORE")
"""Reasons that no other session, and no patience, would change."""


class Drain:
    """Knows which sessions of a mirror have something under way, so that a new one can wait for the old."""

    def __init__(self) -> None:
        self.current: MirrorExport | None = None
        self._busy: set[MirrorExport] = set()
        self._waiting: list[tuple[MirrorExport, Resume]] = []
        self._when_idle: Resume | None = None
        self._entered = 0

    def begin(self, session: "MirrorExport") -> None:
        """The session has something under way."""
        self._busy.add(session)

    def end(self, session: "MirrorExport") -> None:
        """It has nothing under way any more."""
        self._busy.remove(session)
        if self._waiting:
            self._resume_ready()
        if self._when_idle is not None and not self._busy:
            resume, self._when_idle = self._when_idle, None
            resume(None)

    def end_all(self, resume: Resume) -> None:
        """A step: nothing more is begun; go on when all that was has ended. A later session may enter."""
        if self.current is not None:
            self.current.end()
        if self._busy:
            self._when_idle = resume
        else:
            resume(None)

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


class Host(Protocol):
    """What a session must know of the host that it is served by (following.py)."""

    host_id: str
    boot_id: str

    @property
    def role(self) -> str: ...

    @property
    def standby_age_s(self) -> float: ...

    @property
    def may_sync(self) -> bool:
        """Its turn has come to be made equal, if it is not in sync."""

    def lacks(self, left_bytes: int) -> None:
        """That much is left of its resync, as the primary says; -1: none is under way."""

    def beat(self) -> None:
        """A lease is about to be given."""

    def greeted(self, peer: str) -> None:
        """`peer` has opened a session: it serves, and so it has drained what it had from others."""

    def check(self, epoch: int) -> Steps[None]:
        """Raises StaleEpoch if a session of `epoch` is not to be served."""


_READ, _WRITE, _FLUSH = Op.READ, Op.WRITE, Op.FLUSH


class _Served(Turn):
    """A request of a session, and its turn on its range."""

    __slots__ = ("request", "session")

    def __init__(self, session: "MirrorExport", request: Request) -> None:
        self.start = request.offset
        self.end = request.offset + request.length
        self.exclusive = request.op is not _READ
        self.over = False
        self.blockers = 0
        self.waiters = None
        self.session = session
        self.request = request

    def begin(self) -> None:
        self.session.begin(self)

    def ended(self, outcome: Outcome) -> None:
        """It was applied, read or refused: its turn passes on."""
        session = self.session
        session.give_back(self)
        session.one_less()
        self.request.done(outcome)

    def flushed(self, outcome: Outcome) -> None:
        """A flush has no turn."""
        self.session.one_less()
        self.request.done(outcome)


class MirrorExport:
    """One session (holdfast.base.nbd.export.Export)."""

    read_only = False
    private = True
    contexts: tuple[str, ...] = ()

    def __init__(self, local: LocalReplica, drain: Drain, host: Host) -> None:
        self._local = local
        self._drain = drain
        self._host = host
        self._joiner = Joiner(local)
        self._words: deque[tuple[Message, ControlDone]] = deque()
        self._speaking = False
        self._greeted = False
        self._ended = False
        self._asking = ""
        self._connection: Served | None = None
        self._under_way = 0
        self.give_back = local.order.give_back
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
        self._one_more()
        served = _Served(self, request)
        if request.op is _FLUSH:
            self._local.flush(served.flushed)
        elif self._local.order.enter(served):
            self.begin(served)

    def submit_all(self, requests: list[Request]) -> None:
        """`submit` of each, one after the other; WRITEs of which no step has to wait are applied together."""
        local, enter, together, at = self._local, self._local.order.enter, list[_Served](), 0
        while at < len(requests):
            if self._greeted and not self._ended and len(requests) > 1:
                entered, at = local.enter_plain(_Served(self, requests[at]), requests, at)
                self._more(len(entered))
                together += entered
                if at == len(requests):
                    break
            request = requests[at]
            at += 1
            plain = request.op is _WRITE and not (request.fua or self._ended or local.store.missing.left)
            if not (plain and self._greeted):
                self._apply_all(together)
                together = []
                self.submit(request)
                continue
            self._one_more()
            served = _Served(self, request)
            if not enter(served):
                continue
            if local.is_prepared(request.offset, request.length):
                together.append(served)
            else:
                self._apply_all(together)
                together = []
                self.begin(served)
        self._apply_all(together)

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
            done(Outcome.OK, encode(self._beat(message)))
        elif word == "clean":
            # At once: a write that follows in the stream must find its region cold.
            try:
                self._local.intent.forget(_clean_regions(self._local.store.intent, message))
            except ValueError as error:
                done(Outcome.OK, encode({FAILED: str(error)}))
                return
            done(Outcome.OK, b"{}")
        else:
            self._words.append((message, done))
            if not self._speaking:
                self._next_word()

    # Requests.

    def _one_more(self) -> None:
        self._more(1)

    def _more(self, count: int) -> None:
        if count and not self._under_way:
            self._drain.begin(self)
        self._under_way += count

    def one_less(self) -> None:
        """Something that was under way has ended."""
        self._under_way -= 1
        if not self._under_way:
            self._drain.end(self)

    def begin(self, served: _Served) -> None:
        """It has its turn."""
        local, request = self._local, served.request
        if request.op is _READ:
            local.read(request, served.ended)
        elif local.store.missing.left and local.partly_covered(request.offset, request.length):
            # The primary fills an extent before it writes to part of it.
            log.error("a write to part of a missing extent at %d: refused", request.offset)
            served.ended(Outcome.INVALID)
        elif local.is_prepared(request.offset, request.length):
            local.apply(request, served.ended)
        else:
            local.prepare(
                request.offset, request.length, partial(self._apply, request, served.ended), served.ended
            )

    def _apply_all(self, together: list[_Served]) -> None:
        if together:
            self._local.apply_all([one.request for one in together], [one.ended for one in together])

    def _apply(self, request: Request, end: Done) -> None:
        if self._ended:
            end(Outcome.STALE_EPOCH)
        else:
            self._local.apply(request, end)

    # Words.

    def _beat(self, message: Message) -> Message:
        """An answer in a session that serves is a lease, if one is asked for: this host does not act against
        it for a while.

        A copy that is not to be trusted leaves the set, also while nobody writes.
        """
        if self._local.suspect:
            return {FAILED: self._local.suspect, HOPELESS: True}
        if self._greeted and message.get("lease"):
            self._host.beat()
        left = message.get("left")
        if self._greeted and isinstance(left, int):
            self._host.lacks(left)
        return {
            "serves": self._greeted,
            "standby_age_s": self._host.standby_age_s,
            "may_sync": self._host.may_sync,
        }

    def _next_word(self) -> None:
        if not self._words:
            return
        message, answer = self._words.popleft()
        self._speaking = True

        def end(outcome: Outcome, payload: bytes) -> None:
            self._speaking = False
            self.one_less()
            answer(outcome, payload)
            if not self._speaking:
                self._next_word()

        def done(reply: Message) -> None:
            end(Outcome.OK, encode(reply))

        def failed(error: Exception) -> None:
            if not isinstance(error, HoldfastError | OSError):
                raise error
            log.warning("the primary's %s failed: %s", message.get("do"), error)
            if isinstance(error, OSError):
                self._local.not_noted(error)
            named = isinstance(error, HoldfastError) and error.reason in TAKES_NO_PART
            hopeless = named or bool(self._local.suspect)
            end(Outcome.OK, encode({FAILED: str(error), HOPELESS: hopeless}))

        self._one_more()
        if self._ended:
            end(Outcome.STALE_EPOCH, b"")
        else:
            run(self._carry_out(message), done, failed)

    def _carry_out(self, message: Message) -> Steps[Message]:
        local, store = self._local, self._local.store
        match message:
            case {"do": "hello", "host": str(asking), "epoch": int(epoch), "size_bytes": int(size)}:
                return (yield from self._hello(asking, epoch, size))
            case {"do": "doubt", "start": int(start)}:
                return _part_of(self._doubt(), start)
            case {"do": "absent", "start": int(start)}:
                return _part_of(store.absent.get(self._asking), start)
            case {"do": "digest", "extents": extents}:
                return {"digests": (yield from digests(local, _within(extents, store.extents)))}
            case {"do": "unfill", "extents": extents}:
                store.missing.unfill(_within(extents, store.extents))
                yield partial(local.in_pool, store.missing.sync)
            case {"do": "settle"}:
                yield from settle(local)
            case {"do": "synced"}:
                store.in_doubt.clear()
            case {"do": "begin" | "changed" | "missing" | "allocated" | "whole"} if (
                self._host.role == "joiner"
            ):
                return (yield from self._joiner.carry_out(message))
            case _:
                yield from self._freeze(message)
        return {}

    def _freeze(self, message: Message) -> Steps[None]:
        """The words of freezes, and of what is left of them."""
        local, store = self._local, self._local.store
        match message:
            case {"do": "open_generation", "generation": int(generation)}:
                yield from open_generation(local, generation)
            case {"do": "drop_view", "uid": str(uid)}:
                local.views.drop(uid)
            case {"do": "prepare_view", "uid": str(uid), "generation": int(generation)}:
                if local.views.usable(uid) is not None:
                    local.views.drop(uid)
                yield partial(local.in_pool, partial(store.prepare_view, uid, generation))
            case {"do": "flip", "uid": str(uid)}:
                store.flip(uid)
            case {"do": "record_view", "uid": str(uid), "freeze_time": float(at)}:
                yield partial(local.in_pool, partial(store.record_view, uid, at))
                self.on_change()
            case _:
                raise HoldfastError("UNKNOWN_WORD", f"the mirror does not know {message.get('do')!r}.")

    def _doubt(self) -> Bitmap:
        """In sync, only what was under way when this process found it; else all that is intended."""
        store = self._local.store
        if self._host.role == "joiner":
            return store.intent
        regions = Bitmap.in_memory(store.regions)
        for region in store.in_doubt:
            regions.set(region)
        return regions

    def _hello(self, asking: str, epoch: int, size_bytes: int) -> Steps[Message]:
        if size_bytes != self._local.store.size_bytes:
            mine = self._local.store.size_bytes
            raise HoldfastError("WRONG_STORE", f"this copy has {mine} bytes, not {size_bytes}.")
        if self._local.suspect:
            raise HoldfastError("DISK_FAILED", self._local.suspect)
        yield partial(self._drain.enter, self)
        yield from self._host.check(epoch)
        yield from abandon_freezes(self._local)
        if self._ended:
            raise StaleEpoch("this session was ended before it began.")
        store = self._local.store
        self._greeted, self._asking = True, asking
        self._host.greeted(asking)
        self.on_change()
        return {
            "role": self._host.role,
            "boot_id": self._host.boot_id,
            "generation": store.generation,
            "views": sorted(store.state.views),
            "synced_epoch": store.state.synced_epoch,
            "tracks": asking in store.absent,
            "misses": bool(store.missing.left),
        }


def _part_of(bitmap: Bitmap | None, start: int) -> Message:
    pages, following = some_pages(bitmap, start) if bitmap is not None else ([], -1)
    return {"pages": pages, "next": following}


def _clean_regions(intent: Bitmap, message: Message) -> list[int]:
    """Raises ValueError."""
    if "but" not in message:
        return _within(message.get("regions"), intent.bits)
    return [region for at, page in pages_of(message["but"]) for region in intent.set_but(at, page)]


def _within(indexes: object, end: int) -> list[int]:
    """The indexes of [0, end) that a message names; it may come from another version."""
    named = indexes if isinstance(indexes, list) else []
    return [index for index in named if isinstance(index, int) and 0 <= index < end]
