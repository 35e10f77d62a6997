"""What a primary does beside serving: wanted freezes, cleaning, and comparing, one at a time each."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from holdfast.base.errors import HoldfastError
from holdfast.base.loop import Loop
from holdfast.base.steps import Resume, Steps, run
from holdfast.replicator.clean import CLEAN_INTERVAL_S, clean
from holdfast.replicator.freeze import freeze
from holdfast.replicator.primary import Primary
from holdfast.replicator.verify import Verification

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshots:
    """Those under way, by uid: to be frozen, and only to be kept."""

    freeze: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()


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
        self.frozen: dict[str, tuple[str, ...]] = {}
        """Views that are recorded and on disk: on which other hosts, too."""
        self.verification: Verification | None = None

    def want(self, snapshots: Snapshots) -> None:
        self._wanted = snapshots
        kept = self._primary.local.store.state.views
        for uid in snapshots.keep:
            # Recorded and flushed in an earlier life of this process, or by an earlier primary.
            if uid in kept:
                self.frozen.setdefault(uid, ())
        listed = {*snapshots.freeze, *snapshots.keep}
        self.frozen = {uid: hosts for uid, hosts in self.frozen.items() if uid in listed}
        self.tick()

    def verify(self, request: int, rate_bytes_s: int) -> None:
        """Compare all replicas, unless that was done for this request."""
        if request and (self.verification is None or self.verification.request < request):
            if self.verification is not None:
                self.verification.stop()
            self.verification = Verification(
                self._loop, self._primary, request, rate_bytes_s, self._on_change
            )

    def tick(self) -> None:
        if self.verification is not None:
            self.verification.tick()
        if self._busy or self._stopped or not self._primary.writes:
            return
        local = self._primary.local
        lost = local.views.lost()
        pending = [uid for uid in self._wanted.freeze if uid not in self.frozen and uid not in lost]
        if pending:
            uid = pending[0]
            if uid in local.store.state.views:
                # Recorded, and this process or a session failed before the last flush: freeze anew.
                local.views.drop(uid)
            self._begin(f"freezing {uid}", freeze(self._loop, self._primary, uid), uid)
        elif self._loop.now() - self._cleaned_at_s >= CLEAN_INTERVAL_S:
            self._cleaned_at_s = self._loop.now()
            self._begin("cleaning", clean(self._primary), "")

    def stop(self, resume: Resume) -> None:
        """A step: nothing more is begun; go on when what was begun has ended."""
        self._stopped = True
        if self.verification is not None:
            self.verification.stop()
        if self._busy:
            self._on_idle = resume
        else:
            resume(None)

    def _begin(self, what: str, steps: Steps[Any], frozen: str) -> None:
        self._busy = True

        def done(result: Any) -> None:
            if frozen:
                self.frozen[frozen] = result
                self._on_change()
            ended()

        def failed(error: Exception) -> None:
            if not isinstance(error, HoldfastError | OSError):
                raise error
            log.warning("%s failed, will try again: %s", what, error)
            ended(again=False)

        def ended(again: bool = True) -> None:
            self._busy = False
            if self._on_idle is not None:
                resume, self._on_idle = self._on_idle, None
                resume(None)
            elif again:
                self._loop.call_soon(self.tick)

        run(steps, done, failed)
