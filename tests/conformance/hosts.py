"""Two storage hosts, a compute host, and a volume of a user's: what the judges are pointed at."""

import subprocess
from pathlib import Path
from typing import Any

from suite import FAILED, PASSED, Verdict

from holdfast.lab.cluster import STORAGE_NAMES, STORE_DIR, Cluster
from holdfast.lab.guest import Guest
from holdfast.lab.initiator import Login, log_in
from holdfast.lab.lab import Lab

USER = "alice"
COMPUTE = "compute-a"
DISK_GIB = 8
MEMORY_MIB = 1024


class World:
    """`up`, then volumes. Without S3: nothing here makes a snapshot."""

    def __init__(self, folder: Path, disk_dir: Path | None = None) -> None:
        self.lab = Lab(folder, disk_dir=disk_dir)
        self.cluster = Cluster(self.lab)

    def up(self) -> None:
        lab, cluster = self.lab, self.cluster
        lab.down()
        lab.up()
        guests = [
            lab.define_guest(name, role="storage", disk_gib=DISK_GIB, memory_mib=MEMORY_MIB)
            for name in STORAGE_NAMES
        ]
        guests.append(lab.define_guest(COMPUTE, role="compute", memory_mib=MEMORY_MIB))
        lab.boot_guests(guests)
        cluster.make_authority([USER])
        cluster.start_etcd()
        cluster.start_metadata()
        for name in STORAGE_NAMES:
            cluster.start_agent(lab.guest(name))
        cluster.await_hosts()

    def power_cut(self) -> None:
        """Of every host at once; then they are switched on again, as their own init would do it."""
        guests = [*(self.lab.guest(name) for name in STORAGE_NAMES), self.compute]
        for guest in guests:
            guest.power_off()
        for guest in guests:
            guest.boot()
        for name in STORAGE_NAMES:
            self.cluster.start_agent(self.lab.guest(name))

    def down(self) -> None:
        self.lab.down()

    @property
    def compute(self) -> Guest:
        return self.lab.guest(COMPUTE)


class Volume:
    """Made, mirrored, and attached by all its paths; nobody has logged in yet."""

    def __init__(self, world: World, name: str, size: str) -> None:
        self.world, self.name = world, name
        cluster = world.cluster
        self.uid: str = cluster.cli(USER, "volume", "create", name, "--size", size)["uid"]
        words = ["attachment", "create", name, "--volume", name, "--initiator", world.compute.initiator]
        attachment = cluster.cli(USER, *words)
        ready = f"attachments/{self.uid}/{attachment['uid']}"
        cluster.await_record(ready, lambda one: len(one.get("ready_host_ids", [])) == len(STORAGE_NAMES))
        self.await_in_sync()
        self.logins = Login.of_all(attachment)

    def replica(self) -> dict[str, Any]:
        record: dict[str, Any] = self.world.cluster.record(f"replicas/{self.uid}")
        return record

    def await_in_sync(self) -> None:
        """Both hosts, as they run now, hold the same."""
        boots = {name: self.world.lab.guest(name).boot_id for name in STORAGE_NAMES}

        def holds(record: dict[str, Any]) -> bool:
            return {one["host_id"]: one["boot_id"] for one in record.get("in_sync", [])} == boots

        self.world.cluster.await_record(f"replicas/{self.uid}", holds, 300)

    def active_login(self) -> Login:
        """By way of the host that is the primary now."""
        address = self.world.lab.guest(self.replica()["primary_host_id"]).address
        return next(login for login in self.logins if login.portal.startswith(f"{address}:"))

    def log_in(self) -> str:
        """One session, with the active path; the disk's short name."""
        compute = self.world.compute
        return compute.run(["readlink", "-f", log_in(compute, self.active_login())]).stdout.strip()

    def stored_mib(self) -> list[float]:
        """What its data takes on each host's disk."""
        words = ["du", "--block-size=1", f"{STORE_DIR}/{self.uid}/data"]
        return [
            int(self.world.lab.guest(name).run(words).stdout.split()[0]) / (1 << 20) for name in STORAGE_NAMES
        ]

    def equal_verdict(self, name: str) -> Verdict:
        """Both replicas, read whole with nbdcopy, are alike. Nothing may be writing."""
        self.await_in_sync()
        cluster = self.world.cluster
        credentials = cluster.nbd_credentials("operator")
        images = []
        for host in STORAGE_NAMES:
            images.append(self.world.lab.disk_folder / f"{host}.copy")
            uri = cluster.nbd_uri(host, self.uid, f"replica:{self.uid}", credentials)
            self.world.lab.host_run(["nbdcopy", uri, str(images[-1])], timeout_s=300)
        done = subprocess.run(["cmp", *images], capture_output=True, text=True)
        for image in images:
            image.unlink()
        return Verdict(name, FAILED if done.returncode else PASSED, done.stdout.strip())

    def remove(self) -> None:
        self.world.cluster.cli(USER, "attachment", "delete", self.name)
        self.world.cluster.cli(USER, "volume", "delete", self.name)
