"""Collection of objects: what goes, what stays, when, and the interruption of it at every step."""

import copy
import threading
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from random import Random

import pytest

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import BadInput, HoldfastError, Precondition
from holdfast.base.limits import EXTENT_BYTES
from holdfast.metadata import collection_changes, keys, snapshot_changes, verify_changes
from holdfast.metadata.cas import Draft, run
from holdfast.metadata.collection_changes import Moment
from holdfast.metadata.snapshot_changes import Uploaded
from holdfast.snapshotter import manifest as manifests
from holdfast.snapshotter.block_access import BlockAccess
from holdfast.snapshotter.key_errors import KeyUnavailable
from holdfast.snapshotter.objects import unreachable
from holdfast.snapshotter.objects_faults import Killed
from holdfast.snapshotter.sorted_rows import SortedRows
from holdfast.snapshotter.testing_cycle import GRACE_S, PLACES, Cycle, ModelDisk, quietly
from holdfast.snapshotter.testing_steps import How
from holdfast.snapshotter.testing_stories import MISTAKES, cut_first, finds, play, quick


@pytest.fixture
def cycle() -> Cycle:
    return Cycle(1)


def noise(cycle: Cycle) -> bytes:
    return cycle.chance.randbytes(EXTENT_BYTES)


def write(cycle: Cycle, disk: ModelDisk, places: tuple[int, ...]) -> None:
    for extent in places:
        disk.write(extent, noise(cycle))


def take(cycle: Cycle, disk: ModelDisk) -> str:
    """A snapshot, COMPLETED."""
    uid = cycle.freeze(disk)
    assert cycle.upload(uid)
    return uid


def filled(cycle: Cycle) -> tuple[ModelDisk, str]:
    """A disk with data, and its first snapshot."""
    disk = cycle.new_disk()
    write(cycle, disk, PLACES[:12])
    return disk, take(cycle, disk)


def bucket_bytes(cycle: Cycle) -> int:
    return sum(len(cycle.objects.get(name)) for name in cycle.left())


def sizes(cycle: Cycle, uid: str) -> r.SizesRecord:
    found = [one for one in cycle.records(keys.SIZES, r.SizesRecord) if one.snapshot_uid == uid]
    return found[0]


def collection(cycle: Cycle) -> r.CollectionRecord:
    (record,) = cycle.records(keys.COLLECTION, r.CollectionRecord)
    return record


def test_a_deleted_snapshot_goes_after_its_grace(cycle: Cycle) -> None:
    _, uid = filled(cycle)
    cycle.collect()
    cycle.delete(uid)
    counts = cycle.collect()
    assert (counts.condemned, counts.freed_objects) == (1, 0)
    cycle.pass_time(GRACE_S - 1)
    assert cycle.collect().freed_objects == 0
    before = bucket_bytes(cycle)
    cycle.pass_time(1)
    counts = cycle.collect()
    assert counts.freed_bytes == before and not cycle.left()
    assert counts.forgotten == 1 and not cycle.snapshots()
    record = collection(cycle)
    assert record.state == r.COLLECTION_STATE_DONE and record.counts == counts
    assert record.freed_bytes_ever == before


def test_deleting_in_the_middle_of_a_chain(cycle: Cycle) -> None:
    disk, first = filled(cycle)
    write(cycle, disk, PLACES[4:8])
    middle = take(cycle, disk)
    write(cycle, disk, PLACES[6:10])
    last = take(cycle, disk)
    cycle.delete(middle)
    cycle.settle()
    assert {one.uid for one in cycle.snapshots()} == {first, last}
    assert not any("manifest" in name and middle in name for name in cycle.objects.objects)


@pytest.mark.parametrize("clock", ["now_s", "store_s"])
def test_a_clock_that_jumps_shortens_no_grace(cycle: Cycle, clock: str) -> None:
    _, uid = filled(cycle)
    cycle.delete(uid)
    cycle.collect()
    setattr(cycle, clock, getattr(cycle, clock) + 100 * GRACE_S)
    assert cycle.collect().freed_objects == 0
    cycle.pass_time(GRACE_S)
    assert cycle.collect().freed_objects > 0


