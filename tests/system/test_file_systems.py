"""A file system as a judge, in short; `make conformance` has more of them, and a power cut."""

import pytest

from holdfast.lab.cluster import STORAGE_NAMES, STORE_DIR, Cluster

from .conftest import Disk

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]
_MIB = 1 << 20
_FILES, _FILE_MIB = 6, 4


def stored_bytes(disk: Disk, host: str) -> int:
    words = ["du", "--block-size=1", f"{STORE_DIR}/{disk.uid}/data"]
    return int(disk.cluster.lab.guest(host).run(words).stdout.split()[0])


def test_a_file_system_is_filled_trimmed_and_checked(disk: Disk, cluster: Cluster) -> None:
    """What is deleted is given back on both hosts; what is kept is there when all caches are gone."""

    def shell(script: str) -> None:
        disk.guest.run(["sh", "-c", f"set -e; D={disk.device}; M=/mnt/judged; {script}"], timeout_s=120)

    shell("mkfs.ext4 -q -F -E nodiscard $D; mkdir -p $M; mount $D $M")
    fill = f"for at in $(seq {_FILES}); do head -c {_FILE_MIB}M /dev/urandom > $M/$at; done"
    shell(f"{fill}; sync -f $M; sha256sum $M/[135] > /tmp/sums")
    before = {host: stored_bytes(disk, host) for host in STORAGE_NAMES}
    shell("rm $M/[246]; sync -f $M; fstrim $M")
    for host in STORAGE_NAMES:
        back = before[host] - stored_bytes(disk, host)
        assert back >= 0.9 * _FILES / 2 * _FILE_MIB * _MIB, f"{host}: {back} bytes came back"
    forget = "blockdev --flushbufs $D; echo 3 > /proc/sys/vm/drop_caches"
    shell(f"umount $M; {forget}; mount $D $M; sha256sum --quiet -c /tmp/sums; umount $M; fsck.ext4 -fn $D")
