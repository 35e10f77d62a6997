"""The primary's side of the mirror session: what was sent and is not confirmed survives a lost session.

A session is opened for one epoch. When one is lost, the next is aligned (align.py) before anything new
is sent: every unconfirmed request goes again, in its order, and regions in doubt are copied. Only then
is the link `up`. Nothing is acknowledged without the mirror, so a lost link costs time, never a write.

A request that its owner gives up is dropped with its session (a copy may be anywhere between the two
hosts, and the mirror drains an old session before it serves a new one), and its regions are in doubt.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

from holdfast.base.device import Done, Op, Outcome, Request
from holdfast.base.errors import HoldfastError, Unavailable
from holdfast.base.extents import covering
from holdfast.base.limits import REGION_BYTES
from holdfast.base.loop import Loop, Timer
from holdfast.base.steps import Resume, Starter, Steps, run
from holdfast.replicator.messages import Message, decode, encode

log = logging.getLogger(__name__)

BEAT_INTERVAL_S = 1.0
SILENT_MAX_S = 4.0
RETRY_MIN_S = 0.1
RETRY_MAX_S = 2.0


class Session(Protocol):
    """An open NBD session to the mirror (holdfast.base.nbd.session)."""

    def write(self, offset: int, buffers: list[memoryview], fua: bool, done: Done) -> None: ...
    def zero(self, offset: int, length: int, fua: bool, done: Done) -> None: ...
    def flush(self, done: Done) -> None: ...
    def control(self, payload: bytes, done: Callable[[Outcome, bytes], None]) -> None: ...
    def close(self) -> None: ...


Dial = Callable[[Callable[[Session], None], Callable[[str], None]], Session]
"""dial(on_ready, on_lost) starts to connect; `on_lost(why)` comes once, before or after `on_ready`."""


class Sent:
    """A request on its way. `done` is called with the mirror's outcome, which is OK."""

    __slots__ = ("done", "request")

    def __init__(self, request: Request, done: Done) -> None:
        self.request = request
        self.done = done


