"""The edge to the file system: everything that a store does to a disk goes through here.

Three kinds of file, each with its own promise about a crash:

- data: bytes at offsets. Written bytes survive the process at once, the machine after `sync`.
- bits: a small file mapped into memory. A bit set survives the process at once (it is in the page
  cache), the machine after `sync`. Its blocks are allocated beforehand, because a full disk would
  otherwise end the process with SIGBUS.
- records: replaced whole (write new, fsync, exchange names, fsync the directory), durable on return. The
  new one is written over the one before the last: that needs no room.

Making a file and opening one are two calls: what should be there and is not must never be taken for empty.
All calls block, but for one whose name says `soon`; the caller decides on which thread they run.

Many writes at once have a twin in C (_files.c), which writes neighbours together.
"""

import ctypes
import errno
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from holdfast.base.device import Request
from holdfast.base.errors import Unavailable
from holdfast.base.loop import Loop
from holdfast.base.twins import twin

_quick = twin("holdfast.replicator._files")
_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_HERE, _EXCHANGE = -100, 0x02
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_TMPFS_MAGIC = 0x01021994
_STATFS_BYTES = 256
"""More than `struct statfs` takes; its first word is the file system's magic number."""
_IOV_MAX = os.sysconf("SC_IOV_MAX")
_ZEROS = bytes(1 << 20)


class SyncFailed(OSError):
    """What was written before and not synced may not be on disk, and no other sync would put it there: the
    kernel takes what it could not write for written.
    """


class DataFile:
    """A sparse file of fixed size. Offsets and lengths in bytes; errors are OSError."""

    def __init__(self, path: Path, size_bytes: int, make: bool) -> None:
        self._fd = _open(path, make)
        size = os.fstat(self._fd).st_size
        if size < size_bytes:
            if not make:
                self.close()
                raise OSError(errno.EIO, f"{path} has {size} bytes, not {size_bytes}")
            os.ftruncate(self._fd, size_bytes)
        self._read_flags = os.RWF_NOWAIT

    def read_cached(self, buffers: Sequence[memoryview], offset: int, length: int) -> bool:
        """Fill `buffers` if that takes no disk access; False (buffers undefined) if it would."""
        if self._read_flags < 0:
            return False
        try:
            return os.preadv(self._fd, buffers[:_IOV_MAX], offset, self._read_flags) == length
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return False
            if error.errno != errno.EOPNOTSUPP:
                raise
        # tmpfs does not know the flag, nor does it have a disk to wait for. Elsewhere, never ask again.
        self._read_flags = 0 if _magic(self._fd) == _TMPFS_MAGIC else -1
        return self.read_cached(buffers, offset, length)

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
        count = os.pwritev(self._fd, buffers if len(buffers) <= _IOV_MAX else buffers[:_IOV_MAX], offset)
        if count != length:
            rest = memoryview(b"".join(buffers))
            assert len(rest) == length, f"{len(rest)} bytes to write where {length} were said"
            while count < length:
                count += os.pwrite(self._fd, rest[count:], offset + count)

    def write_all(self, requests: list[Request]) -> tuple[int, OSError | None]:
        """`write` of each WRITE: how many, from the first on, are written, and what is wrong with the next.

        Without an error, the next is perhaps written in part, and is to be written again; or it was given up,
        and has no buffers any more.
        """
        if _quick is None:
            return one_by_one(self.write, requests)
        count, number = _quick.write_all(self._fd, requests)
        return count, OSError(number, os.strerror(number)) if number else None

    def zero(self, offset: int, length: int) -> None:
        """The range reads as zeros; whole blocks of the file system are given back."""
        while _libc.fallocate(self._fd, _KEEP_SIZE | _PUNCH_HOLE, offset, length) != 0:
            number = ctypes.get_errno()
            if number == errno.EOPNOTSUPP:
                self._write_zeros(offset, length)
                return
            if number != errno.EINTR:
                raise OSError(number, os.strerror(number))

    def _write_zeros(self, offset: int, length: int) -> None:
        """Where the file system has no holes."""
        end = offset + length
        while offset < end:
            offset += os.pwrite(self._fd, memoryview(_ZEROS)[: end - offset], offset)

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

    def sync_soon(
        self, loop: Loop, done: Callable[[None], None], failed: Callable[[BaseException], None]
    ) -> None:
        """`sync` without blocking; then `done(None)` or `failed(OSError)` on the loop."""
        loop.sync_file(self._fd, done, failed)

    def close(self) -> None:
        # A number kept after closing would be another file's before long.
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def one_by_one(
    write: Callable[[Sequence[memoryview], int, int], None], requests: list[Request]
) -> tuple[int, OSError | None]:
    """DataFile.write_all by a DataFile.write."""
    for count, request in enumerate(requests):
        if not request.buffers:
            return count, None
        try:
            write(request.buffers, request.offset, request.length)
        except OSError as error:
            return count, error
    return len(requests), None


