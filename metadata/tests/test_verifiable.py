"""Which snapshots are to be verified or repaired, by what is known of all of them."""

import threading
from collections.abc import Iterator

import pytest

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.metadata import keys
from holdfast.metadata.cas import Draft, run
from holdfast.metadata.etcd import Etcd
from holdfast.metadata.testing import until
from holdfast.metadata.verifiable import Verifiable

DAY_S = 86_400


def put(
    etcd: Etcd, uid: str, volume: str, frozen_s: int, base: str = "", owner: str = "alice", **fields: object
) -> None:
    snapshot = r.SnapshotRecord(
        uid=uid, owner=owner, volume_uid=volume, base_snapshot_uid=base, state=r.SNAPSHOT_STATE_COMPLETED
    )
    snapshot.freeze_time.FromSeconds(frozen_s)
    snapshot.complete_time.FromSeconds(frozen_s)
    for name, value in fields.items():
        setattr(snapshot, name, value)
    run(etcd, lambda draft: draft.put(keys.snapshot(uid), snapshot))


@pytest.fixture
def known(etcd: Etcd) -> Iterator[Verifiable]:
    stop = threading.Event()
    yield Verifiable(etcd, stop)
    stop.set()


def test_repaired_from_the_newest_of_the_family(etcd: Etcd, known: Verifiable) -> None:
    damaged = r.SNAPSHOT_HEALTH_DAMAGED
    put(etcd, "a1", "disk", 100, health=damaged)
    put(etcd, "a2", "disk", 200, "a1")
    put(etcd, "c1", "clone", 300, "a2")
    put(etcd, "b1", "bobs", 400, "a2", owner="bob")
    put(etcd, "z1", "else", 500)
    until(lambda: known.repairable() == [("a1", "c1")])
    put(etcd, "a1", "disk", 100, health=damaged, repair_source_uid="c1")
    until(lambda: known.repairable() == [])
    put(etcd, "a3", "disk", 600, "a2", health=damaged)
    until(lambda: known.repairable() == [("a1", "a3")])
    put(etcd, "a3", "disk", 600, "a2", state=r.SNAPSHOT_STATE_DELETED)
    until(lambda: known.repairable() == [])


def test_what_is_due_comes_oldest_first(etcd: Etcd, known: Verifiable) -> None:
    put(etcd, "a", "v", 20 * DAY_S)
    put(etcd, "b", "v", 10 * DAY_S)
    put(etcd, "c", "v", 90 * DAY_S)
    put(etcd, "d", "v", 1 * DAY_S, state=r.SNAPSHOT_STATE_FROZEN)
    until(lambda: known.due(60 * DAY_S) == ["b", "a"])
    verify = r.SnapshotVerify(request=1, state=r.SNAPSHOT_VERIFY_STATE_WAITING, asked=True)

    def ask(draft: Draft) -> None:
        snapshot = draft.need(keys.snapshot("a"), r.SnapshotRecord)
        snapshot.verify.CopyFrom(verify)
        draft.put(keys.snapshot("a"), snapshot)

    run(etcd, ask)
    until(lambda: known.asked() == ["a"] and known.due(60 * DAY_S) == ["b"])
