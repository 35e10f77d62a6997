"""The keeper: the thread in every copy of the service that does what is due with snapshots.

It goes round as the warden does, and is as safe in several copies: each action is one compare-and-swap that
looks again.
"""

import logging
import threading
import time
from collections.abc import Callable

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import HoldfastError, Unavailable
from holdfast.base.ids import new_uid
from holdfast.metadata import keeper_decisions as due
from holdfast.metadata import keeping_decisions, keys, schedule_runs
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
        self._schedules = Followed(etcd, keys.SCHEDULES, r.ScheduleRecord, self._stop)
        self._runs = Followed(etcd, keys.SCHEDULE_RUNS, r.ScheduleRun, self._stop)
        self._volumes = Followed(etcd, keys.VOLUMES, r.VolumeRecord, self._stop)
        followed = (self._snapshots, self._schedules, self._runs, self._volumes)
        self._rounds = Rounds("keeper", self.look, followed, self._stop, tick_s)

    def start(self) -> None:
        self._rounds.start()

    def stop(self) -> None:
        self._rounds.stop()

    def look(self) -> None:
        """Once: see what there is, and do what is due."""
        sight = due.Sight(
            self._clock(),
            self._snapshots.records(),
            self._schedules.records(),
            self._runs.records(),
            self._volumes.records(),
        )
        for action in due.decide(sight)[:ACTIONS_MAX]:
            if self._stop.is_set():
                return
            try:
                if carry_out(self._etcd, action, self._clock()):
                    _LOG.info("keeper: %s", action)
            except HoldfastError as error:
                _LOG.info("keeper: %s was refused: %s", action, error)


def carry_out(store: Store, action: due.Action, now_s: float) -> bool:
    """Whether it changed anything. Raises what the decision does: it may not be any more."""
    match action:
        case due.Purge(uid):
            return run(store, lambda draft: keeping_decisions.purge_due(draft, uid, now_s))
        case schedule_runs.Slot() as slot:
            return _take(store, slot, now_s)
        case schedule_runs.Note() as note:
            return run(store, lambda draft: schedule_runs.note(draft, note, now_s))
        case schedule_runs.Trim() as trim:
            return run(store, lambda draft: schedule_runs.trim(draft, trim, now_s))


def _take(store: Store, slot: schedule_runs.Slot, now_s: float) -> bool:
    """Make a slot's snapshot; if that is refused, its owner is to see why. It is tried again at each look."""
    uid = new_uid()
    try:
        return run(store, lambda draft: schedule_runs.take(draft, slot, uid, now_s))
    except Unavailable:
        raise
    except HoldfastError as error:
        note = schedule_runs.Note(slot, error.message)
        return run(store, lambda draft: schedule_runs.note(draft, note, now_s))
