"""Comparing the replicas of a volume online, by digest, and making equal what differs.

Extent by extent under a turn of the order, so that writes go on and none is met halfway. The primary's copy
is the one that initiators read, so it is the one that others are made equal to; that they differed at all is
what an operator must hear of.
"""

import logging
from collections.abc import Callable
from functools import partial

from holdfast.base.errors import HoldfastError, Unavailable
from holdfast.base.limits import EXTENT_BYTES
from holdfast.base.loop import Loop
from holdfast.base.steps import Steps, run
from holdfast.replicator import copying
from holdfast.replicator.budget import Budget
from holdfast.replicator.partner import Partner
from holdfast.replicator.primary import Primary
from holdfast.replicator.resync import differing, pieces, sleep
from holdfast.replicator.talk import Talk

log = logging.getLogger(__name__)

_STOPPED = "this host is the primary no more, or was asked for another comparison."


class Verification:
    """One comparison, from its request on. Loop thread only; read its fields at any time.

    It lives as long as its primary. The next one, also of the same host, finds the request still open and
    begins another.
    """

    def __init__(
        self, loop: Loop, primary: Primary, request: int, rate_bytes_s: int, on_change: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._primary = primary
        self._budget = Budget(loop.now(), rate_bytes_s)
        self._on_change = on_change
        self._begun = False
        self._stopped = False
        self.request = request
        self.running = True
        self.failed = ""
        """What interrupted it, one sentence."""
        self.done_bytes = 0
        self.total_bytes = primary.size_bytes
        self.differing_bytes = 0
        self.repaired_bytes = 0

    def tick(self) -> None:
        """Begin, as soon as the volume is served by more than one host, and nothing is in doubt."""
        members = [partner for partner in self._primary.partners if partner.required]
        if not self._begun and members and self._primary.writes and self._primary.equal:
            self._begun = True
            run(self._compare_all(members), self._done, self._failed)

    def stop(self) -> None:
        """It ends before its next piece. Nobody is told: this host is the primary no more, or was asked for
        another comparison.
        """
        self._stopped = True
        if not self._begun and self.running:
            self._begun = True
            self._end(_STOPPED)

    def _done(self, _nothing: None) -> None:
        self._end("")

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, HoldfastError | OSError):
            raise error
        self._end(str(error))

    def _end(self, failed: str) -> None:
        self.running, self.failed = False, failed
        self._on_change()

    def _compare_all(self, members: list[Partner]) -> Steps[None]:
        talks = [partner.link.talk() for partner in members]
        for piece in pieces(range(self._primary.local.store.extents)):
            for talk in talks:
                yield from self._compare(talk, piece)
            length = len(piece) * EXTENT_BYTES
            self.done_bytes = min(self.done_bytes + length, self.total_bytes)
            busy = self._primary.under_way > 0
            yield sleep(self._loop, self._budget.spend(length, self._loop.now(), busy))
            if self._stopped:
                raise Unavailable("INTERRUPTED", _STOPPED)

    def _compare(self, talk: Talk, piece: range) -> Steps[None]:
        local = self._primary.local
        turn = yield copying.turn_of(local, piece)
        try:
            talk.check()
            wrong = yield from differing(local, talk, list(piece))
        finally:
            local.order.give_back(turn)
        if wrong:
            yield from self._repair(talk, piece)

    def _repair(self, talk: Talk, piece: range) -> Steps[None]:
        """As a write: alone in its range, which is intended first. A clean under way would else clear the
        mirror's bit over a copy that is in its memory only.
        """
        local = self._primary.local
        turn = yield copying.turn_of(local, piece, exclusive=True)
        try:
            yield partial(local.intend_write, turn.start, turn.end - turn.start)
            talk.check()
            wrong = yield from differing(local, talk, list(piece))
            length = sum(local.store.extent_range(extent)[1] for extent in wrong)
            self.differing_bytes += length
            missing = local.store.missing.among(wrong)
            for extent in wrong:
                log.error("extent %d differs between the hosts: it is repaired", extent)
            if missing:
                yield talk.ask({"do": "unfill", "extents": missing})
            here = [extent for extent in wrong if extent not in missing]
            yield from copying.copy_extents(local, talk, here)
            self.repaired_bytes += length
        finally:
            local.order.give_back(turn)
