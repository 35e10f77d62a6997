"""Snapshots that are made from outside: each step a decision over a draft (see cas.py).

    (start) ──► PENDING, stage, stage, … ── content_is_fixed ──► FROZEN ── complete ──► COMPLETED
                   └── fail_idle: nothing was staged for so long ──► FAILED

What was put is in `staged/<uid>/<writer>`, a key for each snapshotter that took any of it, so that they do
not wait for each other. Every stage compares the snapshot's record, which `content_is_fixed` changes, and
that compares every staged key: nothing is acknowledged that is not among what is completed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import AlreadyExists, BadInput, Exhausted, Precondition
from holdfast.metadata import keys, snapshot_changes
from holdfast.metadata.assigned import timestamp
from holdfast.metadata.cas import Changed, Draft
from holdfast.metadata.lookups import snapshot_of, usable_snapshot
from holdfast.metadata.permissions import READ_BLOCKS

_FIXED = (r.SNAPSHOT_STATE_FROZEN, r.SNAPSHOT_STATE_COMPLETED)
UNDER_WAY_MAX = 16
"""Of one owner: each costs room in etcd and memory in snapshotters."""


@dataclass(frozen=True)
class NewDirect:
    """A validated request. `uid` and `lineage_uid` are new."""

    owner: str
    snapshot_id: str
    size_bytes: int
    parent_owner: str
    parent_id: str
    idle_timeout_s: int
    uid: str
    lineage_uid: str
    now_s: float


def start(draft: Draft, new: NewDirect) -> tuple[r.SnapshotRecord, bool]:
    """The snapshot, and whether this very request made it. Errors: BlockService.StartSnapshot."""
    name_key = keys.name("snapshots", new.owner, new.snapshot_id)
    name = draft.get(name_key, r.NameRecord)
    if name is not None:
        existing = draft.get(keys.snapshot(name.uid), r.SnapshotRecord)
        if existing is None:
            raise Changed
        _check_same(draft, new, existing)
        return existing, name.uid == new.uid
    if len(draft.under(keys.directs(new.owner), r.NameRecord)) >= UNDER_WAY_MAX:
        raise Exhausted("TOO_MANY", f"You have {UNDER_WAY_MAX} snapshots under way: complete or delete one.")
    snapshot = r.SnapshotRecord(
        uid=new.uid,
        snapshot_id=new.snapshot_id,
        owner=new.owner,
        volume_uid=new.lineage_uid,
        size_bytes=new.size_bytes,
        state=r.SNAPSHOT_STATE_PENDING,
        create_time=timestamp(new.now_s),
        direct=r.DirectUpload(idle_timeout_s=new.idle_timeout_s),
    )
    if new.parent_id:
        parent = parent_of(draft, new)
        # Compared, so that from this transaction on the parent is a root of the collection.
        snapshot.base_snapshot_uid, snapshot.base_manifest = parent.uid, parent.manifest
        snapshot.volume_uid = parent.volume_uid
    draft.put(name_key, r.NameRecord(uid=new.uid))
    draft.put(keys.snapshot(new.uid), snapshot)
    draft.put(keys.direct(new.owner, new.uid), r.NameRecord(uid=new.uid))
    return snapshot, True


def parent_of(draft: Draft, new: NewDirect) -> r.SnapshotRecord:
    """The snapshot to start from. Raises NotFound, Denied, Precondition NOT_COMPLETED, BadInput."""
    parent = usable_snapshot(draft, new.owner, new.parent_owner, new.parent_id, READ_BLOCKS)
    if parent.state != r.SNAPSHOT_STATE_COMPLETED or snapshot_changes.is_condemned(draft, parent.uid):
        raise Precondition("NOT_COMPLETED", f"The parent {new.parent_id!r} is not COMPLETED: wait.")
    if new.size_bytes < parent.size_bytes:
        raise BadInput(
            "SIZE_TOO_SMALL",
            f"{new.size_bytes} bytes is smaller than the parent's {parent.size_bytes}: ask for more.",
        )
    return parent


def _check_same(draft: Draft, new: NewDirect, existing: r.SnapshotRecord) -> None:
    """Raise AlreadyExists unless `existing` is what `new` asks for."""
    same = existing.HasField("direct") and existing.size_bytes == new.size_bytes
    same = same and existing.direct.idle_timeout_s == new.idle_timeout_s
    same = same and bool(existing.base_snapshot_uid) == bool(new.parent_id)
    if same and new.parent_id:
        # The record outlives the parent's deletion, so the same request still finds its answer.
        parent = draft.peek(keys.snapshot(existing.base_snapshot_uid), r.SnapshotRecord)
        asked = (new.parent_owner or new.owner, new.parent_id)
        same = parent is None or (parent.owner, parent.snapshot_id) == asked
    if not same:
        raise AlreadyExists(
            "ALREADY_EXISTS",
            f"You have a snapshot {new.snapshot_id!r} that differs from what you ask for: choose another id.",
        )


def open_for_blocks(draft: Draft, owner: str, snapshot_id: str) -> r.SnapshotRecord:
    """The owner's snapshot, if blocks may be put. Raises NotFound, or Precondition NOT_PENDING."""
    return _check_pending(snapshot_of(draft, owner, snapshot_id))


