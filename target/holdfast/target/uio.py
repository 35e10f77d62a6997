"""A TCMU device as user space sees it: a UIO descriptor, its mapping, and two switches in configfs.

The kernel makes /dev/uioN and its /sys/class/uio entry before the write that enables a backstore
returns, so a device that is not there now is not on its way: there is nothing to wait for here.

Opening always starts with an empty ring (see `ring.py` for why nothing can be taken over from a
predecessor): open, which is exclusive and so proves that no other process serves it; block the device;
reset the ring, which answers what was in flight with BUSY, and initiators send it again; map; unblock.
"""

import contextlib
import errno
import mmap
import os
from pathlib import Path
from typing import Protocol

from holdfast.base.errors import Unavailable

SYS_UIO = Path("/sys/class/uio")
DEV = Path("/dev")
RESET_WITH_BUSY = "1"
_SIGNAL = bytes(4)


class UioLike(Protocol):
    """What a ring needs of `Uio`."""

    fd: int

    @property
    def memory(self) -> "mmap.mmap | memoryview | bytearray": ...

    def check(self) -> None: ...

    def signal(self) -> None: ...

    def close(self) -> None: ...


class Uio:
    """An open device: `memory` is its mapping, `fd` becomes readable when commands have come."""

    def __init__(self, fd: int, memory: mmap.mmap) -> None:
        self.fd = fd
        self.memory = memory

    def check(self) -> None:
        """Raises Unavailable UIO_GONE if somebody removed the backstore: its descriptor says more than
        that it is readable.
        """
        try:
            os.read(self.fd, 4)
        except BlockingIOError:
            return
        except OSError as error:
            raise Unavailable("UIO_GONE", f"The backstore went away under its worker: {error}.") from error

    def signal(self) -> None:
        """Tell the kernel that completions are in the ring. It takes them before this returns."""
        os.write(self.fd, _SIGNAL)

    def close(self) -> None:
        """Let go. The kernel keeps what is in flight until a successor resets the ring."""
        # A request somewhere may still have a buffer in it: then the mapping goes when that does.
        with contextlib.suppress(BufferError):
            self.memory.close()
        os.close(self.fd)


def open_uio(configfs: str, name: str, sys_uio: Path = SYS_UIO, dev: Path = DEV) -> Uio:
    """Open the device called `name` and empty its ring.

    Args:
        configfs: the backstore's directory, .../target/core/user_<n>/<volume uid>.
        name: what /sys/class/uio/uioN/name says: tcm-user/<n>/<volume uid>/<config>.

    Raises:
        Unavailable: UIO_ABSENT, UIO_BUSY (another process has it open), or UIO_FAILED.
    """
    node = _find(name, sys_uio)
    try:
        fd = os.open(dev / node, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise Unavailable("UIO_BUSY", f"Another process still serves {name} ({node}).") from error
        raise Unavailable("UIO_FAILED", f"{name} ({node}) cannot be opened: {error}.") from error
    try:
        action = Path(configfs) / "action"
        (action / "block_dev").write_text("1")
        (action / "reset_ring").write_text(RESET_WITH_BUSY)
        size = int((sys_uio / node / "maps" / "map0" / "size").read_text(), 16)
        memory = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        (action / "block_dev").write_text("0")
    except (OSError, ValueError) as error:
        os.close(fd)
        raise Unavailable("UIO_FAILED", f"The ring of {name} ({node}) cannot be had: {error}.") from error
    return Uio(fd, memory)


def _find(name: str, sys_uio: Path) -> str:
    for entry in sorted(sys_uio.glob("uio*")):
        try:
            if (entry / "name").read_text().strip() == name:
                return entry.name
        except OSError:
            continue  # it went away between the two
    raise Unavailable("UIO_ABSENT", f"There is no UIO device named {name}: its backstore is not enabled.")
