"""Collection by the real process, on a real etcd and a real S3 server, asked for by an operator who types."""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from holdfast.api.collection.v1 import collection_pb2 as pb
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.limits import EXTENT_BYTES
from holdfast.lab.snapshotters import LONGEST_S, World, volume_of
from holdfast.metadata import keeping_decisions, keys
from holdfast.metadata.cas import run
from holdfast.metadata.testing import RunningMetadata
from holdfast.snapshotter.testing import ModelView

UIDS = [f"{number:024x}" for number in range(8)]
REBUILD = Path(__file__).with_name("rebuild.py")
NOTING = """
import runpy, sys
opened = set()
root, sys.argv = sys.argv[1], sys.argv[2:]
sys.addaudithook(lambda event, args: opened.add(str(args[0])) if event == "open" else None)
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("\\n".join(sorted(one for one in opened if one.startswith(root + "/snapshots/"))))
"""
"""Runs a program and says which objects it opened."""


def rebuilt(bucket: Path, manifest: str, image: Path) -> set[str]:
    """The objects that the independent program read to make the image."""
    words = [sys.executable, "-c", NOTING, str(bucket), str(REBUILD), str(bucket), manifest, str(image)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return {line.removeprefix(f"{bucket}/") for line in done.stdout.split()}


def image_is(image: Path, view: ModelView) -> bool:
    with image.open("rb") as file:
        for extent in range(view.size_bytes // EXTENT_BYTES):
            if file.read(EXTENT_BYTES) != view.read(extent * EXTENT_BYTES, EXTENT_BYTES):
                return False
    return image.stat().st_size == view.size_bytes


def copied(world: World, bucket: Path) -> set[str]:
    """The whole bucket, on disk; its names."""
    store = world.store()
    names = {one.name for one in store.list("")}
    for name in names:
        path = bucket / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.get(name))
    store.close()
    return names


def typed(metadata: RunningMetadata, *words: str) -> dict[str, dict[str, str]]:
    """What an operator who types is answered."""
    own = metadata.tls("olga", "operator")
    command = [sys.executable, "-m", "holdfast.cli.main", "--server", metadata.address]
    command += ["--ca", str(own.ca), "--cert", str(own.certificate), "--key", str(own.key)]
    done = subprocess.run([*command, "--output", "json", *words], check=True, capture_output=True, text=True)
    found: dict[str, dict[str, str]] = json.loads(done.stdout)
    return found


def collected(metadata: RunningMetadata) -> r.CollectionCounts:
    """The same without the start of a program."""
    stub = metadata.client("olga", "operator").collection
    request = stub.RunCollection(pb.RunCollectionRequest()).collection.request
    for answer in stub.WatchCollection(pb.WatchCollectionRequest(), timeout=LONGEST_S):
        found = answer.collection
        if found.served >= request and found.state != r.COLLECTION_STATE_RUNNING:
            assert found.state == r.COLLECTION_STATE_DONE, found.reason
            return found.counts  # type: ignore[no-any-return]
    raise AssertionError("the watch ended")


def chain(world: World) -> dict[int, ModelView]:
    """Four snapshots of a volume, each with a part of it written anew, COMPLETED."""
    volume, base, views = volume_of(1, 8), None, {}
    for number in range(1, 5):
        views[number] = volume.freeze()
        world.freeze(UIDS[number], views[number], base)
        base = world.completed(UIDS[number])
        for extent in list(volume.extents)[number:60:number]:
            volume.write(extent * EXTENT_BYTES, bytes([number]) * 5 + extent.to_bytes(4, "big") * 1000)
    return views


@pytest.fixture
def metadata(world: World, tmp_path: Path) -> Iterator[RunningMetadata]:
    running = RunningMetadata(tmp_path / "metadata", world.endpoint).start()
    yield running
    running.stop()


def test_deleted_in_the_middle_of_a_chain(world: World, metadata: RunningMetadata, tmp_path: Path) -> None:
    world.add_host("host-a")
    small = ("--pack-mib", "1", "--checkpoint-s", "0")
    world.start("s1", *small, "--collect-every-s", "3600", "--collect-grace-s", "0")
    views = chain(world)
    for number in (2, 3):
        delete = partial(keeping_decisions.delete, owner="u", at_once=True, now_s=1.0)
        run(world.etcd, partial(delete, snapshot_id=f"s{UIDS[number]}"))
    found = typed(metadata, "collection", "run", "--wait")
    assert int(found["counts"]["condemned"]) == 2
    freed = collected(metadata)
    assert freed.freed_objects > 2 and freed.forgotten == 2
    for _ in range(3):  # packs that were repacked, and what was replaced for it
        last = collected(metadata)
    assert not last.freed_objects and not last.waiting_objects

    names, used = copied(world, tmp_path / "bucket"), set()
    for number in (1, 4):
        record = world.completed(UIDS[number])
        image = tmp_path / "image"
        used |= rebuilt(tmp_path / "bucket", record.manifest, image)
        assert image_is(image, views[number])
        assert world.etcd.get(keys.sizes(UIDS[number])) is not None
    names -= {name for name in names if name.startswith("collection/cluster-")}
    assert names == used, "the bucket holds what these two need, and nothing else"
    for prefix in (keys.CONDEMNED, keys.REWRITES):
        assert not world.etcd.range(prefix)[0]
