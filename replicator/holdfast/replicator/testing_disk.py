"""A disk in memory that forgets: `Files` whose unsynced bytes and names may or may not survive a power cut.

Every file operation is a step that a test can count, fail or stop at (`on_step`). A killed process loses
nothing that it wrote (`Disk.files` again gives the same content); `power_cut` loses, by a seed, any part of
what was not synced: 512-byte sectors of data, pages of bitmaps, names.

Data files are sparse, in pages that are never changed in place: a sync moves pointers, and whoever compares
two hosts looks at the pages that were ever written. So a volume's size costs nothing.
"""

import errno
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

from holdfast.base.device import Request
from holdfast.base.loop import Loop
from holdfast.replicator.files import BitsFile, DataFile, Files, SyncFailed, one_by_one

SECTOR_BYTES = 512
PAGE_BYTES = 4096
ZERO_PAGE = bytes(PAGE_BYTES)


class PowerCut(BaseException):
    """Raised by a test's `on_step`: nothing after this happened. Not an Exception: nobody handles it."""


class Sparse:
    """Bytes of a data file, as far as a bytearray's manners are needed. `pages` has no page of zeros that
    was never written; `touched` are the pages written since somebody cleared it.
    """

    __slots__ = ("length", "pages", "touched")

    def __init__(self, length: int = 0) -> None:
        self.length = length
        self.pages: dict[int, bytes] = {}
        self.touched: set[int] = set()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, at: slice) -> bytearray:
        start, stop, _step = at.indices(self.length)
        return self.read(start, stop - start)

    def __setitem__(self, at: slice, content: bytes | bytearray | memoryview) -> None:
        start, stop, _step = at.indices(self.length)
        assert stop - start == len(content), "a data file keeps its size"
        self.write(start, bytes(content))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sparse):
            return bytes(self) == other
        return self.length == other.length and not any(self.differing(other))

    __hash__ = None  # type: ignore[assignment]

    def __bytes__(self) -> bytes:
        return bytes(self.read(0, self.length))

    def differing(self, other: "Sparse") -> Iterator[int]:
        """Numbers of the pages whose bytes differ, ascending."""
        mine, theirs = self.pages, other.pages
        for page in sorted(mine.keys() | theirs.keys()):
            one, two = mine.get(page, ZERO_PAGE), theirs.get(page, ZERO_PAGE)
            if one is not two and one != two:
                yield page

    def read(self, offset: int, length: int) -> bytearray:
        page, inside = divmod(offset, PAGE_BYTES)
        if inside + length <= PAGE_BYTES:
            return bytearray(self.pages.get(page, ZERO_PAGE)[inside : inside + length])
        stop, pages = -(-(offset + length) // PAGE_BYTES), self.pages
        found = bytearray().join([pages.get(number, ZERO_PAGE) for number in range(page, stop)])
        return found if len(found) == length else found[inside : inside + length]

    def write(self, offset: int, content: bytes) -> None:
        at, length, pages = 0, len(content), self.pages
        while at < length:
            page, inside = divmod(offset + at, PAGE_BYTES)
            count = min(PAGE_BYTES - inside, length - at)
            piece = content[at : at + count]
            if count < PAGE_BYTES:
                old = pages.get(page, ZERO_PAGE)
                piece = old[:inside] + piece + old[inside + count :]
            pages[page] = piece
            self.touched.add(page)
            at += count

    def zero(self, offset: int, length: int) -> None:
        end, pages = offset + length, self.pages
        for page in range(offset // PAGE_BYTES, -(-end // PAGE_BYTES)):
            if page in pages:
                start = page * PAGE_BYTES
                first, stop = max(start, offset) - start, min(start + PAGE_BYTES, end) - start
                old = pages.pop(page)
                if stop - first < PAGE_BYTES:
                    pages[page] = old[:first] + bytes(stop - first) + old[stop:]
                self.touched.add(page)

    def resize(self, length: int) -> None:
        assert length >= self.length or not self.pages, "only a file without bytes gets shorter"
        self.length = length

    def take(self, page: int, other: "Sparse") -> None:
        """Make `page` what it is in `other`."""
        content = other.pages.get(page)
        if content is None:
            self.pages.pop(page, None)
        else:
            self.pages[page] = content


class Inode:
    """A bitmap's or a record's bytes, and what of them is on disk. `dropped` are pages that a failed sync did
    not write, and that no other will while they are as they were then.
    """

    def __init__(self) -> None:
        self.content = bytearray()
        self.durable = bytearray()
        self.dropped: dict[int, bytes] = {}

    def extend(self, length: int) -> None:
        if len(self.content) < length:
            self.content.extend(bytes(length - len(self.content)))

    def sync(self) -> None:
        if self.dropped:
            self.dropped = {at: page for at, page in self.dropped.items() if self._page(at) == page}
        old = {at: self.durable[at : at + PAGE_BYTES] for at in self.dropped}
        self.durable[:] = self.content
        for at, page in old.items():
            self.durable[at : at + len(page)] = page

    def drop(self) -> None:
        """A sync has failed: as Linux does, what it could not write counts as written."""
        for at in range(0, len(self.durable), PAGE_BYTES):
            if self._page(at) != self.durable[at : at + PAGE_BYTES]:
                self.dropped[at] = self._page(at)

    def _page(self, at: int) -> bytes:
        return bytes(self.content[at : at + PAGE_BYTES])

    def cut(self, chance: Random) -> None:
        """Each differing sector is old or new; of a page that was dropped, old."""
        for at, page in self.dropped.items():
            if self._page(at) == page:
                self.content[at : at + len(page)] = self.durable[at : at + len(page)]
        self.dropped.clear()
        short = len(self.content) - len(self.durable)
        if short > 0:
            if chance.random() < 0.5:
                del self.content[len(self.durable) :]
            else:
                self.durable.extend(bytes(short))
        if self.content != self.durable:
            for at in range(0, len(self.content), SECTOR_BYTES):
                if chance.random() < 0.5:
                    self.content[at : at + SECTOR_BYTES] = self.durable[at : at + SECTOR_BYTES]
        self.durable[:] = self.content


class DataInode:
    """The same for a data file. `content.touched` are the pages that a sync has to write; `dropped` those
    that a failed one did not write, and that no other will, unless they are written again.
    """

    def __init__(self) -> None:
        self.content = Sparse()
        self.durable = Sparse()
        self.dropped: set[int] = set()

    def extend(self, length: int) -> None:
        if self.content.length < length:
            self.content.resize(length)

    def sync(self) -> None:
        content, durable = self.content, self.durable
        durable.length = content.length
        for page in content.touched:
            durable.take(page, content)
        self.dropped -= content.touched
        content.touched.clear()

    def drop(self) -> None:
        """A sync has failed: as Linux does, what it could not write counts as written."""
        self.dropped |= self.content.touched
        self.content.touched.clear()

    def cut(self, chance: Random) -> None:
        content, durable = self.content, self.durable
        if content.length > durable.length:
            if chance.random() < 0.5 and not durable.length:
                content.pages.clear()
                content.touched.clear()
                content.length = 0
            durable.length = content.length
        for page in sorted(content.touched):
            new, old = content.pages.get(page, ZERO_PAGE), durable.pages.get(page, ZERO_PAGE)
            kept = b"".join(
                (old if chance.random() < 0.5 else new)[at : at + SECTOR_BYTES]
                for at in range(0, PAGE_BYTES, SECTOR_BYTES)
            )
            content.pages[page] = kept
            durable.pages[page] = kept
        for page in self.dropped - content.touched:
            content.take(page, durable)
        self.dropped.clear()
        content.touched.clear()


class Disk:
    """One host's disk. `on_step(kind, name)` is called before every operation, and may raise."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.inodes: dict[str, Inode | DataInode] = {}
        self.durable_names: dict[str, Inode | DataInode] = {}
        self.on_step: Callable[[str, str], None] = lambda _kind, _name: None
        self.on_data: Callable[[str, int, bytes], None] = lambda _name, _offset, _content: None
        """After bytes were written to a data file (not for zeros)."""
        self.cold_reads = True
        """Now and then a read is not in the page cache."""

    def files(self) -> "DiskFiles":
        return DiskFiles(self)

    def power_cut(self) -> None:
        kept: dict[str, Inode | DataInode] = {}
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

    def data(self, name: str = "data") -> DataInode:
        """A data file's inode, by its name now."""
        inode = self.inodes[name]
        assert isinstance(inode, DataInode)
        return inode

    def sync_names(self, folder: str) -> None:
        for name in sorted(self.inodes.keys() | self.durable_names.keys()):
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
        inode = self._open(name, size_bytes, make, DataInode)
        assert isinstance(inode, DataInode)
        return _DiskData(self._disk, name, inode)

    def bits(self, name: str, length: int, make: bool = False) -> BitsFile:
        inode = self._open(name, length, make, Inode)
        assert isinstance(inode, Inode)
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

    def _open(
        self, name: str, length: int, make: bool, kind: type[Inode] | type[DataInode]
    ) -> Inode | DataInode:
        self._disk.on_step("make" if make else "open", name)
        inode = self._disk.inodes.get(name)
        if inode is None:
            if not make:
                raise FileNotFoundError(errno.ENOENT, f"no {name}")
            inode = self._disk.inodes[name] = kind()
        if length > len(inode.content):
            if not make:
                raise OSError(errno.EIO, f"{name} is too short")
            inode.extend(length)
        return inode


class _DiskData(DataFile):
    def __init__(self, disk: Disk, name: str, inode: DataInode) -> None:
        self._disk = disk
        self._name = name
        self._inode = inode
        self._open = True

    def read_cached(self, buffers: Sequence[memoryview], offset: int, length: int) -> bool:
        if self._disk.cold_reads and self._disk.chance.random() < 0.2:
            return False
        content, at = self._read(offset, length), 0
        for buffer in buffers:
            buffer[:] = content if len(buffer) == length else content[at : at + len(buffer)]
            at += len(buffer)
        return True

    def read(self, offset: int, length: int) -> bytearray:
        return self._read(offset, length)

    def _read(self, offset: int, length: int) -> bytearray:
        assert self._open, f"{self._name} is closed"
        self._disk.on_step("read", self._name)
        return self._inode.content.read(offset, length)

    def write(self, buffers: Sequence[memoryview], offset: int, length: int) -> None:
        assert self._open, f"{self._name} is closed"
        self._disk.on_step("write", self._name)
        content = b"".join(buffers)
        assert len(content) == length
        self._inode.content.write(offset, content)
        self._disk.on_data(self._name, offset, content)

    def write_all(self, requests: list[Request]) -> tuple[int, OSError | None]:
        return one_by_one(self.write, requests)

    def zero(self, offset: int, length: int) -> None:
        assert self._open, f"{self._name} is closed"
        self._disk.on_step("zero", self._name)
        self._inode.content.zero(offset, length)

    def allocated(self, offset: int, end: int) -> Iterator[tuple[int, int]]:
        pages = self._inode.content.pages
        first, stop = offset // PAGE_BYTES, -(-end // PAGE_BYTES)
        for page in sorted(page for page in pages if first <= page < stop):
            if pages[page] != ZERO_PAGE:
                yield max(page * PAGE_BYTES, offset), min((page + 1) * PAGE_BYTES, end)

    def sync(self) -> None:
        assert self._open, f"{self._name} is closed"
        try:
            self._disk.on_step("sync", self._name)
        except OSError:
            self._inode.drop()
            raise
        self._inode.sync()

    def sync_soon(
        self, loop: Loop, done: Callable[[None], None], failed: Callable[[BaseException], None]
    ) -> None:
        loop.in_pool(self.sync, done, failed)

    def close(self) -> None:
        self._open = False


class _DiskBits(BitsFile):
    def __init__(self, disk: Disk, name: str, inode: Inode) -> None:
        self._disk = disk
        self._name = name
        self._inode = inode
        self.buffer = inode.content

    def read(self, at: int, length: int) -> bytes:
        return bytes(self.buffer[at : at + length])

    def write(self, at: int, content: bytes | bytearray) -> None:
        self.buffer[at : at + len(content)] = content

    def sync(self) -> None:
        try:
            self._disk.on_step("sync", self._name)
        except OSError as error:
            self._inode.drop()
            raise SyncFailed(*error.args) from error
        self._inode.sync()

    def close(self) -> None:
        # What is set after closing must not count.
        self.buffer = bytearray()


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
