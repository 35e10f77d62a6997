"""Which snapshots are to be verified or repaired: all of them followed, a few numbers kept of each.

It is a hint, kept up to date by a thread until `stop` is set: claims decide.
"""

import logging
import threading
from collections.abc import Mapping
from typing import NamedTuple

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import DataLoss
from holdfast.metadata import keys
from holdfast.metadata.etcd import Etcd, Event
from holdfast.metadata.follow import follow
from holdfast.metadata.records import decode
from holdfast.metadata.verify_changes import STORED, UNDER_WAY

_LOG = logging.getLogger(__name__)


class Known(NamedTuple):
    owner: str
    volume_uid: str
    base_uid: str
    frozen_ms: int
    asked: bool
    """A verification is asked for, or was begun because it was."""
    under_way: bool
    verified_s: float
    """When it was last verified in whole, or completed."""
    damaged: bool
    repair_source_uid: str


class Verifiable:
    """Safe for several threads."""

    def __init__(self, etcd: Etcd, stop: threading.Event) -> None:
        self._known: dict[str, Known] = {}
        self._changed = threading.Condition()
        self._stop = stop
        threading.Thread(target=self._follow, args=(etcd,), name="verifiable", daemon=True).start()

    def wait(self, timeout_s: float) -> None:
        """Until something changes."""
        with self._changed:
            if not self._stop.is_set():
                self._changed.wait(timeout_s)

    def asked(self) -> list[str]:
        """Uids of those that somebody asked for."""
        with self._changed:
            return sorted(uid for uid, one in self._known.items() if one.asked and one.under_way)

    def due(self, before_s: float) -> list[str]:
        """Uids of those that were begun and left, then of those last verified before then, oldest first."""
        with self._changed:
            due = [
                (not one.under_way, one.verified_s, uid)
                for uid, one in self._known.items()
                if (one.under_way and not one.asked) or (not one.under_way and one.verified_s < before_s)
            ]
        return [uid for _, _, uid in sorted(due)]

    def repairable(self) -> list[tuple[str, str]]:
        """(uid, uid of its source: the newest of its owner's and its family), not tried with that yet."""
        with self._changed:
            damaged = [(uid, one) for uid, one in self._known.items() if one.damaged and not one.under_way]
            if not damaged:
                return []
            family = _families(self._known)
            newest: dict[tuple[str, str], tuple[int, str]] = {}
            for uid, one in self._known.items():
                key = (one.owner, family[one.volume_uid])
                newest[key] = max(newest.get(key, (-1, "")), (one.frozen_ms, uid))
        pairs = [(uid, one, newest[one.owner, family[one.volume_uid]][1]) for uid, one in damaged]
        return [(uid, source) for uid, one, source in pairs if source not in (uid, one.repair_source_uid)]

    def _follow(self, etcd: Etcd) -> None:
        for events in follow(etcd, keys.SNAPSHOTS, self._stop):
            with self._changed:
                for event in events:
                    self._apply(event)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def _apply(self, event: Event) -> None:
        uid = event.key.removeprefix(keys.SNAPSHOTS)
        self._known.pop(uid, None)
        if event.entry is None:
            return
        try:
            snapshot = decode(r.SnapshotRecord, event.entry.value)
        except DataLoss as error:
            _LOG.error("%s: %s", event.key, error)
            return
        if snapshot.state in STORED:
            self._known[uid] = _known(snapshot)


def _families(known: Mapping[str, Known]) -> dict[str, str]:
    """For each volume a name of its family: volumes whose snapshots are incremental from each other's."""
    leads_to = {one.volume_uid: one.volume_uid for one in known.values()}

    def head(volume: str) -> str:
        while leads_to[volume] != volume:
            leads_to[volume] = volume = leads_to[leads_to[volume]]
        return volume

    for one in known.values():
        base = known.get(one.base_uid)
        if base is not None:
            leads_to[head(one.volume_uid)] = head(base.volume_uid)
    return {volume: head(volume) for volume in leads_to}


def _known(snapshot: r.SnapshotRecord) -> Known:
    verified = (
        snapshot.whole_verify_time if snapshot.HasField("whole_verify_time") else snapshot.complete_time
    )
    verify = snapshot.verify
    # One that could not be done is tried again when it would have been due had it been.
    failed = verify.state == r.SNAPSHOT_VERIFY_STATE_FAILED
    tried_ms = max(verified.ToMilliseconds(), verify.end_time.ToMilliseconds() if failed else 0)
    return Known(
        snapshot.owner,
        snapshot.volume_uid,
        snapshot.base_snapshot_uid,
        snapshot.freeze_time.ToMilliseconds(),
        verify.asked,
        verify.state in UNDER_WAY,
        tried_ms / 1000,
        snapshot.health == r.SNAPSHOT_HEALTH_DAMAGED,
        snapshot.repair_source_uid,
    )
