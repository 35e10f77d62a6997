"""What a caller of the block API may do with a snapshot: asked of etcd, and remembered for a second.

As in metadata, what a caller may not see is NOT_FOUND, and looks like what does not exist (I-10).
"""

from typing import NamedTuple

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import BadInput, Precondition
from holdfast.metadata import keys
from holdfast.metadata.cas import Draft, Store
from holdfast.metadata.direct_changes import open_for_blocks
from holdfast.metadata.encryption_decisions import key_for_user
from holdfast.metadata.lookups import EVERYONE, grants_of, usable_snapshot
from holdfast.metadata.permissions import READ_BLOCKS, of_grant
from holdfast.metadata.records import decode
from holdfast.snapshotter.access import USER_FRESH_S, Readable
from holdfast.snapshotter.keys import from_records
from holdfast.snapshotter.recent import Recent
from holdfast.snapshotter.ring import WrappedKey

ANCESTORS_MAX = 64
"""Snapshots that are looked at to find whether two are related."""


class Leave(NamedTuple):
    """A snapshot that a caller may read."""

    snapshot: r.SnapshotRecord
    holder: str
    """The caller, and the very grant that lets them: tokens are bound to it."""
    keys: tuple[WrappedKey, ...] = ()

    @property
    def readable(self) -> Readable:
        one = self.snapshot
        return Readable(one.uid, one.size_bytes, one.manifest, one.manifest_sha256, self.keys)


class BlockAccess:
    """For many threads. Everything may raise Unavailable."""

    def __init__(self, etcd: Store) -> None:
        self._etcd = etcd
        self._readable: Recent[tuple[str, str, str], Leave] = Recent(USER_FRESH_S)
        self._writable: Recent[tuple[str, str], r.SnapshotRecord] = Recent(USER_FRESH_S)

    def read(self, caller: str, owner: str, snapshot_id: str) -> Leave:
        """Leave to read. An empty owner is the caller.

        Raises NotFound, Denied NOT_GRANTED, or Precondition NOT_COMPLETED.
        """
        return self._readable.get((caller, owner, snapshot_id), lambda: self._ask(caller, owner, snapshot_id))

    def put(self, caller: str, snapshot_id: str) -> r.SnapshotRecord:
        """The caller's own snapshot, if it is being made from outside, as it was a moment ago: what records
        blocks decides again. Raises NotFound, or Precondition NOT_PENDING."""
        return self._writable.get(
            (caller, snapshot_id), lambda: open_for_blocks(Draft(self._etcd), caller, snapshot_id)
        )

    def _ask(self, caller: str, owner: str, snapshot_id: str) -> Leave:
        draft = Draft(self._etcd)
        snapshot = usable_snapshot(draft, caller, owner, snapshot_id, READ_BLOCKS)
        if snapshot.state != r.SNAPSHOT_STATE_COMPLETED:
            state = r.SnapshotState.Name(snapshot.state).removeprefix("SNAPSHOT_STATE_")
            raise Precondition("NOT_COMPLETED", f"Snapshot {snapshot_id!r} is {state}, not COMPLETED.")
        wrapped = key_for_user(snapshot, grants_of(draft, snapshot.uid, caller), caller)
        holder = f"{caller} by {_granted_by(draft, snapshot, caller)}"
        return Leave(snapshot, holder, from_records(wrapped))

    def check_related(self, one: r.SnapshotRecord, other: r.SnapshotRecord) -> None:
        """Raises BadInput NOT_RELATED unless both are of one volume, or one comes from the other's."""
        if not (self._comes_from(one, other) or self._comes_from(other, one)):
            raise BadInput(
                "NOT_RELATED",
                f"Snapshots {one.snapshot_id!r} and {other.snapshot_id!r} are not of one volume, and neither "
                "comes from the other's: read each as a whole.",
            )

    def _comes_from(self, young: r.SnapshotRecord, old: r.SnapshotRecord) -> bool:
        for _ in range(ANCESTORS_MAX):
            if old.volume_uid == young.volume_uid:
                return True
            base = self._before(young)
            if base is None:
                return False
            young = base
        return False

    def _before(self, young: r.SnapshotRecord) -> r.SnapshotRecord | None:
        """Its base; if that has been collected, the origin of its volume, if that is still there."""
        uid = young.base_snapshot_uid
        entry = self._etcd.get(keys.snapshot(uid)) if uid else None
        if uid and entry is None:
            volume = self._etcd.get(keys.volume(young.volume_uid))
            uid = decode(r.VolumeRecord, volume.value).origin_snapshot_uid if volume else ""
            entry = self._etcd.get(keys.snapshot(uid)) if uid else None
        return decode(r.SnapshotRecord, entry.value) if entry else None


def _granted_by(draft: Draft, snapshot: r.SnapshotRecord, caller: str) -> str:
    """What lets the caller read: ownership, or one grant. Granted anew, it is another."""
    if snapshot.owner == caller:
        return "ownership"
    for user in (caller, EVERYONE):
        entry = draft.entry(keys.grant(snapshot.uid, user))
        if entry is not None and READ_BLOCKS in of_grant(decode(r.GrantRecord, entry.value)):
            return f"grant {user} {entry.create_revision}"
    raise AssertionError(f"{caller} may read {snapshot.uid} without owning it or a grant")
