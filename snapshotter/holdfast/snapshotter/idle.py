"""Gives up snapshots that were begun from outside and abandoned: nothing was put for as long as may be.

What counts is how long this process has seen nothing change, by its own clock: no two clocks are compared,
and a snapshotter that has just started waits anew. Every snapshotter looks; the first one fails it.
"""

import logging
import threading
import time
from collections.abc import Callable

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import HoldfastError
from holdfast.metadata import keys
from holdfast.metadata.cas import Store, run
from holdfast.metadata.direct_changes import fail_idle
from holdfast.metadata.etcd import Entry
from holdfast.metadata.records import decode

_LOG = logging.getLogger(__name__)
LOOK_EVERY_S = 10.0


class IdleDirects:
    """Looks from `start` to `stop`, in a thread."""

    def __init__(
        self, etcd: Store, every_s: float = LOOK_EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._etcd = etcd
        self._every_s = every_s
        self._clock = clock
        self._stop = threading.Event()
        self._seen: dict[str, tuple[list[int], float]] = {}
        """Of each snapshot: the revisions of what is staged, and since when they are these."""
        self._thread = threading.Thread(target=self._run, name="idle", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Once. Raises what etcd raises."""
        uids = [entry.key.rpartition("/")[2] for entry in self._etcd.range(keys.DIRECT)[0]]
        self._seen = {uid: self._seen[uid] for uid in uids if uid in self._seen}
        for uid in uids:
            staged, _ = self._etcd.range(keys.staged(uid))
            revisions = [entry.mod_revision for entry in staged]
            known, since_s = self._seen.get(uid, ([], 0.0))
            if uid not in self._seen or known != revisions:
                self._seen[uid] = (revisions, self._clock())
            elif self._clock() - since_s >= self._timeout_s(uid):
                self._give_up(uid, staged)

    def _timeout_s(self, uid: str) -> float:
        entry = self._etcd.get(keys.snapshot(uid))
        return decode(r.SnapshotRecord, entry.value).direct.idle_timeout_s if entry else 0

    def _give_up(self, uid: str, staged: list[Entry]) -> None:
        records = [decode(r.StagedRecord, entry.value) for entry in staged]
        if run(self._etcd, lambda draft: fail_idle(draft, uid, records)):
            _LOG.info("snapshot %s is given up: nothing was put", uid)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self.look()
            except HoldfastError as error:
                _LOG.warning("whether snapshots are abandoned cannot be seen: %s", error.message)
