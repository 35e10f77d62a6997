"""When to collect: every so often, and when an operator asks. A thread in every snapshotter.

Whose turn it is, is decided by a claim on the lease; a collection that was interrupted is begun anew by
whoever sees that nobody holds it.
"""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import HoldfastError
from holdfast.metadata import collection_changes as changes
from holdfast.metadata import keys
from holdfast.metadata.cas import Store, run
from holdfast.metadata.records import decode
from holdfast.metadata.snapshot_changes import Claimant
from holdfast.snapshotter.collector import GRACE_S, Collector
from holdfast.snapshotter.keys import NO_KEYS, KeyService
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.patient import Stopped

_LOG = logging.getLogger(__name__)
EVERY_S = 6 * 3600.0
LOOK_EVERY_S = 1.0
AGAIN_S = 300.0
"""After one that failed."""


def is_due(
    record: r.CollectionRecord | None, claimed: bool, every_s: float, now_s: float, seen_for_s: float
) -> bool:
    """Whether one should begin now.

    Args:
        claimed: somebody holds the claim.
        seen_for_s: how long this process has seen the record as it is: a clock that is wrong may make a
            collection come early, but not keep it away.
    """
    if claimed:
        return False
    if record is None or record.request > record.served or record.state == r.COLLECTION_STATE_RUNNING:
        return True
    wait_s = min(AGAIN_S, every_s) if record.state == r.COLLECTION_STATE_FAILED else every_s
    return max(now_s - record.end_time.ToMilliseconds() / 1000, seen_for_s) >= wait_s


class Collecting:
    """Works from `start` to `stop`.

    Args:
        claimant: who we are now; raises a HoldfastError while there is no lease.
    """

    def __init__(
        self,
        etcd: Store,
        store: ObjectStore,
        claimant: Callable[[], Claimant],
        every_s: float = EVERY_S,
        grace_s: float = GRACE_S,
        key_service: KeyService = NO_KEYS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._etcd = etcd
        self._store = store
        self._claimant = claimant
        self._every_s = every_s
        self._grace_s = grace_s
        self._key_service = key_service
        self._clock = clock
        self._stop = threading.Event()
        self._seen: tuple[int, float] = (-1, time.monotonic())
        """The record's revision, and since when it is that."""
        self._thread = threading.Thread(target=self._run, name="collect", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> bool:
        """Collect if it is time. Whether it did. Raises what etcd raises, and Stopped."""
        entry = self._etcd.get(keys.COLLECTION)
        revision = entry.mod_revision if entry else 0
        if self._seen[0] != revision:
            self._seen = (revision, time.monotonic())
        record = decode(r.CollectionRecord, entry.value) if entry else None
        claimed = self._etcd.get(keys.COLLECTION_CLAIM) is not None
        seen_for_s = time.monotonic() - self._seen[1]
        if not is_due(record, claimed, self._every_s, self._clock(), seen_for_s):
            return False
        by = self._claimant()
        if not run(self._etcd, partial(changes.claim, by=by)):
            return False
        try:
            self._collector(by).collect()
        finally:
            run(self._etcd, partial(changes.release, by=by))
        return True

    def _collector(self, by: Claimant) -> Collector:
        return Collector(
            self._etcd, self._store, by, self._stop, self._grace_s, self._key_service, self._clock
        )

    def _run(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            try:
                self.look()
            except Stopped:
                return
            except HoldfastError as error:
                _LOG.warning("objects cannot be collected now: %s", error.message)
            except Exception:
                _LOG.exception("the collection of objects failed, and will be tried again")
