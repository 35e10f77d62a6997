"""Where the cases play: a lab with a cluster of storage hosts whose disks forget, and one compute host."""

import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from holdfast.cli.multipath import multipath_conf
from holdfast.lab import multipath
from holdfast.lab.cluster import STORAGE_NAMES, Cluster
from holdfast.lab.disk_faults import free_disk
from holdfast.lab.guest import Guest
from holdfast.lab.lab import Lab

USER = "alice"
COMPUTE = "compute-a"
THREE = (*STORAGE_NAMES, "storage-c")
DISK_GIB = 4
MEMORY_MIB = 768
LEASE_TTL_S = 3
REPLACE_AFTER_S = 10
"""On a stage of three, a host that was lost for so long is replaced."""


class Stage:
    """`up`, then cases; after each, `make_sound`."""

    def __init__(self, folder: Path, disk_dir: Path, storage: Sequence[str] = STORAGE_NAMES) -> None:
        self.lab = Lab(folder, disk_dir=disk_dir)
        self.cluster = Cluster(self.lab, storage)
        self.storage_names = tuple(storage)
        self.lease_ttl_s = LEASE_TTL_S
        self.agent_env: Mapping[str, str] = {}

    def up(self) -> None:
        lab, cluster = self.lab, self.cluster
        lab.down()
        lab.up()
        guests = [
            lab.define_guest(name, role="storage", disk_gib=DISK_GIB, memory_mib=MEMORY_MIB, faulty_disk=True)
            for name in self.storage_names
        ]
        guests.append(lab.define_guest(COMPUTE, role="compute", memory_mib=MEMORY_MIB))
        lab.boot_guests(guests)
        cluster.make_authority([USER])
        cluster.start_etcd()
        more = ("--replace-after", str(REPLACE_AFTER_S)) if len(self.storage_names) > 2 else ()
        cluster.start_metadata(*more)
        for name in self.storage_names:
            self.start_agent(name)
        cluster.await_hosts()
        multipath.start(self.compute, multipath_conf())

    def down(self) -> None:
        self.lab.down()

    @property
    def compute(self) -> Guest:
        return self.lab.guest(COMPUTE)

    def guest(self, name: str) -> Guest:
        return self.lab.guest(name)

    def received_bytes(self, name: str) -> int:
        """What a guest has got over the network since it was switched on."""
        read = "cat /sys/class/net/vec0/statistics/rx_bytes"
        return int(self.guest(name).run(["sh", "-c", read]).stdout)

    def start_agent(self, name: str) -> None:
        words = ("--lease-ttl", str(self.lease_ttl_s))
        self.cluster.start_agent(self.guest(name), *words, env=self.agent_env)

    def start_again(self, name: str) -> None:
        """Switch a storage host on, with its agent, as its own init would do it."""
        self.guest(name).boot()
        self.start_agent(name)

    def set_lease_ttl(self, ttl_s: int) -> None:
        """All agents anew, with another lease: one that is adopted keeps its own time to live."""
        if ttl_s == self.lease_ttl_s:
            return
        for name in self.storage_names:
            self.cluster.agents[name].kill()
        for name in self.storage_names:
            self.cluster.await_gone(f"leases/hosts/{name}")
        self.lease_ttl_s = ttl_s
        for name in self.storage_names:
            self.start_agent(name)
        self.cluster.await_hosts()

    def make_sound(self) -> None:
        """Undo whatever a case has done, and has not undone."""
        self.lab.switch.mend_all()
        etcd = self.cluster.etcd
        if etcd is not None and not etcd.running:
            etcd.start()
        for name in self.storage_names:
            guest = self.guest(name)
            if not guest.running:
                self.start_again(name)
                continue
            guest.thaw()
            free_disk(guest)
            agent = self.cluster.agents[name]
            if agent.poll() is None:
                agent.kill(signal.SIGCONT)
            else:
                self.start_agent(name)

    def keep_logs(self, folder: Path) -> None:
        """Copy what everybody wrote to where `down` does not remove it."""
        for guest in self.lab.guests():
            target = folder / guest.name
            target.mkdir(parents=True, exist_ok=True)
            for log in (*guest.folder.glob("*.log"), guest.console):
                shutil.copy(log, target)
            if guest.running and guest.role == "storage":
                self._keep_worker_logs(guest, target)
        (folder / "paths").write_text(multipath.path_states(self.compute))
        words = self.cluster.etcdctl("get", "--prefix", "/holdfast/v1/")
        records = self.lab.host_run(words, env=self.cluster.etcdctl_environment(), check=False)
        (folder / "records").write_text(records.stdout)
        shutil.copytree(self.cluster.logs, folder / "services", dirs_exist_ok=True)

    @staticmethod
    def _keep_worker_logs(guest: Guest, target: Path) -> None:
        pack = "tail -c 1000000 /run/holdfast/*.log"
        (target / "workers.log").write_text(guest.run(["sh", "-c", pack], check=False).stdout)