def test_a_volume_that_copies_keeps_its_deleted_origin(cycle: Cycle) -> None:
    _, uid = filled(cycle)
    disk = cycle.new_disk(uid)
    cycle.delete(uid)
    for _ in range(3):
        cycle.pass_time(GRACE_S)
        assert cycle.collect().freed_objects == 0
    cycle.hydrate(disk, 100)
    cycle.settle()
    assert not cycle.left()
    assert [one.uid for one in cycle.snapshots()] == [uid], "the volume still names it"
    cycle.delete_disk(disk)
    cycle.settle()
    assert not cycle.snapshots()


def test_a_volume_that_is_not_served_may_still_copy(cycle: Cycle) -> None:
    _, uid = filled(cycle)
    disk = cycle.new_disk(uid)
    cycle.hydrate(disk, 100)
    cycle.delete(uid)

    def lost(draft: Draft) -> None:
        volume = draft.need(keys.volume(disk.uid), r.VolumeRecord)
        volume.health.state = r.HEALTH_STATE_UNAVAILABLE
        draft.put(keys.volume(disk.uid), volume)

    run(cycle.etcd, lost)
    for _ in range(3):
        cycle.pass_time(GRACE_S)
        assert cycle.collect().freed_objects == 0


def test_an_open_snapshot_keeps_its_base(cycle: Cycle) -> None:
    disk, base = filled(cycle)
    disk.write(3, noise(cycle))
    later = cycle.freeze(disk)
    cycle.delete(base)
    for _ in range(3):
        cycle.pass_time(GRACE_S)
        assert cycle.collect().freed_objects == 0
    assert cycle.upload(later)
    assert cycle.snapshot(later).base_snapshot_uid == base, "the upload was an increment"
    cycle.settle()
    assert [one.uid for one in cycle.snapshots()] == [later]


def test_a_snapshotter_that_wakes_up_after_hours(cycle: Cycle) -> None:
    """It was paused in the middle; another has completed the snapshot, and that was deleted and collected."""
    disk, base = filled(cycle)
    write(cycle, disk, PLACES[:12])
    uid = cycle.freeze(disk)
    process = cycle.process()
    process.steps.hold_at = 4
    errors: list[HoldfastError] = []

    def work() -> None:
        try:
            cycle.upload(uid, process)
        except HoldfastError as error:
            errors.append(error)

    with quick():
        thread = threading.Thread(target=work)
        thread.start()
        assert process.steps.held.wait(30)
        cycle.expire(process)
        assert cycle.upload(uid)
        cycle.delete(uid)
        cycle.delete(base)
        cycle.settle()
        assert not cycle.left()
        process.steps.release.set()
        thread.join(30)
    assert errors, "it is told that there is nothing to do"
    cycle.settle()
    assert not cycle.left(), "what it put goes, too"


def test_what_a_killed_upload_left_goes_by_age(cycle: Cycle) -> None:
    disk = cycle.new_disk()
    write(cycle, disk, PLACES)
    uid = cycle.freeze(disk)
    process = cycle.process()
    process.steps.at, process.steps.how = 6, How.KILLED_AFTER
    with pytest.raises(Killed):
        cycle.upload(uid, process)
    assert cycle.objects.objects
    cycle.pass_time(10 * GRACE_S)
    assert cycle.collect().freed_objects == 0, "the snapshot is open"
    cycle.expire(process)
    assert cycle.upload(uid)
    assert cycle.collect().waiting_objects == 0 or cycle.collect().freed_objects == 0
    cycle.settle()


