"""Verification finds what is lost and says where; repair brings back what a newer snapshot has, no more."""

import threading
from collections.abc import Callable

import pytest

from holdfast.base.extents import runs
from holdfast.base.limits import EXTENT_BYTES, GIB, MIB
from holdfast.lab.snapshotters import volume_of
from holdfast.metadata.verify_changes import DESCRIBED_MAX, Found, Repaired
from holdfast.snapshotter.cipher import DataKey
from holdfast.snapshotter.damage import Damage
from holdfast.snapshotter.mend import Mend, Own
from holdfast.snapshotter.objects_directory import DirectoryStore
from holdfast.snapshotter.objects_faults import Fault, FaultyStore, Killed, Rule
from holdfast.snapshotter.patient import PatientStore
from holdfast.snapshotter.ring import WrappedKey
from holdfast.snapshotter.scrub import GoodLately, Scrub
from holdfast.snapshotter.testing import SMALL, differing_extents, index_of, new_upload, upload

UIDS = [f"{number:024x}" for number in range(20)]
KEY, OTHER = DataKey(b"k" * 32), DataKey(b"o" * 32)


def patient(store: DirectoryStore | FaultyStore) -> PatientStore:
    return PatientStore(store, threading.Event(), lambda _: None)


def scrubbed(
    store: DirectoryStore | FaultyStore,
    manifest: str,
    sample: int = 100,
    key: DataKey | None = None,
    lately: GoodLately | None = None,
    report: Callable[[Found], None] = lambda _: None,
) -> Found:
    index = index_of(store, manifest, key=key)
    stop = threading.Event()
    return Scrub(index, patient(store), stop, sample, lambda _: None, report, Damage(), lately=lately).run()


def pack_of(store: DirectoryStore, manifest: str, extent: int, key: DataKey | None = None) -> str:
    entry = index_of(store, manifest, key=key).get(extent)
    assert entry is not None
    return entry.pack.name


