"""What an upload tells etcd: progress now and then, a reason when it waits, checkpoints when they are there.

An etcd out of reach holds nothing up but the last step: a report that could not be made is made later.
But what says that the work is no longer ours (CLAIM_LOST, NOT_FROZEN) is passed on, and ends it.
"""

import logging
import threading
import time
from collections.abc import Callable

from holdfast.base.errors import Unavailable
from holdfast.metadata.snapshot_changes import Claimant
from holdfast.metadata.snapshotter_actions import SnapshotterActions

_LOG = logging.getLogger(__name__)
PROGRESS_EVERY_S = 5.0


class Reporter:
    """Of one claimed snapshot; for several threads."""

    def __init__(
        self,
        actions: SnapshotterActions,
        snapshot_uid: str,
        by: Claimant,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._actions = actions
        self._uid = snapshot_uid
        self._by = by
        self._clock = clock
        self._lock = threading.Lock()
        self._next_s = 0.0
        self._reason = ""
        self._done_bytes = 0
        self._total_bytes = 0

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        """Recorded at most once in PROGRESS_EVERY_S, and at once where it says that a wait is over."""
        with self._lock:
            self._done_bytes, self._total_bytes = done_bytes, total_bytes
            if self._clock() < self._next_s and not self._reason:
                return
            self._next_s = self._clock() + PROGRESS_EVERY_S
            self._reason = ""
        self._try(lambda: self._actions.progress(self._uid, self._by, done_bytes, total_bytes))

    def waits(self, reason: str) -> None:
        """Recorded when it is another reason than before; "" is that the wait is over."""
        if not reason:
            self.progress(self._done_bytes, self._total_bytes)
            return
        with self._lock:
            if reason == self._reason:
                return
            self._reason = reason
        _LOG.warning("snapshot %s waits: %s", self._uid, reason)
        self._try(lambda: self._actions.waits(self._uid, self._by, reason))

    def checkpoint(self, name: str) -> bool:
        """Whether it is recorded; if not, the one before still is."""
        return self._try(lambda: self._actions.checkpoint(self._uid, self._by, name))

    def _try(self, report: Callable[[], bool]) -> bool:
        try:
            report()
        except Unavailable as error:
            _LOG.warning("snapshot %s: a report was not made: %s", self._uid, error.message)
            return False
        return True
