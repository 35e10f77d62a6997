"""The whole cycle against a plain model, and the interruption of it at every step."""

import random
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.base.errors import DataLoss, Precondition
from holdfast.base.limits import EXTENT_BYTES, GIB, MIB, TIB
from holdfast.snapshotter.buffers import PackBuffers
from holdfast.snapshotter.frozen import ViewLost
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.objects_directory import DirectoryStore
from holdfast.snapshotter.objects_faults import Fault, FaultyStore, Killed, Rule
from holdfast.snapshotter.patient import PatientStore, Stopped
from holdfast.snapshotter.shard import SHARD_EXTENTS
from holdfast.snapshotter.testing import (
    SMALL,
    ModelView,
    ModelVolume,
    differing_extents,
    directory_names,
    index_of,
    new_upload,
    upload,
)
from holdfast.snapshotter.upload import Job, Reports, Upload

UIDS = [f"{number:024x}" for number in range(100)]
REBUILD = Path(__file__).with_name("rebuild.py")


def rebuilt(root: Path, manifest: str, image: Path) -> Path:
    """The image that the independent program makes of a snapshot."""
    subprocess.run([sys.executable, str(REBUILD), str(root), manifest, str(image)], check=True)
    return image


def image_differs(image: Path, view: ModelView) -> list[int]:
    with open(image, "rb") as file:
        assert file.seek(0, 2) == view.size_bytes
        differing = []
        for extent in range(-(-view.size_bytes // EXTENT_BYTES)):
            file.seek(extent * EXTENT_BYTES)
            length = min(EXTENT_BYTES, view.size_bytes - extent * EXTENT_BYTES)
            if file.read(length) != view.read(extent * EXTENT_BYTES, length):
                differing.append(extent)
        return differing


def scribbled(seed: int, size_bytes: int, writes: int, volume: ModelVolume | None = None) -> ModelVolume:
    """A volume with so many random writes, of text and noise, in aligned and in odd places."""
    chance = random.Random(seed)
    volume = volume or ModelVolume(size_bytes)
    for _ in range(writes):
        length = chance.choice([4096, 70_000, EXTENT_BYTES, 3 * EXTENT_BYTES])
        offset = chance.randrange(0, (size_bytes - length) // 4096) * 4096
        data = chance.randbytes(length) if chance.random() < 0.7 else b"holdfast" * (length // 8)
        volume.write(offset, data)
    return volume


def test_a_full_snapshot(store: ObjectStore) -> None:
    view = scribbled(1, 50 * MIB + 4096, 40).freeze()
    result = upload(store, UIDS[0], view)
    assert differing_extents(store, result.manifest, view) == []
    assert result.counters.done_bytes == len(view.allocated) * EXTENT_BYTES
    present = {one.name: one.size_bytes for one in store.list(f"snapshots/{UIDS[0]}/")}
    checkpoints = {name for name in present if "checkpoint" in name}
    assert len(checkpoints) <= 1, "each checkpoint replaces the last"
    assert result.counters.stored_bytes == sum(
        size for name, size in present.items() if name not in checkpoints
    )


def test_an_empty_volume(directory: DirectoryStore) -> None:
    view = ModelVolume(GIB).freeze()
    result = upload(directory, UIDS[0], view)
    assert index_of(directory, result.manifest).manifest.shards == ()
    assert view.reads == []
    assert differing_extents(directory, result.manifest, view) == []


def test_zeros_that_were_written_are_not_stored(directory: DirectoryStore) -> None:
    volume = ModelVolume(GIB)
    volume.write(0, bytes(10 * MIB))
    volume.write(5 * MIB, b"x")
    result = upload(directory, UIDS[0], volume.freeze())
    assert result.counters.uploaded_bytes == EXTENT_BYTES
    assert index_of(directory, result.manifest).manifest.extents == 1


def test_zeros_that_were_written_before_a_hole_are_not_stored(directory: DirectoryStore) -> None:
    volume = ModelVolume(GIB)
    volume.write(MIB, b"x" * EXTENT_BYTES)
    volume.write(8 * MIB, b"y" * EXTENT_BYTES)
    base = upload(directory, UIDS[0], volume.freeze()).manifest
    volume.write(MIB, bytes(EXTENT_BYTES))
    volume.discard(64, 65)
    result = upload(directory, UIDS[1], volume.freeze(), base)
    assert index_of(directory, result.manifest).manifest.shards == ()


def test_an_independent_program_rebuilds_images(directory: DirectoryStore, tmp_path: Path) -> None:
    size_bytes = SHARD_EXTENTS * EXTENT_BYTES + 9 * MIB + 4096
    volume = scribbled(2, size_bytes, 60)
    volume.write(size_bytes - 4096, b"the last block".ljust(4096))
    first = volume.freeze()
    base = upload(directory, UIDS[0], first).manifest
    scribbled(3, size_bytes, 10, volume).discard(100, 300)
    second = volume.freeze()
    increment = upload(directory, UIDS[1], second, base).manifest
    for manifest, view in ((base, first), (increment, second)):
        assert image_differs(rebuilt(tmp_path / "objects", manifest, tmp_path / "image"), view) == []


def test_an_increment_reads_and_stores_what_changed(directory: DirectoryStore) -> None:
    volume = scribbled(4, GIB, 80)
    base = upload(directory, UIDS[0], volume.freeze()).manifest
    before = directory_names_of(directory)
    unchanged = frozenset(list(volume.extents)[:5])
    volume.write(700 * MIB, b"new".ljust(4096))
    volume.write(next(iter(volume.extents)) * EXTENT_BYTES, b"changed".ljust(4096))
    view = volume.freeze(over_report=unchanged)
    result = upload(directory, UIDS[1], view, base)
    assert set(view.reads) == view.changed, "only what may have changed is read"
    assert result.counters.uploaded_bytes == 2 * EXTENT_BYTES, "what is as in the base is not stored"
    assert differing_extents(directory, result.manifest, view) == []
    kinds = sorted(name.split("/")[2].split("-")[0] for name in directory_names_of(directory) - before)
    assert [kind for kind in kinds if kind != "checkpoint"] == ["index", "manifest", "pack"]


def directory_names_of(store: DirectoryStore) -> set[str]:
    return {one.name for one in store.list("")}


def test_an_increment_of_nothing_is_one_manifest(directory: DirectoryStore) -> None:
    volume = scribbled(5, GIB, 10)
    base = upload(directory, UIDS[0], volume.freeze()).manifest
    before = directory_names_of(directory)
    result = upload(directory, UIDS[1], volume.freeze(), base)
    assert directory_names_of(directory) - before == {result.manifest}
    assert index_of(directory, result.manifest).manifest.shards == index_of(directory, base).manifest.shards


def test_the_bases_manifest_is_not_needed_to_read(directory: DirectoryStore) -> None:
    volume = scribbled(6, GIB, 10)
    base = upload(directory, UIDS[0], volume.freeze()).manifest
    volume.write(0, b"x")
    view = volume.freeze()
    result = upload(directory, UIDS[1], view, base)
    directory.delete(base)
    assert differing_extents(directory, result.manifest, view) == []


def test_a_volume_of_fifteen_tib_costs_what_is_in_it(directory: DirectoryStore) -> None:
    volume = ModelVolume(15 * TIB)
    for number in range(12):
        volume.write(number * TIB + number * MIB, b"far apart")
    first = volume.freeze()
    base = upload(directory, UIDS[0], first).manifest
    kept = {
        extent: data for extent, data in volume.extents.items() if extent >= 15 * TIB // EXTENT_BYTES // 2
    }
    second = ModelView(volume.size_bytes, kept, set(), set(kept))
    second.block_status = changed_first_half(second)  # type: ignore[method-assign]
    increment = upload(directory, UIDS[1], second, base).manifest
    assert differing_extents(directory, base, first) == []
    assert differing_extents(directory, increment, second) == []


def changed_first_half(view: ModelView):  # type: ignore[no-untyped-def]
    """A `changed` map of one enormous run: a set of its extents would be too large."""
    real, half = view.block_status, view.size_bytes // 2

    def status(context: str, offset: int, length: int) -> list[tuple[int, int, int]]:
        if context == "base:allocation":
            return real(context, offset, length)
        end = offset + length
        parts = [(offset, min(end, half) - offset, 1), (max(offset, half), end - max(offset, half), 0)]
        return [part for part in parts if part[1] > 0]

    return status


# Interrupted.


def attempts_until_done(
    faulty: FaultyStore, view: ModelView, base: str, rule: Rule
) -> tuple[str, int, list[str]]:
    """Upload, dying where `rule` says, then again from what was recorded: manifest, runs, checkpoints."""
    recorded: list[str] = []

    def record(name: str) -> bool:
        recorded.append(name)
        return True

    faulty.rules.append(rule)
    for run in range(1, 100):
        try:
            one = new_upload(faulty, UIDS[7], view.size_bytes, base, reports=Reports(checkpoint=record))
            if recorded:
                assert one.resume(recorded[-1]), "the last recorded checkpoint is always there, and usable"
            return one.run(view).manifest, run, recorded
        except Killed:
            continue
    raise AssertionError("never done")


@pytest.mark.parametrize("incremental", [False, True])
def test_killed_at_every_single_call(directory: DirectoryStore, incremental: bool) -> None:
    """Die before the Nth call of the store, for all N; another goes on; the bytes are right."""
    volume = scribbled(8, 600 * MIB, 16)
    base = upload(directory, UIDS[0], volume.freeze()).manifest
    scribbled(9, 600 * MIB, 16, volume)
    view = volume.freeze()
    base = base if incremental else ""
    for after in range(1000):
        faulty = FaultyStore(directory)
        manifest, runs, _ = attempts_until_done(faulty, view, base, Rule("", "", Fault.KILL, after, times=1))
        assert differing_extents(directory, manifest, view) == []
        if runs == 1:
            assert after > 10
            return


@settings(max_examples=15)
@given(st.lists(st.integers(3, 40), min_size=1, max_size=6), st.booleans(), st.integers(0, 1 << 16))
def test_killed_again_and_again(
    tmp_path_factory: pytest.TempPathFactory, deaths: list[int], incremental: bool, seed: int
) -> None:
    directory = DirectoryStore(tmp_path_factory.mktemp("objects"))
    volume = scribbled(seed, 600 * MIB, 12)
    base = upload(directory, UIDS[0], volume.freeze()).manifest if incremental else ""
    scribbled(seed + 1, 600 * MIB, 12, volume)
    view = volume.freeze()
    faulty = FaultyStore(directory)
    at = 0
    for gap in deaths[1:]:
        at += gap
        faulty.rules.append(Rule("", "", Fault.KILL, at, times=1))
    manifest, _, _ = attempts_until_done(faulty, view, base, Rule("", "", Fault.KILL, deaths[0], times=1))
    assert differing_extents(directory, manifest, view) == []


def test_going_on_repeats_nothing_that_was_recorded(directory: DirectoryStore) -> None:
    view = scribbled(10, GIB, 200).freeze()
    faulty = FaultyStore(directory)
    rule = Rule("put", "pack-", Fault.KILL, after=15, times=1)
    manifest, runs, recorded = attempts_until_done(faulty, view, "", rule)
    assert runs == 2 and recorded
    read_again = len(view.reads) - len(set(view.reads))
    in_flight = (SMALL.uploads + 2) * SMALL.pack_bytes // EXTENT_BYTES
    ahead = (SMALL.batches_ahead + 2) * SMALL.batch_extents
    assert read_again <= in_flight + ahead < len(view.allocated) / 2
    assert differing_extents(directory, manifest, view) == []


def test_a_checkpoint_that_may_not_be_recorded_deletes_nothing(directory: DirectoryStore) -> None:
    recorded: list[str] = []

    def record(name: str) -> bool:
        recorded.append(name)
        return len(recorded) == 1  # etcd goes away after the first.

    view = scribbled(20, GIB, 60).freeze()
    new_upload(directory, UIDS[1], GIB, reports=Reports(checkpoint=record)).run(view)
    assert len(recorded) > 2 and set(recorded) <= directory_names_of(directory)
    assert new_upload(directory, UIDS[1], GIB).resume(recorded[0])


def test_a_checkpoint_of_another_base_is_not_used(directory: DirectoryStore) -> None:
    volume = scribbled(11, GIB, 20)
    base = upload(directory, UIDS[0], volume.freeze()).manifest
    names: list[str] = []
    view = scribbled(12, GIB, 20, volume).freeze()
    new_upload(
        directory, UIDS[1], GIB, base, reports=Reports(checkpoint=lambda name: names.append(name) is None)
    ).run(view)
    assert not new_upload(directory, UIDS[1], GIB, "").resume(names[-1])
    assert not new_upload(directory, UIDS[2], GIB, base).resume(names[-1])
    assert not new_upload(directory, UIDS[1], GIB, base).resume("no/such/checkpoint")
    assert new_upload(directory, UIDS[1], GIB, base).resume(names[-1])


# A store that misbehaves.


def test_a_store_that_fails_now_and_then(directory: DirectoryStore) -> None:
    view = scribbled(13, GIB, 20).freeze()
    faulty = FaultyStore(directory)
    faulty.rules += [
        Rule("put", "pack-", Fault.UNREACHABLE, after=1, times=2),
        Rule("put", "pack-", Fault.LOST_ANSWER, after=6, times=1),
        Rule("put", "manifest-", Fault.LOST_ANSWER, times=1),
        Rule("size", "", Fault.UNREACHABLE, after=3, times=1),
        Rule("put", "pack-", Fault.FORGET, after=9, times=1),
    ]
    reasons: list[str] = []
    stop = threading.Event()
    job = Job(UIDS[3], "a" * 24, GIB, 0)
    result = Upload(job, PatientStore(faulty, stop, reasons.append), stop, SMALL).run(view)
    assert differing_extents(directory, result.manifest, view) == []
    assert any("cannot be reached" in reason for reason in reasons)
    assert reasons[-1] == "", "the last word is that it no longer waits"
    confirmed = {name for operation, name in faulty.calls if operation == "size"}
    last_pack = max(at for at, call in enumerate(faulty.calls) if call[0] == "put" and "pack-" in call[1])
    assert ("list", f"snapshots/{UIDS[3]}/") in faulty.calls[last_pack:]
    confirmed |= {one.name for one in directory.list("")}
    stored = {name for operation, name in faulty.calls if operation == "put"}
    assert stored <= confirmed, "whatever is put is asked for"


def test_a_stop_ends_an_upload_that_waits(directory: DirectoryStore) -> None:
    view = scribbled(14, GIB, 5).freeze()
    faulty = FaultyStore(directory)
    faulty.rules.append(Rule("put", "", Fault.UNREACHABLE))
    stop = threading.Event()
    job = Job(UIDS[3], "a" * 24, GIB, 0)
    one = Upload(job, PatientStore(faulty, stop, lambda _: stop.set()), stop, SMALL)
    with pytest.raises(Stopped):
        one.run(view)
    assert directory_names_of(directory) == set()


def test_a_claim_that_is_lost_ends_an_upload(directory: DirectoryStore) -> None:
    view = scribbled(15, GIB, 30).freeze()

    def lost(name: str) -> bool:
        raise Precondition("CLAIM_LOST", "somebody else has it")

    with pytest.raises(Precondition):
        new_upload(directory, UIDS[3], GIB, reports=Reports(checkpoint=lost)).run(view)
    assert not any("manifest" in name for name in directory_names_of(directory))


def test_a_base_that_is_damaged_is_loss(directory: DirectoryStore) -> None:
    volume = scribbled(16, GIB, 10)
    base = upload(directory, UIDS[0], volume.freeze()).manifest
    for name in directory_names_of(directory):
        if "index" in name:
            directory.delete(name)
    volume.write(0, b"x")
    with pytest.raises(DataLoss, match="index-"):
        upload(directory, UIDS[1], volume.freeze(), base)


# A host that is lost.


class LostView:
    """A view that is lost after so many reads."""

    def __init__(self, view: ModelView, reads: int) -> None:
        self._view = view
        self._left = reads
        self.size_bytes = view.size_bytes
        self.block_status = view.block_status
        self.close = view.close

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        self._left -= 1
        if self._left < 0:
            raise ViewLost("LOST", "the host is gone")
        return self._view.read_many(ranges)


def test_the_next_host_goes_on_where_the_first_was_lost(directory: DirectoryStore) -> None:
    view = scribbled(17, GIB, 60).freeze()
    one = new_upload(directory, UIDS[3], GIB)
    with pytest.raises(ViewLost):
        one.run(LostView(view, 30))
    assert one.position > 0
    result = one.run(view)
    assert differing_extents(directory, result.manifest, view) == []
    assert len(view.reads) < 1.5 * len(view.allocated)
    assert result.counters.done_bytes == len(view.allocated) * EXTENT_BYTES


def test_progress_grows_to_the_total(directory: DirectoryStore) -> None:
    view = scribbled(18, GIB, 60).freeze()
    said: list[tuple[int, int]] = []
    reports = Reports(progress=lambda done, total: said.append((done, total)))
    new_upload(directory, UIDS[3], GIB, reports=reports).run(view)
    total = len(view.allocated) * EXTENT_BYTES
    assert said[0] == (0, total) and said[-1] == (total, total)
    assert [done for done, _ in said] == sorted(done for done, _ in said)


def test_memory_does_not_grow_with_the_volume(directory: DirectoryStore, tmp_path: Path) -> None:
    """The objects that an upload holds at once are few: packs on their way, and batches read ahead."""
    import tracemalloc

    view = scribbled(19, 4 * GIB, 400).freeze()
    tracemalloc.start()
    try:
        upload(directory, UIDS[3], view)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    stored = sum(path.stat().st_size for path in tmp_path.rglob("pack-*"))
    held = (SMALL.uploads + 1) * 2 * 2 * SMALL.pack_bytes + (SMALL.batches_ahead + 4) * 3 * EXTENT_BYTES * 2
    assert peak_bytes < held + 8 * MIB < stored
    assert directory_names(tmp_path)


# Memory.


def test_uploads_share_what_packs_are_made_in(directory: DirectoryStore) -> None:
    """Three at once, on a store that takes nothing for a while: so many packs are held, and no more."""
    gate, held = threading.Event(), []

    class Counted(PackBuffers):
        def take(self, stop: threading.Event) -> bytearray:
            buffer = super().take(stop)
            held.append(self.taken)
            if self.taken == 4:
                gate.set()
            return buffer

    class Slow(FaultyStore):
        def put(self, name: str, data: bytes | bytearray) -> None:
            assert gate.wait(60), "all are taken by then"
            super().put(name, data)

    buffers, store, stop = Counted(4), Slow(directory), threading.Event()
    views = [scribbled(seed, GIB, 20).freeze() for seed in (31, 32, 33)]

    def run(number: int) -> str:
        job = Job(UIDS[number], "a" * 24, GIB, 0)
        patient = PatientStore(store, stop, lambda _: None)
        return Upload(job, patient, stop, SMALL, buffers=buffers).run(views[number]).manifest

    with ThreadPoolExecutor(3) as threads:
        manifests = list(threads.map(run, range(3)))
    for manifest, view in zip(manifests, views, strict=True):
        assert differing_extents(directory, manifest, view) == []
    assert max(held) == 4 and buffers.taken == 0
    assert buffers.made == 0, "nothing is kept when nobody uploads"


def test_an_upload_that_ends_gives_its_packs_back(directory: DirectoryStore) -> None:
    buffers, stop = PackBuffers(3), threading.Event()
    faulty = FaultyStore(directory)
    faulty.rules.append(Rule("put", "pack-", Fault.UNREACHABLE, after=1))
    job = Job(UIDS[3], "a" * 24, GIB, 0)
    patient = PatientStore(faulty, stop, lambda _: stop.set())
    with pytest.raises(Stopped):
        Upload(job, patient, stop, SMALL, buffers=buffers).run(scribbled(34, GIB, 60).freeze())
    assert buffers.taken == 0