class Link:
    """Loop thread only. `align(link)` is the sequence that makes a fresh session `up`."""

    def __init__(self, loop: Loop, dial: Dial, align: Callable[["Link"], Steps[None]]) -> None:
        self._loop = loop
        self._dial = dial
        self._align = align
        self._session: Session | None = None
        self._ready = False
        self._sending = False
        self._dialled = 0
        self._unconfirmed: dict[Sent, None] = {}
        self._asking: dict[int, Resume] = {}
        self._asked = 0
        self._retry_s = RETRY_MIN_S
        self._timer: Timer | None = None
        self._heard_at = 0.0
        self._closed = False
        self.up = False
        self.why_down = "not connected yet"
        self.in_doubt: set[int] = set()
        self.on_change: Callable[[], None] = lambda: None

    def start(self) -> None:
        self._timer = None
        if not self._closed:
            self._dialled += 1
            number = self._dialled
            self._session = self._dial(partial(self._opened, number), partial(self._lost, number))

    def close(self) -> None:
        """For good. Unconfirmed requests stay unconfirmed and are never sent again."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._drop_session("closed")

    def send(self, request: Request, done: Done) -> Sent:
        """Send a WRITE, ZERO or FLUSH, now or when the link is back; `done(OK)` once it is confirmed."""
        sent = Sent(request, done)
        self._unconfirmed[sent] = None
        if self._sending:
            self._transmit(sent)
        return sent

    def forget(self, sent: Sent) -> None:
        """Give up a request: no copy of it is applied at the mirror after the next session opens."""
        if sent in self._unconfirmed:
            del self._unconfirmed[sent]
            self.doubt(sent.request.offset, sent.request.length)
            if self._session is not None:
                self._break("a request took too long")

    def doubt(self, offset: int, length: int) -> None:
        """The hosts may differ in this range: copy its regions before the link is next `up`."""
        self.in_doubt.update(covering(offset, length, REGION_BYTES))

    def ask(self, message: Message) -> Starter:
        """A step: send a message, go on with its answer, or with Unavailable if the session is lost."""

        def start(resume: Resume) -> None:
            if not self._ready or self._session is None:
                resume(Unavailable("MIRROR_LOST", f"the mirror is out of reach: {self.why_down}."))
                return
            self._asked += 1
            number = self._asked
            self._asking[number] = resume
            self._session.control(encode(message), partial(self._answered, number))

        return start

    def confirm(self, request: Request) -> Starter:
        """A step: send a request over the session at hand, go on with its outcome."""

        def start(resume: Resume) -> None:
            if not self._ready:
                resume(Unavailable("MIRROR_LOST", f"the mirror is out of reach: {self.why_down}."))
                return
            self._asked += 1
            number = self._asked
            self._asking[number] = resume
            self._pass_on(request, lambda outcome: self._take(number, outcome))

        return start

    def resend_unconfirmed(self) -> None:
        """The mirror is ready for requests: those that wait go first, in their order."""
        self._sending = True
        for sent in list(self._unconfirmed):
            self._transmit(sent)

    def _transmit(self, sent: Sent) -> None:
        self._pass_on(sent.request, partial(self._confirmed, sent))

    def _pass_on(self, request: Request, done: Done) -> None:
        session = self._session
        assert session is not None
        if request.op is Op.FLUSH:
            session.flush(done)
        elif request.op is Op.ZERO:
            session.zero(request.offset, request.length, request.fua, done)
        else:
            session.write(request.offset, request.buffers, request.fua, done)

    def _confirmed(self, sent: Sent, outcome: Outcome) -> None:
        self._heard_at = self._loop.now()
        if outcome is not Outcome.OK:
            self._break(f"the mirror answered {outcome.value} to a {sent.request.op.value}")
        elif self._unconfirmed.pop(sent, sent) is None:
            sent.done(outcome)

    def _answered(self, number: int, outcome: Outcome, payload: bytes) -> None:
        self._heard_at = self._loop.now()
        if outcome is not Outcome.OK:
            said = payload.decode(errors="replace") or outcome.value
            self._take(number, Unavailable("MIRROR_REFUSED", f"the mirror refused: {said}"))
            return
        try:
            self._take(number, decode(payload))
        except ValueError as error:
            self._break(f"the mirror's answer is no message: {error}")

    def _take(self, number: int, value: object) -> None:
        resume = self._asking.pop(number, None)
        if resume is not None:
            resume(value)

    def _opened(self, number: int, session: Session) -> None:
        if number != self._dialled or self._closed:
            return
        self._session, self._ready = session, True
        self._heard_at = self._loop.now()
        self._beat(session)

        def aligned(_nothing: None) -> None:
            if self._session is session:
                self.up, self.why_down, self._retry_s = True, "", RETRY_MIN_S
                log.info("the mirror session is up")
                self.on_change()

        def failed(error: Exception) -> None:
            if not isinstance(error, HoldfastError | OSError):
                raise error
            if self._session is session:
                self._break(str(error))

        run(self._align(self), aligned, failed)

    def _beat(self, session: Session) -> None:
        if self._session is not session:
            return
        if self._loop.now() - self._heard_at > SILENT_MAX_S:
            self._break(f"the mirror said nothing for {SILENT_MAX_S:.0f} s")
            return
        self.ask({"do": "beat"})(lambda _answer: None)
        self._loop.call_later(BEAT_INTERVAL_S, partial(self._beat, session))

    def _break(self, why: str) -> None:
        """End the session from this side and try again."""
        session = self._session
        if session is not None:
            self._drop_session(why)
            self._again()

    def _lost(self, number: int, why: str) -> None:
        """The session ended by itself, or never began."""
        if number != self._dialled or self._timer is not None:
            return
        self._session = None
        self._drop_session(why)
        self._again()

    def _drop_session(self, why: str) -> None:
        session, self._session = self._session, None
        was_up, self.up, self._ready, self._sending = self.up, False, False, False
        self.why_down = why
        if session is not None:
            session.close()
        asking, self._asking = self._asking, {}
        for resume in asking.values():
            resume(Unavailable("MIRROR_LOST", f"the mirror is out of reach: {why}."))
        if was_up:
            log.warning("the mirror session is lost: %s", why)
            self.on_change()

    def _again(self) -> None:
        if not self._closed and self._timer is None:
            self._timer = self._loop.call_later(self._retry_s, self.start)
            self._retry_s = min(self._retry_s * 2, RETRY_MAX_S)
