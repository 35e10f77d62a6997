"""Who may read a snapshot as an NBD export: decided by what etcd says, remembered for a little while.

A host may read the origin of a volume that is assigned to it, and nothing else: it is the volume, not the
grant or the snapshot's being shown, that lets it. An operator may read any. A user may read what they own
or are granted to read, for as long as that is so. Whatever may not be read does not exist (I-10). If etcd
is out of reach, what was allowed a while ago still is, so that hydration goes on through an outage of etcd.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import NotFound, Unavailable
from holdfast.base.ids import is_uid
from holdfast.base.tls import PeerIdentity
from holdfast.metadata import keys
from holdfast.metadata.encryption_decisions import key_for_user
from holdfast.metadata.etcd import Entry
from holdfast.metadata.lookups import EVERYONE
from holdfast.metadata.permissions import READ_BLOCKS, permit
from holdfast.metadata.records import M, decode
from holdfast.snapshotter.keys import from_records
from holdfast.snapshotter.ring import WrappedKey

FRESH_S = 3.0
"""How long an answer of etcd's is not asked for again."""
USER_FRESH_S = 1.0
"""The same for users: so soon a grant that is taken back is of no more use."""
STALE_S = 3600.0
"""How long it still counts while etcd is out of reach."""
REMEMBERED_MAX = 4096
_PREFIX = "snapshot:"


class Records(Protocol):
    """What is needed of etcd."""

    def get(self, key: str) -> Entry | None: ...

    def range(self, prefix: str, limit: int = 0, start_after: str = "") -> tuple[list[Entry], int]: ...


class Readable(NamedTuple):
    """A snapshot that may be read."""

    snapshot_uid: str
    size_bytes: int
    manifest: str
    manifest_sha256: str
    keys: tuple[WrappedKey, ...] = ()
    """The data key of an encrypted one, as it is wrapped for who may read it: any of these will do."""


class Access:
    """Decides, blocking for at most what etcd's client allows. For several threads."""

    def __init__(self, etcd: Records, clock: Callable[[], float] = time.monotonic) -> None:
        self._etcd = etcd
        self._clock = clock
        self._lock = threading.Lock()
        self._remembered: OrderedDict[tuple[str, PeerIdentity], tuple[Readable, float]] = OrderedDict()

    def open(self, export_name: str, peer: PeerIdentity | None) -> Readable:
        """What `peer` may read as `export_name`. Raises NotFound NO_SUCH_EXPORT, or Unavailable."""
        uid = export_name.removeprefix(_PREFIX)
        if peer is None or not export_name.startswith(_PREFIX) or not is_uid(uid):
            raise _no_such(export_name)
        with self._lock:
            known, asked_s = self._remembered.get((uid, peer), (None, 0.0))
        age_s = self._clock() - asked_s
        if known is not None and age_s < (USER_FRESH_S if peer.role == "user" else FRESH_S):
            return known
        try:
            found = self._ask(uid, peer)
        except Unavailable:
            if known is not None and age_s < STALE_S:
                return known
            raise
        self._remember(uid, peer, found)
        if found is None:
            raise _no_such(export_name)
        return found

    def _ask(self, uid: str, peer: PeerIdentity) -> Readable | None:
        snapshot = self._record(keys.snapshot(uid), r.SnapshotRecord)
        if snapshot is None or not snapshot.manifest or not self._may_read(snapshot, peer):
            return None
        wrapped = from_records(self._keys(snapshot, peer))
        return Readable(uid, snapshot.size_bytes, snapshot.manifest, snapshot.manifest_sha256, wrapped)

    def _keys(self, snapshot: r.SnapshotRecord, peer: PeerIdentity) -> list[r.WrappedKey]:
        """The data key of an encrypted snapshot for whom `peer` reads: a host, for its volumes' owners."""
        if not snapshot.HasField("data_key"):
            return []
        if peer.role == "user":
            grant = self._record(keys.grant(snapshot.uid, peer.name), r.GrantRecord)
            return key_for_user(snapshot, [grant], peer.name)
        if peer.role == "operator":
            return [snapshot.data_key]
        found = []
        for assignment in self._made_from(snapshot.uid, peer.name):
            volume = self._record(keys.volume(assignment.volume_uid), r.VolumeRecord)
            if volume is not None:
                found.append(volume.origin_key if volume.HasField("origin_key") else snapshot.data_key)
        return found

    def _may_read(self, snapshot: r.SnapshotRecord, peer: PeerIdentity) -> bool:
        if peer.role == "user":
            if snapshot.state != r.SNAPSHOT_STATE_COMPLETED:
                return False
            grants = (
                self._record(keys.grant(snapshot.uid, one), r.GrantRecord) for one in (peer.name, EVERYONE)
            )
            return snapshot.owner == peer.name or permit(grants, READ_BLOCKS)
        # DELETED too: it is no longer shown, and volumes that still copy from it go on.
        if peer.role == "host":
            return any(True for _ in self._made_from(snapshot.uid, peer.name))
        return peer.role == "operator"

    def _record(self, key: str, message_type: type[M]) -> M | None:
        entry = self._etcd.get(key)
        return decode(message_type, entry.value) if entry else None

    def _made_from(self, snapshot_uid: str, host_id: str) -> Iterator[r.Assignment]:
        """The assignments to a host of volumes that were made from a snapshot."""
        raw = snapshot_uid.encode()
        for entry in self._etcd.range(keys.assignments(host_id))[0]:
            # Most do not even contain the uid: decoding them would be most of the work.
            if raw in entry.value:
                assignment = decode(r.Assignment, entry.value)
                if assignment.origin_snapshot_uid == snapshot_uid:
                    yield assignment

    def _remember(self, uid: str, peer: PeerIdentity, found: Readable | None) -> None:
        with self._lock:
            self._remembered.pop((uid, peer), None)
            if found is not None:
                self._remembered[uid, peer] = (found, self._clock())
                if len(self._remembered) > REMEMBERED_MAX:
                    self._remembered.popitem(last=False)


def _no_such(export_name: str) -> NotFound:
    return NotFound("NO_SUCH_EXPORT", f"There is no export {export_name[:80]!r} for you here.")
