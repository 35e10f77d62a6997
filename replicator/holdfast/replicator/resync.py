"""Making equal what a joining host may lack, extent by extent, while writes go on.

Each piece has its turn of the order from its reading here to its confirmation there, so no write meets it
halfway. Its bits are cleared at the end of that, in memory: a crash brings back some that were cleared, or
what that host intended, and both only cost a copy.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

from holdfast.base.extents import runs
from holdfast.base.limits import EXTENT_BYTES, MIB
from holdfast.base.loop import Loop
from holdfast.base.steps import Resume, Starter, Steps, all_of, starting
from holdfast.replicator import copying
from holdfast.replicator.budget import Budget
from holdfast.replicator.digests import MISSING, digests
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.partner import Partner
from holdfast.replicator.talk import Talk

PIECE_EXTENTS = MIB // EXTENT_BYTES
PIECES_AT_ONCE = 4


def resync(
    loop: Loop, local: LocalReplica, partner: Partner, budget: Budget, busy: Callable[[], bool]
) -> Steps[None]:
    """Until that host lacks nothing. Raises Unavailable if its session is lost, or a disk is in trouble."""
    talk = partner.link.talk()
    while partner.absent.any():
        marked = _pieces(partner)
        while batch := list(islice(marked, PIECES_AT_ONCE)):
            yield all_of(*(starting(_make_equal(local, partner, talk, piece)) for piece in batch))
            spent = sum(len(piece) for piece in batch) * EXTENT_BYTES
            yield sleep(loop, budget.spend(spent, loop.now(), busy()))
            # An epoch that began meanwhile may have it in sync: then there is no `absent` any more.
            talk.check()


def sleep(loop: Loop, delay_s: float) -> Starter:
    """A step."""

    def start(resume: Resume) -> None:
        if delay_s > 0:
            loop.call_later(delay_s, partial(resume, None))
        else:
            resume(None)

    return start


def _pieces(partner: Partner) -> Iterator[range]:
    """One pass over what is marked, in runs of at most PIECE_EXTENTS extents."""
    for first, end in runs(partner.absent.set_bits()):
        yield from pieces(range(first, end))


def pieces(extents: range) -> Iterator[range]:
    """`extents` in ranges of at most PIECE_EXTENTS."""
    for first in range(extents.start, extents.stop, PIECE_EXTENTS):
        yield range(first, min(first + PIECE_EXTENTS, extents.stop))


def _make_equal(local: LocalReplica, partner: Partner, talk: Talk, piece: range) -> Steps[None]:
    store = local.store
    turn = yield copying.turn_of(local, piece)
    try:
        talk.check()
        # What is missing here is missing there: it was told so, and nothing that is missing was sent.
        wanted = [e for e in piece if partner.absent.get(e) and not store.missing.get(e)]
        if partner.compare and wanted:
            wanted = yield from differing(local, talk, wanted)
        yield from copying.copy_extents(local, talk, wanted)
        talk.check()
        partner.absent.clear_range(piece.start, piece.stop)
    finally:
        local.order.give_back(turn)


def differing(local: LocalReplica, talk: Talk, extents: list[int]) -> Steps[list[int]]:
    """Those of `extents`, none of which is being written to, that the other host holds otherwise."""
    answer = yield talk.ask({"do": "digest", "extents": extents})
    theirs = answer["digests"]
    ours = yield from digests(local, extents)
    if len(theirs) != len(extents):
        theirs = [MISSING] * len(extents)
    return [extent for extent, mine, other in zip(extents, ours, theirs, strict=True) if mine != other]
