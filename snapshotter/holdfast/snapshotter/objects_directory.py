"""Objects as files below a directory: the default on one machine, 500 MB/s and more.

A put writes a temporary file, syncs it, links it under its name and syncs the directory: an object is
there whole or not at all, also after a power cut. `link` (not rename) makes a name that is taken fail.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from holdfast.base.errors import AlreadyExists, HoldfastError
from holdfast.snapshotter.objects import (
    ObjectInfo,
    check_name,
    full,
    missing,
    refused,
    truncated,
    unreachable,
)

_TEMPORARY = ".tmp-"
"""No object's name starts with a dot: a listing tells what a killed put left behind."""


class DirectoryStore:
    """An ObjectStore in `root`, which is made if it is not there (its parent must be)."""

    def __init__(self, root: Path) -> None:
        self._root = root
        with self._errors():
            root.mkdir(exist_ok=True)

    def put(self, name: str, data: bytes | bytearray) -> None:
        path = self._path(name)
        with self._errors():
            self._make_folder(path.parent)
            temporary = path.parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
            try:
                _write_synced(temporary, data)
                try:
                    os.link(temporary, path)
                except FileExistsError:
                    if path.read_bytes() != data:
                        raise AlreadyExists(
                            "OBJECT_EXISTS", f"Object {name} exists with other bytes: names are used once."
                        ) from None
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(path.parent)

    def get(self, name: str) -> bytes:
        path = self._path(name)
        with self._errors(name):
            return path.read_bytes()

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        path = self._path(name)
        with self._errors(name), open(path, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), length, offset)
        if len(data) != length:
            raise truncated(name, offset, length, len(data))
        return data

    def get_pieces(self, name: str, offset: int, lengths: Sequence[int]) -> Iterator[bytes]:
        for length in lengths:
            yield self.get_range(name, offset, length)
            offset += length

    def size(self, name: str) -> int:
        path = self._path(name)
        with self._errors(name):
            return path.stat().st_size

    def delete(self, name: str) -> None:
        path = self._path(name)
        with self._errors():
            path.unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        names = []
        for folder, _, files in os.walk(self._root / prefix.rpartition("/")[0]):
            for file in files:
                name = (Path(folder) / file).relative_to(self._root).as_posix()
                if name.startswith(prefix) and not file.startswith("."):
                    names.append(name)
        for name in sorted(names):
            with contextlib.suppress(FileNotFoundError):  # deleted since
                stat = (self._root / name).stat()
                yield ObjectInfo(name, stat.st_size, stat.st_mtime)

    def close(self) -> None:
        """Nothing is held open."""

    def _path(self, name: str) -> Path:
        return self._root / check_name(name)

    def _make_folder(self, folder: Path) -> None:
        """Make `folder` and sync each parent that got a new entry."""
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)

    @contextlib.contextmanager
    def _errors(self, name: str = "") -> Iterator[None]:
        try:
            yield
        except HoldfastError:
            raise
        except OSError as error:
            where = str(self._root)
            if name and error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR) and self._root.is_dir():
                raise missing(name, where) from error
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise full(where, error.strerror) from error
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise refused(where, error.strerror) from error
            raise unreachable(where, error.strerror) from error


def _write_synced(path: Path, data: bytes | bytearray) -> None:
    with open(path, "xb", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
