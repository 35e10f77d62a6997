"""A faulty disk forgets what was not flushed, fails when told to, and fills up; a plain one remembers."""

import errno
import os

import pytest

from holdfast.lab.disk_faults import MOUNT, break_disk, fill_disk, free_bytes, free_disk, mend_disk
from holdfast.lab.errors import LabError
from holdfast.lab.guest import Guest
from holdfast.lab.lab import Lab

pytestmark = pytest.mark.lab

_OLD, _NEW = "o" * 4096, "n" * 4096
# Allocated and on disk; then overwritten past every cache of the guest's file system. One is flushed.
_OVERWRITE = f"""
import mmap, os
old, new = mmap.mmap(-1, 4096), mmap.mmap(-1, 4096)
old[:], new[:] = b"{_OLD}", b"{_NEW}"
flushed, unflushed = (
    os.open("{MOUNT}/" + name, os.O_RDWR | os.O_CREAT | os.O_DIRECT) for name in ("flushed", "unflushed")
)
for file in (flushed, unflushed):
    os.write(file, old)
    os.fsync(file)
os.pwrite(flushed, new, 0)
os.fsync(flushed)
# A flush empties the whole disk's cache: nothing is flushed from here on.
os.pwrite(unflushed, new, 0)
open("{MOUNT}/unsynced", "w").write("lost")
"""


@pytest.fixture(scope="module")
def faulty(lab: Lab) -> Guest:
    return lab.start_guest("lab-faulty", role="storage", memory_mib=512, disk_gib=1, faulty_disk=True)


@pytest.fixture
def disk(faulty: Guest) -> Guest:
    if not faulty.running:
        faulty.boot()
    return faulty


def _read(guest: Guest, name: str) -> str:
    return guest.run(["cat", f"{MOUNT}/{name}"]).stdout


def _overwrite_and_cut_the_power(guest: Guest) -> None:
    guest.run(["/usr/bin/python3", "-c", _OVERWRITE])
    guest.power_off()
    guest.boot()
    assert _read(guest, "flushed") == _NEW
    assert guest.run(["test", "-e", f"{MOUNT}/unsynced"], check=False).returncode, "written back too early"


def test_a_power_cut_empties_the_disk_s_own_cache(disk: Guest) -> None:
    _overwrite_and_cut_the_power(disk)
    assert _read(disk, "unflushed") == _OLD


def test_a_plain_disk_keeps_what_bypassed_the_file_system_s_cache(storage: Guest) -> None:
    """So the test above would fail without the layers: this one shows what they are for."""
    _overwrite_and_cut_the_power(storage)
    assert _read(storage, "unflushed") == _NEW


def test_a_disk_fails_and_works_again(disk: Guest) -> None:
    disk.run(["sh", "-c", f"head -c 65536 /dev/urandom > {MOUNT}/data && sync {MOUNT}/data"])
    break_disk(disk)
    read = ["dd", f"if={MOUNT}/data", "of=/dev/null", "bs=4k", "iflag=direct"]
    write = ["dd", "if=/dev/zero", f"of={MOUNT}/data", "bs=4k", "count=1", "conv=notrunc", "oflag=direct"]
    for words in (read, write):
        failed = disk.run(words, check=False)
        assert failed.returncode and os.strerror(errno.EIO) in failed.stderr
    if not mend_disk(disk):
        disk.power_off()
        disk.boot()
    disk.run(read)
    disk.run(write)


def test_a_disk_that_fails_writes_only(disk: Guest) -> None:
    disk.run(["sh", "-c", f"head -c 65536 /dev/urandom > {MOUNT}/data && sync {MOUNT}/data"])
    break_disk(disk, reads=False)
    disk.run(["dd", f"if={MOUNT}/data", "of=/dev/null", "bs=4k", "iflag=direct"])
    sync = ["dd", "if=/dev/zero", f"of={MOUNT}/data", "bs=4k", "count=1", "conv=notrunc,fsync"]
    failed = disk.run(sync, check=False)
    assert failed.returncode and os.strerror(errno.EIO) in failed.stderr
    # The next power cut finds a sound disk again.
    disk.power_off()
    disk.boot()
    disk.run(sync)


def test_a_disk_is_filled_and_freed(disk: Guest) -> None:
    before = free_bytes(disk)
    fill_disk(disk, leave_bytes=1 << 20)
    assert free_bytes(disk) <= 1 << 20
    too_much = ["fallocate", "-l", str(8 << 20), f"{MOUNT}/too-much"]
    failed = disk.run(too_much, check=False)
    assert failed.returncode and os.strerror(errno.ENOSPC) in failed.stderr
    fill_disk(disk)
    assert free_bytes(disk) < 1 << 16
    free_disk(disk)
    free_disk(disk)
    assert free_bytes(disk) > before // 2
    disk.run(too_much)


def test_a_plain_disk_cannot_be_broken(storage: Guest) -> None:
    with pytest.raises(LabError, match="faulty_disk=True"):
        break_disk(storage)
