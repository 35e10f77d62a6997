"""What a replica holds is on disk: data, and every bitmap that another host or another boot relies on."""

from collections.abc import Sequence
from functools import partial

from holdfast.base.device import Outcome
from holdfast.base.steps import Starter, Steps, all_of, starting
from holdfast.replicator.files import SyncFailed
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.talk import Talk


def settle(local: LocalReplica) -> Steps[None]:
    """Raises Unavailable LOCAL_DISK if the disk failed it."""
    outcome = yield local.flush
    if outcome is Outcome.OK:
        try:
            yield partial(local.in_pool, local.store.sync_bitmaps)
            return
        except SyncFailed as error:
            raise local.trouble() from error
    raise local.trouble()


def settle_all(local: LocalReplica, talks: Sequence[Talk]) -> Starter:
    """A step: here and at the other end of each session."""
    return all_of(starting(settle(local)), *(talk.ask({"do": "settle"}) for talk in talks))
