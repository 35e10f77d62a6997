"""One extent as it is stored: compressed if that helps, then sealed if its snapshot is encrypted.

SHA-256, not BLAKE2b: processors have instructions for it (1.5 against 0.7 GB/s here), and everyone can
compute it. The digest is of the plain 128 KiB, so that an extent can be compared with its base's without
fetching that, and so that a wrong decompression is caught as well as a wrong byte. Of an encrypted extent
it is keyed: who has no key cannot ask whether some content is there.
"""

import hashlib
import threading
from typing import NamedTuple

import zstandard

from holdfast.base.errors import DataLoss
from holdfast.base.limits import EXTENT_BYTES
from holdfast.snapshotter.cipher import CIPHER_AES_256_GCM, SEALED_EXTRA_BYTES, DataKey, Tampered
from holdfast.snapshotter.envelope import damaged
from holdfast.snapshotter.key_errors import KeyUnavailable

CODING_PLAIN = 0
CODING_ZSTD = 1
SEALED = CIPHER_AES_256_GCM << 4
CODINGS = (CODING_PLAIN, CODING_ZSTD, CODING_PLAIN | SEALED, CODING_ZSTD | SEALED)
"""What this version writes and reads. Bits 0 to 3 are the compression, 4 to 7 a cipher, the rest zero."""
ZSTD_LEVEL = 1
STORED_MAX_BYTES = EXTENT_BYTES + SEALED_EXTRA_BYTES
"""What does not get smaller by compression is stored as it is, and perhaps sealed."""
_WORTH_BYTES = EXTENT_BYTES - EXTENT_BYTES // 16
"""Compressed data above this saves too little to be worth decompressing."""
_SAMPLE_BYTES = 4096
_SAMPLES = tuple(
    slice(at, at + _SAMPLE_BYTES)
    for at in (*range(0, EXTENT_BYTES, EXTENT_BYTES // 4), EXTENT_BYTES - _SAMPLE_BYTES)
)
"""Where neither the first of these gets smaller nor the others together, the whole is taken not to: it takes
an eighth of the time."""
ZERO_EXTENT = bytes(EXTENT_BYTES)
Plain = bytes | bytearray | memoryview
"""An extent's bytes, perhaps a part of a larger buffer that lives as long as this does."""
_local = threading.local()


class Blob(NamedTuple):
    stored: Plain
    coding: int
    digest: bytes


def is_zero(plain: Plain) -> bool:
    """Whether an extent reads as zeros. A memoryview is compared element by element, bytes at once."""
    return plain[:64] == ZERO_EXTENT[:64] and bytes(plain) == ZERO_EXTENT


def digest_of(plain: Plain) -> bytes:
    return hashlib.sha256(plain).digest()


def keyed(sha256: bytes, key: DataKey | None) -> bytes:
    """The digest of an extent under `key`, from that of its plain bytes; None: it is not encrypted."""
    return key.digest(sha256) if key else sha256


def encode(plain: Plain, digest: bytes, key: DataKey | None = None) -> Blob:
    """`plain` (EXTENT_BYTES of it) for storing. Any thread; the interpreter lock is free meanwhile.

    Args:
        digest: `keyed` with the same key.
    """
    stored, coding = plain, CODING_PLAIN
    if _may_get_smaller(plain):
        smaller = _compressor().compress(plain)
        if len(smaller) <= _WORTH_BYTES:
            stored, coding = smaller, CODING_ZSTD
    if key is None:
        return Blob(stored, coding, digest)
    coding |= SEALED
    return Blob(key.seal_extent(stored, digest, coding), coding, digest)


def decode(blob: Blob, name: str, offset: int, key: DataKey | None = None) -> bytes:
    """The plain extent. Raises DataLoss OBJECT_DAMAGED, naming the object and the place, if it is not that;
    KeyUnavailable if it is encrypted and there is no key.

    Args:
        name, offset: the pack and where in it, for the message.
    """
    where = f"bytes [{offset}, {offset + len(blob.stored)})"
    if blob.coding & SEALED and key is None:
        raise KeyUnavailable(f"Object {name} is encrypted, and there is no key here to open it with.")
    if key is None:
        return _expand(blob, name, where)
    if not blob.coding & SEALED:
        raise damaged(name, f"{where} are not encrypted, and must be")
    try:
        stored = key.open_extent(blob.stored, blob.digest, blob.coding)
    except Tampered as error:
        raise damaged(name, f"{where} do not open with their snapshot's key") from error
    return _expand(Blob(stored, blob.coding & ~SEALED, blob.digest), name, where, key)


def _expand(blob: Blob, name: str, where: str, key: DataKey | None = None) -> bytes:
    """Decompress and check."""
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
    if len(plain) != EXTENT_BYTES or keyed(digest_of(plain), key) != blob.digest:
        raise damaged(name, f"{where} do not match their checksum")
    return bytes(plain)


def _may_get_smaller(plain: Plain) -> bool:
    compress = _compressor().compress
    if len(compress(plain[_SAMPLES[0]])) < _SAMPLE_BYTES:
        return True
    # One call for them: each gives the interpreter's lock away.
    others = b"".join([plain[one] for one in _SAMPLES[1:]])
    return len(compress(others)) < len(others)


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
