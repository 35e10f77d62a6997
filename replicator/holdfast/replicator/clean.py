"""Clearing `intent` while running: regions that were quiet for a while are synced on all in-sync hosts first.

A host that is not in sync counts for nothing here: what it lacks is in `absent`, which is synced as well.
"""

from itertools import islice

from holdfast.base.errors import Unavailable
from holdfast.base.steps import Steps, all_of
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.primary import Primary
from holdfast.replicator.settle import settle_all
from holdfast.replicator.talk import Talk

CLEAN_INTERVAL_S = 10.0
WORD_REGIONS = 4096
"""Of one word: some milliseconds at either end, in which nobody else is served."""


def clean(primary: Primary) -> Steps[int]:
    """Returns how many regions were cleared. Raises Unavailable if a disk or a link failed. One at a time:
    a second would make the first overlook what was written since; it does nothing.
    """
    if not primary.writes:
        # Regions in doubt are no candidates; while every link is up there are none.
        raise Unavailable("MIRROR_LOST", "not all hosts of the volume are there.")
    local = primary.local
    if local.intent.cleaning:
        return 0
    local.intent.cleaning = True
    try:
        talks = [partner.link.talk() for partner in primary.partners if partner.required]
        return (yield from _clean(local, talks))
    finally:
        local.intent.cleaning = False


def _clean(local: LocalReplica, talks: list[Talk]) -> Steps[int]:
    quiet = local.intent.candidates(local.order.writing())
    if not quiet.any():
        return 0
    yield settle_all(local, talks)
    cleared = first = 0
    while regions := list(islice(local.intent.untouched(quiet, first), WORD_REGIONS)):
        for talk in talks:
            talk.check()
        # Writes that began since are not on disk; those that begin from here on come after this word at all
        # of the others too, and find the region cold everywhere.
        local.intent.forget(regions)
        yield all_of(*(talk.ask({"do": "clean", "regions": regions}) for talk in talks))
        cleared, first = cleared + len(regions), regions[-1] + 1
    return cleared
