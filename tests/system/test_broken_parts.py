"""Parts die and links break under verified I/O: no I/O error, no wrong byte, both hosts alike afterwards."""

import subprocess
import tempfile
from pathlib import Path

import pytest

from holdfast.lab.cluster import STORAGE_NAMES, Cluster
from holdfast.lab.guest_process import GuestProcess
from holdfast.lab.versions import copy_code

from .conftest import Disk

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]
FIO_LIMIT_S = 300


def begin_fio(disk: Disk, *words: str) -> GuestProcess:
    """Start a verified job, and return when it is writing."""
    writes = f"$(awk '{{print $5}}' /sys/block/{Path(disk.device).name}/stat)"
    first = int(disk.guest.run(["sh", "-c", f"echo {writes}"]).stdout)
    process = disk.guest.spawn(disk.fio(*words), log_name=f"fio-{disk.name}.log")
    wait = f"until [ {writes} -gt {first + 50} ]; do :; done"
    disk.guest.run(["timeout", "60", "sh", "-c", wait], timeout_s=70)
    return process


def end_fio(process: GuestProcess) -> None:
    status = process.wait(FIO_LIMIT_S)
    assert status == 0, process.log.read_text()[-3000:]


def assert_replicas_equal(disk: Disk, tmp_path: Path) -> None:
    """Read both hosts with nbdcopy, when both are in sync; compare. Flushed first: nothing is under way."""
    disk.cluster.await_record(f"replicas/{disk.uid}", lambda r: len(r["in_sync"]) == 2)
    disk.guest.run(["blockdev", "--flushbufs", disk.device])
    # A read ends only while both workers are there and hear each other: one may just have been replaced.
    look = ["dd", f"if={disk.device}", "of=/dev/null", "bs=4096", "count=1", "iflag=direct"]
    disk.guest.run(["timeout", "60", *look], timeout_s=70)
    images = []
    for host in STORAGE_NAMES:
        image = tmp_path / f"{host}.img"
        credentials = disk.cluster.nbd_credentials("operator")
        uri = disk.cluster.nbd_uri(host, disk.uid, f"replica:{disk.uid}", credentials)
        disk.cluster.lab.host_run(["nbdcopy", uri, str(image)], timeout_s=120)
        images.append(image)
    assert subprocess.run(["cmp", *images]).returncode == 0, "the hosts differ"


@pytest.mark.parametrize("which", ["primary", "mirror"])
def test_a_killed_worker_comes_back(disk: Disk, which: str, tmp_path: Path) -> None:
    host = disk.primary if which == "primary" else disk.mirror
    fio = begin_fio(disk)
    pid = disk.worker_pid(host)
    disk.cluster.lab.guest(host).run(["kill", "-KILL", str(pid)])
    end_fio(fio)
    assert disk.worker_pid(host) != pid
    assert_replicas_equal(disk, tmp_path)


def test_a_cut_link_costs_the_mirror_and_no_write(disk: Disk, tmp_path: Path) -> None:
    """The primary goes on alone; the mirror comes back, and gets what it lacks."""
    switch, cluster = disk.cluster.lab.switch, disk.cluster
    fio = begin_fio(disk)
    switch.cut(*STORAGE_NAMES)
    health = cluster.await_record(
        f"volumes/{disk.uid}", lambda v: v.get("health", {}).get("state") == "HEALTH_STATE_DEGRADED"
    )["health"]
    assert health["reason"] in ("MIRROR_LOST", "SYNC_WAITS", "SYNCING") and health["message"]
    assert len(cluster.record(f"replicas/{disk.uid}")["in_sync"]) == 1
    switch.mend(*STORAGE_NAMES)
    end_fio(fio)
    assert_replicas_equal(disk, tmp_path)
    assert int(cluster.record(f"replicas/{disk.uid}")["epoch"]) >= 3


def test_a_killed_agent_leaves_the_worker_alone(disk: Disk, tmp_path: Path) -> None:
    host = disk.primary
    fio = begin_fio(disk)
    pid = disk.worker_pid(host)
    disk.cluster.agents[host].kill(9)
    disk.cluster.start_agent(disk.cluster.lab.guest(host))
    end_fio(fio)
    assert disk.worker_pid(host) == pid
    assert_replicas_equal(disk, tmp_path)