class BitsFile:
    """`length` bytes of a file, mapped. Change `buffer` in place, or `write`; `sync` makes it durable."""

    def __init__(self, path: Path, length: int, make: bool) -> None:
        self._fd = _open(path, make)
        size = os.fstat(self._fd).st_size
        if size < length and not make:
            os.close(self._fd)
            raise OSError(errno.EIO, f"{path} has {size} bytes, not {length}")
        try:
            # Also when it is there: a copy of a store may have lost the blocks under its zeros.
            os.posix_fallocate(self._fd, 0, length)
            if size < length:
                os.fsync(self._fd)
            self.buffer: mmap.mmap | bytearray = mmap.mmap(self._fd, length)
        except OSError:
            os.close(self._fd)
            raise

    def read(self, at: int, length: int) -> bytes:
        """What is in `buffer` there, without making it a part of this process's memory."""
        return os.pread(self._fd, length, at)

    def write(self, at: int, content: bytes | bytearray) -> None:
        """The same the other way: its blocks are there, so no room is needed."""
        count = os.pwrite(self._fd, content, at)
        while count < len(content):
            count += os.pwrite(self._fd, memoryview(content)[count:], at + count)

    def let_go(self, first: int, end: int) -> None:
        """That part of `buffer`, from a page's start on, takes no memory here until it is used again."""
        if isinstance(self.buffer, mmap.mmap):
            self.buffer.madvise(mmap.MADV_DONTNEED, first, min(end, len(self.buffer)) - first)

    def sync(self) -> None:
        """Raises SyncFailed."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise SyncFailed(error.errno, error.strerror) from error

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            if isinstance(self.buffer, mmap.mmap):
                self.buffer.close()
            os.close(fd)


class Files:
    """One directory. Names may hold one `/`; directories are made as needed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def make(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        _sync_directory(self.directory.parent)

    def data(self, name: str, size_bytes: int, make: bool = False) -> DataFile:
        """Raises FileNotFoundError without `make`, if it is not there; OSError if it is too short."""
        return DataFile(self._path(name, make), size_bytes, make)

    def bits(self, name: str, length: int, make: bool = False) -> BitsFile:
        """As `data`. A new one is all zeros."""
        return BitsFile(self._path(name, make), length, make)

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
        path = self._path(name, make=True)
        fresh = path.with_name(path.name + ".new")
        with open(_open(fresh, make=True), "wb") as file:
            file.write(content)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        _exchange(fresh, path)
        _sync_directory(path.parent)

    def sync_names(self, folder: str = "") -> None:
        """Files made or removed in `folder` stay so after a crash."""
        path = self.directory / folder
        if path.is_dir():
            _sync_directory(path)

    def _path(self, name: str, make: bool) -> Path:
        path = self.directory / name
        if make and not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            _sync_directory(path.parent.parent)
        return path


class ThrownAway(Files):
    """Stands where the files of a store were. By their names, what is still under way would find those of the
    next one.
    """

    def __init__(self) -> None:
        super().__init__(Path(os.devnull))

    def __getattribute__(self, name: str) -> Any:
        raise Unavailable("STORE_THROWN_AWAY", "this copy was thrown away: another is made in its place.")


def no_room(error: BaseException) -> bool:
    """The disk, or what is allowed of it, is full: what it holds is as good as it was."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM


def _open(path: Path, make: bool) -> int:
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o600)


def _magic(fd: int) -> int:
    """The file system's magic number."""
    answer = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc.fstatfs(fd, answer) != 0:
        return 0
    return int.from_bytes(answer.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder)


def _exchange(fresh: Path, path: Path) -> None:
    """Each takes the other's name, at once. If there is no other yet, or no such call, it is a renaming."""
    if _libc.renameat2(_HERE, os.fsencode(fresh), _HERE, os.fsencode(path), _EXCHANGE) != 0:
        number = ctypes.get_errno()
        if number not in (errno.ENOENT, errno.EINVAL, errno.ENOSYS):
            raise OSError(number, os.strerror(number), str(path))
        fresh.rename(path)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
