"""Collection by the real process, on a real etcd and a real S3 server, asked for by an operator who types."""

import json
import subprocess
import sys
from pathlib import Path

from holdfast.base.limits import EXTENT_BYTES
from holdfast.lab.snapshotters import World, volume_of
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


def test_deleted_in_the_middle_of_a_chain(world: World, tmp_path: Path) -> None:
    world.add_host("host-a")
    options = (
        "--pack-mib",
        "1",
        "--collect-every-s",
        "3600",
        "--collect-grace-s",
        "0",
        "--checkpoint-s",
        "0",
    )
    world.start("s1", *options)
    metadata = RunningMetadata(tmp_path / "metadata", world.endpoint).start()
    try:
        operator = metadata.tls("olga", "operator")

        def types(*words: str) -> dict[str, dict[str, str]]:
            command = [sys.executable, "-m", "holdfast.cli.main", "--server", metadata.address]
            command += ["--ca", str(operator.ca), "--cert", str(operator.certificate)]
            command += ["--key", str(operator.key), "--output", "json", *words]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found: dict[str, dict[str, str]] = json.loads(done.stdout)
            return found

        volume, base, views = volume_of(1, 8), None, {}
        for number in range(1, 5):
            views[number] = volume.freeze()
            world.freeze(UIDS[number], views[number], base)
            base = world.completed(UIDS[number])
            for extent in list(volume.extents)[number:60:number]:
                volume.write(extent * EXTENT_BYTES, bytes([number]) * 5 + extent.to_bytes(4, "big") * 1000)
        for number in (2, 3):
            run(
                world.etcd,
                lambda draft, number=number: keeping_decisions.delete(  # type: ignore[misc]
                    draft, "u", f"s{UIDS[number]}", True, 1.0
                ),
            )
        found = types("collection", "run", "--wait")
        assert int(found["counts"]["condemned"]) == 2 and found["state"] == "COLLECTION_STATE_DONE"
        freed = types("collection", "run", "--wait")["counts"]
        assert int(freed["freed_objects"]) > 2 and int(freed["forgotten"]) == 2
        for _ in range(3):  # packs that were repacked, and what was replaced for it
            last = types("collection", "run", "--wait")["counts"]
        assert "freed_objects" not in last and "waiting_objects" not in last

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
    finally:
        metadata.stop()