def test_nothing_is_made_from_what_is_condemned(cycle: Cycle) -> None:
    """The second line: it cannot come to this, for a condemned snapshot is DELETED."""
    disk, uid = filled(cycle)
    write(cycle, disk, (3,))
    later = cycle.freeze(disk)
    condemned = r.CondemnedRecord(snapshot_uid=uid, since=Moment(1.0, 1.0).record())
    run(cycle.etcd, lambda draft: draft.put(keys.condemned(uid), condemned))
    process = cycle.process()
    run(cycle.etcd, lambda draft: snapshot_changes.claim(draft, later, process.by))
    with pytest.raises(Precondition) as refused:
        made = Uploaded("m", "s", 1, 1)
        run(cycle.etcd, lambda draft: snapshot_changes.complete(draft, later, process.by, made, 1.0))
    assert refused.value.reason == "BASE_CONDEMNED"
    with pytest.raises(Precondition):
        cycle.new_disk(uid)
    with pytest.raises(Precondition):
        cycle.direct(uid)
    assert not cycle.snapshot(cycle.freeze(disk)).base_snapshot_uid, "it is full"


def test_only_what_nobody_wants_is_condemned(cycle: Cycle) -> None:
    _, uid = filled(cycle)
    now = Moment(1.0, 1.0)
    assert not run(cycle.etcd, lambda draft: collection_changes.condemn(draft, uid, now))
    cycle.delete(uid)
    assert run(cycle.etcd, lambda draft: collection_changes.condemn(draft, uid, now))
    assert not run(cycle.etcd, lambda draft: collection_changes.condemn(draft, uid, now))


def test_nothing_is_deleted_while_something_needed_cannot_be_read(cycle: Cycle) -> None:
    disk, first = filled(cycle)
    write(cycle, disk, PLACES[:2])
    second = take(cycle, disk)
    cycle.delete(first)
    cycle.collect()
    cycle.pass_time(GRACE_S)
    (name,) = [one for one in cycle.objects.objects if second in one and "index" in one]
    kept = cycle.objects.objects.pop(name)
    assert cycle.collect().freed_objects == 0
    record = collection(cycle)
    assert record.state == r.COLLECTION_STATE_FAILED and name in record.reason
    cycle.objects.objects[name] = kept
    assert cycle.collect().freed_objects > 0
    assert not collection(cycle).reason


def test_a_damaged_snapshot_that_is_deleted_is_no_hindrance_for_ever(cycle: Cycle) -> None:
    _, damaged = filled(cycle)
    other = filled(cycle)[1]
    (name,) = [one for one in cycle.objects.objects if damaged in one and "index" in one]
    del cycle.objects.objects[name]
    cycle.delete(damaged)
    cycle.collect()
    assert collection(cycle).state == r.COLLECTION_STATE_FAILED
    cycle.pass_time(GRACE_S)
    assert cycle.collect().freed_objects > 0
    assert collection(cycle).state == r.COLLECTION_STATE_DONE
    assert [one.uid for one in cycle.snapshots()] == [other]


def test_it_waits_for_a_store_that_is_away(cycle: Cycle) -> None:
    _, uid = filled(cycle)
    cycle.delete(uid)
    cycle.collect()
    cycle.pass_time(GRACE_S)
    process = cycle.process()
    said: list[str] = []
    below, away = process.objects.delete, iter((True, True, False))

    def delete(name: str) -> None:
        if name.startswith("snapshots/") and next(away, False):
            said.append(collection(cycle).reason)
            raise unreachable("the store", "it is away")
        below(name)

    process.objects.delete = delete  # type: ignore[method-assign]
    assert cycle.collect(process).freed_objects > 0
    assert said == ["", "The object store at the store cannot be reached: it is away."]
    assert not cycle.left() and not collection(cycle).reason


def test_a_lost_pack_is_told(cycle: Cycle) -> None:
    uid = filled(cycle)[1]
    name = next(one for one in cycle.objects.objects if "pack" in one)
    del cycle.objects.objects[name]
    assert cycle.collect().missing_objects == 1
    assert cycle.snapshot(uid).verify.asked, "it is looked into"