def damage(store: DirectoryStore, name: str, how: str) -> None:
    data = store.get(name)
    store.delete(name)
    if how == "damaged":
        middle = len(data) // 2
        store.put(name, data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    elif how == "short":
        store.put(name, data[: len(data) // 2])


def extents_said(found: Found) -> list[int]:
    pairs = [pair for one in found.damaged for pair in zip(one.runs[::2], one.runs[1::2], strict=True)]
    return sorted(extent for first, end in pairs for extent in range(first, end))


@pytest.mark.parametrize("key", [None, KEY])
def test_what_is_whole_is_good(directory: DirectoryStore, key: DataKey | None) -> None:
    view = volume_of(1, 6).freeze()
    result = upload(directory, UIDS[0], view, key=key)
    reports: list[Found] = []
    found = scrubbed(directory, result.manifest, key=key, report=reports.append)
    assert found.damaged_objects == found.damaged_extents == 0 and not found.damaged
    assert found.done_bytes == len(view.allocated) * EXTENT_BYTES
    packs = sum(one.size_bytes for one in directory.list("") if "pack-" in one.name)
    assert 0.99 * packs < found.read_bytes <= packs
    assert [one.next_shard for one in reports] == sorted(one.next_shard for one in reports)


@pytest.mark.parametrize("how", ["damaged", "short", "missing"])
@pytest.mark.parametrize("sample", [100, 1])
def test_what_is_lost_is_found_and_named(directory: DirectoryStore, how: str, sample: int) -> None:
    view = volume_of(2, 6).freeze()
    manifest = upload(directory, UIDS[0], view).manifest
    name = pack_of(directory, manifest, sorted(view.allocated)[9])
    damage(directory, name, how)
    found = scrubbed(directory, manifest, sample)
    if how == "damaged" and sample < 100:
        return  # By chance.
    assert [one.name for one in found.damaged] == [name] and found.damaged[0].problem == how
    if sample == 100:
        assert extents_said(found) == differing_or_lost(directory, manifest, view)
    assert list(found.lost) == [] or list(found.lost) == [(UIDS[0], name)]


def differing_or_lost(store: DirectoryStore, manifest: str, view) -> list[int]:  # type: ignore[no-untyped-def]
    """The extents that a plain reader cannot read, one at a time."""
    from holdfast.base.errors import DataLoss
    from holdfast.snapshotter.fetch import Fetcher
    from holdfast.snapshotter.reader import SnapshotReader

    fetcher, lost = Fetcher(store), []
    reader = SnapshotReader(index_of(store, manifest), fetcher)
    for extent in sorted(view.allocated):
        try:
            reader.read(extent * EXTENT_BYTES, EXTENT_BYTES)
        except DataLoss:
            lost.append(extent)
    fetcher.close()
    return lost


def test_a_lost_index_is_found_and_the_rest_is_read(directory: DirectoryStore) -> None:
    volume = volume_of(3, 4)
    volume.write(700 * MIB, b"in the second shard")
    manifest = upload(directory, UIDS[0], volume.freeze()).manifest
    name = index_of(directory, manifest).manifest.shards[0].where.name
    directory.delete(name)
    found = scrubbed(directory, manifest)
    assert [(one.name, one.problem) for one in found.damaged] == [(name, "missing")]


def test_a_transfer_that_went_wrong_is_no_damage(directory: DirectoryStore) -> None:
    manifest = upload(directory, UIDS[0], volume_of(4, 3).freeze()).manifest
    faulty = FaultyStore(directory)
    faulty.rules.append(Rule("get_range", "pack-", Fault.FLIP, times=1))
    assert scrubbed(faulty, manifest).damaged_objects == 0


def test_many_lost_objects_are_counted_and_a_few_described(directory: DirectoryStore) -> None:
    manifest = upload(directory, UIDS[0], volume_of(5, 48).freeze()).manifest
    packs = [one.name for one in directory.list("") if "pack-" in one.name]
    for name in packs:
        directory.delete(name)
    told: set[tuple[str, str]] = set()
    found = scrubbed(directory, manifest, report=lambda one: told.update(one.lost))
    assert found.damaged_objects == len(packs) > DESCRIBED_MAX == len(found.damaged)
    assert {name for _, name in told} == set(packs)


def test_it_goes_on_from_a_shard(directory: DirectoryStore) -> None:
    volume = volume_of(6, 6)
    view = volume.freeze()
    manifest = upload(directory, UIDS[0], view).manifest
    name = pack_of(directory, manifest, min(view.allocated))
    directory.delete(name)
    reports: list[Found] = []
    whole = scrubbed(directory, manifest, report=reports.append)
    from holdfast.api.records.v1 import records_pb2 as r

    first = reports[0]
    verify = r.SnapshotVerify(
        damaged=first.damaged, damaged_objects=first.damaged_objects, damaged_extents=first.damaged_extents
    )
    rest = Scrub(
        index_of(directory, manifest), patient(directory), threading.Event(), 100, lambda _: None,
        lambda _: None, Damage(verify), first.next_shard, first.read_bytes,
    ).run()  # fmt: skip
    assert (rest.done_bytes, rest.read_bytes, rest.damaged_extents) == (
        whole.done_bytes, whole.read_bytes, whole.damaged_extents,
    )  # fmt: skip


def test_what_was_good_lately_is_not_read_for_another(directory: DirectoryStore) -> None:
    volume = volume_of(7, 4)
    first = upload(directory, UIDS[0], volume.freeze()).manifest
    volume.write(0, b"changed")
    second = upload(directory, UIDS[1], volume.freeze(), first).manifest
    now_s = [0.0]
    lately = GoodLately(100, lambda: now_s[0])
    whole = scrubbed(directory, first, lately=lately).read_bytes
    assert scrubbed(directory, second, lately=lately).read_bytes < whole / 4
    now_s[0] = 101
    assert scrubbed(directory, second, lately=lately).read_bytes > whole / 2


# Repair.


def mended(
    store: DirectoryStore | FaultyStore,
    damaged: str,
    source: str,
    suspects: set[str] | None,
    key: DataKey | None = None,
    source_key: DataKey | None = None,
) -> Repaired:
    own = Own(key, WrappedKey("u", "k", b"w")) if key else None
    mend = Mend(
        index_of(store, damaged, key=key),
        index_of(store, source, key=source_key),
        suspects,
        patient(store),
        threading.Event(),
        SMALL,
        lambda _: None,
        own,
    )
    return mend.run(damaged, "", UIDS[9])


@pytest.mark.parametrize("how", ["damaged", "short", "missing"])
@pytest.mark.parametrize("key", [None, KEY])
def test_what_the_volume_still_has_is_repaired(
    directory: DirectoryStore, how: str, key: DataKey | None
) -> None:
    volume = volume_of(8, 8)
    view = volume.freeze()
    first = upload(directory, UIDS[0], view, key=key).manifest
    name = pack_of(directory, first, sorted(view.allocated)[9], key)
    damage(directory, name, how)
    volume.write(0, b"something else")
    newer = volume.freeze()
    other = OTHER if key else None
    source = (
        new_upload(directory, UIDS[1], GIB, first, key=other, base_key=key, lost={name}).run(newer).manifest
    )
    assert differing_extents(directory, source, newer, other) == []
    done = mended(directory, first, source, {name}, key, other)
    assert done.extents > 0 and done.left.damaged_objects == 0
    assert differing_extents(directory, done.manifest, view, key) == []
    if how != "damaged":
        assert pack_of(directory, done.manifest, sorted(view.allocated)[9], key).startswith(
            f"snapshots/{UIDS[0]}/"
        )
    assert index_of(directory, done.manifest, done.manifest_sha256, key).manifest.snapshot_uid == UIDS[0]
    assert scrubbed(directory, done.manifest, key=key).damaged_objects == 0


def test_what_the_volume_has_no_more_stays_lost(directory: DirectoryStore) -> None:
    volume = volume_of(9, 4)
    view = volume.freeze()
    first = upload(directory, UIDS[0], view).manifest
    packs = {one.name for one in directory.list("") if "pack-" in one.name}
    for name in packs:
        directory.delete(name)
    gone = sorted(view.allocated)[:3]
    for extent in gone:
        volume.write(extent * EXTENT_BYTES, b"overwritten")
    source = new_upload(directory, UIDS[1], GIB, first, lost=packs).run(volume.freeze()).manifest
    done = mended(directory, first, source, None)
    assert done.left.damaged_extents == len(gone) and extents_said(done.left) == gone
    assert [(first, end) for first, end in runs(extents_said(done.left))] == list(runs(gone))
    assert scrubbed(directory, done.manifest).damaged_extents == len(gone)
    nothing = mended(directory, done.manifest, source, None)
    assert nothing.manifest == done.manifest and not nothing.extents


def test_a_repair_that_dies_anywhere_leaves_the_snapshot_as_it_was(directory: DirectoryStore) -> None:
    volume = volume_of(10, 4)
    view = volume.freeze()
    first = upload(directory, UIDS[0], view).manifest
    name = pack_of(directory, first, min(view.allocated))
    directory.delete(name)
    source = new_upload(directory, UIDS[1], GIB, first, lost={name}).run(volume.freeze()).manifest
    before = scrubbed(directory, first).damaged_extents
    for after in range(100):
        faulty = FaultyStore(directory)
        faulty.rules.append(Rule("", "", Fault.KILL, after, times=1))
        try:
            done = mended(faulty, first, source, {name})
        except Killed:
            assert scrubbed(directory, first).damaged_extents == before
            continue
        assert after > 5 and differing_extents(directory, done.manifest, view) == []
        return
    raise AssertionError("never done")


def test_a_lost_index_is_made_again_from_the_packs(directory: DirectoryStore) -> None:
    volume = volume_of(11, 8)
    first_view = volume.freeze()
    first = upload(directory, UIDS[0], first_view).manifest
    volume.write(3 * MIB, b"changed")
    volume.write(900 * MIB, b"changed")
    second_view = volume.freeze()
    second = upload(directory, UIDS[1], second_view, first).manifest
    volume.write(0, b"and again")
    source = upload(directory, UIDS[2], volume.freeze(), second).manifest
    manifests = {UIDS[0]: first, UIDS[1]: second, UIDS[2]: source}
    own = {one.name for one in directory.list("") if "index-" in one.name and UIDS[2] not in one.name}
    for uid, view in ((UIDS[1], second_view), (UIDS[0], first_view)):
        for name in [one for one in own if uid in one]:
            directory.delete(name)
        assert scrubbed(directory, manifests[uid]).damaged_objects > 0
        damaged = index_of(directory, manifests[uid])
        mend = Mend(
            damaged, index_of(directory, source), set(), patient(directory), threading.Event(), SMALL,
            lambda _: None, None, lambda other: index_of(directory, manifests[other]),
        )  # fmt: skip
        done = mend.run(manifests[uid], "", UIDS[2])
        assert done.extents > 0 and done.left.damaged_objects == 0
        assert differing_extents(directory, done.manifest, view) == []
        manifests[uid] = done.manifest


def test_a_lost_index_that_nobody_can_make_again_stays_lost(directory: DirectoryStore) -> None:
    volume = volume_of(12, 4)
    first = upload(directory, UIDS[0], volume.freeze()).manifest
    source = upload(directory, UIDS[1], volume.freeze()).manifest
    for name in [one.name for one in directory.list(f"snapshots/{UIDS[0]}/")]:
        if "index-" in name:
            directory.delete(name)
    for one in list(directory.list(f"snapshots/{UIDS[0]}/pack-")):
        directory.delete(one.name)
    done = mended(directory, first, source, None)
    assert done.manifest == first and not done.extents
    assert {one.problem for one in done.left.damaged} == {"missing"}
