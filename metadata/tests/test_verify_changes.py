"""Decisions about verifying and repairing: who may record what, and what becomes of a snapshot's health."""

import pytest

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import NotFound, Precondition
from holdfast.metadata import collection_changes, keys, verify_changes
from holdfast.metadata.cas import Draft, run
from holdfast.metadata.collection_changes import Moment
from holdfast.metadata.memory_store import MemoryStore
from holdfast.metadata.records import decode
from holdfast.metadata.snapshot_changes import Claimant
from holdfast.metadata.verify_changes import NAMED_MAX, Found, Repaired

UID, NEWER = "a" * 24, "b" * 24
ME, OTHER = Claimant("s1", 7), Claimant("s2", 8)
GOOD = Found(100, 90, 3, (), 0, 0)
PACK = f"snapshots/{UID}/pack-000000000000-00000000"
BAD = Found(100, 90, 3, [r.DamagedObject(name=PACK, problem="missing", extents=2)], 1, 2, [(UID, PACK)])


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    draft = Draft(made)
    draft.put(
        keys.snapshot(UID),
        r.SnapshotRecord(
            uid=UID, snapshot_id="s", owner="alice", state=r.SNAPSHOT_STATE_COMPLETED, manifest="m1",
            manifest_sha256="d1", stored_bytes=1000,
        ),
    )  # fmt: skip
    draft.put(keys.name("snapshots", "alice", "s"), r.NameRecord(uid=UID))
    assert draft.commit()
    return made


def record(store: MemoryStore) -> r.SnapshotRecord:
    entry = store.get(keys.snapshot(UID))
    assert entry is not None
    return decode(r.SnapshotRecord, entry.value)


def ask(store: MemoryStore, sample: int = 100) -> bool:
    return run(store, lambda draft: verify_changes.ask(draft, "alice", "s", sample, 1000.0))[1]


def begin(store: MemoryStore, by: Claimant = ME) -> int:
    assert run(store, lambda draft: verify_changes.claim(draft, UID, by)) is not None
    return run(store, lambda draft: verify_changes.begin(draft, UID, by, 200, 1000.0)).request


def end(store: MemoryStore, request: int, found: Found, by: Claimant = ME) -> None:
    run(store, lambda draft: verify_changes.end(draft, UID, by, request, found, 2000.0))


def test_asked_begun_and_done(store: MemoryStore) -> None:
    assert ask(store) and not ask(store) and not ask(store, 5)
    assert record(store).verify.state == r.SNAPSHOT_VERIFY_STATE_WAITING
    number = begin(store)
    assert number == 1 and not ask(store)
    end(store, number, GOOD)
    now = record(store)
    assert now.health == r.SNAPSHOT_HEALTH_GOOD and now.verify.state == r.SNAPSHOT_VERIFY_STATE_DONE
    assert now.whole_verify_time == now.verify.end_time and now.verify.read_bytes == 90
    assert store.get(keys.verify_claim(UID)) is None
    assert ask(store) and record(store).verify.request == 2


def test_a_sample_does_not_stand_for_the_whole(store: MemoryStore) -> None:
    end(store, begin(store), BAD)
    ask(store, 5)
    end(store, begin(store), GOOD)
    now = record(store)
    assert now.health == r.SNAPSHOT_HEALTH_DAMAGED and now.verify.sample_percent == 5
    ask(store, 5)
    assert ask(store, 50), "more than what is under way begins anew"
    ask(store)
    end(store, begin(store), GOOD)
    assert record(store).health == r.SNAPSHOT_HEALTH_GOOD


def test_only_who_holds_the_claim_records(store: MemoryStore) -> None:
    ask(store)
    number = begin(store)
    assert run(store, lambda draft: verify_changes.claim(draft, UID, OTHER)) is None
    with pytest.raises(Precondition, match="no longer verifies"):
        end(store, number, GOOD, OTHER)
    run(store, lambda draft: verify_changes.release(draft, UID, ME))
    assert begin(store, OTHER) == number, "another goes on with it"
    with pytest.raises(Precondition):
        end(store, number, GOOD)


