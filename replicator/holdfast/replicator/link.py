"""The primary's side of a session to another host: what was sent and is not confirmed survives its loss.

A session is opened for one epoch. When one is lost, the next is aligned (align.py, join.py) before anything
new is sent: every unconfirmed request goes again, in its order, and regions in doubt are copied. Only then
is the link `up`. What a host that is gone for longer means to its requests is the owner's to decide
(partner.py): it may take them all back (`take_unconfirmed`).

Each answered beat is a beacon: a lease, counted from its sending, within which no other host has become
the primary (I-3). A primary that should not be it asks for none: others may take over from it.

A write that its owner gives up is dropped with its session (a copy may be anywhere between the two
hosts, and the mirror drains an old session before it serves a new one), and its regions are in doubt.
Whenever something comes into doubt the session at hand ends, so that `in_doubt` never grows behind the
back of an alignment, and is empty while the link is up.
"""

import logging
import math
from collections.abc import Callable
from functools import partial

from holdfast.base.device import Done, Op, Outcome, Request
from holdfast.base.errors import HoldfastError, Unavailable
from holdfast.base.extents import covering
from holdfast.base.limits import (
    BEACON_INTERVAL_S,
    BEACON_LEASE_S,
    LINK_LOST_S,
    LINK_REFUSED_S,
    REGION_BYTES,
)
from holdfast.base.loop import Loop, Timer
from holdfast.base.steps import Steps, run
from holdfast.replicator.messages import Message
from holdfast.replicator.talk import REFUSED, TAKES_NO_PART, Session, Talk

log = logging.getLogger(__name__)

_OK, _WRITE = Outcome.OK, Op.WRITE
RETRY_MIN_S = 0.1
RETRY_MAX_S = 1.0

Dial = Callable[[Callable[[Session], None], Callable[[str], None]], Session]
"""dial(on_ready, on_lost) starts to connect; `on_lost(why)` comes at most once, `on_ready` or not."""


class Sent:
    """A request on its way. `done` is called with the mirror's outcome, which is OK."""

    __slots__ = ("_link", "done", "request")

    def __init__(self, link: "Link", request: Request, done: Done) -> None:
        self._link = link
        self.request = request
        self.done = done

    def confirmed(self, outcome: Outcome) -> None:
        """What the session at hand says of it."""
        link = self._link
        if outcome is _OK:
            link._heard_of = True
            if link._unconfirmed.pop(self, self) is None:
                self.done(_OK)
        else:
            link.refuse(self, outcome)


