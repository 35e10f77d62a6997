"""Clearing `intent` while running: regions that were quiet for a while are synced on all in-sync hosts first.

A host that is not in sync counts for nothing here: what it lacks is in `absent`, which is synced as well.
"""

from collections.abc import Sequence

from holdfast.base.errors import Unavailable
from holdfast.base.steps import Starter, Steps, all_of
from holdfast.replicator.bits import batches
from holdfast.replicator.intent import FORGET_PAUSE_S
from holdfast.replicator.messages import Message
from holdfast.replicator.partner import Partner
from holdfast.replicator.primary import Primary
from holdfast.replicator.resync import sleep
from holdfast.replicator.settle import settle_all
from holdfast.replicator.talk import Talk

CLEAN_INTERVAL_S = 10.0


def clean(primary: Primary) -> Steps[int]:
    """Returns how many regions were cleared. Raises Unavailable if a disk or a link failed. One at a time:
    a second would make the first overlook what was written since; it does nothing.
    """
    _check(primary, _required(primary))
    intent = primary.local.intent
    if intent.cleaning:
        return 0
    intent.cleaning = True
    try:
        return (yield from _clean(primary))
    finally:
        intent.cleaning = False


def _clean(primary: Primary) -> Steps[int]:
    local, members = primary.local, _required(primary)
    talks = [partner.link.talk() for partner in members]
    quiet = local.intent.candidates(local.order.writing())
    for partner in members:
        for region in partner.link.in_doubt:
            quiet.clear(region)
    if not quiet.any() and not local.intent.untold:
        return 0
    local.intent.untold = True
    yield settle_all(local, talks)
    cleared = 0
    for regions in local.intent.untouched_parts(quiet):
        _check(primary, members)
        for talk in talks:
            talk.check()
        # Writes that began since are not on disk; those that begin from here on come after this word at all
        # of the others too, and find the region cold everywhere.
        local.intent.forget(regions)
        yield _tell(talks, {"regions": regions})
        yield sleep(local.loop, FORGET_PAUSE_S)
        cleared += len(regions)
    # Others may have more bits than that: each looks ahead of writers by itself, and may have missed a word.
    for page in local.store.intent.every_page():
        _check(primary, members)
        yield _tell(talks, {"but": next(batches([page]))})
    local.intent.untold = False
    return cleared


def _tell(talks: Sequence[Talk], what: Message) -> Starter:
    """A step. Bound to their sessions: Unavailable if one of them has ended."""
    return all_of(*(talk.ask({"do": "clean", **what}) for talk in talks))


def _required(primary: Primary) -> list[Partner]:
    return [partner for partner in primary.partners if partner.required]


def _check(primary: Primary, members: list[Partner]) -> None:
    """All of the set are there, and it is the one that has synced."""
    if not primary.writes or _required(primary) != members:
        raise Unavailable("MIRROR_LOST", "not all hosts of the volume are there.")
