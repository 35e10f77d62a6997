"""Attaching a host that is not in sync: from its hello to a session over which it can be made equal.

Afterwards `absent/<host>` holds every extent in which it may differ, and it has the primary's `changed`
generations and `missing`. Until the link is up whatever is written is marked; from then on, what is outside
`absent` goes to it as well (partner.py), and the rest is copied (resync.py).

What it may lack (I-7): what was marked since it left; what it intended when it left, or since; what it
tracked of us, if it was the primary meanwhile. If its history is another, or its bitmaps or ours are lost:
everything that either side holds. That is marked, durably, before it says that its history is ours from
here on: stopped in between, it is looked at whole again.
"""

from collections.abc import Iterator
from functools import partial

from holdfast.base.errors import Unavailable
from holdfast.base.extents import covering
from holdfast.base.limits import EXTENT_BYTES, GIB
from holdfast.base.steps import Resume, Steps
from holdfast.replicator.align import align_generation, equal, fetch_bits, hello, lead
from holdfast.replicator.bits import batches
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.messages import Message
from holdfast.replicator.partner import Partner, Standing
from holdfast.replicator.talk import Talk

_WINDOW_BYTES = 64 * GIB


def attach(local: LocalReplica, host_id: str, epoch: int, partner: Partner) -> Steps[None]:
    """Raises Unavailable if the session is lost on the way, that host is none to be attached, or a disk is in
    trouble.
    """
    store, link = local.store, partner.link
    talk = link.talk()
    answer = yield from hello(talk, store, host_id, epoch)
    link.on_greeted()
    if partner.standing is Standing.BOUND:
        yield from _attach_again(local, partner, talk, answer)
        return
    if answer["role"] != "joiner":
        raise Unavailable("NOT_A_JOINER", f"host {partner.host_id} does not know yet that it is out of sync.")
    partner.boot_id = answer["boot_id"]
    left = store.state.absent[partner.host_id]
    if left and left == answer["synced_epoch"]:
        yield from _mark_known(local, partner, talk, answer)
    else:
        left = epoch
        yield from _mark_everything(local, partner, talk, fresh=not answer["synced_epoch"])
    yield talk.ask({"do": "begin", "left": left})
    yield from align_generation(local, talk, answer)
    yield from _give_bitmaps(local, talk)
    talk.check()
    link.resend_unconfirmed()


def _attach_again(local: LocalReplica, partner: Partner, talk: Talk, answer: Message) -> Steps[None]:
    """It lacked nothing, and its joining is being recorded: as with a member, if it is the same process's
    memory that has it all.
    """
    if answer["boot_id"] != partner.boot_id:
        partner.link.give_up_hope("that host restarted, and its memory is lost")
        talk.check()
    theirs = yield from fetch_bits(talk, "doubt", local.store.regions)
    yield from lead(local, talk, partner.link, answer, theirs)
    yield from equal(local, partner.link)


def _mark_known(local: LocalReplica, partner: Partner, talk: Talk, answer: Message) -> Steps[None]:
    doubt = yield from fetch_bits(talk, "doubt", local.store.regions)
    local.store.cover_regions(partner.absent, doubt.set_bits())
    if answer["tracks"]:
        tracked = yield from fetch_bits(talk, "absent", local.store.extents)
        partner.absent.or_with(tracked)
    yield partial(local.in_pool, partner.absent.sync)


def _mark_everything(local: LocalReplica, partner: Partner, talk: Talk, fresh: bool) -> Steps[None]:
    """What either side holds; `fresh`: it holds nothing. What neither holds are zeros on both, or missing."""
    store = local.store
    partner.compare = not fresh
    for offset in range(0, store.size_bytes, _WINDOW_BYTES):
        length = min(_WINDOW_BYTES, store.size_bytes - offset)
        ours = yield partial(_look, local, offset, offset + length)
        talk.check()
        theirs: list[list[int]] = []
        if not fresh:
            theirs = (yield talk.ask({"do": "allocated", "offset": offset, "length": length}))["runs"]
        for start, end in [*ours, *theirs]:
            extents = covering(start, end - start, EXTENT_BYTES)
            partner.absent.set_range(extents.start, min(extents.stop, store.extents))
    yield partial(local.in_pool, partner.absent.sync)
    # An epoch that began meanwhile may have it in sync: then it is tracked no more.
    talk.check()
    epoch = store.state.epoch
    yield partial(local.in_pool, partial(store.track_from, partner.host_id, epoch))


def _look(local: LocalReplica, start: int, end: int, resume: Resume) -> None:
    local.loop.in_pool(lambda: list(local.store.data.allocated(start, end)), resume, resume)


def _give_bitmaps(local: LocalReplica, talk: Talk) -> Steps[None]:
    """I-5: it holds the primary's `changed` generations, and its `missing`."""
    store = local.store
    for generation in store.generations():
        for pages in _pages_of(local, generation):
            yield talk.ask({"do": "changed", "generation": generation, "pages": pages})
    if store.state.origin_snapshot_uid:
        for pages in batches(store.missing.pages()):
            yield talk.ask({"do": "missing", "pages": pages, "last": False})
        yield talk.ask({"do": "missing", "pages": [], "last": True})


def _pages_of(local: LocalReplica, generation: int) -> Iterator[list[list[object]]]:
    """At least one batch: a generation without a bit must be there too."""
    store = local.store
    if generation == store.generation:
        found = list(batches(store.changed.pages()))
    else:
        bitmap = store.changed_bitmap(generation)
        found = list(batches(bitmap.pages()))
        bitmap.close()
    yield from found or [[]]
