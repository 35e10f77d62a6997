"""What Holdfast asks of an object store: little enough that a directory and every S3 server can do it.

Three rules keep it true on servers that promise less than Amazon's:
- A name is used once. Nothing is overwritten, so nobody can read an old version, and a put that was
  sent twice did no harm.
- Nothing is decided by a conditional put (servers let several racing writers win). etcd decides.
- Nothing is found by listing, except what collection sweeps: a listing may lag behind, and costs.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from holdfast.base.errors import BadInput, DataLoss, NotFound, Unavailable

NAME_MAX_BYTES = 512
"""Below S3's 1024, to leave room for a prefix, and below what a path may hold."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*")


@dataclass(frozen=True)
class ObjectInfo:
    """One object of a listing. `modified_s` is the store's own clock, in seconds since 1970."""

    name: str
    size_bytes: int
    modified_s: float


class ObjectStore(Protocol):
    """Objects by name. Every method may be called from any thread at the same time as any other.

    Every method raises:
        Unavailable OBJECT_STORE_UNREACHABLE, OBJECT_STORE_REFUSED or OBJECT_STORE_FULL: after a bounded
            number of tries. A put or delete may or may not have happened; doing it again is safe.
        BadInput BAD_OBJECT_NAME: the name is not of the form above.
    """

    def put(self, name: str, data: bytes | bytearray) -> None:
        """Store `data` durably under a name never used before, or used for the same bytes."""
        ...

    def get(self, name: str) -> bytes:
        """All of it. Raises NotFound OBJECT_MISSING."""
        ...

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Exactly `length` (at least 1) bytes. Raises NotFound OBJECT_MISSING, DataLoss OBJECT_TRUNCATED."""
        ...

    def get_pieces(self, name: str, offset: int, lengths: Sequence[int]) -> Iterator[bytes]:
        """The bytes from `offset` on in pieces of these lengths (each at least 1), with one request; each
        piece as it comes, so that nobody holds all of them. Raises, before any piece, as `get_range`.
        """
        ...

    def size(self, name: str) -> int:
        """Its length in bytes, asked of the store now. Raises NotFound OBJECT_MISSING."""
        ...

    def delete(self, name: str) -> None:
        """Remove it; one that is not there is no error."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """What is stored under names that start with `prefix`, ascending. Only for collection."""
        ...

    def close(self) -> None:
        """Give back connections. Idempotent."""
        ...


def check_name(name: str) -> str:
    """Return `name` if it may name an object: no way out of a directory, no case or escape to differ by."""
    if len(name) > NAME_MAX_BYTES or not _NAME.fullmatch(name):
        raise BadInput("BAD_OBJECT_NAME", f"{name[:80]!r} cannot name an object.")
    return name


def missing(name: str, where: str) -> NotFound:
    return NotFound("OBJECT_MISSING", f"Object {name} is not in {where}.")


def truncated(name: str, offset: int, length: int, found: int) -> DataLoss:
    return DataLoss(
        "OBJECT_TRUNCATED",
        f"Object {name} ends early: bytes [{offset}, {offset + length}) were asked for, {found} are there.",
    )


def unreachable(where: str, why: object) -> Unavailable:
    return Unavailable("OBJECT_STORE_UNREACHABLE", f"The object store at {where} cannot be reached: {why}.")


def refused(where: str, why: object) -> Unavailable:
    return Unavailable(
        "OBJECT_STORE_REFUSED",
        f"The object store at {where} refuses this process ({why}): check its bucket and credentials.",
    )


def full(where: str, why: object) -> Unavailable:
    return Unavailable("OBJECT_STORE_FULL", f"The object store at {where} has no room ({why}): make some.")
