"""Snapshots through the real services: what an initiator sees of lost objects; schedules
of a live volume; groups."""

import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.base.limits import EXTENT_BYTES, MIB
from holdfast.lab.cluster import BUCKET, SNAPSHOTTER_NBD_PORT, Cluster
from holdfast.lab.guest import Guest
from holdfast.lab.initiator import Login, log_in, log_out
from holdfast.lab.s3_damage import Damage

from .conftest import Disk

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]
PIECE = f"bs={EXTENT_BYTES} count=1 iflag=direct"
EACH = 4 * MIB // EXTENT_BYTES
"""Extents of noise that each of two snapshots adds."""
FLIPPED = 5
"""An extent of the first one, of which a bit is turned over."""
SLOT_LIMIT_S = 180
"""A slot is each minute; the machine may be busy."""
_HEADER_BYTES = 24
"""Of a pack. Noise is stored as it is, so its extents follow each other."""


def write_noise(disk: Disk, first_mib: int, mib: int) -> None:
    words = f"of={disk.device} bs=1M seek={first_mib} count={mib} oflag=direct conv=fsync"
    disk.guest.run(["sh", "-c", f"dd if=/dev/urandom {words}"])


def snapshot(cluster: Cluster, name: str, volume: str) -> dict[str, Any]:
    uid = cluster.cli("alice", "snapshot", "create", name, "--volume", volume)["uid"]
    made: dict[str, Any] = cluster.await_record(
        f"snapshots/{uid}", lambda one: one["state"].endswith("COMPLETED")
    )
    return {**made, "uid": uid}


def sums(guest: Guest, device: str, extents: list[int]) -> dict[int, str]:
    """Of each extent that can be read, from the disk and not from what the guest remembers."""
    read = f"dd if={device} {PIECE} skip=$i 2>/dev/null > /tmp/piece && sha256sum < /tmp/piece || echo lost"
    found = guest.run(
        ["sh", "-c", f"for i in {' '.join(map(str, extents))}; do {read}; done"], timeout_s=240
    ).stdout.splitlines()
    return {extent: line.split()[0] for extent, line in zip(extents, found, strict=True) if line != "lost"}


@pytest.fixture
def damaged(cluster: Cluster, disk: Disk) -> Iterator[tuple[Login, dict[int, str], list[str]]]:
    """A volume from a snapshot of which one extent is damaged and a whole pack is gone: how to log in, what
    must be read, and the objects."""
    write_noise(disk, 0, 4)
    first = snapshot(cluster, "noise-1", disk.name)
    write_noise(disk, 4, 4)
    second = snapshot(cluster, "noise-2", disk.name)
    right = sums(disk.guest, disk.device, list(range(2 * EACH)))
    with cluster.lab.network():
        assert cluster.swift is not None
        damage = Damage(cluster.swift.client(), BUCKET)
        (flipped,) = damage.names(f"{first['uid']}/pack-")
        (deleted,) = damage.names(f"{second['uid']}/pack-")
        damage.flip(flipped, _HEADER_BYTES + FLIPPED * EXTENT_BYTES + 777)
        damage.delete(deleted)
    cluster.cli("alice", "volume", "create", "copy", "--from", "alice/noise-2")
    words = ["attachment", "create", "copy", "--volume", "copy", "--initiator", disk.guest.initiator]
    yield Login.of(cluster.cli("alice", *words)), right, [flipped, deleted]
    cluster.cli("alice", "attachment", "delete", "copy")
    cluster.cli("alice", "volume", "delete", "copy")
    for name in ("noise-1", "noise-2"):
        cluster.cli("alice", "snapshot", "delete", name, "--now")


