"""Which snapshots wait for a snapshotter: FROZEN, with no claim. Two followed prefixes and a set."""

import logging
import threading

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import DataLoss
from holdfast.metadata import keys
from holdfast.metadata.etcd import Etcd, Event
from holdfast.metadata.follow import follow
from holdfast.metadata.records import decode

_LOG = logging.getLogger(__name__)


class Claimable:
    """Kept up to date by two threads, until `stop` is set. It is a hint: `claim` decides."""

    def __init__(self, etcd: Etcd, stop: threading.Event) -> None:
        self._frozen: set[str] = set()
        self._claimed: set[str] = set()
        self._listed: set[str] = set()
        self._changed = threading.Condition()
        self._stop = stop
        for prefix in (keys.SNAPSHOTS, keys.CLAIMS):
            thread = threading.Thread(target=self._follow, args=(etcd, prefix), name="claimable", daemon=True)
            thread.start()

    def now(self) -> list[str]:
        """The uids that wait now; none before both prefixes have been listed."""
        with self._changed:
            return self._waiting()

    def wait(self, timeout_s: float) -> list[str]:
        """As `now`, but waits up to `timeout_s` for there to be one."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting() or self._stop.is_set(), timeout_s)
            return self._waiting()

    def _waiting(self) -> list[str]:
        return sorted(self._frozen - self._claimed) if len(self._listed) == 2 else []

    def _follow(self, etcd: Etcd, prefix: str) -> None:
        for events in follow(etcd, prefix, self._stop):
            with self._changed:
                for event in events:
                    self._apply(prefix, event)
                self._listed.add(prefix)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def _apply(self, prefix: str, event: Event) -> None:
        uid = event.key.removeprefix(prefix)
        if prefix == keys.CLAIMS:
            uids, member = self._claimed, event.entry is not None
        else:
            uids, member = self._frozen, _is_frozen(event)
        if member:
            uids.add(uid)
        else:
            uids.discard(uid)


def _is_frozen(event: Event) -> bool:
    if event.entry is None:
        return False
    try:
        return decode(r.SnapshotRecord, event.entry.value).state == r.SNAPSHOT_STATE_FROZEN
    except DataLoss as error:
        # One record that cannot be read is left alone; the others are not to wait for it.
        _LOG.error("%s: %s", event.key, error)
        return False