def lost(cycle: Cycle) -> dict[str, set[str]]:
    """What no upload may use, by who wrote it."""
    return {one.snapshot_uid: set(one.names) for one in cycle.records(keys.DAMAGED, r.DamagedRecord)}


def test_a_lost_object_is_known_as_long_as_anything_leads_to_it(cycle: Cycle) -> None:
    disk, first = filled(cycle)
    write(cycle, disk, PLACES[:2])
    second = take(cycle, disk)
    packs = {uid: {n for n in cycle.objects.objects if uid in n and "pack" in n} for uid in (first, second)}
    everything = [(uid, name) for uid, names in packs.items() for name in names]
    garbage = (first, min(packs[first])[:-8] + "99999999")
    run(cycle.etcd, lambda draft: verify_changes.mark_lost(draft, [*everything, garbage]))
    cycle.collect()
    assert lost(cycle) == packs, "what nothing leads to is forgotten"
    cycle.delete(first)
    cycle.settle()
    assert lost(cycle) == packs, "the second one leads to packs of the first"
    cycle.delete(second)
    cycle.settle()
    assert not lost(cycle)


def test_lost_objects_that_are_not_named_are_known_while_their_writer_is_used(cycle: Cycle) -> None:
    _, uid = filled(cycle)
    many = [(uid, f"snapshots/{uid}/pack-{0:012x}-{number:08d}") for number in range(2000)]
    run(cycle.etcd, lambda draft: verify_changes.mark_lost(draft, many))
    cycle.collect()
    (record,) = cycle.records(keys.DAMAGED, r.DamagedRecord)
    assert record.more and not record.names
    cycle.delete(uid)
    cycle.settle()
    assert not cycle.records(keys.DAMAGED, r.DamagedRecord)


def test_a_lost_object_of_what_is_being_written_is_known(cycle: Cycle) -> None:
    disk, _ = filled(cycle)
    write(cycle, disk, PLACES[:2])
    uid = cycle.freeze(disk)
    name = f"snapshots/{uid}/pack-{0:012x}-00000000"
    run(cycle.etcd, lambda draft: verify_changes.mark_lost(draft, [(uid, name)]))
    cycle.collect()
    assert lost(cycle) == {uid: {name}}


def test_what_is_not_ours_is_left_alone(cycle: Cycle) -> None:
    _, uid = filled(cycle)
    cycle.objects.put("snapshots/readme", b"not ours")
    cycle.objects.put("other/thing", b"not ours")
    cycle.delete(uid)
    cycle.collect()
    cycle.pass_time(GRACE_S)
    assert cycle.collect().foreign_objects == 1
    assert cycle.left() == {"snapshots/readme"} and cycle.objects.get("other/thing")


def test_anothers_bucket_is_left_alone(cycle: Cycle) -> None:
    """E.g. with an etcd that is new: nothing in it leads to anything."""
    filled(cycle)
    cycle.collect()
    there = cycle.left()
    cycle.etcd.entries.clear()
    cycle.pass_time(10 * GRACE_S)
    assert cycle.collect().freed_objects == 0
    assert cycle.left() == there and "collection/cluster-" in collection(cycle).reason
    assert collection(cycle).state == r.COLLECTION_STATE_FAILED
    (name,) = [
        one for one in cycle.objects.objects if "cluster" in one and collection(cycle).cluster_uid not in one
    ]
    cycle.objects.delete(name)
    assert cycle.collect().freed_objects == len(there), "its operator has said so"


def test_sizes(cycle: Cycle) -> None:
    disk, first = filled(cycle)
    write(cycle, disk, PLACES[4:6])
    second = take(cycle, disk)
    cycle.collect()
    counted = {uid: sizes(cycle, uid) for uid in (first, second)}
    for uid, one in counted.items():
        assert one.logical_bytes == 12 * EXTENT_BYTES
        assert 12 * EXTENT_BYTES < one.stored_bytes < 12.2 * EXTENT_BYTES, "noise is not compressed"
        assert one.count_time.seconds == int(cycle.now_s)
        assert one.exclusive_bytes < 12 * EXTENT_BYTES, uid
    alone = bucket_bytes(cycle)
    for uid in (second, first):
        said = sizes(cycle, uid).exclusive_bytes
        cycle.delete(uid)
        cycle.settle()
        assert alone - bucket_bytes(cycle) == said, "what deleting it would free is what it frees"
        alone = bucket_bytes(cycle)


