"""What every Store does, the real one and the one in memory."""

import pytest

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import NotFound, Unavailable
from holdfast.metadata import cas, keys
from holdfast.metadata.cas import Draft, Store, run
from holdfast.metadata.etcd import (
    Etcd,
    absent,
    delete,
    delete_prefix,
    exists,
    get,
    mod_revision_is,
    put,
    unchanged,
)
from holdfast.metadata.etcd_types import prefix_not_after
from holdfast.metadata.memory_store import MemoryStore

A, B = keys.PREFIX + "a", keys.PREFIX + "b"


@pytest.fixture(params=["etcd", "memory"])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "memory":
        return MemoryStore()
    made: Etcd = request.getfixturevalue("etcd")
    return made


def test_put_get_delete(store: Store) -> None:
    assert store.get(A) is None
    assert store.transact([absent(A)], [put(A, b"1")]).succeeded
    first = store.get(A)
    assert first is not None and first.value == b"1" and first.version == 1
    assert first.create_revision == first.mod_revision
    assert not store.transact([absent(A)], [put(A, b"2")]).succeeded
    assert store.transact([unchanged(first)], [put(A, b"2")]).succeeded
    second = store.get(A)
    assert second is not None and second.version == 2 and second.mod_revision > first.mod_revision
    assert not store.transact([unchanged(first)], [delete(A)]).succeeded
    assert store.transact([exists(A)], [delete(A)]).succeeded
    assert store.transact([mod_revision_is(A, 0)], []).succeeded


def test_branches_and_their_answers(store: Store) -> None:
    result = store.transact([exists(A)], [], [put(A, b"x"), get(A), get(B)])
    assert not result.succeeded
    assert [[one.value for one in found] for found in result.responses] == [[], [b"x"], []]
    assert store.range(keys.PREFIX)[1] == result.revision


def test_range(store: Store) -> None:
    names = [f"{keys.PREFIX}r/{number:02}" for number in range(7)]
    store.transact([], [put(name, b"") for name in (*names, keys.PREFIX + "s", keys.PREFIX + "r")])
    entries, revision = store.range(keys.PREFIX + "r/")
    assert [one.key for one in entries] == names
    assert {one.mod_revision for one in entries} == {revision}, "one transaction, one revision"
    entries, _ = store.range(keys.PREFIX + "r/", limit=2, start_after=names[2])
    assert [one.key for one in entries] == names[3:5]


def test_range_of_the_past(store: Store) -> None:
    store.transact([], [put(A, b"1")])
    _, revision = store.range(keys.PREFIX)
    store.transact([], [put(A, b"2"), put(B, b"2")])
    then, same = store.range(keys.PREFIX, revision=revision)
    assert [(one.key, one.value) for one in then] == [(A, b"1")] and same == revision
    assert [one.value for one in store.range(keys.PREFIX)[0]] == [b"2", b"2"]


def test_prefix_not_after_sees_what_came(store: Store) -> None:
    prefix = keys.PREFIX + "p/"
    store.transact([], [put(prefix + "1", b"")])
    _, revision = store.range(prefix)
    assert store.transact([prefix_not_after(prefix, revision)], []).succeeded
    store.transact([], [put(prefix + "2", b"")])
    assert not store.transact([prefix_not_after(prefix, revision)], []).succeeded
    store.transact([], [delete_prefix(prefix)])
    assert store.range(prefix)[0] == []


def count_up(draft: Draft) -> int:
    record = draft.get(A, r.ReplicaRecord) or r.ReplicaRecord()
    record.epoch += 1
    draft.put(A, record)
    return record.epoch


def test_run_decides_again_when_something_changed(store: Store) -> None:
    run(store, count_up)
    interfered = []

    def decide(draft: Draft) -> int:
        found = count_up(draft)
        if not interfered:
            interfered.append(run(store, count_up))
        return found

    assert run(store, decide) == 3


def test_run_gives_up_with_a_reason(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cas, "PAUSE_MAX_S", 0.0)

    def decide(draft: Draft) -> None:
        count_up(draft)
        run(store, count_up)

    with pytest.raises(Unavailable) as raised:
        run(store, decide)
    assert raised.value.reason == "CONTENDED"


def test_phantoms_are_seen(store: Store) -> None:
    """A decision that found nothing below a prefix does not stand if something came there."""
    prefix = keys.attachments("v")
    seen = []

    def decide(draft: Draft) -> int:
        count = len(draft.under(prefix, r.AttachmentRecord))
        seen.append(count)
        if count == 0:
            store.transact([], [put(prefix + "one", b"{}")])
        count_up(draft)
        return count

    assert run(store, decide) == 1
    assert seen == [0, 1]


def test_a_draft_reads_its_own_writes_and_writes_only_changes(store: Store) -> None:
    run(store, count_up)
    revision = store.range(keys.PREFIX)[1]

    def nothing_new(draft: Draft) -> bool:
        record = draft.need(A, r.ReplicaRecord)
        changed = draft.put(A, record)
        record.epoch = 99
        again = draft.get(A, r.ReplicaRecord)
        assert again is not None and again.epoch == 1, "what was put is a copy"
        return changed

    assert run(store, nothing_new) is False
    assert store.range(keys.PREFIX)[1] == revision

    def delete_it(draft: Draft) -> None:
        draft.delete(A)
        assert draft.get(A, r.ReplicaRecord) is None

    run(store, delete_it)
    with pytest.raises(NotFound):
        run(store, lambda draft: draft.need(A, r.ReplicaRecord))


def test_lost_answer_is_done_once() -> None:
    """An idempotent decision whose answer was lost sees its own work; a count would count twice."""
    store = MemoryStore()

    def register(draft: Draft) -> bool:
        if draft.get(A, r.NameRecord) is not None:
            return False
        return draft.put(A, r.NameRecord(uid="u"))

    store.lose_answer = True
    assert run(store, register) is False
    entry = store.get(A)
    assert entry is not None and entry.version == 1


def test_outcome_unknown_is_not_hidden_by_a_later_failure() -> None:
    class Dying(MemoryStore):
        def get(self, key: str) -> None:
            raise Unavailable("ETCD_UNREACHABLE", "dead")

    store = MemoryStore()
    store.lose_answer = True

    def decide(draft: Draft) -> None:
        if store.entries:
            draft._store = Dying()
        count_up(draft)

    with pytest.raises(Unavailable) as raised:
        run(store, decide)
    assert raised.value.reason == "OUTCOME_UNKNOWN"
