"""Copies in other stores: whole, read back, resumed, and read without their snapshot."""

import math
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from holdfast.base.errors import DataLoss
from holdfast.base.limits import EXTENT_BYTES, MIB
from holdfast.lab.snapshotters import volume_of
from holdfast.metadata.copy_changes import Progress
from holdfast.snapshotter.cipher import DataKey
from holdfast.snapshotter.copying import Copying, check_whole
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.objects_directory import DirectoryStore
from holdfast.snapshotter.objects_faults import Fault, FaultyStore, Killed, Rule
from holdfast.snapshotter.objects_prefixed import PrefixedStore
from holdfast.snapshotter.pace import Pace
from holdfast.snapshotter.patient import PatientStore
from holdfast.snapshotter.testing import differing_extents, index_of, upload

UIDS = [f"{number:024x}" for number in range(20)]
KEY = DataKey(b"k" * 32)


@pytest.fixture
def target(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "target")


def patient(store: ObjectStore) -> PatientStore:
    return PatientStore(store, threading.Event(), lambda _: None)


def copying(
    source: ObjectStore,
    target: ObjectStore,
    manifest: str,
    key: DataKey | None = None,
    reports: list[Progress] | None = None,
) -> Copying:
    reports = [] if reports is None else reports
    index = index_of(source, manifest, key=key)
    return Copying(index, manifest, patient(source), patient(target), threading.Event(), reports.append)


def copied(source: ObjectStore, target: ObjectStore, manifest: str, key: DataKey | None = None) -> None:
    one = copying(source, target, manifest, key)
    one.copy(0)
    check_whole(one.read_back(index_of(target, manifest, key=key), 0))


@pytest.mark.parametrize("key", [None, KEY])
def test_a_copy_is_complete_by_itself(
    directory: DirectoryStore, target: DirectoryStore, key: DataKey | None, tmp_path: Path
) -> None:
    volume = volume_of(1, 6)
    first = upload(directory, UIDS[0], volume.freeze(), key=key).manifest
    volume.write(5 * MIB, b"changed")
    view = volume.freeze()
    second = upload(directory, UIDS[1], view, first, key=key, base_key=key).manifest
    place = PrefixedStore(target, "copies/x/")
    copied(directory, place, second, key)
    for one in list(directory.list("")):
        directory.delete(one.name)
    assert differing_extents(place, second, view, key) == []
    if key is None:
        image = tmp_path / "image"
        rebuild = Path(__file__).with_name("rebuild.py")
        root = tmp_path / "target" / "copies" / "x"
        subprocess.run([sys.executable, str(rebuild), str(root), second, str(image)], check=True)
        with image.open("rb") as file:
            for extent in sorted(view.allocated):
                file.seek(extent * EXTENT_BYTES)
                assert file.read(EXTENT_BYTES) == view.read(extent * EXTENT_BYTES, EXTENT_BYTES)


def test_what_is_copied_and_read_back_keeps_to_a_rate(
    directory: DirectoryStore, target: DirectoryStore
) -> None:
    manifest = upload(directory, UIDS[0], volume_of(1, 6).freeze()).manifest
    index, counted = index_of(directory, manifest), [0, 0]
    lock, stop = threading.Lock(), threading.Event()

    def before(count: int) -> None:
        with lock:
            counted[phase] += count

    args = (patient(directory), patient(target), stop, lambda _: None, 0, before)
    one = Copying(index, manifest, *args)
    phase = 0
    one.copy(0)
    phase = 1
    check_whole(one.read_back(index_of(target, manifest), 0))
    packs = {pack for ref in index.manifest.shards for pack in index.load(ref).packs}
    indexes = {ref.where for ref in index.manifest.shards}
    assert counted[0] == sum(each.size_bytes for each in packs | indexes)
    stored = [entry for ref in index.manifest.shards for entry in index.load(ref).entries().values()]
    assert counted[1] >= sum(entry.stored_bytes for entry in stored)


def test_a_pace_is_of_all_its_threads_together() -> None:
    waits: list[float] = []

    class Waiting(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return False

    pace = Pace(100, Waiting(), clock=lambda: 5.0)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: pace.take(50), range(6)))
    assert sorted(waits) == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    unlimited = Pace(math.inf, Waiting(), clock=lambda: 5.0)
    waits.clear()
    unlimited.take(1 << 40)
    unlimited.take(1)
    assert waits == [0.0, 0.0]


def test_killed_at_every_call_it_goes_on(directory: DirectoryStore, tmp_path: Path) -> None:
    view = volume_of(2, 3).freeze()
    manifest = upload(directory, UIDS[0], view).manifest
    for after in range(200):
        target = DirectoryStore(tmp_path / f"target-{after}")
        faulty = FaultyStore(target)
        faulty.rules.append(Rule("", "", Fault.KILL, after, times=1))
        try:
            copied(directory, faulty, manifest)
        except Killed:
            copied(directory, target, manifest)
            assert differing_extents(target, manifest, view) == []
            continue
        assert after > 20
        return
    raise AssertionError("never done")


def test_what_is_there_is_not_sent_again(directory: DirectoryStore, target: DirectoryStore) -> None:
    manifest = upload(directory, UIDS[0], volume_of(3, 6).freeze()).manifest
    copied(directory, target, manifest)
    faulty = FaultyStore(target)
    copied(directory, faulty, manifest)
    assert [name for operation, name in faulty.calls if operation == "put"] == [manifest]


def test_what_was_damaged_on_its_way_is_copied_again(
    directory: DirectoryStore, target: DirectoryStore
) -> None:
    view = volume_of(4, 6).freeze()
    manifest = upload(directory, UIDS[0], view).manifest
    one = copying(directory, target, manifest)
    one.copy(0)
    packs = [found.name for found in target.list("") if "pack-" in found.name]
    data = target.get(packs[0])
    target.delete(packs[0])
    target.put(packs[0], data[:5000] + b"?" + data[5001:])
    target.delete(packs[1])
    check_whole(one.read_back(index_of(target, manifest), 0))
    assert differing_extents(target, manifest, view) == []


def test_what_is_damaged_at_home_is_no_copy(directory: DirectoryStore, target: DirectoryStore) -> None:
    manifest = upload(directory, UIDS[0], volume_of(5, 3).freeze()).manifest
    pack = next(found.name for found in directory.list("") if "pack-" in found.name)
    data = directory.get(pack)
    directory.delete(pack)
    with pytest.raises(DataLoss, match="pack-"):
        copied(directory, target, manifest)
    directory.put(pack, data[:5000] + b"?" + data[5001:])
    with pytest.raises(DataLoss, match="verify the snapshot"):
        copied(directory, target, manifest)
    target.delete(pack)
    directory.delete(pack)
    directory.put(pack, data[:-1])
    with pytest.raises(DataLoss, match="ends early"):
        copied(directory, target, manifest)


def test_progress_grows(directory: DirectoryStore, target: DirectoryStore) -> None:
    view = volume_of(6, 6).freeze()
    manifest = upload(directory, UIDS[0], view).manifest
    reports: list[Progress] = []
    one = copying(directory, target, manifest, reports=reports)
    one.copy(0)
    one.read_back(index_of(target, manifest), 0)
    done = [far.done_bytes for far in reports]
    assert (
        done == sorted(done) and done[-1] == reports[-1].total_bytes == 2 * len(view.allocated) * EXTENT_BYTES
    )
    stored = sum(found.size_bytes for found in target.list(""))
    assert reports[-1].stored_bytes == stored