class Link:
    """Loop thread only. `align(link)` is the sequence that makes a fresh session `up`."""

    def __init__(self, loop: Loop, dial: Dial, align: Callable[["Link"], Steps[None]]) -> None:
        self._loop = loop
        self._dial = dial
        self._align = align
        self._dialling: Session | None = None
        self._talk: Talk | None = None
        self._sending: Talk | None = None
        self._number = 0
        self._unconfirmed: dict[Sent, None] = {}
        self._retry_s = RETRY_MIN_S
        self._timer: Timer | None = None
        self._heard_of = False
        self._heard_at_s = loop.now()
        self._opened_at_s = 0.0
        self._closed = False
        self.up = False
        self.why_down = "not connected yet"
        self.hopeless = ""
        """Why waiting for that host helps nobody; empty while there is hope."""
        self.sound = True
        """Though it is hopeless, what it holds is good: it had no room, or does not say."""
        self._refused_s = math.inf
        """Since when it refuses to be made equal."""
        self.in_doubt: set[int] = set()
        self.mending = False
        """Something was in doubt when the session began, and that host was not told yet that all is equal."""
        self.boot_id = ""
        """Of that host, as it says."""
        self.equal_in_boot = ""
        """That host has been made equal in this boot of it, and has been in sync since, or is about to be."""
        self.answered_s = -math.inf
        """When the newest beat was sent that a session answered which serves."""
        self.leased_until_s = 0.0
        self.wants_lease: Callable[[], bool] = lambda: True
        self.left_bytes: Callable[[], int] = lambda: -1
        """Of the resync of that host, for it to be told."""
        self.on_change: Callable[[], None] = lambda: None
        self.on_greeted: Callable[[], None] = lambda: None
        """Called when that host has answered a hello: it has drained all earlier sessions."""
        self.on_beat: Callable[[Message], None] = lambda _answer: None
        """Called with the answer to a beat, when `answered_s` has moved."""

    def start(self) -> None:
        self._timer = None
        if self._closed:
            return
        self._number += 1
        number = self._number
        try:
            session = self._dial(partial(self._opened, number), partial(self._lost, number))
        except OSError as error:
            self._lost(number, f"no connection can be begun: {error}")
            return
        if number == self._number and self._talk is None:
            self._dialling = session

    def close(self) -> None:
        """For good. Unconfirmed requests stay unconfirmed and are never sent again."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._drop_session("closed")

    def pause(self, why: str) -> None:
        """The session ends, if there is one, and none is dialled until `renew`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._drop_session(why)

    def renew(self, why: str) -> None:
        """Whatever there is ends, and a session is dialled at once: the epoch, or what it is for, is new."""
        self.pause(why)
        self._retry_s, self.hopeless, self._refused_s = RETRY_MIN_S, "", math.inf
        self._heard_of, self._heard_at_s = False, self._loop.now()
        self.start()

    def start_over(self, why: str) -> None:
        """End the session, if there is one: the next begins with an alignment."""
        if self._talk is not None:
            self._drop_session(why)
            self._again()

    @property
    def equal(self) -> bool:
        """That host is there, and holds what this one does."""
        return self.up and not (self.mending or self.in_doubt)

    def unheard_s(self) -> float:
        """Seconds without a sign of life, or since the link was made."""
        if self._heard_of:
            self._heard_of, self._heard_at_s = False, self._loop.now()
        return self._loop.now() - self._heard_at_s

    def give_up_hope(self, why: str, sound: bool = False) -> None:
        """That host can take no part as it is: its owner need not wait for LINK_LOST_S."""
        self.hopeless, self.sound = why, sound
        self.start_over(why)

    def take_unconfirmed(self) -> list[Sent]:
        """Nobody waits for that host any more: what it has not confirmed, and ends with it. The session, if
        there is one, must not have any of them under way.
        """
        taken = list(self._unconfirmed)
        self._unconfirmed.clear()
        return taken

    @property
    def unconfirmed(self) -> list[Request]:
        return [sent.request for sent in self._unconfirmed]

    def send(self, request: Request, done: Done) -> Sent:
        """Send a request (Talk.transmit), now or when the link is back; `done(OK)` once it is confirmed."""
        sent = Sent(self, request, done)
        self._unconfirmed[sent] = None
        talk = self._sending
        if talk is None:
            return sent
        if request.op is _WRITE:
            talk.write(request.offset, request.buffers, request.fua, sent.confirmed)
        else:
            talk.transmit(request, sent.confirmed)
        return sent

    def send_all(self, requests: list[Request], dones: list[Done]) -> list[Sent]:
        """As `send` of each of these WRITEs, in their order."""
        sents = [Sent(self, request, done) for request, done in zip(requests, dones, strict=True)]
        self._unconfirmed.update(dict.fromkeys(sents))
        if self._sending is not None:
            self._sending.write_all(requests, [sent.confirmed for sent in sents])
        return sents

    def holds(self, sent: Sent) -> bool:
        """It is not confirmed, and was not taken back."""
        return sent in self._unconfirmed

    def forget(self, sent: Sent) -> None:
        """Give up a request: no copy of it is applied at the mirror after the next session opens."""
        if sent in self._unconfirmed:
            del self._unconfirmed[sent]
            if sent.request.op is not Op.FLUSH:
                self.doubt(sent.request.offset, sent.request.length, "a request took too long")

    def doubt(self, offset: int, length: int, why: str = "the hosts differ") -> None:
        """The hosts may differ in this range: its regions are copied before the link is next `up`."""
        self.in_doubt.update(covering(offset, length, REGION_BYTES))
        self.start_over(why)

    def is_at(self, talk: Talk) -> bool:
        return self._talk is talk

    def talk(self) -> Talk:
        """The session at hand, for a sequence that must not outlive it. Raises Unavailable MIRROR_LOST."""
        if self._talk is None:
            raise Unavailable("MIRROR_LOST", f"the mirror is out of reach: {self.why_down}.")
        return self._talk

    def resend_unconfirmed(self) -> None:
        """The mirror is ready for requests: those that wait go first, in their order."""
        self._sending = talk = self.talk()
        for sent in list(self._unconfirmed):
            talk.transmit(sent.request, sent.confirmed)

    def refuse(self, sent: Sent, outcome: Outcome) -> None:
        """That host has answered otherwise."""
        self._heard_of = True
        if outcome is Outcome.STALE_EPOCH:
            self.start_over("the mirror has ended this session")
        else:
            why = f"the mirror answered {outcome.value} to a {sent.request.op.value}"
            self.give_up_hope(why, sound=outcome is Outcome.NO_SPACE)

    def _opened(self, number: int, session: Session) -> None:
        if number != self._number or self._closed:
            session.close()
            return
        # That it could be opened is no sign of life of a host that then answers nothing.
        self._opened_at_s = self._loop.now()
        self._dialling = None
        self._talk = talk = Talk(self._loop, session, self._heard, self.start_over)
        self._beat(talk)

        def aligned(_nothing: None) -> None:
            if self._talk is talk:
                self.up, self.why_down, self.hopeless = True, "", ""
                self._retry_s, self._refused_s = RETRY_MIN_S, math.inf
                log.info("the mirror session is up")
                self.on_change()

        def failed(error: Exception) -> None:
            if not isinstance(error, HoldfastError | OSError):
                raise error
            if self._talk is talk:
                self._not_aligned(error)

        run(self._align(self), aligned, failed)

    def _not_aligned(self, error: HoldfastError | OSError) -> None:
        reason = error.reason if isinstance(error, HoldfastError) else ""
        if reason == REFUSED:
            self._refused_s = min(self._refused_s, self._loop.now())
        if reason == TAKES_NO_PART:
            self.give_up_hope(str(error))
        elif self._loop.now() - self._refused_s > LINK_REFUSED_S:
            # It lives, and that helps nobody: its disk is full, or it does not hear of the epoch.
            self.give_up_hope(str(error), sound=True)
        else:
            self.start_over(str(error))

    def _heard(self) -> None:
        self._heard_of = True

    def _beat(self, talk: Talk) -> None:
        if self._talk is not talk:
            return
        # The clock is looked at here, once in a while, not at every answer.
        if min(self.unheard_s(), self._loop.now() - self._opened_at_s) > LINK_LOST_S:
            self.start_over(f"the mirror said nothing for {LINK_LOST_S:.0f} s")
            return
        lease = self.wants_lease()
        beat = {"do": "beat", "lease": lease, "left": self.left_bytes()}
        talk.ask(beat)(partial(self._beaten, talk, self._loop.now(), lease))
        self._loop.call_about(BEACON_INTERVAL_S, partial(self._beat, talk))

    def _beaten(self, talk: Talk, sent_at_s: float, leased: bool, answer: object) -> None:
        if self._talk is not talk:
            return
        if isinstance(answer, Unavailable) and answer.reason == TAKES_NO_PART:
            # Its disk failed what nobody here waited for.
            self.give_up_hope(str(answer))
        elif isinstance(answer, dict) and answer.get("serves"):
            self.answered_s = max(self.answered_s, sent_at_s)
            if leased:
                self.leased_until_s = max(self.leased_until_s, sent_at_s + BEACON_LEASE_S)
            self.on_beat(answer)

    def _lost(self, number: int, why: str) -> None:
        """The session ended by itself, or never began."""
        if number == self._number and not self._closed:
            self._drop_session(why)
            self._again()

    def _drop_session(self, why: str) -> None:
        self._number += 1  # What the old session still says is nobody's.
        dialling, self._dialling = self._dialling, None
        talk, self._talk, self._sending = self._talk, None, None
        was_up, self.up = self.up, False
        self.why_down = why
        if dialling is not None:
            dialling.close()
        if talk is not None:
            talk.end(why)
        if was_up:
            log.warning("the mirror session is lost: %s", why)
            self._loop.call_soon(self.on_change)

    def _again(self) -> None:
        if not self._closed and self._timer is None:
            self._timer = self._loop.call_later(self._retry_s, self.start)
            self._retry_s = min(self._retry_s * 2, RETRY_MAX_S)
