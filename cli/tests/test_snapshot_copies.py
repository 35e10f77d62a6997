"""Copies in another object store, as people type it; and out of it when everything else is gone."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

from holdfast.base.limits import MIB
from holdfast.cli import failures
from holdfast.lab.snapshotters import World, volume_of
from holdfast.metadata.testing import StandInHost

from .conftest import Person


def noise(path: Path, seed: int) -> Path:
    with path.open("wb") as file:
        file.truncate(700 * MIB)
        for at in (0, 90, 650):
            file.seek(at * MIB)
            file.write(Random(seed + at).randbytes(2 * MIB))
    return path


def rescue(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "holdfast.snapshotter.rescue", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done
    return done


def test_copied_and_rescued(
    person: Callable[..., Person], world: World, two_hosts: list[StandInHost], tmp_path: Path
) -> None:
    alice, bob = person("alice"), person("bob")
    (tmp_path / "dr").mkdir()
    target = f"file://{tmp_path}/dr"
    world.start("s1", "--pack-mib", "1", "--target", f"dr={target}")
    image = noise(tmp_path / "disk.raw", 1)
    alice.types("snapshot", "import", "s", str(image))
    nowhere = alice.types("snapshot", "copy", "s", "--to", "moon", status=failures.REFUSED)
    assert "[NO_SUCH_TARGET]" in nowhere.stderr and "dr" in nowhere.stderr
    bob.types("snapshot", "copy", "s", "--to", "dr", status=failures.NOT_FOUND)
    made = alice.json("snapshot", "copy", "s", "--to", "dr", "--wait")
    uid = str(made["uid"])
    assert made["state"] == "COPY_STATE_COMPLETED" and made["done_bytes"] == made["total_bytes"]
    assert "as was asked for before" in alice.types("snapshot", "copy", "s", "--to", "dr").stdout
    assert uid in alice.types("snapshot", "copies").stdout
    assert "There are none" in bob.types("snapshot", "copies").stdout
    bob.types("snapshot", "uncopy", uid, status=failures.NOT_FOUND)

    # The snapshot goes, its bucket too: the copy stays.
    alice.types("snapshot", "delete", "s", "--now")
    shutil.rmtree(tmp_path / "objects" / "snapshots")
    listed = rescue("list", target).stdout
    assert uid in listed and "alice/s" in listed
    out = tmp_path / "out.raw"
    rescue("image", target, uid, str(out))
    assert subprocess.run(["cmp", image, out], check=False).returncode == 0
    assert out.stat().st_blocks * 512 < 16 * MIB, "holes stay holes"
    rescue("image", target, uid, str(out), status=2)
    alice.types("snapshot", "import", "again", str(out))
    alice.types("volume", "create", "disk", "--from", "again")

    # One that is damaged says which object, and gives the rest if that is wanted.
    pack = min((tmp_path / "dr").rglob("pack-*"))
    pack.unlink()
    lost = rescue("image", target, uid, str(out), "--overwrite", status=1)
    assert pack.name in lost.stderr
    rest = rescue("image", target, uid, str(out), "--overwrite", "--keep-going", status=6)
    assert pack.name in rest.stderr and "could not be read" in rest.stderr

    alice.types("snapshot", "uncopy", uid, "--wait")
    assert "There are none" in alice.types("snapshot", "copies").stdout
    assert not [path for path in (tmp_path / "dr").rglob("*") if path.is_file()]
    assert rescue("list", target).stdout == ""


def test_an_encrypted_copy_opens_with_its_key_only(
    person: Callable[..., Person], world: World, tmp_path: Path
) -> None:
    (tmp_path / "dr").mkdir()
    keys = tmp_path / "keys"
    (keys / "u").mkdir(parents=True, mode=0o700)
    keys.chmod(0o700)
    (keys / "u" / "main.key").write_text("QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\n")
    (keys / "u" / "main.key").chmod(0o600)
    target = f"file://{tmp_path}/dr"
    world.add_host("host-a")
    view = volume_of(2, 4).freeze()
    snapshot = "a" * 24
    world.freeze(snapshot, view)
    world.change(snapshot, lambda record: setattr(record, "encryption_key", "main"))
    words = ["--pack-mib", "1", "--checkpoint-s", "1", "--target", f"dr={target}"]
    world.start("s1", *words, "--keys", f"file://{keys}")
    world.completed(snapshot)
    user = person("u")
    made = user.json("snapshot", "copy", f"s{snapshot}", "--to", "dr", "--wait")
    out = tmp_path / "out.raw"
    refused = rescue("image", target, str(made["uid"]), str(out), status=1)
    assert "key" in refused.stderr
    rescue("image", target, str(made["uid"]), str(out), "--keys", f"file://{keys}")
    with out.open("rb") as file:
        for extent in sorted(view.allocated):
            file.seek(extent << 17)
            assert file.read(1 << 17) == view.read(extent << 17, 1 << 17)
