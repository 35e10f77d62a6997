"""Regions in which a host in sync may differ, made equal: before users are served, or meanwhile.

In doubt is what the last process of a primary had written to lately. With random writes that can be most of
a volume, and nobody is to wait until all of it is equal. What was acknowledged is on both hosts, so this
concerns only writes that nobody was promised. A new write goes to both, as any. A read may not show what only
this host holds: what it found goes to the other before it is answered (Primary). Nothing is frozen, compared
or cleaned there, and the volume is not handed over, until all is equal.
"""

from collections.abc import Callable

from holdfast.base.limits import MIB
from holdfast.base.steps import Steps
from holdfast.replicator import copying
from holdfast.replicator.link import Link
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.resync import differing, pieces, sleep
from holdfast.replicator.settle import settle
from holdfast.replicator.talk import Talk

MEND_FLOOR_BYTES_S = 64 * MIB
"""Users or not: snapshots and switches wait for the end."""


def mend(local: LocalReplica, link: Link, pause_s: Callable[[], float]) -> Steps[None]:
    """Until nothing is in doubt at the session at hand; `pause_s()` after each region. Raises Unavailable if
    it is lost, or a disk is in trouble: what is in doubt then is left to the next.
    """
    talk = link.talk()
    # What comes into doubt meanwhile ends the session.
    for region in sorted(link.in_doubt):
        for piece in pieces(local.store.extents_of(region)):
            yield from _make_equal(local, talk, piece)
        talk.check()
        link.in_doubt.discard(region)
        yield sleep(local.loop, pause_s())
    yield from settle(local)
    yield talk.ask({"do": "settle"})
    yield from tell_equal(talk, link)


def tell_equal(talk: Talk, link: Link) -> Steps[None]:
    """All is equal, and settled on both hosts."""
    yield talk.ask({"do": "synced"})
    link.mending, link.equal_in_boot = False, link.boot_id


def _make_equal(local: LocalReplica, talk: Talk, piece: range) -> Steps[None]:
    """Looked at first: most of it is equal, and what is frozen there would be copied at each write."""
    turn = yield copying.turn_of(local, piece)
    try:
        # What is missing here is missing there, too (unfill).
        here = [extent for extent in piece if not local.store.missing.get(extent)]
        if here:
            wrong = yield from differing(local, talk, here)
            yield from copying.copy_extents(local, talk, wrong)
    finally:
        local.order.give_back(turn)
