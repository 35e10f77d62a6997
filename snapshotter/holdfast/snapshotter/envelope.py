"""What every object of the format is wrapped in, and the table of names that two of them hold.

    offset  bytes  field
    0       8      "HOLDFAST"
    8       4      kind: "PACK", "SHRD", "CKPT" or "MANI"
    12      2      version of that kind, 1
    14      2      features that a reader must know; a bit that it does not know means: do not read on
                   bit 0: the body ends with a proof, see docs/snapshot-format.md, "Encrypted snapshots"
    16      8      length of the body
    24      …      body
    …       32     SHA-256 of everything before it

Integers are unsigned and little endian. docs/snapshot-format.md is the reference for all byte tables.
"""

import hashlib
import hmac
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from holdfast.base.errors import DataLoss

MAGIC = b"HOLDFAST"
VERSION = 1
HEADER = struct.Struct("<8s4sHHQ")
DIGEST_BYTES = 32
PROVEN = 1
"""The feature: the last PROOF_BYTES of the body prove that who wrote it had the snapshot's key."""
PROOF_BYTES = 32
_NAME_HEAD = struct.Struct("<QH")


class StoredObject(NamedTuple):
    """An object that others refer to, and its length."""

    name: str
    size_bytes: int


def damaged(name: str, what: str) -> DataLoss:
    """The error for an object that is not what was written."""
    return DataLoss("OBJECT_DAMAGED", f"Object {name} is damaged: {what}.")


def header(kind: bytes, body_bytes: int, features: int = 0) -> bytes:
    return HEADER.pack(MAGIC, kind, VERSION, features, body_bytes)


def seal(kind: bytes, body: bytes, prove: Callable[[bytes], bytes] | None = None) -> bytes:
    """`body` in its envelope, with the proof that `prove` makes of it if there is one."""
    if prove is None:
        data = header(kind, len(body)) + body
    else:
        data = header(kind, len(body) + PROOF_BYTES, PROVEN) + body
        data += prove(data)
    return data + hashlib.sha256(data).digest()


def check_header(kind: bytes, data: bytes, name: str, known: int = 0) -> tuple[int, int]:
    """The body's length and the features, from a header of `kind` that this code reads.

    Args:
        known: the features that objects of this kind may have.
    """
    if len(data) < HEADER.size:
        raise damaged(name, f"{len(data)} bytes are too few for a header")
    magic, found, version, features, body_bytes = HEADER.unpack_from(data)
    if magic != MAGIC or found != kind:
        raise damaged(name, f"it starts with {magic + found!r}, not {MAGIC + kind!r}")
    if version != VERSION or features & ~known:
        raise DataLoss(
            "FORMAT_UNKNOWN",
            f"Object {name} is of version {version} with features {features:#x}, and this program reads "
            f"version {VERSION} with {known:#x}: use a newer one.",
        )
    return int(body_bytes), int(features)


def unseal(kind: bytes, data: bytes, name: str, known: int = 0) -> bytes:
    """The body of an object that is whole, without the proof, which `check_proof` judges.

    Raises DataLoss OBJECT_DAMAGED or FORMAT_UNKNOWN.
    """
    body_bytes, features = check_header(kind, data, name, known)
    end = HEADER.size + body_bytes
    if len(data) != end + DIGEST_BYTES:
        raise damaged(name, f"it is {len(data)} bytes long and says {end + DIGEST_BYTES}")
    if hashlib.sha256(memoryview(data)[:end]).digest() != data[end:]:
        raise damaged(name, "its checksum does not match")
    if not features & PROVEN:
        return data[HEADER.size : end]
    if body_bytes < PROOF_BYTES:
        raise damaged(name, f"a body of {body_bytes} bytes has no room for its proof")
    return data[HEADER.size : end - PROOF_BYTES]


def check_proof(data: bytes, name: str, prove: Callable[[bytes], bytes]) -> None:
    """Raise DataLoss unless `data`, which `unseal` has found whole, ends with what `prove` makes of it."""
    features = HEADER.unpack_from(data)[3]
    end = len(data) - DIGEST_BYTES - PROOF_BYTES
    proof = data[end : end + PROOF_BYTES]
    if not features & PROVEN or not hmac.compare_digest(prove(data[:end]), proof):
        raise damaged(name, "it was not written by a holder of its snapshot's key")


class Cursor:
    """Reads a body from front to back, never past its end."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self._name = name
        self._at = 0

    def unpack(self, layout: struct.Struct) -> tuple[int | bytes, ...]:
        return layout.unpack(self.take(layout.size))

    def numbers(self, layout: struct.Struct) -> tuple[int, ...]:
        """As `unpack`, where every field is a number."""
        return layout.unpack(self.take(layout.size))

    def take(self, length: int) -> bytes:
        end = self._at + length
        if end > len(self._data):
            raise damaged(self._name, f"its body ends at {len(self._data)} and goes on to {end}")
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def names(self, count: int) -> list[StoredObject]:
        found = []
        for _ in range(count):
            size_bytes, length = self.numbers(_NAME_HEAD)
            found.append(StoredObject(self.text(length), size_bytes))
        return found

    def text(self, length: int) -> str:
        try:
            return self.take(length).decode("ascii")
        except UnicodeDecodeError:
            raise damaged(self._name, "a text in it is not ASCII") from None

    def end(self) -> None:
        if self._at != len(self._data):
            raise damaged(self._name, f"{len(self._data) - self._at} bytes follow its end")


def encode_names(objects: Sequence[StoredObject]) -> bytes:
    parts = []
    for one in objects:
        raw = one.name.encode("ascii")
        parts.append(_NAME_HEAD.pack(one.size_bytes, len(raw)) + raw)
    return b"".join(parts)