def _check_pending(snapshot: r.SnapshotRecord) -> r.SnapshotRecord:
    if snapshot.state != r.SNAPSHOT_STATE_PENDING or not snapshot.HasField("direct"):
        state = r.SnapshotState.Name(snapshot.state).removeprefix("SNAPSHOT_STATE_")
        kind = "made from outside" if snapshot.HasField("direct") else "made from a volume"
        why = f" ({snapshot.reason})" if snapshot.reason else ""
        raise Precondition(
            "NOT_PENDING",
            f"Snapshot {snapshot.snapshot_id!r} is {kind} and {state}{why}: no block can be put.",
        )
    return snapshot


@dataclass(frozen=True)
class Folded:
    """A list object of some packs of a staged record; it leads to the list before it."""

    name: str
    packs: frozenset[str]
    """Their names. Not a number of them: one whose recording had an unknown outcome may stand between."""


def stage(
    draft: Draft, snapshot_uid: str, writer: str, packs: Sequence[r.StagedPack], folded: Folded | None = None
) -> bool:
    """Record packs that are confirmed to be there: from this transaction on they may be acknowledged.

    Raises NotFound, or Precondition NOT_PENDING.
    """
    _check_pending(draft.need(keys.snapshot(snapshot_uid), r.SnapshotRecord))
    key = keys.staged_by(snapshot_uid, writer)
    record = draft.get(key, r.StagedRecord) or r.StagedRecord(snapshot_uid=snapshot_uid, writer=writer)
    if folded and record.list != folded.name:
        kept = [pack for pack in record.packs if pack.name not in folded.packs]
        del record.packs[:]
        record.packs.extend(kept)
        record.list = folded.name
    recorded = {pack.name for pack in record.packs}
    record.packs.extend(pack for pack in packs if pack.name not in recorded)
    return draft.put(key, record)


@dataclass(frozen=True)
class AllPut:
    """What a caller says of all that they put (`sha256` may be empty), and the `records` that bear it out."""

    put_blocks: int
    sha256: str
    records: Sequence[r.StagedRecord]


def content_is_fixed(draft: Draft, owner: str, snapshot_id: str, said: AllPut, now_s: float) -> bool:
    """PENDING → FROZEN: no block is put any more. False if this very request had done it.

    Raises NotFound, or Precondition NOT_PENDING, or BLOCKS_MISSING if there is more than what was counted.
    """
    snapshot = snapshot_of(draft, owner, snapshot_id)
    if is_fixed_as(snapshot, said.put_blocks, said.sha256):
        return False
    _check_pending(snapshot)
    if draft.under(keys.staged(snapshot.uid), r.StagedRecord) != list(said.records):
        raise Precondition("BLOCKS_MISSING", "Blocks are being put just now: wait until all are answered.")
    snapshot.state = r.SNAPSHOT_STATE_FROZEN
    snapshot.direct.put_blocks = said.put_blocks
    snapshot.direct.sha256 = said.sha256
    snapshot.freeze_time.CopyFrom(timestamp(now_s))
    return draft.put(keys.snapshot(snapshot.uid), snapshot)


def fixed_or_open(draft: Draft, owner: str, snapshot_id: str) -> r.SnapshotRecord:
    """The owner's snapshot, if it is PENDING or has been completed. Raises as `open_for_blocks`."""
    snapshot = snapshot_of(draft, owner, snapshot_id)
    if snapshot.HasField("direct") and snapshot.state in _FIXED:
        return snapshot
    return _check_pending(snapshot)


def is_fixed_as(snapshot: r.SnapshotRecord, put_blocks: int, sha256: str) -> bool:
    """Whether it has been completed with just this."""
    fixed = snapshot.state in _FIXED
    return (
        fixed
        and snapshot.HasField("direct")
        and ((snapshot.direct.put_blocks, snapshot.direct.sha256) == (put_blocks, sha256))
    )


def fail_idle(draft: Draft, snapshot_uid: str, records: Sequence[r.StagedRecord]) -> bool:
    """PENDING → FAILED: nothing was put for as long as may be. False if something was, or it is over."""
    snapshot = draft.get(keys.snapshot(snapshot_uid), r.SnapshotRecord)
    if snapshot is None or snapshot.state != r.SNAPSHOT_STATE_PENDING or not snapshot.HasField("direct"):
        return False
    if draft.under(keys.staged(snapshot_uid), r.StagedRecord) != list(records):
        return False
    return snapshot_changes.fail(
        draft, snapshot_uid, f"No block was put for {snapshot.direct.idle_timeout_s} s: it is given up."
    )
