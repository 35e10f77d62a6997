"""What can go wrong with a guest's data disk: it forgets, fails, or is full.

A guest made with `faulty_disk=True` has two layers between the image and the file system:

    image (/dev/ubda)  ←  /dev/loop0  ←  /dev/mapper/holdfast  ←  file system

**It forgets.** User-mode Linux hands each sector that its kernel writes to the host's page cache at once,
where it outlives the guest: on such a disk only what the file system itself still held is lost by a power
cut, and a program that bypasses the page cache, or forgets its last fdatasync, loses nothing. The loop
device, buffered, is the write cache that real disks have: it keeps what it is given in the guest's
memory, and writes it to the image when it is told to flush (fsync, FUA), never before, unless a tenth of
the guest's memory is dirty. Periodic write-back is off (`dirty_writeback_centisecs` 0) and ext4 commits
its journal on demand only (`commit=3600`): what is there after `power_off` was asked for. A flush is also
passed on to the host's file (fsync). What is not modelled: sectors torn in the middle, and flushed data
that is lost. A discard takes effect at once.

Turned down: dm-log-writes with a replay on the host (its log is written after a flush was acknowledged);
an NBD server on the host with nbdkit's write-back cache (every sector would cross the virtual network);
a preloaded library under the guest's pwrite (needs a compiler).

**It fails** with EIO: `break_disk` swaps the table of the upper layer. Reads served from the file
system's cache go on, as with a real disk. ext4 that could not write its journal gives up for good:
`mend_disk` says so, and then only a boot brings it back, which also finds a whole disk again.

**It is full**: `fill_disk` allocates what is left to one file.
"""

from holdfast.lab.errors import LabError
from holdfast.lab.guest import Guest

MOUNT = "/var/lib/holdfast"
_FILLER = f"{MOUNT}/.filler"
_LOWER = "/dev/loop0"
_UPPER = "holdfast"


def break_disk(guest: Guest, *, reads: bool = True) -> None:
    """Every write and flush, and every read unless told otherwise, ends with EIO from now on."""
    _need_layers(guest)
    broken = "error" if reads else f"flakey {_LOWER} 0 0 3600 1 error_writes"
    _swap(guest, broken)


def mend_disk(guest: Guest) -> bool:
    """The disk works again. False if the file system has given up meanwhile: boot the guest."""
    _need_layers(guest)
    _swap(guest, f"linear {_LOWER} 0")
    probe = f"{MOUNT}/.probe"
    script = f"echo > {probe} && sync -f {probe} && rm {probe}"
    return guest.run(["sh", "-c", script], check=False).returncode == 0


def fill_disk(guest: Guest, leave_bytes: int = 0) -> None:
    """Leave so many bytes of the file system, about; whatever is written meanwhile takes its part."""
    # Piece by piece: the file system needs some room for the filler's own map, and others take theirs.
    script = f"""
    : > {_FILLER}
    at=0 piece=$((1 << 28))
    while [ $piece -ge 4096 ]; do
        free=$(($(stat -f -c '%a * %S' {MOUNT}) - {leave_bytes}))
        if [ $free -ge $piece ] && fallocate -o $at -l $piece {_FILLER} 2> /dev/null
        then at=$((at + piece)); else piece=$((piece / 2)); fi
    done
    """
    guest.run(["sh", "-c", script])


def free_disk(guest: Guest) -> None:
    """Take away what `fill_disk` put there; again: nothing happens."""
    guest.run(["rm", "-f", _FILLER])


def free_bytes(guest: Guest) -> int:
    """What is left of the file system."""
    blocks, block_bytes = guest.run(["stat", "-f", "-c", "%a %S", MOUNT]).stdout.split()
    return int(blocks) * int(block_bytes)


def _need_layers(guest: Guest) -> None:
    if not guest.spec.faulty_disk:
        raise LabError(f"the disk of '{guest.name}' cannot be broken: make it with faulty_disk=True")


def _swap(guest: Guest, target: str) -> None:
    """Put another table in force. Not flushed first: what is under way meets the new table."""
    table = f'"0 $(blockdev --getsz {_LOWER}) {target}"'
    script = f"""
    set -e
    dmsetup suspend --noflush --nolockfs {_UPPER}
    dmsetup load {_UPPER} --table {table}
    dmsetup resume --noudevsync {_UPPER}
    """
    guest.run(["sh", "-c", script])
