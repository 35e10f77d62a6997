"""Images in and out, as people type it, on a real snapshotter; interrupted, and with tools of others."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from holdfast.api.blocks.v1 import blocks_pb2 as pb
from holdfast.base.limits import EXTENT_BYTES, MIB, SNAPSHOT_BLOCK_BYTES
from holdfast.cli import failures, image_import
from holdfast.lab.snapshotters import Running, World
from holdfast.metadata.testing import StandInHost

from .conftest import Person

SIZE_BYTES = 700 * MIB + 4096


def image(path: Path, seed: int = 0, blocks: tuple[int, ...] = (0, 1, 5, 1023, 1024, 1390)) -> Path:
    """A sparse file with noise in some blocks, and at its very end."""
    with path.open("wb") as file:
        for block in blocks:
            file.seek(block * SNAPSHOT_BLOCK_BYTES + 4096)
            file.write(Random((seed, block).__repr__()).randbytes(200_000))
        file.seek(SIZE_BYTES - 10)
        file.write(b"the end   ")
    return path


def same(left: Path, right: Path) -> bool:
    return subprocess.run(["cmp", "-s", str(left), str(right)], check=False).returncode == 0


def test_in_out_and_on_to_a_volume(
    person: Callable[..., Person], running: Running, two_hosts: list[StandInHost], tmp_path: Path
) -> None:
    alice, bob = person("alice"), person("bob")
    old = image(tmp_path / "old.raw")
    said = alice.types("snapshot", "import", "old", str(old))
    assert "holds" in said.stdout and "7 blocks were sent." in said.stderr
    assert "made from outside" in alice.types("snapshot", "show", "old").stdout
    out = tmp_path / "out.raw"
    assert "700 MiB" in alice.types("snapshot", "export", "old", str(out)).stdout.replace("700.0", "700")
    assert same(old, out) and out.stat().st_blocks * 512 < 8 * MIB, "holes stay holes"
    assert "is there" in alice.types("snapshot", "export", "old", str(out), status=2).stderr
    alice.types("snapshot", "export", "old", str(out), "--overwrite")

    # A child: of one block only an extent is another, one is zeros now, one is new.
    new = tmp_path / "new.raw"
    new.write_bytes(b"")
    subprocess.run(["cp", "--sparse=always", str(old), str(new)], check=True)
    with new.open("r+b") as file:
        file.seek(SNAPSHOT_BLOCK_BYTES + 4096)
        file.write(b"edited")
        file.seek(5 * SNAPSHOT_BLOCK_BYTES)
        file.write(bytes(SNAPSHOT_BLOCK_BYTES))
        file.seek(77 * SNAPSHOT_BLOCK_BYTES)
        file.write(b"new")
    child = alice.json("snapshot", "import", "new", str(new), "--parent", "old")
    assert child["uploaded_bytes"] == str(2 * EXTENT_BYTES)
    listed = alice.json("snapshot", "blocks", "new", "--since", "old")["runs"]
    assert listed == [
        {"first_block_index": 1, "end_block_index": 2},
        {"first_block_index": 5, "end_block_index": 6},
        {"first_block_index": 77, "end_block_index": 78},
    ]
    assert "1390" in alice.types("snapshot", "blocks", "new").stdout
    alice.types("snapshot", "export", "new", str(out), "--since", "old")
    assert same(new, out)

    # A stranger sees nothing; who may make volumes reads nothing; who may read does.
    theirs = ["snapshot", "export", "new", str(tmp_path / "bob.raw"), "--owner", "alice"]
    assert "[NOT_FOUND]" in bob.types(*theirs, status=failures.NOT_FOUND).stderr
    alice.types("grant", "create", "new", "bob")
    assert "[NOT_GRANTED]" in bob.types(*theirs, status=failures.REFUSED).stderr
    made = bob.json("volume", "create", "disk", "--from", "alice/new")
    assert made["size_bytes"] == str(SIZE_BYTES)
    alice.types("grant", "delete", "new", "bob")
    alice.types("grant", "create", "new", "bob", "--permit", "read-blocks")
    bob.types(*theirs)
    assert same(new, tmp_path / "bob.raw")


def test_nbd_uris_work_as_they_are_printed(
    person: Callable[..., Person], running: Running, tmp_path: Path
) -> None:
    alice = person("alice")
    whole = image(tmp_path / "image.raw")
    alice.types("snapshot", "import", "s", str(whole))
    [uri] = alice.types("snapshot", "nbd", "s", str(tmp_path / "tls")).stdout.split()
    subprocess.run(["nbdcopy", uri, str(tmp_path / "copy.raw")], check=True, timeout=120)
    assert same(whole, tmp_path / "copy.raw")


def test_an_import_that_was_killed_goes_on(
    person: Callable[..., Person],
    world: World,
    running: Running,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alice = person("alice")
    whole = image(tmp_path / "image.raw", blocks=tuple(range(0, 100, 2)))
    monkeypatch.setattr(image_import, "BATCH_BLOCKS", 4)
    sent = []

    def then_the_lights_go_out(self: image_import.Import, batch: list[pb.PutBlockRequest]) -> None:
        send(self, batch)
        sent.append(batch)
        if len(sent) == 3:
            raise KeyboardInterrupt

    send = image_import.Import._send
    monkeypatch.setattr(image_import.Import, "_send", then_the_lights_go_out)
    alice.types("snapshot", "import", "s", str(whole), status=130)
    monkeypatch.setattr(image_import.Import, "_send", send)
    # The snapshotter, too, is another one now.
    running.process.kill()
    world.start("s2")
    said = alice.types("snapshot", "import", "s", str(whole))
    assert " were there." in said.stderr
    out = tmp_path / "out.raw"
    alice.types("snapshot", "export", "s", str(out))
    assert same(whole, out)
    again = alice.types("snapshot", "import", "s", str(whole), status=failures.REFUSED)
    assert "[NOT_PENDING]" in again.stderr


def test_a_file_that_changed_meanwhile_is_found(
    person: Callable[..., Person], running: Running, tmp_path: Path
) -> None:
    alice = person("alice")
    whole = image(tmp_path / "image.raw", blocks=(3, 4))
    start = pb.StartSnapshotRequest(snapshot_id="s", size_bytes=SIZE_BYTES)
    with running.blocks("alice") as stub:
        stub.StartSnapshot(start)
        stub.PutBlock(image_import._put("s", 3, b"x" * SNAPSHOT_BLOCK_BYTES))
    said = alice.types("snapshot", "import", "s", str(whole), status=failures.REFUSED)
    assert "[FAILED]" in said.stderr and "checksum" in said.stderr


def test_what_cannot_be_done_is_said_in_a_sentence(
    person: Callable[..., Person], running: Running, tmp_path: Path
) -> None:
    alice = person("alice")
    missing = alice.types("snapshot", "import", "s", str(tmp_path / "none"), status=1)
    assert "none: No such file or directory." in missing.stderr
    (tmp_path / "empty").write_bytes(b"")
    assert "[BAD_SIZE]" in alice.types("snapshot", "import", "s", str(tmp_path / "empty"), status=1).stderr
    alice.types("snapshot", "export", "none", str(tmp_path / "x"), status=failures.NOT_FOUND)
    assert not list(tmp_path.glob("x*")), "nothing is left of it"
    nowhere = alice.types("snapshot", "export", "s", str(tmp_path / "x"), "--since", "t", status=2)
    assert "is not there" in nowhere.stderr
