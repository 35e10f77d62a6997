"""One volume's part in freezing several at one instant: how far it is, and what it waits for.

    BUSY ── prepared ──► PREPARED ── CLOSE ──► BUSY ── closed ──► CLOSED ── OPEN, its token ──► BUSY
    BUSY ── the freeze is on disk ──► FROZEN;  FAILED from any but that: another attempt is another gate

It is for one attempt of one process. A process that finds an attempt in the middle has not seen its
gate close, or hold, so it must not count there. The token says which closing an OPEN is for: only of that
can be said that the gate has been closed since (docs/group-snapshots.md).

Deadlines are for liveness: a late gate has opened, and says FAILED.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from holdfast.base.errors import Unavailable
from holdfast.base.limits import GROUP_GATE_MAX_S, GROUP_PREPARED_MAX_S
from holdfast.base.loop import Loop, Timer
from holdfast.base.steps import Resume


class Step(Enum):
    PREPARE = "prepare"
    CLOSE = "close"
    OPEN = "open"


class GateState(Enum):
    BUSY = "busy"
    """On its way to the next."""
    PREPARED = "prepared"
    CLOSED = "closed"
    FROZEN = "frozen"
    FAILED = "failed"


_GOES_ON = ((GateState.PREPARED, Step.CLOSE), (GateState.CLOSED, Step.OPEN))


@dataclass(frozen=True)
class GateWanted:
    """What a group wants of a volume now."""

    attempt: int
    step: Step
    token: str = ""
    """With OPEN."""


class Gate:
    """Loop thread only. `on_change` is called when its state has changed."""

    def __init__(self, loop: Loop, wanted: GateWanted, token: str, on_change: Callable[[], None]) -> None:
        self._loop = loop
        self._wanted = wanted
        self._on_change = on_change
        self._resume: Resume | None = None
        self._timer: Timer | None = None
        self.token = token
        self.state = GateState.BUSY
        self.was_prepared = False
        self.reason = ""
        """Of FAILED, one sentence."""
        if wanted.step is not Step.PREPARE:
            self.fail("the process that prepared it is no more.")

    @property
    def attempt(self) -> int:
        return self._wanted.attempt

    def want(self, wanted: GateWanted) -> None:
        """The newest of what its group wants, of this attempt."""
        self._wanted = wanted
        self._look()

    def fail(self, why: str) -> None:
        """This attempt does not count here. Idempotent; what is FROZEN stays: it may have counted."""
        if self.state in (GateState.FROZEN, GateState.FAILED):
            return
        self._become(GateState.FAILED, why)
        self._go_on(Unavailable("GROUP", why))

    def frozen(self) -> None:
        """The freeze is recorded and on disk."""
        if self.state is not GateState.FAILED:
            self._become(GateState.FROZEN)

    # Steps of a freeze (freeze.py).

    def prepared(self, resume: Resume) -> None:
        """Go on when all others are prepared as well. Raises Unavailable: not in this attempt."""
        self.was_prepared = True
        self._wait(GateState.PREPARED, resume, GROUP_PREPARED_MAX_S, "the others were not ready in time.")

    def closed(self, resume: Resume) -> None:
        """Go on when all gates were closed, this one still being so. Raises Unavailable, as above."""
        late = f"the others did not close within {GROUP_GATE_MAX_S:.0f} s."
        self._wait(GateState.CLOSED, resume, GROUP_GATE_MAX_S, late)

    def _wait(self, state: GateState, resume: Resume, limit_s: float, late: str) -> None:
        if self.state is GateState.FAILED:
            resume(Unavailable("GROUP", self.reason))
            return
        self._resume = resume
        self._timer = self._loop.call_later(limit_s, lambda: self.fail(late))
        self._become(state)
        self._look()

    def _look(self) -> None:
        wanted = self._wanted.step
        if self._resume is None:
            return
        if wanted is Step.OPEN and (self.state is not GateState.CLOSED or self._wanted.token != self.token):
            self.fail("the others went on without it.")
        elif (self.state, wanted) in _GOES_ON:
            self._become(GateState.BUSY)
            self._go_on(None)

    def _go_on(self, value: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        resume, self._resume = self._resume, None
        if resume is not None:
            resume(value)

    def _become(self, state: GateState, reason: str = "") -> None:
        self.state, self.reason = state, reason
        self._on_change()
