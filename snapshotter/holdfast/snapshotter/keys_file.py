"""Keys in a directory: `<user>/<name>.key` holds 32 bytes, in base64 on one line.

    (umask 077; mkdir -p keys/alice; head -c 32 /dev/urandom | base64 > keys/alice/default.key)

A key is replaced by moving it to `<name>.key.1` (or .2 …; all are tried for opening, only `<name>.key`
wraps) and making a new one. Files are read whenever they are needed: nothing is to be restarted. Whatever
others than this process's user and root could read or change is not used.

A wrapped key, 69 bytes:

    1 byte  version, 1
    8       fingerprint of the key that wrapped it: SHA-256("holdfast key 1" and the key), its first 8 bytes
    12      nonce
    32      AES-256-GCM ciphertext
    16      tag; the associated data is the context
"""

import base64
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from holdfast.base.errors import BadInput
from holdfast.base.ids import check_name
from holdfast.snapshotter.cipher import KEY_BYTES, Tampered, fingerprint, seal, unseal
from holdfast.snapshotter.key_errors import KeyUnavailable

_VERSION = b"\x01"
_HEAD_BYTES = 9
_FILE_MAX_BYTES = 1024


class FileKeys:
    """A KeyService on `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def wrap(self, user: str, name: str, context: bytes, secret: bytes) -> bytes:
        key = self._read(self._path(user, name))
        return _VERSION + fingerprint(key) + seal(key, secret, context)

    def unwrap(self, user: str, name: str, context: bytes, wrapped: bytes) -> bytes:
        head, sealed = wrapped[:_HEAD_BYTES], wrapped[_HEAD_BYTES:]
        path = self._path(user, name)
        for key in self._all(path):
            if head == _VERSION + fingerprint(key):
                try:
                    return unseal(key, sealed, context)
                except Tampered as error:
                    raise KeyUnavailable(
                        f"What key {name!r} of user {user} is to open was not made by it for this.", lost=True
                    ) from error
        raise KeyUnavailable(
            f"Key {name!r} of user {user} is another than the one that is needed: put that at {path}.1.",
            lost=True,
        )

    def _path(self, user: str, name: str) -> Path:
        try:
            return self._directory / check_name("user", user) / f"{check_name('key', name)}.key"
        except BadInput as error:
            raise KeyUnavailable(error.message, lost=True) from error

    def _all(self, path: Path) -> Iterator[bytes]:
        """The key at `path`, then those that it has replaced. Raises KeyUnavailable if there is none."""
        older = sorted(path.parent.glob(f"{path.name}.*")) if path.parent.is_dir() else []
        if path.exists() or not older:
            yield self._read(path)
        for one in older:
            yield self._read(one)

    def _read(self, path: Path) -> bytes:
        try:
            for folder in (self._directory, path.parent):
                _check_private(folder, folder.stat())
            with open(path, "rb") as file:
                # Of what was opened, not of what the name leads to by then.
                _check_private(path, os.fstat(file.fileno()))
                text = file.read(_FILE_MAX_BYTES)
        except FileNotFoundError as error:
            raise KeyUnavailable(f"There is no key {path}.", lost=True) from error
        except OSError as error:
            raise KeyUnavailable(f"Key {path} cannot be read: {error.strerror}.") from error
        try:
            key = base64.b64decode(text.strip(), validate=True)
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise KeyUnavailable(f"Key {path} does not hold {KEY_BYTES} bytes in base64: mend the file.")
        return key


def _check_private(path: Path, found: os.stat_result) -> None:
    if found.st_uid not in (os.geteuid(), 0):
        raise KeyUnavailable(f"Key {path} belongs to user number {found.st_uid}: chown it to ours or root.")
    # Others may see the names in a directory; who may write it could put keys of their own there.
    forbidden = 0o022 if stat.S_ISDIR(found.st_mode) else 0o077
    if found.st_mode & forbidden:
        raise KeyUnavailable(
            f"{path} has mode {stat.S_IMODE(found.st_mode):o}: others can use it. "
            f"Use chmod {'go-w' if forbidden == 0o022 else '600'}."
        )