def test_a_worker_of_older_code_is_replaced_by_a_new_agent(disk: Disk, tmp_path: Path) -> None:
    """An upgrade in place: what runs elsewhere differs, and the primary's worker makes way for it."""
    host, cluster = disk.primary, disk.cluster
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # guests do not see what is in memory
        environment = copy_code(Path(folder))
        fio = begin_fio(disk)
        pid = disk.worker_pid(host)
        cluster.agents[host].kill(15)
        cluster.agents[host].wait(60)
        cluster.start_agent(cluster.lab.guest(host), env=environment)
        replaced = f"until ! grep -q '\"pid\": {pid},' /run/holdfast/{disk.uid}.pid; do :; done"
        cluster.lab.guest(host).run(["timeout", "120", "sh", "-c", replaced], timeout_s=130)
        end_fio(fio)
        ran = f"/proc/{disk.worker_pid(host)}/environ"
        cluster.lab.guest(host).run(["grep", "-qa", f"PYTHONPATH={folder}", ran])
        assert_replicas_equal(disk, tmp_path)
        # Back to the code of everybody else, before the folder goes.
        cluster.agents[host].kill(15)
        cluster.agents[host].wait(60)
        new = disk.worker_pid(host)
        cluster.start_agent(cluster.lab.guest(host))
        replaced = f"until ! grep -q '\"pid\": {new},' /run/holdfast/{disk.uid}.pid; do :; done"
        cluster.lab.guest(host).run(["timeout", "120", "sh", "-c", replaced], timeout_s=130)
        assert_replicas_equal(disk, tmp_path)


def test_io_goes_on_without_etcd(disk: Disk, tmp_path: Path) -> None:
    etcd = disk.cluster.etcd
    assert etcd is not None
    etcd.kill()
    try:
        done = disk.guest.run(disk.fio(), timeout_s=FIO_LIMIT_S, check=False)
        assert done.returncode == 0, done.stdout[-2000:]
        said = disk.cluster.cli_refused("alice", "volume", "list")
        assert "ETCD_UNREACHABLE" in said
    finally:
        etcd.start()
    assert_replicas_equal(disk, tmp_path)


def test_a_snapshot_waits_for_s3_and_says_so(disk: Disk) -> None:
    cluster = disk.cluster
    assert cluster.swift is not None
    disk.guest.run(["dd", "if=/dev/urandom", f"of={disk.device}", "bs=1M", "count=8", "oflag=direct"])
    cluster.swift.stop()
    try:
        snapshot = cluster.cli("alice", "snapshot", "create", "patient", "--volume", disk.name)
        key = f"snapshots/{snapshot['uid']}"
        waiting = cluster.await_record(key, lambda s: bool(s.get("reason")))
        assert waiting["state"] == "SNAPSHOT_STATE_FROZEN"
    finally:
        cluster.swift.start()
    cluster.await_record(key, lambda s: s["state"] == "SNAPSHOT_STATE_COMPLETED")
    cluster.cli("alice", "snapshot", "delete", "patient")


def test_a_deleted_volume_leaves_nothing_on_its_hosts(cluster: Cluster) -> None:
    disk = Disk(cluster, "short-lived", "64MiB")
    said = cluster.cli_refused("alice", "volume", "delete", "short-lived")
    assert "ATTACHED" in said
    disk.remove()
    cluster.await_gone(f"volumes/{disk.uid}")
    for host in STORAGE_NAMES:
        assert cluster.record(f"assignments/{host}/{disk.uid}") is None
        found = cluster.lab.guest(host).run(
            ["find", "/var/lib/holdfast", "/run/holdfast", "-name", f"{disk.uid}*"]
        )
        assert found.stdout.strip() == ""
        targets = cluster.lab.guest(host).run(["ls", "/sys/kernel/config/target/iscsi"], check=False).stdout
        assert disk.uid not in targets