def test_what_a_copying_volume_needs_would_not_be_freed(cycle: Cycle) -> None:
    _, uid = filled(cycle)
    cycle.collect()
    assert sizes(cycle, uid).exclusive_bytes == bucket_bytes(cycle)
    disk = cycle.new_disk(uid)
    cycle.collect()
    assert sizes(cycle, uid).exclusive_bytes == 0
    cycle.hydrate(disk, 100)
    cycle.collect()
    assert sizes(cycle, uid).exclusive_bytes == bucket_bytes(cycle)


def mostly_dead(cycle: Cycle, key: str = "") -> tuple[ModelDisk, list[str]]:
    """Two snapshots that share the rest of packs whose other extents only a deleted one used."""
    disk = cycle.new_disk(key=key)
    write(cycle, disk, PLACES)
    first = take(cycle, disk)
    write(cycle, disk, tuple(one for one in PLACES if one % 8))
    kept = [take(cycle, disk)]
    write(cycle, disk, (1,))
    kept.append(take(cycle, disk))
    cycle.delete(first)
    cycle.collect()
    cycle.pass_time(GRACE_S)
    return disk, kept


def test_packs_that_are_mostly_dead_are_repacked(cycle: Cycle) -> None:
    _, kept = mostly_dead(cycle)
    before = {uid: cycle.snapshot(uid).manifest for uid in kept}
    size = bucket_bytes(cycle)
    counts = cycle.collect()
    assert counts.repacked_objects >= 3
    after = {uid: cycle.snapshot(uid) for uid in kept}
    assert all(after[uid].manifest != before[uid] for uid in kept)
    assert all([one.manifest for one in after[uid].former_manifests] == [before[uid]] for uid in kept)
    cycle.check_readable()
    assert all(name in cycle.objects.objects for name in before.values()), "who reads by them goes on"
    cycle.settle()
    assert not any(cycle.snapshot(uid).former_manifests for uid in kept)
    assert size - bucket_bytes(cycle) > 20 * EXTENT_BYTES
    assert cycle.collect().repacked_objects == 0, "once"
    shared = [set(cycle._closure(cycle.snapshot(uid).manifest)) for uid in kept]
    assert any("pack" in name for name in shared[0] & shared[1]), "what was shared still is"


class OpenKeys:
    """A KeyService that keeps nothing secret, and may be away."""

    away = False

    def wrap(self, user: str, name: str, context: bytes, secret: bytes) -> bytes:
        return context + secret

    def unwrap(self, user: str, name: str, context: bytes, wrapped: bytes) -> bytes:
        if self.away or not wrapped.startswith(context):
            raise KeyUnavailable("The key is away.")
        return wrapped.removeprefix(context)


def test_packs_of_encrypted_snapshots_are_repacked() -> None:
    service = OpenKeys()
    cycle = Cycle(1, service)
    _, kept = mostly_dead(cycle, "k")
    before = {uid: cycle.snapshot(uid).manifest for uid in kept}
    service.away = True
    counts = cycle.collect()
    assert counts.freed_objects and not counts.repacked_objects, "without the key it is swept, not repacked"
    service.away = False
    assert cycle.collect().repacked_objects >= 3
    assert all(cycle.snapshot(uid).manifest != before[uid] for uid in kept)
    assert all(manifests.decode(cycle.objects.get(cycle.snapshot(uid).manifest), "").keys for uid in kept)
    cycle.settle()


