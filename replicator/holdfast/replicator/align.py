"""Making a fresh mirror session equal to the primary, before anything is acknowledged over it.

In this order: the mirror has drained its old session (hello); both write to one `changed` generation,
neither of which under-reports; views that only the mirror has are dropped (their freeze was interrupted);
in the regions in doubt on either side, what the primary misses the mirror misses too; every unconfirmed
request is sent again; the rest of those regions is copied. What was acknowledged is on both hosts already,
so this concerns only writes that nobody was promised.

The regions stay intended on both hosts until a clean: a copy that is not on disk yet is a write like any.
"""

from collections.abc import Iterator
from functools import partial
from typing import cast

from holdfast.base.device import Op, Outcome, Request
from holdfast.base.errors import Unavailable
from holdfast.base.extents import covering, runs
from holdfast.base.limits import EXTENT_BYTES, MIB, REGION_BYTES
from holdfast.base.steps import Resume, Starter, Steps
from holdfast.replicator.generations import open_generation
from holdfast.replicator.link import Link
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.messages import Message
from holdfast.replicator.order import Turn
from holdfast.replicator.settle import settle
from holdfast.replicator.store import Store
from holdfast.replicator.talk import Talk

COPY_BYTES = MIB


def align(local: LocalReplica, host_id: str, epoch: int, link: Link) -> Steps[None]:
    """Raises Unavailable if the session is lost on the way, or a disk is in trouble."""
    store, talk = local.store, link.talk()
    answer = yield talk.ask({"do": "hello", "host": host_id, "epoch": epoch, "size_bytes": store.size_bytes})
    yield from _align_generation(local, talk, answer)
    for uid in set(answer["views"]) - store.views.keys():
        yield talk.ask({"do": "drop_view", "uid": uid})
    doubtful = link.in_doubt | store.in_doubt | set(answer["in_doubt"])
    yield partial(_adopt, local, doubtful)
    unfilled = [extent for region in sorted(doubtful) for extent in _missing_in(store, region)]
    if unfilled:
        yield talk.ask({"do": "unfill", "extents": unfilled})
    talk.check()
    link.resend_unconfirmed()
    for offset, length in pieces_to_copy(store, doubtful):
        yield from _copy(local, talk, offset, length)
    yield from settle(local)
    yield talk.ask({"do": "settle"})
    yield talk.ask({"do": "synced"})
    link.in_doubt.clear()
    store.in_doubt.clear()


def _align_generation(local: LocalReplica, talk: Talk, answer: Message) -> Steps[None]:
    theirs = cast(int, answer["generation"])
    yield from open_generation(local, theirs)
    if theirs < local.store.generation:
        yield talk.ask({"do": "open_generation", "generation": local.store.generation})


def _adopt(local: LocalReplica, regions: set[int], resume: Resume) -> None:
    """A step: the regions are intended here too, durably, so that a later clean finds them."""

    def failed(outcome: Outcome) -> None:
        resume(Unavailable("LOCAL_DISK", f"the disk of this host is in trouble: {local.suspect}"))

    local.intend(regions, partial(resume, None), failed)


def _missing_in(store: Store, region: int) -> list[int]:
    return store.missing.among(_extents_of(store, region))


def _extents_of(store: Store, region: int) -> range:
    extents = covering(region * REGION_BYTES, REGION_BYTES, EXTENT_BYTES)
    return range(extents.start, min(extents.stop, store.extents))


def pieces_to_copy(store: Store, regions: set[int]) -> Iterator[tuple[int, int]]:
    """(offset, length) of what `regions` hold here, in whole extents, at most COPY_BYTES each.

    Extents that are missing here are left out: they are missing at the mirror too (unfill).
    """
    for region in sorted(regions):
        here = [e for e in _extents_of(store, region) if not store.missing.get(e)]
        for first, end in runs(here):
            stop = min(end * EXTENT_BYTES, store.size_bytes)
            for offset in range(first * EXTENT_BYTES, stop, COPY_BYTES):
                yield offset, min(COPY_BYTES, stop - offset)


def _copy(local: LocalReplica, talk: Talk, offset: int, length: int) -> Steps[None]:
    turn: Turn = yield _turn(local, offset, length)
    try:
        content = bytearray(length)
        read = Request(Op.READ, offset, length, _nobody, [memoryview(content)])
        outcome = yield partial(local.read, read)
        if outcome is not Outcome.OK:
            raise Unavailable("LOCAL_DISK", f"the primary's disk is in trouble: {local.suspect}")
        if content.count(0) == length:
            copy = Request(Op.ZERO, offset, length, _nobody)
        else:
            copy = Request(Op.WRITE, offset, length, _nobody, [memoryview(content)])
        outcome = yield talk.confirm(copy)
        if outcome is not Outcome.OK:
            raise Unavailable("MIRROR_REFUSED", f"the mirror answered {outcome.value} to a copy.")
    finally:
        local.order.give_back(turn)


def _nobody(_outcome: Outcome) -> None:
    """A step's requests are ended by the step."""


def _turn(local: LocalReplica, offset: int, length: int) -> Starter:
    def start(resume: Resume) -> None:
        local.order.take(offset, offset + length, False, resume)

    return start