def test_lost_bytes_are_a_medium_error_and_the_others_right(
    cluster: Cluster, disk: Disk, damaged: tuple[Login, dict[int, str], list[str]]
) -> None:
    login, right, objects = damaged
    guest = disk.guest
    guest.run(["dmesg", "-C"])
    device = guest.run(["readlink", "-f", log_in(guest, login)]).stdout.strip()
    try:
        wanted = [*range(EACH), EACH, EACH + 9, 2 * EACH - 1, 2 * EACH, 500]
        found = sums(guest, device, wanted)
        zeros = sums(guest, disk.device, [2 * EACH, 500])
        assert found == {**{extent: right[extent] for extent in range(EACH) if extent != FLIPPED}, **zeros}
        said = guest.run(["dmesg"]).stdout
        name = Path(device).name
        assert re.search(rf"\[{name}\].*Sense Key : (0x3|Medium Error)", said), said[-3000:]
        sectors = {int(one) for one in re.findall(rf"critical medium error, dev {name}, sector (\d+)", said)}
        extents = {sector * 512 // EXTENT_BYTES for sector in sectors}
        assert extents == {FLIPPED, EACH, EACH + 9, 2 * EACH - 1}
        written = guest.run(
            ["sh", "-c", f"dd if=/dev/zero of={device} bs={EXTENT_BYTES} count=1 seek={FLIPPED} oflag=direct"]
        )
        assert written.returncode == 0 and FLIPPED in sums(guest, device, [FLIPPED]), "it can be written over"
    finally:
        log_out(guest, login)
    log = (cluster.logs / "snapshotter.log").read_text()
    for one in objects:
        object_name = one[one.index("snapshots/") :]
        assert re.search(rf"cannot be read: .*{object_name}", log), f"{object_name} is named"


def test_a_schedule_makes_snapshots_of_a_live_volume_and_deletes_old_ones(
    cluster: Cluster, disk: Disk, tmp_path: Path
) -> None:
    """Of what was made by hand only what is locked stays, once a slot has made one."""
    write_noise(disk, 0, 4)
    still = sums(disk.guest, disk.device, list(range(EACH)))
    old, locked = snapshot(cluster, "by-hand", disk.name), snapshot(cluster, "locked", disk.name)
    cluster.cli("alice", "snapshot", "lock", "locked", "--until", "2100-01-01")
    write = f"dd if=/dev/urandom of={disk.device} bs=64k seek=128 count=64 oflag=direct 2>/dev/null"
    busy = disk.guest.spawn(["sh", "-c", f"until [ -e /tmp/stop ]; do {write} || exit 1; done"])
    words = ["schedule", "create", "minutes", "--volume", disk.name, "--every", "1m"]
    schedule: str = cluster.cli("alice", *words, "--keep-last", "1", "--by-hand-too")["uid"]
    try:
        run = f"schedule_runs/{schedule}/{disk.name}"
        made = cluster.await_record(run, lambda one: bool(one.get("snapshot_uid")), SLOT_LIMIT_S)[
            "snapshot_uid"
        ]
        record = cluster.await_record(
            f"snapshots/{made}", lambda one: one["state"].endswith("COMPLETED"), SLOT_LIMIT_S
        )
        assert record["schedule_uid"] == schedule
        cluster.await_record(f"snapshots/{old['uid']}", lambda one: one["state"].endswith("RECYCLED"))
        assert cluster.record(f"snapshots/{locked['uid']}")["state"].endswith("COMPLETED")
    finally:
        cluster.cli("alice", "schedule", "delete", "minutes")
        disk.guest.run(["touch", "/tmp/stop"])
    assert busy.wait() == 0, "the volume was written to all the time, without an error"
    image = image_of(cluster, made, tmp_path)
    with open(image, "rb") as file:
        content = [file.read(EXTENT_BYTES) for _ in range(EACH)]
    assert [hashlib.sha256(one).hexdigest() for one in content] == list(still.values())


CHAIN = """
import mmap, os, sys
block = mmap.mmap(-1, 4096)
disks = [os.open(path, os.O_WRONLY | os.O_DIRECT) for path in sys.argv[2:]]
count = 0
while not os.path.exists(sys.argv[1]):
    count += 1
    block[:8] = count.to_bytes(8, "little")
    for disk in disks:
        assert os.pwrite(disk, block, 0) == 4096
    if count == 100:
        open(sys.argv[1] + ".begun", "w").close()
print(count)
"""
"""Writes one number after the other, each to the first disk and, when that is acknowledged, to the second."""


@pytest.fixture
def disks(cluster: Cluster) -> Iterator[list[Disk]]:
    made = [Disk(cluster, name, "64MiB") for name in ("chain-a", "chain-b")]
    yield made
    for disk in made:
        disk.remove()


def test_a_group_is_of_one_instant_for_an_initiator(
    cluster: Cluster, disks: list[Disk], tmp_path: Path
) -> None:
    guest, stop = disks[0].guest, "/tmp/chain-stop"
    chain = guest.spawn([sys.executable, "-c", CHAIN, stop, *(disk.device for disk in disks)])
    guest.run(["timeout", "60", "sh", "-c", f"until [ -e {stop}.begun ]; do :; done"], timeout_s=70)
    volumes = [word for disk in disks for word in ("--volume", disk.name)]
    found = []
    for number in range(3):
        group = f"group-{number}"
        cluster.cli("alice", "snapshot", "create-group", group, *volumes, "--wait")
        found.append([first_number(cluster, f"{group}-{disk.name}", tmp_path) for disk in disks])
    guest.run(["touch", stop])
    assert chain.wait() == 0, "no write failed"
    last = int(chain.output())
    assert all(second <= first <= second + 1 for first, second in found), found
    firsts = [first for first, _ in found]
    assert 100 <= firsts[0] < firsts[1] < firsts[2] <= last, "each is of its own instant, of a live disk"


def first_number(cluster: Cluster, snapshot_id: str, tmp_path: Path) -> int:
    """That of the chain in a snapshot."""
    uid = cluster.cli("alice", "snapshot", "show", snapshot_id)["uid"]
    image = image_of(cluster, uid, tmp_path)
    with open(image, "rb") as file:
        return int.from_bytes(file.read(8), "little")


def image_of(cluster: Cluster, snapshot_uid: str, tmp_path: Path) -> Path:
    """A snapshot, as its owner's NBD export gives it."""
    image = tmp_path / snapshot_uid
    server = f"{cluster.lab.address}:{SNAPSHOTTER_NBD_PORT}"
    credentials = cluster.nbd_credentials("alice")
    uri = f"nbds://{server}/snapshot:{snapshot_uid}?tls-certificates={credentials}"
    cluster.lab.host_run(["nbdcopy", uri, str(image)], timeout_s=120)
    return image
