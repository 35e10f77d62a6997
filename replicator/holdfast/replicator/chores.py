"""What a primary does beside serving: wanted freezes, cleaning, and comparing, one at a time each."""

import logging
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from holdfast.base.errors import HoldfastError
from holdfast.base.loop import Loop
from holdfast.base.steps import Resume, Steps, run
from holdfast.replicator.clean import CLEAN_INTERVAL_S, clean
from holdfast.replicator.freeze import freeze
from holdfast.replicator.gate import Gate, GateState, GateWanted, Step
from holdfast.replicator.primary import Primary
from holdfast.replicator.verify import Verification

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshots:
    """Those under way, by uid: to be frozen, and only to be kept."""

    freeze: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    groups: tuple[tuple[str, GateWanted], ...] = ()
    """Of those to be frozen: the ones that are frozen together with other volumes, and how far that is."""


class Chores:
    """Loop thread only. `tick` now and then, and whenever something may have become possible."""

    def __init__(self, loop: Loop, primary: Primary, on_change: Callable[[], None]) -> None:
        self._loop = loop
        self._primary = primary
        self._on_change = on_change
        self._wanted = Snapshots()
        self._busy = False
        self._stopped = False
        self._on_idle: Resume | None = None
        self._cleaned_at_s = loop.now()
        self.gates: dict[str, Gate] = {}
        self.frozen: dict[str, tuple[str, ...]] = {}
        """Views that are recorded and on disk: on which other hosts, too."""
        self.verification: Verification | None = None

    def want(self, snapshots: Snapshots) -> None:
        self._wanted = snapshots
        views = self._primary.local.store.state.views
        # Completed in an earlier life of this process, or by an earlier primary. Also what is not known to
        # have been told: that may be recorded late. (Of a group a new process says that it cannot count.)
        counts = {uid for uid, view in views.items() if view.counts} - dict(snapshots.groups).keys()
        for uid in views.keys() & {*snapshots.keep, *counts}:
            self.frozen.setdefault(uid, ())
        listed = {*snapshots.freeze, *snapshots.keep}
        self.frozen = {uid: hosts for uid, hosts in self.frozen.items() if uid in listed}
        self._follow_groups()
        self.tick()

    def _follow_groups(self) -> None:
        """Another attempt begins with another gate; what was frozen in the one before did not count."""
        groups = dict(self._wanted.groups)
        for uid, gate in list(self.gates.items()):
            wanted = groups.get(uid)
            if wanted is None or wanted.attempt != gate.attempt:
                gate.fail("its group went on.")
                del self.gates[uid]
                if wanted is not None:
                    self.frozen.pop(uid, None)
        for uid, wanted in groups.items():
            if uid in self.gates:
                self.gates[uid].want(wanted)
            elif wanted.step is not Step.PREPARE:
                # Nothing is dropped: what an earlier process has frozen may have counted.
                self.gates[uid] = self._gate(wanted)

    def _gate(self, wanted: GateWanted) -> Gate:
        return Gate(self._loop, wanted, os.urandom(8).hex(), self._on_change)

    def only_on(self, members: Collection[str]) -> None:
        """Who has left the set has lost its views, also if it comes back before anybody was told of them."""
        for uid, hosts in self.frozen.items():
            self.frozen[uid] = tuple(host for host in hosts if host in members)

    def give_up_gates(self, why: str) -> None:
        """Whatever waits for other volumes waits no longer."""
        for gate in list(self.gates.values()):
            gate.fail(why)

    def verify(self, request: int, rate_bytes_s: int) -> None:
        """Compare all replicas, unless that was done for this request."""
        if request and (self.verification is None or self.verification.request < request):
            if self.verification is not None:
                self.verification.stop()
            self.verification = Verification(
                self._loop, self._primary, request, rate_bytes_s, self._on_change
            )

    @property
    def pending(self) -> bool:
        """Something is to be begun, or begun again, that no event brings about: `tick` until it is not."""
        local = self._primary.local
        done = self.frozen.keys() | local.views.lost().keys()
        return (
            self._busy
            or not done.issuperset(self._wanted.freeze)
            or local.intent.hot.any()
            or local.intent.untold
        )

    def tick(self) -> None:
        if self.verification is not None:
            self.verification.tick()
        if self._busy or self._stopped or not self._primary.writes:
            return
        local = self._primary.local
        lost = local.views.lost()
        # One with a gate is being frozen, or waits for its group's next attempt.
        done = self.frozen.keys() | lost.keys() | self.gates.keys()
        pending = [uid for uid in self._wanted.freeze if uid not in done]
        if pending and self._primary.equal:
            uid = pending[0]
            if uid in local.store.state.views:
                # Recorded, and this process or a session failed before the last flush: freeze anew.
                local.views.drop(uid)
            self._begin_freeze(uid)
        elif self._loop.now() - self._cleaned_at_s >= CLEAN_INTERVAL_S:
            self._cleaned_at_s = self._loop.now()
            self._begin("cleaning", clean(self._primary), "")

    def stop(self, resume: Resume) -> None:
        """A step: nothing more is begun; go on when what was begun has ended."""
        self._stopped = True
        self.give_up_gates("its host is the primary no more.")
        if self.verification is not None:
            self.verification.stop()
        if self._busy:
            self._on_idle = resume
        else:
            resume(None)

    def _begin_freeze(self, uid: str) -> None:
        wanted = dict(self._wanted.groups).get(uid)
        if wanted is not None:
            self.gates[uid] = self._gate(wanted)
        steps = freeze(self._loop, self._primary, uid, gate=self.gates.get(uid))
        self._begin(f"freezing {uid}", steps, uid)

    def _begin(self, what: str, steps: Steps[Any], frozen: str) -> None:
        self._busy = True
        gate = self.gates.get(frozen)

        def done(result: Any) -> None:
            # Not if it was frozen for an attempt that is over.
            if frozen and self.gates.get(frozen) is gate:
                self.frozen[frozen] = result
                if gate is not None:
                    gate.frozen()
                self._on_change()
            ended()

        def failed(error: Exception) -> None:
            if not isinstance(error, HoldfastError | OSError):
                raise error
            log.warning("%s failed, will try again: %s", what, error)
            if isinstance(error, OSError):
                self._primary.local.not_noted(error)
            if gate is not None and self.gates.get(frozen) is gate:
                self._gate_failed(frozen, gate, error)
            ended(again=False)

        def ended(again: bool = True) -> None:
            self._busy = False
            if self._on_idle is not None:
                resume, self._on_idle = self._on_idle, None
                resume(None)
            elif again:
                self._loop.call_soon(self.tick)

        run(steps, done, failed)

    def _gate_failed(self, uid: str, gate: Gate, error: Exception) -> None:
        """What may pass, before anybody waits for it, is tried again in the same attempt."""
        passes = isinstance(error, HoldfastError) and gate.state is GateState.BUSY and not gate.was_prepared
        if passes:
            del self.gates[uid]
        else:
            gate.fail(str(error))
