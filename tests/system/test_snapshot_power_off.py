"""The story of a snapshot, with the power going off under it: in its upload, and while it is copied from.

No initiator sees an error, the snapshot is of the moment when it was frozen, and the second user reads it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.lab import multipath
from holdfast.lab.cluster import STORAGE_NAMES, Cluster
from holdfast.lab.guest import Guest
from holdfast.lab.initiator import Login
from holdfast.lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]
ALICE, BOB = "alice", "bob"
DATA_MIB = 160
IO_LIMIT_S = 240
AGENT = ("--lease-ttl", "3", "--sync-max-mib", "16")
"""Copying is slow enough to be interrupted."""


class Stage:
    """Two storage hosts, and a compute host with multipath for each user."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.cluster = Cluster(lab)

    def up(self) -> None:
        lab, cluster = self.lab, self.cluster
        lab.up()
        storage = [lab.define_guest(name, role="storage", disk_gib=8) for name in STORAGE_NAMES]
        compute = [lab.define_guest(f"compute-{user}", role="compute") for user in (ALICE, BOB)]
        lab.boot_guests(storage + compute)
        cluster.make_authority([ALICE, BOB])
        cluster.start_etcd()
        cluster.start_s3()
        cluster.start_metadata()
        cluster.start_snapshotter()
        for guest in storage:
            cluster.start_agent(guest, *AGENT)
        cluster.await_hosts()
        for guest in compute:
            multipath.start(guest)

    def mounted(self, user: str, name: str, uid: str, make: bool) -> Guest:
        """The user's host, with the volume attached by both paths and mounted at /mnt."""
        guest = self.lab.guest(f"compute-{user}")
        words = ["attachment", "create", name, "--volume", name, "--initiator", guest.initiator]
        attachment = self.cluster.cli(user, *words)
        self.cluster.await_record(
            f"attachments/{uid}/{attachment['uid']}", lambda one: len(one.get("ready_host_ids", [])) == 2
        )
        disk = multipath.log_in_all(guest, Login.of_all(attachment))
        if make:
            guest.run(["mkfs.ext4", "-q", disk.path], timeout_s=IO_LIMIT_S)
        guest.run(["mkdir", "-p", "/mnt"])
        guest.run(["mount", disk.path, "/mnt"], timeout_s=IO_LIMIT_S)
        return guest

    def primary(self, volume_uid: str) -> Guest:
        return self.lab.guest(self.cluster.record(f"replicas/{volume_uid}")["primary_host_id"])

    def switch_on(self, guest: Guest, *volume_uids: str) -> None:
        """Again, with its agent, as its own init would; returns when the volumes are redundant."""
        guest.boot()
        self.cluster.start_agent(guest, *AGENT)
        for uid in volume_uids:
            self.cluster.await_record(f"replicas/{uid}", lambda one: len(one["in_sync"]) == 2)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    lab = Lab(tmp_path / "lab")
    try:
        made = Stage(lab)
        made.up()
        yield made
    finally:
        lab.down()


def sums(guest: Guest) -> str:
    """Of what the disk holds, not of what the guest remembers."""
    guest.run(["sh", "-c", "echo 3 > /proc/sys/vm/drop_caches"])
    return guest.run(["sh", "-c", "cd /mnt && sha256sum data*"], timeout_s=IO_LIMIT_S).stdout


def write(guest: Guest, name: str, mib: int) -> None:
    command = f"head -c {mib}M /dev/urandom > /mnt/{name} && sync -f /mnt"
    guest.run(["sh", "-c", command], timeout_s=IO_LIMIT_S)


def has_begun(record: dict[str, Any]) -> bool:
    left, total = (int(record.get(f"hydrate_{what}_bytes", 0)) for what in ("remaining", "total"))
    return 0 < left < total


def test_the_power_goes_off_during_the_upload_and_during_hydration(stage: Stage) -> None:
    cluster = stage.cluster
    photos: str = cluster.cli(ALICE, "volume", "create", "photos", "--size", "512MiB")["uid"]
    alice = stage.mounted(ALICE, "photos", photos, make=True)
    for number in range(4):
        write(alice, f"data-{number}", DATA_MIB // 4)
    at_the_freeze = sums(alice)

    first = stage.primary(photos)
    snapshot: str = cluster.cli(ALICE, "snapshot", "create", "monday", "--volume", "photos")["uid"]
    cluster.await_record(f"snapshots/{snapshot}", lambda one: one["state"].endswith("FROZEN"))
    first.power_off()
    assert cluster.record(f"snapshots/{snapshot}")["state"].endswith("FROZEN")
    # What is written now is at the other host, and not in the snapshot.
    write(alice, "data-2", DATA_MIB // 4)
    assert stage.primary(photos) is not first
    done = cluster.await_record(
        f"snapshots/{snapshot}", lambda one: not one["state"].endswith("FROZEN"), IO_LIMIT_S
    )
    assert done["state"].endswith("COMPLETED"), done
    stage.switch_on(first, photos)

    cluster.cli(ALICE, "grant", "create", "monday", BOB)
    copy: str = cluster.cli(BOB, "volume", "create", "copy", "--from", f"{ALICE}/monday")["uid"]
    bob = stage.mounted(BOB, "copy", copy, make=False)
    cluster.await_record(f"volumes/{copy}", has_begun)
    second = stage.primary(copy)
    reading = bob.spawn(["sh", "-c", "cd /mnt && sha256sum data*"], log_name="sums.log")
    second.power_off()
    assert has_begun(cluster.record(f"volumes/{copy}"))
    assert reading.wait(IO_LIMIT_S) == 0, reading.log.read_text()
    assert reading.log.read_text() == at_the_freeze
    assert stage.primary(copy) is not second
    stage.switch_on(second, photos, copy)
    cluster.await_record(
        f"volumes/{copy}", lambda one: not int(one.get("hydrate_remaining_bytes", 0)), IO_LIMIT_S
    )
    assert sums(bob) == at_the_freeze
