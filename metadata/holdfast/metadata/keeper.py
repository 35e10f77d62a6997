"""The keeper: the thread in every copy of the service that does what is due with snapshots.

It goes round as the warden does, and is as safe in several copies: each action is one compare-and-swap that
looks again.
"""

import logging
import threading
import time
from collections.abc import Callable

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import HoldfastError
from holdfast.metadata import keeper_decisions as due
from holdfast.metadata import keeping_decisions, keys
from holdfast.metadata.cas import Store, run
from holdfast.metadata.etcd import Etcd
from holdfast.metadata.followed import TICK_S, Followed, Rounds

_LOG = logging.getLogger(__name__)
ACTIONS_MAX = 256
"""In one look: what is left is due at the next."""


class Keeper:
    """Works from `start` to `stop`."""

    def __init__(self, etcd: Etcd, clock: Callable[[], float] = time.time, tick_s: float = TICK_S) -> None:
        self._etcd, self._clock = etcd, clock
        self._stop = threading.Event()
        self._snapshots = Followed(
            etcd,
            keys.SNAPSHOTS,
            r.SnapshotRecord,
            self._stop,
            wanted=lambda one: one.state != r.SNAPSHOT_STATE_DELETED,
        )
        self._rounds = Rounds("keeper", self.look, [self._snapshots], self._stop, tick_s)

    def start(self) -> None:
        self._rounds.start()

    def stop(self) -> None:
        self._rounds.stop()

    def look(self) -> None:
        """Once: see what there is, and do what is due."""
        for action in due.decide(due.Sight(self._clock(), self._snapshots.records()))[:ACTIONS_MAX]:
            if self._stop.is_set():
                return
            try:
                if carry_out(self._etcd, action, self._clock()):
                    _LOG.info("keeper: %s", action)
            except HoldfastError as error:
                _LOG.info("keeper: %s was refused: %s", action, error)


def carry_out(store: Store, action: due.Action, now_s: float) -> bool:
    """Whether it changed anything. Raises what the decision does: it may not be any more."""
    return run(store, lambda draft: keeping_decisions.purge_due(draft, action.snapshot_uid, now_s))
