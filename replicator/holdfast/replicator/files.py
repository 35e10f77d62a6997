"""The edge to the file system: everything that a store does to a disk goes through here.

Three kinds of file, each with its own promise about a crash:

- data: bytes at offsets. Written bytes survive the process at once, the machine after `sync`.
- bits: a small file mapped into memory. A bit set survives the process at once (it is in the page
  cache), the machine after `sync`. Its blocks are allocated beforehand, because a full disk would
  otherwise end the process with SIGBUS.
- records: replaced whole (write new, fsync, rename, fsync the directory), durable on return.

All calls block; the caller decides on which thread they run.
"""

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class DataFile:
    """A sparse file of fixed size. Offsets and lengths in bytes; errors are OSError."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._fd).st_size < size_bytes:
            os.ftruncate(self._fd, size_bytes)
        self._size_bytes = size_bytes

    def read_cached(self, buffers: Sequence[memoryview], offset: int, length: int) -> bool:
        """Fill `buffers` if that takes no disk access; False (buffers undefined) if it would."""
        try:
            return os.preadv(self._fd, buffers, offset, os.RWF_NOWAIT) == length
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                return False
            raise

    def read(self, offset: int, length: int) -> bytearray:
        data = bytearray(length)
        view, done = memoryview(data), 0
        while done < length:
            count = os.preadv(self._fd, [view[done:]], offset + done)
            if count == 0:
                raise OSError(errno.EIO, f"data file ends at {offset + done}, before {offset + length}")
            done += count
        return data

    def write(self, buffers: Sequence[memoryview], offset: int, length: int) -> None:
        count = os.pwritev(self._fd, buffers, offset)
        if count != length:
            rest = memoryview(b"".join(buffers))
            while count < length:
                count += os.pwrite(self._fd, rest[count:], offset + count)

    def zero(self, offset: int, length: int) -> None:
        """The range reads as zeros; whole blocks of the file system are given back."""
        if _libc.fallocate(self._fd, _KEEP_SIZE | _PUNCH_HOLE, offset, length) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def allocated(self, offset: int, end: int) -> Iterator[tuple[int, int]]:
        """Half-open byte ranges within [offset, end) that may hold other than zeros, ascending."""
        while offset < end:
            try:
                start = os.lseek(self._fd, offset, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            if start >= end:
                return
            offset = os.lseek(self._fd, start, os.SEEK_HOLE)
            yield start, min(offset, end)

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


class BitsFile:
    """`length` bytes of a file, mapped. Change `buffer` in place; `sync` makes it durable."""

    def __init__(self, path: Path, length: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._fd).st_size < length:
            os.posix_fallocate(self._fd, 0, length)
            os.fsync(self._fd)
        self.buffer = mmap.mmap(self._fd, length)

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def close(self) -> None:
        self.buffer.close()
        os.close(self._fd)


class Files:
    """One directory. Names may hold one `/`; directories are made as needed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def make(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        _sync_directory(self.directory.parent)

    def data(self, name: str, size_bytes: int) -> DataFile:
        return DataFile(self._parent_made(name), size_bytes)

    def bits(self, name: str, length: int) -> BitsFile:
        return BitsFile(self._parent_made(name), length)

    def names(self, folder: str) -> list[str]:
        path = self.directory / folder
        return sorted(child.name for child in path.iterdir()) if path.is_dir() else []

    def remove(self, name: str) -> None:
        (self.directory / name).unlink(missing_ok=True)

    def read_record(self, name: str) -> bytes | None:
        try:
            return (self.directory / name).read_bytes()
        except FileNotFoundError:
            return None

    def replace_record(self, name: str, content: bytes) -> None:
        path = self._parent_made(name)
        fresh = path.with_name(path.name + ".new")
        with open(fresh, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        _sync_directory(path.parent)

    def sync_names(self, folder: str = "") -> None:
        """Files made or removed in `folder` stay so after a crash."""
        path = self.directory / folder
        if path.is_dir():
            _sync_directory(path)

    def _parent_made(self, name: str) -> Path:
        path = self.directory / name
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
            _sync_directory(path.parent.parent)
        return path


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
