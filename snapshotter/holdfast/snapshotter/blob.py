"""One extent as it is stored: compressed if that helps, and known by the SHA-256 of its plain bytes.

SHA-256, not BLAKE2b: processors have instructions for it (1.5 against 0.7 GB/s here), and everyone can
compute it. The digest is of the plain 128 KiB, so that an extent can be compared with its base's without
fetching that, and so that a wrong decompression is caught as well as a wrong byte.
"""

import hashlib
import threading
from typing import NamedTuple

import zstandard

from holdfast.base.errors import DataLoss
from holdfast.base.limits import EXTENT_BYTES
from holdfast.snapshotter.envelope import damaged

CODING_PLAIN = 0
CODING_ZSTD = 1
CODINGS = (CODING_PLAIN, CODING_ZSTD)
"""What this version writes and reads. Bits 0 to 3 are the compression, 4 to 7 a cipher, the rest zero."""
ZSTD_LEVEL = 1
STORED_MAX_BYTES = EXTENT_BYTES
"""What does not get smaller by compression is stored as it is."""
_WORTH_BYTES = EXTENT_BYTES - EXTENT_BYTES // 16
"""Compressed data above this saves too little to be worth decompressing."""
ZERO_EXTENT = bytes(EXTENT_BYTES)
_local = threading.local()


class Blob(NamedTuple):
    stored: bytes
    coding: int
    digest: bytes


def digest_of(plain: bytes) -> bytes:
    return hashlib.sha256(plain).digest()


def encode(plain: bytes, digest: bytes) -> Blob:
    """`plain` (EXTENT_BYTES of it) for storing. Any thread; the interpreter lock is free meanwhile."""
    compressed = _compressor().compress(plain)
    if len(compressed) <= _WORTH_BYTES:
        return Blob(compressed, CODING_ZSTD, digest)
    return Blob(plain, CODING_PLAIN, digest)


def decode(blob: Blob, name: str, offset: int) -> bytes:
    """The plain extent. Raises DataLoss OBJECT_DAMAGED, naming the object and the place, if it is not that.

    Args:
        name, offset: the pack and where in it, for the message.
    """
    where = f"bytes [{offset}, {offset + len(blob.stored)})"
    plain = blob.stored
    if blob.coding == CODING_ZSTD:
        try:
            # Looked at first: a damaged frame header must not make us allocate what it claims.
            if zstandard.get_frame_parameters(blob.stored).content_size != EXTENT_BYTES:
                raise damaged(name, f"{where} do not hold one extent")
            plain = _decompressor().decompress(blob.stored)
        except zstandard.ZstdError as error:
            raise damaged(name, f"{where} do not decompress ({error})") from error
    elif blob.coding != CODING_PLAIN:
        raise DataLoss(
            "FORMAT_UNKNOWN", f"Object {name} has {where} in coding {blob.coding:#x}, unknown here."
        )
    if len(plain) != EXTENT_BYTES or digest_of(plain) != blob.digest:
        raise damaged(name, f"{where} do not match their checksum")
    return plain


def _compressor() -> zstandard.ZstdCompressor:
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
    compressor: zstandard.ZstdCompressor = _local.compressor
    return compressor


def _decompressor() -> zstandard.ZstdDecompressor:
    if not hasattr(_local, "decompressor"):
        _local.decompressor = zstandard.ZstdDecompressor()
    decompressor: zstandard.ZstdDecompressor = _local.decompressor
    return decompressor
