"""One cluster for all system tests that break things and mend them again."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.lab.cluster import STORAGE_NAMES, Cluster
from holdfast.lab.initiator import Login, log_in, log_out
from holdfast.lab.lab import Lab


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder: Path = tmp_path_factory.mktemp("cluster") / "lab"
    lab = Lab(folder)
    try:
        lab.up()
        storage = [lab.define_guest(name, role="storage", disk_gib=8) for name in STORAGE_NAMES]
        compute = [lab.define_guest("compute-a", role="compute")]
        lab.boot_guests(storage + compute)
        cluster = Cluster(lab)
        cluster.make_authority(["alice", "bob"])
        cluster.start_etcd()
        cluster.start_s3()
        cluster.start_metadata()
        cluster.start_snapshotter()
        for guest in storage:
            cluster.start_agent(guest)
        cluster.await_hosts()
        yield cluster
    finally:
        lab.down()


class Disk:
    """A volume of alice's, attached and logged in to by compute-a."""

    def __init__(self, cluster: Cluster, name: str, size: str) -> None:
        self.cluster = cluster
        self.guest = cluster.lab.guest("compute-a")
        self.name = name
        self.volume = cluster.cli("alice", "volume", "create", name, "--size", size)
        self.uid: str = self.volume["uid"]
        words = ["attachment", "create", name, "--volume", name, "--initiator", self.guest.initiator]
        self.login = Login.of(cluster.cli("alice", *words))
        # Its short name: fio takes a colon in a path for a list of paths.
        self.device = self.guest.run(["readlink", "-f", log_in(self.guest, self.login)]).stdout.strip()

    @property
    def primary(self) -> str:
        name: str = self.cluster.record(f"replicas/{self.uid}")["primary_host_id"]
        return name

    @property
    def mirror(self) -> str:
        return next(name for name in STORAGE_NAMES if name != self.primary)

    def fio(self, *words: str, size: str = "48M") -> list[str]:
        """A verified job on the whole device: any error or wrong byte fails it."""
        return [
            *("fio", "--name=job", f"--filename={self.device}", "--direct=1", "--ioengine=libaio"),
            *("--rw=randwrite", "--bs=4k", "--iodepth=16", f"--size={size}", "--verify=crc32c"),
            # Slow enough to still be writing when something breaks.
            *("--rate_iops=1500", "--verify_fatal=1", "--group_reporting", *words),
        ]

    def worker_pid(self, host: str) -> int:
        record = self.cluster.lab.guest(host).run(["cat", f"/run/holdfast/{self.uid}.pid"])
        return int(json.loads(record.stdout)["pid"])

    def remove(self) -> None:
        log_out(self.guest, self.login)
        self.cluster.cli("alice", "attachment", "delete", self.name)
        self.cluster.cli("alice", "volume", "delete", self.name)


@pytest.fixture
def disk(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Disk]:
    name = request.node.name.split("[")[0].removeprefix("test_").replace("_", "-")[:40]
    disk = Disk(cluster, name, "64MiB")
    yield disk
    cluster.lab.switch.mend_all()
    disk.remove()