def test_a_damaged_pack_is_not_copied(cycle: Cycle) -> None:
    mostly_dead(cycle)
    cycle.collect(grace_s=10 * GRACE_S)
    uid = cycle.snapshots(r.SNAPSHOT_STATE_DELETED)[0].uid
    name = next(one for one in sorted(cycle.must_stay()) if uid in one and "pack" in one)
    data, modified_s = cycle.objects.objects[name]
    cycle.objects.objects[name] = (data[:100] + bytes([data[100] ^ 1]) + data[101:], modified_s)
    assert cycle.collect().repacked_objects > 0
    for _ in range(4):
        cycle.pass_time(GRACE_S)
        cycle.collect()
    assert name in cycle.objects.objects, "it stays for a repair"
    cycle.objects.objects[name] = (data, modified_s)
    cycle.check_readable()


def test_packs_that_something_fixed_needs_wait(cycle: Cycle) -> None:
    disk, _ = mostly_dead(cycle)
    write(cycle, disk, (2,))
    later = cycle.freeze(disk)
    assert cycle.collect().repacked_objects == 0, "the base of an open snapshot cannot be replaced"
    assert cycle.upload(later)
    assert cycle.collect().repacked_objects > 0


def test_a_base_that_is_replaced_while_it_is_used(cycle: Cycle) -> None:
    """It began after the cut: the manifest that it knows is a root for as long as it is open."""
    disk, kept = mostly_dead(cycle)
    begun = copy.deepcopy((cycle.etcd.entries, cycle.objects.objects))
    process = cycle.process()
    cycle.collect(process)
    last = process.steps.count
    cycle.etcd.entries, cycle.objects.objects = copy.deepcopy(begun)
    process = cycle.process()
    process.steps.hold_at = last - 3  # the last replacement
    thread = threading.Thread(target=lambda: cycle.collect(process))
    thread.start()
    assert process.steps.held.wait(30)
    write(cycle, disk, (2,))
    uid = cycle.freeze(disk)
    process.steps.release.set()
    thread.join(30)
    assert cycle.snapshot(kept[1]).manifest != cycle.snapshot(uid).base_manifest
    for _ in range(4):
        cycle.pass_time(GRACE_S)
        cycle.collect()
    with quick():
        assert cycle.upload(uid)
    cycle.settle()


def test_a_manifest_is_replaced_only_by_who_still_may(cycle: Cycle) -> None:
    _, uid = filled(cycle)
    old = cycle.snapshot(uid).manifest
    by, now = cycle.process().by, Moment(1.0, 1.0)
    made = collection_changes.Replacement(uid, old, "snapshots/new", "ab")

    def replace() -> bool:
        return run(cycle.etcd, lambda draft: collection_changes.replace_manifest(draft, "w" * 12, made, now))

    with pytest.raises(Precondition):
        replace()  # its lease is gone, and with it its writer
    run(cycle.etcd, lambda draft: collection_changes.begin_rewrite(draft, "w" * 12, by))
    assert replace() and not replace()
    other = collection_changes.Replacement(uid, old, "snapshots/newer", "ab")
    with pytest.raises(Precondition):  # another was faster
        run(cycle.etcd, lambda draft: collection_changes.replace_manifest(draft, "w" * 12, other, now))


def test_a_repacker_that_wakes_up_after_hours(cycle: Cycle) -> None:
    """Paused at each step of it; meanwhile everything that it wrote has been collected."""
    mostly_dead(cycle)
    begun = copy.deepcopy((cycle.etcd.entries, cycle.objects.objects))
    process = cycle.process()
    cycle.collect(process)
    last = process.steps.count
    for at in range(last - 14, last):
        cycle.etcd.entries, cycle.objects.objects = copy.deepcopy(begun)
        process = cycle.process()
        process.steps.hold_at = at
        thread = threading.Thread(target=quietly, args=(partial(cycle.collect, process),))
        thread.start()
        assert process.steps.held.wait(30)
        cycle.expire(process)
        for _ in range(3):
            cycle.pass_time(GRACE_S)
            cycle.collect()
        process.steps.release.set()
        thread.join(30)
        cycle.check_readable()
        cycle.settle()


