"""A fresh session to an in-sync host, before anything is acknowledged over it.

In this order: that host has drained its old session (hello); both write to one `changed` generation,
neither of which under-reports; views that only it has are dropped (their freeze was interrupted); the
regions in doubt on either side are known and intended, and what the primary misses of them the other misses
too; every unconfirmed request is sent again. What was acknowledged is on both hosts already, so what is in
doubt concerns only writes that nobody was promised: mending.py makes it equal, before users are served or
meanwhile.

The regions stay intended on both hosts until a clean: a copy that is not on disk yet is a write like any.
"""

from functools import partial
from typing import cast

from holdfast.base.errors import Unavailable
from holdfast.base.steps import Resume, Steps
from holdfast.replicator.bitmap import Bitmap
from holdfast.replicator.bits import pages_of
from holdfast.replicator.generations import open_generation
from holdfast.replicator.link import Link
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.mending import mend, tell_equal
from holdfast.replicator.messages import INDEXES_MAX, Message
from holdfast.replicator.settle import settle
from holdfast.replicator.store import Store
from holdfast.replicator.talk import REFUSED, Talk

MIRROR = "mirror"


def align(local: LocalReplica, host_id: str, epoch: int, link: Link) -> Steps[None]:
    """Raises Unavailable if the session is lost on the way, or a disk is in trouble. A host that is not in
    sync after all (it restarted, and has lost its memory) makes the link hopeless.
    """
    store, talk = local.store, link.talk()
    answer = yield from hello(talk, store, host_id, epoch)
    link.on_greeted()
    if answer["role"] != MIRROR:
        link.give_up_hope("that host restarted, and its memory is lost")
        talk.check()
    if link.equal_in_boot == answer["boot_id"]:
        # Whichever process it is there, what it wrote since came from this one, and lacks an answer here.
        theirs = Bitmap.in_memory(store.regions)
    else:
        theirs = yield from fetch_bits(talk, "doubt", store.regions)
    yield from lead(local, talk, link, answer, theirs)
    if local.store.missing.left or answer.get("misses") is not False:
        # A write to part of an extent that is missing there would be refused.
        yield from equal(local, link)


def hello(talk: Talk, store: Store, host_id: str, epoch: int) -> Steps[Message]:
    words = {"do": "hello", "host": host_id, "epoch": epoch, "size_bytes": store.size_bytes}
    answer: Message = yield talk.ask(words)
    return answer


def equal(local: LocalReplica, link: Link) -> Steps[None]:
    """Nothing is in doubt at the link any more, before it is up."""
    if link.in_doubt:
        yield from mend(local, link, lambda: 0.0)


def lead(local: LocalReplica, talk: Talk, link: Link, answer: Message, theirs: Bitmap) -> Steps[None]:
    """From an answered hello to a host that takes requests, and differs only where the link is in doubt.
    `theirs`: regions in doubt there.
    """
    store, link.boot_id = local.store, answer["boot_id"]
    yield from align_generation(local, talk, answer)
    # One that was lost here later may be whole there, and is the only one.
    for uid in sorted(set(answer["views"]) - store.views.keys() - local.views.lost().keys()):
        yield talk.ask({"do": "drop_view", "uid": uid})
    link.in_doubt.update(theirs.set_bits())
    yield partial(_adopt, local, set(link.in_doubt))
    unfilled = [
        extent for region in sorted(link.in_doubt) for extent in store.missing.among(store.extents_of(region))
    ]
    for first in range(0, len(unfilled), INDEXES_MAX):
        yield talk.ask({"do": "unfill", "extents": unfilled[first : first + INDEXES_MAX]})
    talk.check()
    link.resend_unconfirmed()
    yield from settle(local)
    yield talk.ask({"do": "settle"})
    link.mending = bool(link.in_doubt)
    if not link.mending:
        yield from tell_equal(talk, link)


def align_generation(local: LocalReplica, talk: Talk, answer: Message) -> Steps[None]:
    theirs = cast(int, answer["generation"])
    yield from open_generation(local, theirs)
    if theirs < local.store.generation:
        yield talk.ask({"do": "open_generation", "generation": local.store.generation})


def fetch_bits(talk: Talk, word: str, bits: int) -> Steps[Bitmap]:
    """The other host's bitmap, in memory. Raises Unavailable MIRROR_REFUSED if it is nonsense."""
    found = Bitmap.in_memory(bits)
    start = 0
    while start >= 0:
        answer = yield talk.ask({"do": word, "start": start})
        try:
            for at, page in pages_of(answer.get("pages")):
                found.or_page(at, page)
            start = int(answer["next"])
        except (ValueError, KeyError, TypeError) as error:
            raise Unavailable(REFUSED, f"the mirror's bitmap cannot be read: {error}") from error
    return found


def _adopt(local: LocalReplica, regions: set[int], resume: Resume) -> None:
    """A step: the regions are intended here too, durably, so that a later clean finds them."""

    local.intend(regions, partial(resume, None), lambda _outcome: resume(local.trouble()))
