"""The snapshotter at work: registered, watching for frozen snapshots, uploading a few of them at a time."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import HoldfastError
from holdfast.metadata import keys
from holdfast.metadata.claimable import Claimable
from holdfast.metadata.follow import follow
from holdfast.metadata.records import decode
from holdfast.metadata.snapshot_changes import Claimant
from holdfast.metadata.snapshotter_actions import SnapshotterActions
from holdfast.snapshotter.buffers import PackBuffers
from holdfast.snapshotter.key_errors import KeyUnavailable
from holdfast.snapshotter.keys import NO_KEYS, KeyService
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.scrubber import SCRUB_BYTES_S, Scrubber
from holdfast.snapshotter.task import ENDED, OpenView, Task
from holdfast.snapshotter.upload import Settings

_LOG = logging.getLogger(__name__)
LOOK_EVERY_S = 1.0
AGAIN_FIRST_S = 2.0
AGAIN_MAX_S = 60.0
"""How long a snapshot whose upload failed unexpectedly is left alone; doubled each time."""


class Service:
    """Uploads from `start` to `stop`.

    Args:
        actions: started and stopped by this; its lease carries the claims.
        uploads: how many snapshots are uploaded at a time.
        scrub_bytes_s: how fast snapshots are verified whose time has come; 0: not at all.
    """

    def __init__(
        self,
        actions: Callable[[Callable[[], None]], SnapshotterActions],
        store: ObjectStore,
        open_view: OpenView,
        settings: Settings,
        uploads: int = 2,
        key_service: KeyService = NO_KEYS,
        scrub_bytes_s: float = SCRUB_BYTES_S,
    ) -> None:
        self.actions = actions(self._lease_lost)
        self.scrubber = Scrubber(self.actions, store, key_service, settings, scrub_bytes_s)
        self._store = store
        self._open_view = open_view
        self._settings = settings
        self._uploads = uploads
        self._buffers = PackBuffers(settings.uploads + uploads)
        self._key_service = key_service
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._running: dict[str, threading.Event] = {}
        self._again: dict[str, tuple[float, float]] = {}
        self._threads = ThreadPoolExecutor(uploads, thread_name_prefix="upload")
        self._claimer = threading.Thread(target=self._claim_loop, name="claim", daemon=True)

    def start(self) -> None:
        self.actions.start()
        self._claimer.start()
        self.scrubber.start()

    def stop(self) -> None:
        """End every upload where it is, and give the claims back at once."""
        self._stop.set()
        self._end_all()
        self._claimer.join()
        self.scrubber.stop()
        # First: others may go on while an upload of ours still waits for an answer. It can no longer end.
        self.actions.stop()
        self._threads.shutdown(wait=True)

    def _lease_lost(self) -> None:
        """The claims went with the lease: others may have taken them."""
        _LOG.warning("the lease is lost: every upload stops")
        self._end_all()

    def _end_all(self) -> None:
        with self._lock:
            for stop in self._running.values():
                stop.set()

    def _claim_loop(self) -> None:
        claimable = self.actions.claimable(self._stop)
        while not self._stop.is_set():
            # Without a lease there is nothing to put a claim on.
            todo = self._todo(claimable) if self.actions.keeper.wait_attached(LOOK_EVERY_S) else []
            if not todo:
                # What waits may be what we leave alone for now, or there may be no thread for it.
                self._stop.wait(LOOK_EVERY_S / 4 if claimable.now() else 0)
                continue
            try:
                self._take(todo[0])
            except HoldfastError as error:
                _LOG.warning("snapshot %s could not be claimed: %s", todo[0], error.message)
                self._stop.wait(LOOK_EVERY_S)

    def _todo(self, claimable: Claimable) -> list[str]:
        waiting = claimable.wait(LOOK_EVERY_S)
        with self._lock:
            if len(self._running) >= self._uploads:
                return []
            now_s = time.monotonic()
            return [
                uid
                for uid in waiting
                if uid not in self._running and self._again.get(uid, (0.0, 0.0))[0] <= now_s
            ]

    def _take(self, uid: str) -> None:
        by = self.actions.claim(uid)
        if by is None:
            return
        stop = threading.Event()
        with self._lock:
            self._running[uid] = stop
        if self._stop.is_set():
            stop.set()
        self._threads.submit(self._run, uid, by, stop)

    def _run(self, uid: str, by: Claimant, stop: threading.Event) -> None:
        _LOG.info("snapshot %s: uploading", uid)
        watcher = threading.Thread(target=self._watch, args=(uid, stop), name="watch", daemon=True)
        watcher.start()
        task = Task(
            self.actions,
            self._store,
            self._open_view,
            self._settings,
            uid,
            by,
            stop,
            self._key_service,
            self.scrubber.suspect,
            self._buffers,
        )
        try:
            task.run()
            _LOG.info("snapshot %s: COMPLETED", uid)
            self._again.pop(uid, None)
        except ENDED as error:
            _LOG.info("snapshot %s: stopped: %s", uid, error.message)
        except KeyUnavailable as error:
            # Another snapshotter may have it.
            _LOG.warning("snapshot %s waits for its key: %s", uid, error.message)
            self._leave_alone(uid, by, error.message)
        except Exception as error:
            _LOG.exception("snapshot %s: the upload failed, and will be tried again", uid)
            self._leave_alone(uid, by, f"The upload failed and will be tried again: {error}")
        finally:
            stop.set()
            watcher.join()
            with self._lock:
                del self._running[uid]

    def _leave_alone(self, uid: str, by: Claimant, reason: str) -> None:
        with self._lock:
            wait_s = min(AGAIN_MAX_S, 2 * self._again.get(uid, (0.0, AGAIN_FIRST_S / 2))[1])
            self._again[uid] = (time.monotonic() + wait_s, wait_s)
        try:
            self.actions.waits(uid, by, reason)
            self.actions.release(uid, by)
        except HoldfastError as trouble:
            _LOG.warning("snapshot %s: the claim is left to the lease: %s", uid, trouble.message)

    def _watch(self, uid: str, stop: threading.Event) -> None:
        """Set `stop` as soon as the snapshot is no longer to be uploaded."""
        key = keys.snapshot(uid)
        for events in follow(self.actions.etcd, key, stop):
            records = [event.entry for event in events if event.key == key]
            if records and (
                records[-1] is None
                or decode(r.SnapshotRecord, records[-1].value).state != r.SNAPSHOT_STATE_FROZEN
            ):
                stop.set()
