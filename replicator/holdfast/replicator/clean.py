"""Clearing `intent` while running: regions that were quiet for a while are synced on both hosts first."""

from holdfast.base.errors import Unavailable
from holdfast.base.steps import Steps, all_of, starting
from holdfast.replicator.link import Link
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.settle import settle
from holdfast.replicator.talk import Talk

CLEAN_INTERVAL_S = 10.0


def clean(local: LocalReplica, link: Link) -> Steps[int]:
    """Returns how many regions were cleared. Raises Unavailable if a disk or the link failed. One at a
    time: a second would make the first overlook what was written since; it does nothing.
    """
    if not link.up:
        # Regions in doubt are no candidates; while the link is up there are none.
        raise Unavailable("MIRROR_LOST", f"the mirror is out of reach: {link.why_down}.")
    if local.intent.cleaning:
        return 0
    local.intent.cleaning = True
    try:
        return (yield from _clean(local, link.talk()))
    finally:
        local.intent.cleaning = False


def _clean(local: LocalReplica, talk: Talk) -> Steps[int]:
    quiet = local.intent.candidates(local.order.writing())
    if not quiet:
        return 0
    yield all_of(starting(settle(local)), talk.ask({"do": "settle"}))
    talk.check()
    # Writes that began since are not on disk; those that begin from here on come after this word at the
    # mirror too, and find the region cold on both hosts.
    quiet = local.intent.untouched(quiet)
    local.intent.forget(quiet)
    yield talk.ask({"do": "clean", "regions": sorted(quiet)})
    return len(quiet)
