"""Verifies and repairs snapshots: those that somebody asked for, or a reader had doubts of; the rest in turn.

Two threads, so that what was asked for does not wait for what is merely due. Several snapshotters share the
work by claims.
"""

import logging
import threading
import time
from collections.abc import Callable

from holdfast.base.errors import HoldfastError
from holdfast.base.limits import MIB
from holdfast.metadata.cas import run
from holdfast.metadata.snapshotter_actions import SnapshotterActions
from holdfast.metadata.verifiable import Verifiable
from holdfast.metadata.verify_changes import suspect
from holdfast.snapshotter.keys import KeyService
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.pace import Pace
from holdfast.snapshotter.patient import Stopped
from holdfast.snapshotter.scrub import GoodLately
from holdfast.snapshotter.upload import Settings
from holdfast.snapshotter.verifier import Verifier

_LOG = logging.getLogger(__name__)
ASKED_BYTES_S = 64 * MIB
SCRUB_BYTES_S = 8 * MIB
"""20 TiB in a month; little beside what a snapshotter uploads."""
SCRUB_EVERY_S = 30 * 86_400.0
GOOD_FOR_S = 86_400.0
"""How long what was good need not be read again for another snapshot that shares it."""
LOOK_EVERY_S = 1.0
AGAIN_S = 5.0
"""For what another had, or could not be claimed."""
AGAIN_AFTER_ERROR_S = 60.0
SUSPECT_AGAIN_S = 3600.0
"""A reader's doubts are looked into once in so long."""
SUSPECTS_MAX = 256


class Scrubber:
    """Works from `start` to `stop`; `actions` are another's to start and stop.

    Args:
        scrub_bytes_s: how fast what is merely due is read; 0: not at all.
        clock: in seconds since 1970.
    """

    def __init__(
        self,
        actions: SnapshotterActions,
        store: ObjectStore,
        key_service: KeyService,
        settings: Settings,
        scrub_bytes_s: float = SCRUB_BYTES_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._actions = actions
        self._store = store
        self._key_service = key_service
        self._settings = settings
        self._scrub_bytes_s = scrub_bytes_s
        self._clock = clock
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._suspects: set[str] = set()
        self._again: dict[str, float] = {}
        """Snapshots that are left alone until then, by the monotonic clock."""
        loops = [self._asked_loop] + ([self._due_loop] if scrub_bytes_s else [])
        self._threads = [threading.Thread(target=loop, name="scrub", daemon=True) for loop in loops]

    def start(self) -> None:
        self._known = Verifiable(self._actions.etcd, self._stop)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End what is under way, and give it back."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def suspect(self, snapshot_uid: str) -> None:
        """A reader could not read something of this snapshot. Any thread; returns at once."""
        with self._lock:
            if len(self._suspects) < SUSPECTS_MAX:
                self._suspects.add(snapshot_uid)

    def _asked_loop(self) -> None:
        verifier = self._verifier(ASKED_BYTES_S, None)
        while not self._stop.is_set():
            if not self._actions.keeper.wait_attached(LOOK_EVERY_S):
                continue
            self._ask_for_suspects()
            asked = self._free(self._known.asked())
            if asked:
                self._try(asked[0], verifier.verify)
                continue
            if not self._repair_one(verifier):
                self._known.wait(LOOK_EVERY_S)

    def _repair_one(self, verifier: Verifier) -> bool:
        """Whether there was one to repair."""
        repairable = dict(self._known.repairable())
        free = self._free(list(repairable))
        if free:
            self._try(free[0], lambda uid: verifier.repair(uid, repairable[uid]))
        return bool(free)

    def _due_loop(self) -> None:
        lately = GoodLately(GOOD_FOR_S, time.monotonic)
        verifier = self._verifier(self._scrub_bytes_s, lately)
        while not self._stop.wait(LOOK_EVERY_S):
            if not self._actions.keeper.wait_attached(LOOK_EVERY_S):
                continue
            due = self._free(self._known.due(self._clock() - SCRUB_EVERY_S))
            if due:
                self._try(due[0], verifier.verify)

    def _verifier(self, bytes_s: float, lately: GoodLately | None) -> Verifier:
        return Verifier(
            self._actions,
            self._store,
            self._key_service,
            self._settings,
            self._stop,
            Pace(bytes_s, self._stop),
            lately,
            self._clock,
        )

    def _free(self, uids: list[str]) -> list[str]:
        """Those that are not left alone for now."""
        now_s = time.monotonic()
        with self._lock:
            self._again = {uid: until_s for uid, until_s in self._again.items() if until_s > now_s}
            return [uid for uid in uids if uid not in self._again]

    def _try(self, uid: str, work: Callable[[str], bool]) -> None:
        wait_s = 0.0
        try:
            if not work(uid):
                wait_s = AGAIN_S
        except Stopped:
            return
        except HoldfastError as error:
            _LOG.warning("snapshot %s is not verified or repaired now: %s", uid, error.message)
            wait_s = AGAIN_AFTER_ERROR_S
        except Exception:
            _LOG.exception("snapshot %s could not be verified or repaired", uid)
            wait_s = AGAIN_AFTER_ERROR_S
        # What is done is seen to be so a moment later.
        with self._lock:
            self._again[uid] = time.monotonic() + max(wait_s, LOOK_EVERY_S)

    def _ask_for_suspects(self) -> None:
        with self._lock:
            suspects, self._suspects = self._suspects, set()
        for uid in suspects:
            self._ask_for(uid)

    def _ask_for(self, uid: str) -> None:
        now_s = self._clock()
        try:
            if run(self._actions.etcd, lambda draft: suspect(draft, uid, SUSPECT_AGAIN_S, now_s)):
                _LOG.warning("snapshot %s is to be verified: something of it could not be read", uid)
        except HoldfastError as error:
            _LOG.warning("snapshot %s cannot be verified now: %s", uid, error.message)
