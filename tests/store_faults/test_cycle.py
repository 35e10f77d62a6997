"""A short cut of the campaign (`make store-faults`), and what it leaves out: objects damaged at rest."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import grpc
import pytest
from cycle import SIZE_BYTES, make_volume, play, scribble, verified
from store_stage import OWNER, Stage, set_up, wrong_and_lost

from holdfast.api.blocks.v1 import blocks_pb2 as pb
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot.v1 import snapshot_pb2 as sb
from holdfast.base.limits import EXTENT_BYTES, MIB
from holdfast.lab.fixtures import run_folder
from holdfast.lab.s3_proxy import Fault, Rule
from holdfast.lab.servers import LocalHost
from holdfast.metadata import keys
from holdfast.snapshotter.testing import ModelVolume

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def stage(installed: None) -> Iterator[Stage]:
    with (
        run_folder("holdfast-store-faults-", lambda path: LocalHost(path / "processes").down()) as folder,
        set_up(folder) as made,
    ):
        made.start_hosts()
        yield made


@pytest.fixture
def clean(stage: Stage) -> Iterator[Stage]:
    stage.proxy.mend()
    stage.proxy.done.clear()
    yield stage
    stage.proxy.mend()
    stage.kill_all()


def noisy(seed: int) -> ModelVolume:
    """A volume of some packs."""
    chance, volume = Random(seed), ModelVolume(SIZE_BYTES)
    scribble(chance, volume, 8)
    for number in range(5):
        volume.write(number * 110 * MIB, chance.randbytes(MIB))
    return volume


def test_a_whole_cycle_under_faults_and_kills(clean: Stage) -> None:
    told = play(clean, seed=4, rate=0.1, kills=2, name="short")
    assert told.faults > 3 and told.kills >= 1


def test_what_is_damaged_for_good_is_told_with_its_name(clean: Stage) -> None:
    stage = clean
    stage.new_bucket("damaged")
    stage.start("one")
    volume = noisy(1)
    view = volume.freeze()
    record = stage.completed(stage.freeze("damaged", view))
    flipped, cut, gone = stage.packs(record)[:3]
    stage.damage.flip(flipped)
    stage.damage.truncate(cut, 300_000)
    stage.damage.delete(gone)

    wrong, lost = wrong_and_lost(lambda: stage.open_snapshot(record.uid, OWNER), view)
    assert not wrong and lost
    uid = make_volume(stage, "damaged", "damaged-volume")
    some = lost[:3]  # Each is waited for.
    wrong, lost_there = wrong_and_lost(lambda: stage.open_volume(uid), view, leave_out=lost[3:])
    assert not wrong and set(lost_there) >= set(some), "what the origin has lost is an error at the initiator"
    assert lost_by_grpc(stage, "damaged") == sorted({extent // 4 for extent in lost})
    log = stage.logs()
    assert all(Path(name).name in log for name in (flipped, cut, gone))
    now = verified(stage, record)
    assert now.verify.damaged_extents == len(lost) and now.verify.damaged_objects == 3
    assert {Path(one.name).name for one in now.verify.damaged} == {
        Path(name).name for name in (flipped, cut, gone)
    }

    # The volume still has all of it: the next snapshot repairs this one, and the volume made from it goes on.
    stage.completed(stage.freeze("after", volume.freeze(), record))
    stage.snapshot(record.uid, lambda one: one.health == r.SNAPSHOT_HEALTH_GOOD)
    assert wrong_and_lost(lambda: stage.open_snapshot(record.uid, OWNER), view) == ([], [])


def lost_by_grpc(stage: Stage, snapshot_id: str) -> list[int]:
    """The blocks that the block API calls lost; every other is read."""
    lost = []
    with stage.blocks(OWNER) as blocks:
        name = pb.SnapshotName(snapshot_id=snapshot_id)
        for page in blocks.StreamSnapshotBlocks(pb.ListSnapshotBlocksRequest(snapshot=name)):
            for block in page.blocks:
                try:
                    blocks.GetBlock(pb.GetBlockRequest(snapshot=name, block=block))
                except grpc.RpcError as error:
                    assert error.code() == grpc.StatusCode.DATA_LOSS, error
                    lost.append(block.block_index)
    return lost


def test_puts_that_were_acknowledged_and_vanished_are_not_completed(clean: Stage) -> None:
    stage = clean
    stage.new_bucket("vanished")
    parts = ("pack", "index", "manifest")
    stage.proxy.rules += [Rule("PUT", f"/{part}-", Fault.VANISHED, times=1) for part in parts]
    stage.start("one")
    view = noisy(2).freeze()
    record = stage.completed(stage.freeze("vanished", view))
    assert [fault for _, fault in stage.proxy.done] == [Fault.VANISHED] * len(parts)
    assert wrong_and_lost(lambda: stage.open_snapshot(record.uid, OWNER), view) == ([], [])


def test_a_verification_goes_on_after_its_snapshotter_was_killed(clean: Stage) -> None:
    stage = clean
    stage.new_bucket("killed-verifying")
    stage.start("one")
    volume = noisy(3)
    record = stage.completed(stage.freeze("killed-verifying", volume.freeze()))
    stage.proxy.rules.append(Rule("GET", stage.packs(record)[-1], Fault.TIMEOUT))
    client = stage.metadata.client(OWNER)
    client.snapshots.VerifySnapshot(sb.VerifySnapshotRequest(snapshot_id="killed-verifying"))
    stage.snapshot(record.uid, lambda one: one.verify.state == r.SNAPSHOT_VERIFY_STATE_RUNNING)
    while not any(fault is Fault.TIMEOUT for _, fault in list(stage.proxy.done)):
        stage.snapshot(record.uid, lambda _: True)
    stage.kill("one")
    stage.proxy.mend()
    stage.start("two")
    now = stage.snapshot(record.uid, lambda one: one.verify.state == r.SNAPSHOT_VERIFY_STATE_DONE)
    assert now.verify.request == 1 and now.health == r.SNAPSHOT_HEALTH_GOOD
    assert now.verify.done_bytes == now.verify.total_bytes


def test_a_copy_goes_on_after_a_kill_and_outlives_its_bucket(clean: Stage, tmp_path: Path) -> None:
    stage = clean
    stage.new_bucket("copied")
    stage.start("one")
    volume = noisy(4)
    view = volume.freeze()
    stage.completed(stage.freeze("copied", view))
    # Of the copy: nothing else puts packs any more.
    stage.proxy.rules += [
        Rule("PUT", "/pack-", Fault.LOST_ANSWER, times=1),
        Rule("PUT", "/pack-", Fault.TIMEOUT, after=3),
    ]
    client = stage.metadata.client(OWNER).snapshots
    uid = client.CopySnapshot(sb.CopySnapshotRequest(snapshot_id="copied", target="dr")).copy.uid
    while not any(fault is Fault.TIMEOUT for _, fault in list(stage.proxy.done)):
        stage.await_record(keys.copy(OWNER, uid), r.CopyRecord, lambda _: True)
    stage.kill("one")
    stage.proxy.mend()
    stage.proxy.rules.append(Rule("GET", "/pack-", Fault.FLIPPED_ANSWER, after=2, times=1))
    stage.start("two")
    copy = stage.await_record(
        keys.copy(OWNER, uid), r.CopyRecord, lambda one: one.state >= r.COPY_STATE_COMPLETED
    )
    assert copy.state == r.COPY_STATE_COMPLETED, copy.reason
    assert copy.done_bytes == copy.total_bytes and copy.complete_time.seconds

    for name in stage.damage.names():
        stage.damage.delete(name)
    stage.kill_all()
    image = tmp_path / "disk.raw"
    words = [sys.executable, "-m", "holdfast.snapshotter.rescue", "image", stage.target_url, uid, str(image)]
    subprocess.run(words, check=True)
    assert image.stat().st_size == view.size_bytes
    with image.open("rb") as file:
        for extent in sorted(view.allocated):
            file.seek(extent * EXTENT_BYTES)
            assert file.read(EXTENT_BYTES) == view.read(extent * EXTENT_BYTES, EXTENT_BYTES)
