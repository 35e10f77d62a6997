"""Another host of the volume, as its primary sees it: what it may lack, and what must wait for it.

    MEMBER    in sync: nothing is acknowledged without it
    BOUND     it lacks nothing, and its joining is being recorded: treated as a member (the union of I-1)
    JOINING   its session is up: writes outside what it lacks go to it too, and wait for it
    AWAY      what is written is marked in `absent/<host>`

For JOINING and AWAY `absent` holds every extent in which that host may differ from this one, but for writes
that it has been sent and not yet confirmed. Those end when it confirms them, or are marked when its session
is lost; only then are they acknowledged. So at any moment, and after a crash with `intent`, what is
acknowledged and not on that host is marked.
"""

import math
from collections.abc import Callable, Iterable
from enum import Enum

from holdfast.base.device import Op, Outcome, Request
from holdfast.base.extents import covering
from holdfast.base.limits import EXTENT_BYTES, LINK_LOST_S
from holdfast.replicator.bitmap import Bitmap
from holdfast.replicator.link import Link, Sent
from holdfast.replicator.store import Store


class Standing(Enum):
    """See the module."""

    MEMBER = "member"
    BOUND = "bound"
    JOINING = "joining"
    AWAY = "away"


_MOVES = {
    Standing.MEMBER: {Standing.AWAY},
    Standing.BOUND: {Standing.MEMBER, Standing.AWAY},
    Standing.JOINING: {Standing.BOUND, Standing.AWAY},
    Standing.AWAY: {Standing.JOINING, Standing.BOUND, Standing.MEMBER},
}


class Partner:
    """Loop thread only. `on_beat` of the link is its owner's."""

    def __init__(self, host_id: str, store: Store, make_link: Callable[["Partner"], Link]) -> None:
        self.host_id = host_id
        self._store = store
        self.standing = Standing.AWAY
        self.required = False
        """MEMBER or BOUND: every request goes to it and waits for it."""
        self.asked_s = math.inf
        """BOUND, and the agent may have been told since then: only a transaction's outcome can undo it."""
        self.boot_id = ""
        """Of its process that the session at hand is with."""
        self.may_sync = False
        """That host lets it be made equal now: it lets so many volumes at once."""
        self.compare = False
        """Its copy is of another history: look before copying."""
        self.link = make_link(self)

    def become(self, standing: Standing) -> None:
        """The one door. Raises AssertionError for a move that is none."""
        if standing is not self.standing:
            assert standing in _MOVES[self.standing], f"{self.standing} to {standing}"
            self.standing = standing
        self.required = standing in (Standing.MEMBER, Standing.BOUND)
        self.asked_s = math.inf

    @property
    def asked(self) -> bool:
        return self.asked_s < math.inf

    @property
    def absent(self) -> Bitmap:
        return self._store.absent[self.host_id]

    @property
    def heir(self) -> bool:
        """In sync, and has not said of itself that it can take no part: its disk failed it, too. One that
        had no room may be the one that has the only sound copy.
        """
        return self.standing is Standing.MEMBER and (self.link.sound or not self.link.hopeless)

    @property
    def lost(self) -> str:
        """Why it is to be left out; empty while it is not."""
        if self.link.hopeless and not self.link.up:
            return self.link.hopeless
        if not self.link.up and self.link.unheard_s() > LINK_LOST_S:
            return self.link.why_down
        return ""

    def takes(self, offset: int, length: int) -> bool:
        """Whether a write there is to be sent to it; if not, it is marked from now on."""
        if self.required:
            return True
        extents = covering(offset, length, EXTENT_BYTES)
        attached = self.standing is Standing.JOINING and self.link.up
        if attached and not self.absent.any_in(extents.start, extents.stop):
            return True
        self.absent.set_range(extents.start, extents.stop)
        return False

    def give_up(self, sent: Sent) -> bool:
        """Its owner waits no longer for a request: a copy may be applied there or not. False if it is
        confirmed.
        """
        if not self.link.holds(sent):
            return False
        if not self.required and sent.request.op is not Op.FLUSH:
            self._mark(sent.request.offset, sent.request.length)
        self.link.forget(sent)
        return True

    def doubt(self, request: Request) -> None:
        """It has done what failed here."""
        if request.op is Op.FLUSH:
            return
        if self.required:
            self.link.doubt(request.offset, request.length)
        else:
            self._mark(request.offset, request.length)

    def _mark(self, offset: int, length: int) -> None:
        extents = covering(offset, length, EXTENT_BYTES)
        self.absent.set_range(extents.start, extents.stop)

    def fall_back(self) -> list[Sent]:
        """It takes part no more: what it has not confirmed is marked, and waits for it no longer.

        Returns that: to be ended with `let_go`, once it is known what a write now needs.
        """
        assert not self.link.up, "its session may still carry what is about to be given up"
        regions, ranges = self.doubtful()
        self.become(Standing.AWAY)
        self._store.cover_regions(self.absent, regions)
        for offset, length in ranges:
            self._mark(offset, length)
        self.link.in_doubt.clear()
        self.link.equal_in_boot = ""
        return self.link.take_unconfirmed()

    def dismiss(self) -> list[Sent]:
        """The volume is not its any more, and nothing is kept for it. Returns what waited for it."""
        self.link.close()
        return self.link.take_unconfirmed()

    def doubtful(self) -> tuple[set[int], list[tuple[int, int]]]:
        """What a member may lack: regions, and (offset, length) of what it has not confirmed."""
        ranges = [(r.offset, r.length) for r in self.link.unconfirmed if r.op is not Op.FLUSH]
        return set(self.link.in_doubt), ranges


def let_go(released: Iterable[Sent]) -> None:
    """End what waits no longer for a host."""
    for sent in released:
        sent.done(Outcome.OK)
