"""What is said over one mirror session, bound to it: when the session ends, every question is answered
Unavailable, and so is every later one. A sequence that outlives its session must not go on in the next,
which was aligned without it.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from holdfast.base.device import Done, Op, Outcome, Request
from holdfast.base.errors import Unavailable
from holdfast.base.loop import Loop
from holdfast.base.steps import Resume, Starter
from holdfast.replicator.messages import FAILED, HOPELESS, Message, decode, encode

_FLUSH, _ZERO = Op.FLUSH, Op.ZERO
TAKES_NO_PART = "TAKES_NO_PART"
"""The reason of an Unavailable: that host can take no part as it is."""
REFUSED = "MIRROR_REFUSED"
"""That host answers, and does not do what it is asked."""


class Session(Protocol):
    """An open NBD session to the mirror (holdfast.base.nbd.session). After `close`, or after it is lost,
    it calls nothing any more.
    """

    def write(self, offset: int, buffers: list[memoryview], fua: bool, done: Done) -> None: ...
    def write_all(self, requests: list[Request], dones: list[Done]) -> None: ...
    def zero(self, offset: int, length: int, fua: bool, done: Done) -> None: ...
    def flush(self, done: Done) -> None: ...
    def control(self, payload: bytes, done: Callable[[Outcome, bytes], None]) -> None: ...
    def close(self) -> None: ...


class Talk:
    """Loop thread only. `heard()` is called at every sign of life; `broken(why)` if an answer is nonsense."""

    def __init__(
        self, loop: Loop, session: Session, heard: Callable[[], None], broken: Callable[[str], None]
    ) -> None:
        self._loop = loop
        self._session = session
        self.write = session.write
        """As `transmit`, of a WRITE."""
        self.write_all = session.write_all
        """Of WRITEs that come together; they leave at once, if they can."""
        self._heard = heard
        self._broken = broken
        self._asking: dict[int, Resume] = {}
        self._asked = 0
        self._over: Unavailable | None = None

    def check(self) -> None:
        """Raises Unavailable MIRROR_LOST if the session has ended."""
        if self._over is not None:
            raise self._over

    def ask(self, message: Message) -> Starter:
        """A step: send a message, go on with its answer.

        Raises Unavailable MIRROR_LOST, MIRROR_REFUSED or TAKES_NO_PART.
        """

        def start(resume: Resume) -> None:
            if self._over is not None:
                resume(self._over)
            else:
                self._session.control(encode(message), partial(self._answered, self._wait(resume)))

        return start

    def confirm(self, request: Request) -> Starter:
        """A step: send a request, go on with its outcome; raises Unavailable MIRROR_LOST."""

        def start(resume: Resume) -> None:
            if self._over is not None:
                resume(self._over)
            else:
                self.transmit(request, partial(self._take, self._wait(resume)))

        return start

    def transmit(self, request: Request, done: Done) -> None:
        """Send a WRITE, ZERO, FLUSH, or what a COMPARE_AND_WRITE stores. `done` may never be called."""
        op = request.op
        if op is _FLUSH:
            self._session.flush(done)
        elif op is _ZERO:
            self._session.zero(request.offset, request.length, request.fua, done)
        else:
            self._session.write(request.offset, request.buffers, request.fua, done)

    def end(self, why: str) -> None:
        """The session is over. Who waits is told on the next turn: whoever ended it is still at work."""
        self._over = Unavailable("MIRROR_LOST", f"the mirror is out of reach: {why}.")
        self._session.close()
        asking, self._asking = self._asking, {}
        for resume in asking.values():
            self._loop.call_soon(partial(resume, self._over))

    def _wait(self, resume: Resume) -> int:
        self._asked += 1
        self._asking[self._asked] = resume
        return self._asked

    def _take(self, number: int, value: object) -> None:
        resume = self._asking.pop(number, None)
        if resume is not None:
            self._heard()
            resume(value)

    def _answered(self, number: int, outcome: Outcome, payload: bytes) -> None:
        if outcome is not Outcome.OK:
            refused = Unavailable(REFUSED, f"the mirror answered {outcome.value}.")
            self._take(number, refused)
            return
        try:
            message = decode(payload)
        except ValueError as error:
            self._broken(f"the mirror's answer is no message: {error}")
            return
        if message.get(HOPELESS):
            self._take(number, Unavailable(TAKES_NO_PART, f"that host takes no part: {message[FAILED]}"))
        elif FAILED in message:
            self._take(number, Unavailable(REFUSED, f"the mirror refused: {message[FAILED]}"))
        else:
            self._take(number, message)
