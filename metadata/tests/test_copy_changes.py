"""Decisions about copies: one a snapshot and target, made by who holds the claim, outliving the snapshot."""

import pytest

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import NotFound, Precondition
from holdfast.metadata import copy_changes, keys
from holdfast.metadata.cas import Draft, run
from holdfast.metadata.copy_changes import NewCopy, Progress
from holdfast.metadata.memory_store import MemoryStore
from holdfast.metadata.records import decode
from holdfast.metadata.snapshot_changes import Claimant

SNAPSHOT, UID, OTHER_UID = "a" * 24, "b" * 24, "c" * 24
ME, OTHER = Claimant("s1", 7), Claimant("s2", 8)
FAR = Progress(50, 100, 3, 40)


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    draft = Draft(made)
    snapshot = r.SnapshotRecord(
        uid=SNAPSHOT, snapshot_id="s", owner="alice", state=r.SNAPSHOT_STATE_COMPLETED, manifest="m1",
        manifest_sha256="d1", size_bytes=4096,
    )  # fmt: skip
    draft.put(keys.snapshot(SNAPSHOT), snapshot)
    draft.put(keys.name("snapshots", "alice", "s"), r.NameRecord(uid=SNAPSHOT))
    draft.put(keys.snapshotter_lease("s1"), r.SnapshotterLease(snapshotter_id="s1", targets=["dr"]))
    assert draft.commit()
    return made


def ask(store: MemoryStore, uid: str = UID, target: str = "dr", owner: str = "alice") -> tuple[str, bool]:
    new = NewCopy(owner, "s", target, uid, 1000.0)
    copy, created = run(store, lambda draft: copy_changes.create(draft, new))
    return copy.uid, created


def claimed(store: MemoryStore, by: Claimant = ME) -> r.CopyRecord | None:
    return run(store, lambda draft: copy_changes.claim(draft, "alice", UID, by))


def begun(store: MemoryStore, by: Claimant = ME) -> r.CopyRecord:
    assert claimed(store, by) is not None
    return run(store, lambda draft: copy_changes.begin(draft, "alice", UID, by))


def record(store: MemoryStore) -> r.CopyRecord:
    entry = store.get(keys.copy("alice", UID))
    assert entry is not None
    return decode(r.CopyRecord, entry.value)


def change(store: MemoryStore, **fields: object) -> None:
    entry = store.get(keys.snapshot(SNAPSHOT))
    assert entry is not None
    snapshot = decode(r.SnapshotRecord, entry.value)
    for name, value in fields.items():
        setattr(snapshot, name, value)
    run(store, lambda draft: draft.put(keys.snapshot(SNAPSHOT), snapshot))


def test_one_copy_of_a_snapshot_at_a_target(store: MemoryStore) -> None:
    assert ask(store) == (UID, True) and ask(store, OTHER_UID) == (UID, False)
    with pytest.raises(Precondition, match="those that there are: dr"):
        ask(store, OTHER_UID, "moon")
    with pytest.raises(NotFound):
        ask(store, owner="bob")
    change(store, state=r.SNAPSHOT_STATE_FROZEN)
    with pytest.raises(Precondition, match="FROZEN"):
        ask(store, OTHER_UID)


def test_from_waiting_to_completed_and_gone(store: MemoryStore) -> None:
    ask(store)
    assert begun(store).manifest == "m1" and claimed(store, OTHER) is None
    run(store, lambda draft: copy_changes.progress(draft, "alice", UID, ME, FAR))
    assert record(store).next_shard == 3 and record(store).state == r.COPY_STATE_COPYING
    run(store, lambda draft: copy_changes.copied(draft, "alice", UID, ME, FAR))
    assert record(store).next_shard == 0 and record(store).state == r.COPY_STATE_VERIFYING
    assert run(store, lambda draft: copy_changes.complete(draft, "alice", UID, ME, 2000.0))
    assert not run(store, lambda draft: copy_changes.complete(draft, "alice", UID, ME, 2000.0))
    assert record(store).state == r.COPY_STATE_COMPLETED and claimed(store) is None
    change(store, state=r.SNAPSHOT_STATE_DELETED)
    assert record(store).state == r.COPY_STATE_COMPLETED, "it outlives its snapshot"
    with pytest.raises(NotFound):
        run(store, lambda draft: copy_changes.delete(draft, "bob", UID))
    assert run(store, lambda draft: copy_changes.delete(draft, "alice", UID))
    with pytest.raises(Precondition):
        run(store, lambda draft: copy_changes.gone(draft, "alice", UID, ME))
    assert claimed(store) is not None
    assert run(store, lambda draft: copy_changes.gone(draft, "alice", UID, ME))
    assert store.get(keys.copy("alice", UID)) is None and store.get(keys.copy_claim(UID)) is None


def test_a_successor_goes_on_where_it_was(store: MemoryStore) -> None:
    ask(store)
    begun(store)
    run(store, lambda draft: copy_changes.progress(draft, "alice", UID, ME, FAR))
    run(store, lambda draft: copy_changes.release(draft, UID, ME))
    change(store, manifest="m2")
    now = begun(store, OTHER)
    assert (now.manifest, now.next_shard) == ("m1", 3), "the manifest that it was begun with"
    with pytest.raises(Precondition, match="no longer"):
        run(store, lambda draft: copy_changes.progress(draft, "alice", UID, ME, FAR))
    assert run(store, lambda draft: copy_changes.start_over(draft, "alice", UID, OTHER))
    assert (record(store).manifest, record(store).next_shard) == ("m2", 0)
    assert not run(store, lambda draft: copy_changes.start_over(draft, "alice", UID, OTHER))


def test_what_failed_is_begun_again_if_it_is_asked_for(store: MemoryStore) -> None:
    ask(store)
    begun(store)
    run(store, lambda draft: copy_changes.fail(draft, "alice", UID, ME, "an object is lost"))
    assert record(store).reason and claimed(store) is None
    assert ask(store, OTHER_UID) == (UID, True)
    change(store, state=r.SNAPSHOT_STATE_DELETED)
    assert claimed(store) is not None
    with pytest.raises(Precondition, match="deleted"):
        run(store, lambda draft: copy_changes.begin(draft, "alice", UID, ME))


def test_deleted_meanwhile_it_is_no_longer_made(store: MemoryStore) -> None:
    ask(store)
    begun(store)
    run(store, lambda draft: copy_changes.delete(draft, "alice", UID))
    with pytest.raises(Precondition):
        run(store, lambda draft: copy_changes.complete(draft, "alice", UID, ME, 2000.0))
    assert ask(store, OTHER_UID) == (OTHER_UID, True), "another may be asked for at once"
