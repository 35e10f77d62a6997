"""Sequences that change which `changed` generation a replica writes to, other than a freeze that succeeds."""

from functools import partial

from holdfast.base.steps import Steps
from holdfast.replicator.local import LocalReplica


def abandon_freezes(local: LocalReplica) -> Steps[None]:
    """Undo what was prepared or flipped and not recorded. A generation that was opened stays open.

    Idempotent. Raises OSError if that could not be written down; it is undone nevertheless.
    """
    store = local.store
    for uid in store.unrecorded_views():
        local.views.drop(uid)
    yield partial(local.in_pool, store.discard_prepared)
    yield partial(local.in_pool, store.record_generation)


def open_generation(local: LocalReplica, generation: int) -> Steps[None]:
    """Catch up with the other host: write to `generation` from now on. Idempotent."""
    store = local.store
    if generation <= store.generation:
        return
    yield partial(local.in_pool, partial(store.prepare_generation, generation))
    store.enter_generation(generation)
    yield partial(local.in_pool, store.record_generation)
