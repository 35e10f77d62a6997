"""Making a fresh mirror session equal to the primary, before anything is acknowledged over it.

In this order: the mirror has drained its old session (hello); both write to one `changed` generation,
neither of which under-reports; views that only the mirror has are dropped (their freeze was interrupted);
every unconfirmed request is sent again; regions in doubt on either side are copied. What was acknowledged
is on both hosts already, so this concerns only writes that nobody was promised.
"""

from collections.abc import Iterator
from functools import partial
from typing import cast

from holdfast.base.device import Op, Outcome, Request
from holdfast.base.errors import Unavailable
from holdfast.base.extents import covering, runs
from holdfast.base.limits import EXTENT_BYTES, MIB, REGION_BYTES
from holdfast.base.steps import Resume, Starter, Steps
from holdfast.replicator.link import Link
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.messages import Message
from holdfast.replicator.order import Turn
from holdfast.replicator.store import Store

COPY_BYTES = MIB


def align(local: LocalReplica, host_id: str, epoch: int, link: Link) -> Steps[None]:
    """Raises Unavailable if the session is lost on the way."""
    store = local.store
    answer = yield link.ask({"do": "hello", "host": host_id, "epoch": epoch, "size_bytes": store.size_bytes})
    yield from _align_generation(local, link, answer)
    for uid in set(answer["views"]) - store.views.keys():
        yield link.ask({"do": "drop_view", "uid": uid})
    link.resend_unconfirmed()
    doubtful = link.in_doubt | store.in_doubt | set(answer["in_doubt"])
    for offset, length in pieces_to_copy(store, doubtful):
        yield from _copy(local, link, offset, length)
    outcome = yield local.flush
    if outcome is not Outcome.OK:
        raise Unavailable("LOCAL_DISK", f"the primary's disk is in trouble: {local.suspect}")
    yield link.ask({"do": "settle"})
    yield link.ask({"do": "synced"})
    link.in_doubt.clear()
    store.in_doubt.clear()
    local.intent.hot |= doubtful


def _align_generation(local: LocalReplica, link: Link, answer: Message) -> Steps[None]:
    store = local.store
    theirs = cast(int, answer["generation"])
    if theirs > store.state.generation:
        yield partial(local.in_pool, partial(store.open_generation, theirs))
    elif theirs < store.state.generation:
        yield link.ask({"do": "open_generation", "generation": store.state.generation})


def pieces_to_copy(store: Store, regions: set[int]) -> Iterator[tuple[int, int]]:
    """(offset, length) of what `regions` hold here, in whole extents, at most COPY_BYTES each.

    Extents that are missing here are left out: whatever the mirror has there will be filled over.
    """
    for region in sorted(regions):
        extents = covering(region * REGION_BYTES, REGION_BYTES, EXTENT_BYTES)
        here = [e for e in extents if e < store.extents and not store.missing.get(e)]
        for first, end in runs(here):
            stop = min(end * EXTENT_BYTES, store.size_bytes)
            for offset in range(first * EXTENT_BYTES, stop, COPY_BYTES):
                yield offset, min(COPY_BYTES, stop - offset)


def _copy(local: LocalReplica, link: Link, offset: int, length: int) -> Steps[None]:
    turn: Turn = yield _turn(local, offset, length)
    try:
        content = bytearray(length)
        read = Request(Op.READ, offset, length, lambda _outcome: None, [memoryview(content)])
        outcome = yield partial(local.read, read)
        if outcome is not Outcome.OK:
            raise Unavailable("LOCAL_DISK", f"the primary's disk is in trouble: {local.suspect}")
        write = Request(Op.WRITE, offset, length, lambda _outcome: None, [memoryview(content)])
        outcome = yield link.confirm(write)
        if outcome is not Outcome.OK:
            raise Unavailable("MIRROR_REFUSED", f"the mirror answered {outcome.value} to a copy.")
    finally:
        local.order.give_back(turn)


def _turn(local: LocalReplica, offset: int, length: int) -> Starter:
    def start(resume: Resume) -> None:
        local.order.take(offset, offset + length, False, resume)

    return start
