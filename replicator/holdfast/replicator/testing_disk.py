"""A disk in memory that forgets: `Files` whose unsynced bytes and names may or may not survive a power cut.

Every file operation is a step that a test can count, fail or stop at (`on_step`). A killed process loses
nothing that it wrote (`Disk.files` again gives the same content); `power_cut` loses, by a seed, any part of
what was not synced: 512-byte sectors of data, pages of bitmaps, names.
"""

import errno
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

from holdfast.replicator.files import BitsFile, DataFile, Files

SECTOR_BYTES = 512
_HOLE_BYTES = 4096


class PowerCut(BaseException):
    """Raised by a test's `on_step`: nothing after this happened. Not an Exception: nobody handles it."""


class Inode:
    """A file's bytes, and what of them is on disk."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.durable = bytearray()

    def sync(self) -> None:
        self.durable[:] = self.content

    def cut(self, chance: Random) -> None:
        """Each differing sector is old or new."""
        short = len(self.content) - len(self.durable)
        if short > 0:
            if chance.random() < 0.5:
                del self.content[len(self.durable) :]
            else:
                self.durable.extend(bytes(short))
        for at in range(0, len(self.content), 1 << 16):
            if self.content[at : at + (1 << 16)] != self.durable[at : at + (1 << 16)]:
                self._cut_sectors(chance, at, min(at + (1 << 16), len(self.content)))
        self.durable[:] = self.content

    def _cut_sectors(self, chance: Random, first: int, end: int) -> None:
        for at in range(first, end, SECTOR_BYTES):
            if chance.random() < 0.5:
                self.content[at : at + SECTOR_BYTES] = self.durable[at : at + SECTOR_BYTES]


class Disk:
    """One host's disk. `on_step(kind, name)` is called before every operation, and may raise."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.inodes: dict[str, Inode] = {}
        self.durable_names: dict[str, Inode] = {}
        self.on_step: Callable[[str, str], None] = lambda _kind, _name: None
        self.cold_reads = True
        """Now and then a read is not in the page cache."""

    def files(self) -> "DiskFiles":
        return DiskFiles(self)

    def power_cut(self) -> None:
        kept: dict[str, Inode] = {}
        for name in sorted(self.inodes.keys() | self.durable_names.keys()):
            old, new = self.durable_names.get(name), self.inodes.get(name)
            inode = old if old is not new and self.chance.random() < 0.5 else new
            if inode is not None:
                kept[name] = inode
        for inode in dict.fromkeys(kept.values()):
            inode.cut(self.chance)
        self.inodes, self.durable_names = dict(kept), dict(kept)

    def content(self, name: str) -> bytes:
        return bytes(self.inodes[name].content)

    def durable(self, name: str) -> bytes:
        return bytes(self.durable_names[name].durable)

    def sync_names(self, folder: str) -> None:
        for name in self.inodes.keys() | self.durable_names.keys():
            if _folder(name) == folder:
                if name in self.inodes:
                    self.durable_names[name] = self.inodes[name]
                else:
                    del self.durable_names[name]


class DiskFiles(Files):
    """holdfast.replicator.files.Files on a Disk."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(Path("/disk"))
        self._disk = disk

    def make(self) -> None:
        self._disk.on_step("make", "")

    def data(self, name: str, size_bytes: int, make: bool = False) -> DataFile:
        return _DiskData(self._disk, name, self._open(name, size_bytes, make))

    def bits(self, name: str, length: int, make: bool = False) -> BitsFile:
        inode = self._open(name, length, make)
        if len(inode.durable) < length:
            inode.sync()
        return _DiskBits(self._disk, name, inode)

    def names(self, folder: str) -> list[str]:
        prefix = f"{folder}/"
        return sorted(name.removeprefix(prefix) for name in self._disk.inodes if name.startswith(prefix))

    def remove(self, name: str) -> None:
        self._disk.on_step("remove", name)
        self._disk.inodes.pop(name, None)

    def read_record(self, name: str) -> bytes | None:
        return self._disk.content(name) if name in self._disk.inodes else None

    def replace_record(self, name: str, content: bytes) -> None:
        self._disk.on_step("write record", name)
        inode = Inode()
        inode.content[:] = content
        inode.sync()
        self._disk.inodes[name] = inode
        # Renamed, and the directory not synced yet.
        self._disk.on_step("sync record", name)
        self._disk.sync_names(_folder(name))

    def sync_names(self, folder: str = "") -> None:
        self._disk.on_step("sync names", folder)
        self._disk.sync_names(folder)

    def _open(self, name: str, length: int, make: bool) -> Inode:
        self._disk.on_step("make" if make else "open", name)
        inode = self._disk.inodes.get(name)
        if inode is None:
            if not make:
                raise FileNotFoundError(errno.ENOENT, f"no {name}")
            inode = self._disk.inodes[name] = Inode()
        short = length - len(inode.content)
        if short > 0:
            if not make:
                raise OSError(errno.EIO, f"{name} is too short")
            inode.content.extend(bytes(short))
        return inode


class _DiskData(DataFile):
    def __init__(self, disk: Disk, name: str, inode: Inode) -> None:
        self._disk = disk
        self._name = name
        self._inode = inode
        self._open = True

    def read_cached(self, buffers: Sequence[memoryview], offset: int, length: int) -> bool:
        if self._disk.cold_reads and self._disk.chance.random() < 0.2:
            return False
        content, at = self._read(offset, length), 0
        for buffer in buffers:
            buffer[:] = content[at : at + len(buffer)]
            at += len(buffer)
        return True

    def read(self, offset: int, length: int) -> bytearray:
        return self._read(offset, length)

    def _read(self, offset: int, length: int) -> bytearray:
        assert self._open, f"{self._name} is closed"
        self._disk.on_step("read", self._name)
        return self._inode.content[offset : offset + length]

    def write(self, buffers: Sequence[memoryview], offset: int, length: int) -> None:
        assert self._open, f"{self._name} is closed"
        self._disk.on_step("write", self._name)
        content = b"".join(buffers)
        assert len(content) == length
        self._inode.content[offset : offset + length] = content

    def zero(self, offset: int, length: int) -> None:
        assert self._open, f"{self._name} is closed"
        self._disk.on_step("zero", self._name)
        self._inode.content[offset : offset + length] = bytes(length)

    def allocated(self, offset: int, end: int) -> Iterator[tuple[int, int]]:
        zeros = bytes(_HOLE_BYTES)
        for block in range(offset // _HOLE_BYTES * _HOLE_BYTES, end, _HOLE_BYTES):
            start, stop = max(block, offset), min(block + _HOLE_BYTES, end)
            if self._inode.content[start:stop] != zeros[: stop - start]:
                yield start, stop

    def sync(self) -> None:
        assert self._open, f"{self._name} is closed"
        self._disk.on_step("sync", self._name)
        self._inode.sync()

    def close(self) -> None:
        self._open = False


class _DiskBits(BitsFile):
    def __init__(self, disk: Disk, name: str, inode: Inode) -> None:
        self._disk = disk
        self._name = name
        self._inode = inode
        self.buffer = inode.content

    def sync(self) -> None:
        self._disk.on_step("sync", self._name)
        self._inode.sync()

    def close(self) -> None:
        # What is set after closing must not count.
        self.buffer = bytearray()


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
