"""What a replica holds is on disk: data, and every bitmap that another host or another boot relies on."""

from functools import partial

from holdfast.base.device import Outcome
from holdfast.base.errors import Unavailable
from holdfast.base.steps import Steps
from holdfast.replicator.local import LocalReplica


def settle(local: LocalReplica) -> Steps[None]:
    """Raises Unavailable LOCAL_DISK if the disk failed it."""
    outcome = yield local.flush
    if outcome is Outcome.OK:
        try:
            yield partial(local.in_pool, local.store.sync_bitmaps)
            return
        except OSError as error:
            local.distrust(f"the disk failed a sync: {error}")
    raise Unavailable("LOCAL_DISK", f"the disk of this host is in trouble: {local.suspect}")