@pytest.mark.parametrize("how", [How.KILLED_AFTER, How.FAILS, How.LOSES_ANSWER])
def test_ended_at_every_step(how: How) -> None:
    """A bucket with everything in it: what is deleted, in grace, left behind, to be repacked."""
    cycle = Cycle(3)
    mostly_dead(cycle)
    other, origin = filled(cycle)
    cycle.new_disk(origin)
    cycle.delete(origin)
    write(cycle, other, (5,))
    cycle.delete(take(cycle, other))
    write(cycle, other, PLACES)
    killed = cycle.process()
    killed.steps.at, killed.steps.how = 6, How.KILLED_AFTER
    quietly(lambda: cycle.upload(cycle.freeze(other), killed))
    cycle.expire(killed)
    begun = copy.deepcopy((cycle.etcd.entries, cycle.objects.objects))
    process = cycle.process()
    counts = cycle.collect(process)
    assert counts.condemned and counts.freed_objects and counts.repacked_objects
    for at in range(process.steps.count):
        cycle.etcd.entries, cycle.objects.objects = copy.deepcopy(begun)
        process = cycle.process()
        process.steps.at, process.steps.how = at, how
        with quick():
            quietly(partial(cycle.collect, process))
            cycle.expire(process)
            cycle.check_readable()
            cycle.settle()


@pytest.mark.parametrize("seed", range(8))
def test_stories(seed: int) -> None:
    """`make collection-stories` plays many more."""
    play(seed)


SEEDS = {
    "origins of volumes are no roots": 1,
    "bases of open snapshots are no roots": 5,
    "the recycle bin is no root": 3,
    "the grace is ignored": 3,
    "one clock is trusted": 9,
}
"""That are known to find them; if the stories change, others do."""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_stories_find_mistakes(mistake: str) -> None:
    assert finds(mistake, (SEEDS.get(mistake, 0), *range(40))) >= 0


@pytest.mark.parametrize("mistake", [nullcontext, cut_first])
def test_what_came_between_the_listing_and_the_cut(cycle: Cycle, mistake: type[nullcontext[None]]) -> None:
    disk, _ = filled(cycle)
    cycle.collect()
    process = cycle.process()
    process.steps.hold_at = 6  # the listing
    judged: list[BaseException] = []

    def work() -> None:
        try:
            cycle.collect(process, grace_s=0.0)
        except AssertionError as error:
            judged.append(error)

    with mistake():
        thread = threading.Thread(target=work)
        thread.start()
        assert process.steps.held.wait(30)
        write(cycle, disk, PLACES[:3])
        take(cycle, disk)
        process.steps.release.set()
        thread.join(30)
    assert bool(judged) == (mistake is cut_first)
    if not judged:
        cycle.check_readable()


def test_what_comes_from_another_is_known_when_what_links_them_is_gone(cycle: Cycle) -> None:
    _, origin = filled(cycle)
    disk = cycle.new_disk(origin)
    first = take(cycle, disk)
    disk.write(1, noise(cycle))
    second = take(cycle, disk)
    assert cycle.snapshot(second).base_snapshot_uid == first
    cycle.hydrate(disk, 100)
    cycle.delete(first)
    cycle.settle()
    BlockAccess(cycle.etcd).check_related(cycle.snapshot(second), cycle.snapshot(origin))
    with pytest.raises(BadInput):
        BlockAccess(cycle.etcd).check_related(cycle.snapshot(second), cycle.snapshot(filled(cycle)[1]))


def test_rows_sort_beyond_memory(tmp_path: Path) -> None:
    chance = Random(1)
    rows = SortedRows(tmp_path, "rows", memory_bytes=700)
    added = [b"%d" % chance.randrange(3000) for _ in range(5000)]
    for row in added:
        rows.add(row)
    assert list(rows.sorted()) == sorted(set(added)) == list(rows.sorted())
