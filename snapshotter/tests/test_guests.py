"""Users who read snapshots over NBD: with the tools that they have, as who they are, and not too many."""

import hashlib
import subprocess
import threading
from pathlib import Path

import pytest

from holdfast.base.errors import Exhausted, HoldfastError, NotFound
from holdfast.base.tls import TlsFiles
from holdfast.lab.snapshotters import LONGEST_S, Running, World, volume_of
from holdfast.metadata.permissions import READ_BLOCKS
from holdfast.snapshotter.guests import CONNECTIONS_PER_USER, Guests
from holdfast.snapshotter.objects_directory import DirectoryStore

UID, NOBODYS = "1" * 24, "2" * 24


def tls_folder(folder: Path, files: TlsFiles) -> Path:
    """The files of a user under the names that libnbd and qemu want."""
    folder.mkdir()
    for name, path in (("ca", files.ca), ("client", files.certificate)):
        (folder / f"{name}-cert.pem").symlink_to(path)
    (folder / "client-key.pem").symlink_to(files.key)
    return folder


def tool(*words: str, fails: bool = False) -> str:
    ended = subprocess.run(words, capture_output=True, text=True, timeout=LONGEST_S * 3, check=False)
    assert bool(ended.returncode) == fails, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.fixture
def running(world: World) -> Running:
    """A snapshotter, and a snapshot of `u`."""
    world.add_host("host-a")
    world.freeze(UID, volume_of(1, 6).freeze())
    running = world.start()
    world.completed(UID)
    return running


def test_nbdcopy_makes_an_image_for_the_owner_and_for_whoever_may_read(
    world: World, running: Running, tmp_path: Path
) -> None:
    view = volume_of(1, 6).freeze()
    wanted = hashlib.sha256()
    for offset in range(0, view.size_bytes, 1 << 20):
        wanted.update(view.read(offset, 1 << 20))
    world.grant(UID, "bob", [READ_BLOCKS])
    for name in ("u", "bob"):
        folder = tls_folder(tmp_path / name, world.tls(name, "user"))
        uri = f"nbds://127.0.0.1:{running.nbd_port}/snapshot:{UID}?tls-certificates={folder}"
        assert "export-size: 1073741824" in tool("nbdinfo", uri)
        image = tmp_path / f"{name}.raw"
        tool("nbdcopy", uri, str(image))
        with image.open("rb") as file:
            assert hashlib.file_digest(file, "sha256").digest() == wanted.digest()
        assert image.stat().st_blocks * 512 < 16 << 20, "holes stay holes"
    copy = tmp_path / "copy.qcow2"
    export = f"driver=nbd,host=127.0.0.1,port={running.nbd_port},export=snapshot:{UID},tls-creds=t"
    tool(
        "qemu-img", "convert", "-O", "qcow2",
        "--object", f"tls-creds-x509,id=t,dir={tmp_path / 'u'},endpoint=client",
        "--image-opts", export, str(copy),
    )  # fmt: skip
    tool("qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(copy), str(tmp_path / "u.raw"))


def test_a_stranger_is_told_the_same_as_of_what_does_not_exist(
    world: World, running: Running, tmp_path: Path
) -> None:
    world.grant(UID, "carol", [])  # To make volumes.
    for name in ("carol", "mallory"):
        folder = tls_folder(tmp_path / name, world.tls(name, "user"))
        said = [
            tool(
                "nbdinfo",
                f"nbds://127.0.0.1:{running.nbd_port}/snapshot:{uid}?tls-certificates={folder}",
                fails=True,
            )
            for uid in (UID, NOBODYS)
        ]
        assert said[0].replace(UID, NOBODYS) == said[1]
        with pytest.raises(NotFound) as raised:
            running.nbd(UID, name, "user")
        assert raised.value.reason == "NO_SUCH_EXPORT"


def test_a_grant_that_is_taken_back_ends_the_reading(world: World, running: Running) -> None:
    world.grant(UID, "bob", [READ_BLOCKS])
    with running.nbd(UID, "bob", "user") as client:
        assert client.read(0, 4096)
        world.grant(UID, "bob", None)
        patience = threading.Event()
        with pytest.raises(HoldfastError):
            for _ in range(100):  # What etcd said a second ago still counts.
                client.read(0, 4096)
                patience.wait(0.1)


def test_a_user_has_so_many_connections_and_hosts_have_the_others(world: World, running: Running) -> None:
    clients = [running.nbd(UID, "u", "user") for _ in range(CONNECTIONS_PER_USER)]
    with pytest.raises(HoldfastError) as raised:
        running.nbd(UID, "u", "user")
    assert raised.value.reason == "TOO_MANY_CONNECTIONS"
    with running.nbd(UID, "operator", "operator") as other:
        assert other.read(0, 4096) == clients[0].read(0, 4096)
    for client in clients:
        client.close()


def test_places_are_counted_and_given_back(tmp_path: Path) -> None:
    guests = Guests(DirectoryStore(tmp_path), per_user=2, in_all=3)
    assert guests.came("a") and guests.came("a") and guests.came("b")
    for user in ("a", "c"):
        with pytest.raises(Exhausted):
            guests.check_room(user)
    assert not guests.came("c"), "it passed the check at the same time as another"
    guests.left("c")
    guests.left("a")
    guests.check_room("a")
    guests.check_room("c")
    guests.close()