def test_asked_anew_the_old_one_is_over(store: MemoryStore) -> None:
    ask(store, 5)
    number = begin(store)
    assert ask(store)
    with pytest.raises(Precondition, match="newest"):
        end(store, number, GOOD)


def test_damage_is_told_at_once_and_to_uploads(store: MemoryStore) -> None:
    number = begin(store)
    run(store, lambda draft: verify_changes.progress(draft, UID, ME, number, BAD))
    assert record(store).health == r.SNAPSHOT_HEALTH_DAMAGED
    entry = store.get(keys.damaged(UID))
    assert entry is not None and list(decode(r.DamagedRecord, entry.value).names) == [PACK]
    lost = [(UID, f"{PACK[:-4]}{number:04d}") for number in range(NAMED_MAX + 5)]
    run(store, lambda draft: verify_changes.mark_lost(draft, lost))
    entry = store.get(keys.damaged(UID))
    assert entry is not None
    marked = decode(r.DamagedRecord, entry.value)
    assert marked.more and len(marked.names) == NAMED_MAX


def repaired(before: str = "m1", manifest: str = "m2", left: Found = GOOD) -> Repaired:
    return Repaired(before, manifest, "d2", 50, 2, NEWER, left, "w")


def record_repair(store: MemoryStore, done: Repaired) -> bool:
    return run(store, lambda draft: verify_changes.repaired(draft, UID, ME, done, Moment(3000.0, 4000.0)))


def test_a_manifest_is_replaced_by_one_that_says_the_same(store: MemoryStore) -> None:
    end(store, begin(store), BAD)
    assert run(store, lambda draft: verify_changes.claim(draft, UID, ME)) is not None
    with pytest.raises(Precondition, match="replaced"):
        record_repair(store, repaired())  # Its objects may have been taken for garbage.
    run(store, lambda draft: collection_changes.begin_rewrite(draft, "w", ME))
    assert record_repair(store, repaired())
    now = record(store)
    assert (now.manifest, now.manifest_sha256, now.stored_bytes) == ("m2", "d2", 1050)
    assert now.health == r.SNAPSHOT_HEALTH_GOOD and now.repaired_extents == 2
    assert [one.manifest for one in now.former_manifests] == ["m1"]
    assert now.repair_source_uid == NEWER and not now.verify.damaged
    # The answer was lost: done again, it is done once.
    assert not record_repair(store, repaired())


def test_a_repair_gives_way_to_another_manifest_and_to_a_lost_claim(store: MemoryStore) -> None:
    end(store, begin(store), BAD)
    with pytest.raises(Precondition, match="no longer verifies"):
        record_repair(store, repaired())
    run(store, lambda draft: verify_changes.claim(draft, UID, ME))
    with pytest.raises(Precondition, match="replaced"):
        record_repair(store, repaired(before="m0"))
    assert record(store).manifest == "m1"


def test_a_deleted_snapshot_is_left_alone(store: MemoryStore) -> None:
    number = begin(store)
    now = record(store)
    now.state = r.SNAPSHOT_STATE_DELETED
    run(store, lambda draft: draft.put(keys.snapshot(UID), now))
    with pytest.raises(Precondition, match="deleted"):
        end(store, number, GOOD)
    assert run(store, lambda draft: verify_changes.claim(draft, UID, ME)) is None
    with pytest.raises(NotFound):
        ask(store)


def test_a_readers_doubts_are_looked_into_once_in_a_while(store: MemoryStore) -> None:
    def doubt(now_s: float) -> bool:
        return run(store, lambda draft: verify_changes.suspect(draft, UID, 3600.0, now_s))

    assert doubt(1000.0) and not doubt(1000.0)
    end(store, begin(store), BAD)  # At 2000.
    assert not doubt(5000.0) and doubt(6000.0)
