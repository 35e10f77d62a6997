"""Clearing `intent` while running: regions that were quiet for a while are synced on both hosts first."""

from holdfast.base.steps import Steps, all_of, starting
from holdfast.replicator.link import Link
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.settle import settle

CLEAN_INTERVAL_S = 10.0


def clean(local: LocalReplica, link: Link) -> Steps[int]:
    """Returns how many regions were cleared. Raises Unavailable if a disk or the link failed."""
    quiet = local.intent.candidates(local.order.writing())
    if quiet:
        yield all_of(starting(settle(local)), link.ask({"do": "settle"}))
        yield link.ask({"do": "clean", "regions": sorted(quiet)})
        local.intent.clear(quiet)
    return len(quiet)
