"""The resyncs under way from this primary, their pace, and how far they are."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from holdfast.base.errors import HoldfastError
from holdfast.base.limits import EXTENT_BYTES, SYNC_MAX_BYTES_S
from holdfast.base.loop import Loop
from holdfast.base.steps import run
from holdfast.replicator.budget import Budget
from holdfast.replicator.partner import Partner
from holdfast.replicator.primary import Primary
from holdfast.replicator.rate import Rate
from holdfast.replicator.resync import resync

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Of one host: bytes that it may still lack, the most that it lacked, and how fast that goes down."""

    host_id: str
    remaining_bytes: int
    total_bytes: int
    rate_bytes_s: int


class _Run:
    def __init__(self, loop: Loop, most_bytes_s: int) -> None:
        self.budget = Budget(loop.now(), most_bytes_s)
        self.total_bytes = 0
        self.rate = Rate()


class Syncing:
    """Loop thread only. At most one resync a host."""

    def __init__(self, loop: Loop, primary: Primary, may_sync: Callable[[], bool]) -> None:
        self._loop = loop
        self._primary = primary
        self._may_sync = may_sync
        self._runs: dict[str, _Run] = {}
        self.most_bytes_s = SYNC_MAX_BYTES_S

    def begin(self, partner: Partner, done: Callable[[], None]) -> None:
        """Make that host equal, unless that is under way; `done()` at a moment when it lacks nothing."""
        if partner.host_id in self._runs or not self._may_sync():
            return
        one = self._runs[partner.host_id] = _Run(self._loop, self.most_bytes_s)
        self._count(partner, one)
        talk = partner.link.talk()

        def ended(_nothing: None) -> None:
            del self._runs[partner.host_id]
            done()

        def failed(error: Exception) -> None:
            del self._runs[partner.host_id]
            if not isinstance(error, HoldfastError | OSError):
                raise error
            log.warning("the resync of host %s is interrupted: %s", partner.host_id, error)
            if partner.link.is_at(talk):
                partner.link.start_over(str(error))

        steps = resync(
            self._loop, self._primary.local, partner, one.budget, partial(self._busy, partner, one)
        )
        run(steps, ended, failed)

    def left_bytes(self, host_id: str) -> int:
        """As last counted; -1 if that host is not being made equal."""
        one = self._runs.get(host_id)
        return one.rate.left_bytes if one is not None else -1

    def progress(self) -> list[Progress]:
        now_s = self._loop.now()
        return [
            Progress(host, one.rate.left_bytes, one.total_bytes, one.rate.bytes_s(now_s))
            for host, one in sorted(self._runs.items())
        ]

    def _busy(self, partner: Partner, one: _Run) -> bool:
        """Asked after every piece: also the moment to look how far it is."""
        one.budget.most_bytes_s = self.most_bytes_s
        if one.rate.due(self._loop.now()):
            self._count(partner, one)
        return self._primary.under_way > 0

    def _count(self, partner: Partner, one: _Run) -> None:
        remaining = min(partner.absent.count() * EXTENT_BYTES, self._primary.size_bytes)
        one.rate.count(remaining, self._loop.now())
        one.total_bytes = max(one.total_bytes, remaining)
