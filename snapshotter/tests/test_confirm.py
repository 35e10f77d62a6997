"""COMPLETED is said only of what is there: objects that were acknowledged and are lost are uploaded again."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from holdfast.base.errors import Unavailable
from holdfast.base.limits import EXTENT_BYTES, GIB, MIB
from holdfast.lab.snapshotters import volume_of
from holdfast.snapshotter.cipher import DataKey
from holdfast.snapshotter.names import snapshot_of
from holdfast.snapshotter.objects import ObjectInfo
from holdfast.snapshotter.objects_directory import DirectoryStore
from holdfast.snapshotter.objects_faults import Fault, FaultyStore, Killed, Rule
from holdfast.snapshotter.testing import (
    SMALL,
    ModelVolume,
    differing_extents,
    index_of,
    new_upload,
    upload,
)
from holdfast.snapshotter.upload import Reports

UIDS = [f"{number:024x}" for number in range(20)]
KEY = DataKey(b"k" * 32)
ONCE = replace(SMALL, checkpoint_every_s=1e9)
"""Without checkpoints, which are objects too."""


def objects_of(store: DirectoryStore, manifest: str, key: DataKey | None = None) -> set[str]:
    """Packs and index objects that a snapshot uses."""
    index = index_of(store, manifest, key=key)
    found = {ref.where.name for ref in index.manifest.shards}
    return found | {pack.name for ref in index.manifest.shards for pack in index.load(ref).packs}


def requests_of(faulty: FaultyStore) -> Counter[str]:
    return Counter(operation for operation, _ in faulty.calls)


def test_all_is_confirmed_with_two_requests_more(directory: DirectoryStore) -> None:
    faulty = FaultyStore(directory)
    view = volume_of(7, 30).freeze()
    result = new_upload(faulty, UIDS[1], GIB, settings=ONCE).run(view)
    packs = sum("pack-" in name for name in objects_of(directory, result.manifest))
    assert packs > 20
    assert requests_of(faulty) == {"put": packs + 2, "list": 1, "size": 1}
    listed = next(at for at, call in enumerate(faulty.calls) if call[0] == "list")
    assert all("manifest" in name for _, name in faulty.calls[listed + 1 :]), "before the manifest is put"


def test_without_a_listing_each_is_asked_for(directory: DirectoryStore) -> None:
    faulty = FaultyStore(directory)
    faulty.rules.append(Rule("list", "", Fault.UNREACHABLE))
    faulty.rules.append(Rule("put", "pack-", Fault.FORGET, times=1))
    view = volume_of(7, 30).freeze()
    result = new_upload(faulty, UIDS[1], GIB, settings=ONCE).run(view)
    assert differing_extents(directory, result.manifest, view) == []
    asked = {name for operation, name in faulty.calls if operation == "size"}
    assert objects_of(directory, result.manifest) <= asked


def test_a_listing_that_lags_behind_is_not_believed(directory: DirectoryStore) -> None:
    class Lagging(FaultyStore):
        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            return (one for one in [*super().list(prefix)][::2])

    faulty = Lagging(directory)
    view = volume_of(7, 30).freeze()
    result = new_upload(faulty, UIDS[1], GIB, settings=ONCE).run(view)
    requests = requests_of(faulty)
    assert requests["put"] == len(objects_of(directory, result.manifest)) + 1, "nothing is put twice"
    assert 10 < requests["size"] < requests["put"]


@pytest.mark.parametrize("part", ["pack-", "index-"])
@pytest.mark.parametrize("incremental", [False, True])
@pytest.mark.parametrize("key", [None, KEY])
def test_what_vanished_is_uploaded_again(
    directory: DirectoryStore, part: str, incremental: bool, key: DataKey | None
) -> None:
    volume = volume_of(1, 12)
    base = (
        upload(directory, UIDS[0], volume.freeze(), key=KEY if key else None).manifest if incremental else ""
    )
    volume.write(3 * MIB, b"changed")
    volume.write(GIB // 2, b"changed")
    view = volume.freeze()
    faulty = FaultyStore(directory)
    faulty.rules.append(Rule("put", part, Fault.FORGET, times=1))
    result = new_upload(faulty, UIDS[1], GIB, base, key=key, base_key=key if base else None).run(view)
    assert differing_extents(directory, result.manifest, view, key) == []
    put = {name for operation, name in faulty.calls if operation == "put" and "checkpoint" not in name}
    assert {
        name for name in objects_of(directory, result.manifest, key) if snapshot_of(name) == UIDS[1]
    } < put


def test_what_a_dead_predecessor_put_is_asked_for_too(directory: DirectoryStore) -> None:
    view = volume_of(2, 20).freeze()
    recorded: list[str] = []
    faulty = FaultyStore(directory)
    faulty.rules.append(Rule("put", "pack-", Fault.KILL, after=10, times=1))
    reports = Reports(checkpoint=lambda name: recorded.append(name) is None)
    with pytest.raises(Killed):
        new_upload(faulty, UIDS[1], GIB, reports=reports).run(view)
    gone = sorted(one.name for one in directory.list(f"snapshots/{UIDS[1]}/pack-"))[2]
    directory.delete(gone)
    successor = new_upload(directory, UIDS[1], GIB)
    assert successor.resume(recorded[-1]) and successor.position
    reads = len(view.reads)
    result = successor.run(view)
    assert differing_extents(directory, result.manifest, view) == []
    assert gone not in objects_of(directory, result.manifest)
    assert len(view.reads) - reads < len(view.allocated), "only what is lost, and what was not done, is read"


def test_a_pack_that_is_short_is_lost(directory: DirectoryStore) -> None:
    view = volume_of(3, 6).freeze()
    names: list[str] = []

    class Cutting(FaultyStore):
        def put(self, name: str, data: bytes | bytearray) -> None:
            cut = "pack-" in name and not names
            names.append(name)
            super().put(name, data[:-9] if cut else data)

    result = new_upload(Cutting(directory), UIDS[1], GIB).run(view)
    assert differing_extents(directory, result.manifest, view) == []


def test_a_store_that_keeps_forgetting_is_told_of(directory: DirectoryStore) -> None:
    faulty = FaultyStore(directory)
    faulty.rules.append(Rule("put", "pack-", Fault.FORGET))
    with pytest.raises(Unavailable, match="pack-"):
        new_upload(faulty, UIDS[1], GIB).run(volume_of(4, 1).freeze())
    assert not any("manifest" in one.name for one in directory.list(""))


@pytest.mark.parametrize("part", ["pack-", "index-"])
def test_an_increment_uses_nothing_that_is_lost(directory: DirectoryStore, part: str) -> None:
    volume = volume_of(5, 12)
    base = upload(directory, UIDS[0], volume.freeze()).manifest
    lost = {min(name for name in objects_of(directory, base) if part in name)}
    for name in lost:
        directory.delete(name)
    volume.write(0, b"changed")
    view = volume.freeze()
    result = new_upload(directory, UIDS[1], GIB, base, lost=lost).run(view)
    assert differing_extents(directory, result.manifest, view) == []
    assert not lost & objects_of(directory, result.manifest)
    if part == "pack-":
        assert result.counters.uploaded_bytes < len(view.allocated) * EXTENT_BYTES / 2


def test_what_is_lost_and_zero_by_now_is_left_out(directory: DirectoryStore) -> None:
    volume = ModelVolume(GIB)
    volume.write(MIB, b"x" * EXTENT_BYTES)
    volume.write(8 * MIB, b"y" * EXTENT_BYTES)
    base = upload(directory, UIDS[0], volume.freeze()).manifest
    volume.write(MIB, bytes(EXTENT_BYTES))
    volume.discard(64, 65)
    view = volume.freeze()
    lost = {name for name in objects_of(directory, base) if "pack-" in name}
    result = new_upload(directory, UIDS[1], GIB, base, lost=lost).run(view)
    assert index_of(directory, result.manifest).manifest.shards == ()
