"""A snapshot's data key, and what is made of it: sealed extents, keyed digests, and proof of an index.

Everything that one snapshot wrote is under its own data key: 32 random bytes, never used as such. Four
keys are derived from it (HKDF-Expand with SHA-256, RFC 5869), one for each use:

    extents   AES-256-GCM of what is stored of an extent
    digests   HMAC-SHA-256 of the plain extent's SHA-256, so that nobody can confirm a guess of content
    index     HMAC-SHA-256 that ends a manifest and a checkpoint
    ring      AES-256-GCM of other snapshots' data keys in a manifest (see ring.py)

Nonces are 96 random bits, kept with what they sealed. A data key seals the extents of one snapshot: 2²⁷
at most, and those that an interrupted upload sealed twice; NIST SP 800-38D allows 2³² for one key.
Deriving nonces (or keys) from digests was turned down: the same plain extent compresses to other bytes
with another version of zstd, and one nonce would seal both.
"""

import hashlib
import hmac
import os
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
SEALED_EXTRA_BYTES = NONCE_BYTES + TAG_BYTES
"""What sealing adds."""
CIPHER_NONE = 0
CIPHER_AES_256_GCM = 1
_BOUND = struct.Struct("<32sI")


class Tampered(Exception):
    """What is to be opened was not sealed so with this key."""


class DataKey:
    """Of one snapshot. For many threads."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise ValueError(f"a data key has {KEY_BYTES} bytes, not {len(secret)}")
        self.secret = secret
        self._extents = AESGCM(_derive(secret, b"extents"))
        self._digests = _derive(secret, b"digests")
        self._index = _derive(secret, b"index")
        self._ring = AESGCM(_derive(secret, b"ring"))

    def digest(self, sha256: bytes) -> bytes:
        """The keyed digest of the extent whose plain bytes have this SHA-256."""
        return hmac.digest(self._digests, sha256, "sha256")

    def prove(self, data: bytes) -> bytes:
        """What shows that who wrote `data`, the beginning of a manifest or checkpoint, had the key."""
        return hmac.digest(self._index, data, "sha256")

    def seal_extent(self, data: bytes | bytearray | memoryview, digest: bytes, coding: int) -> bytes:
        """`data`, bound to what it is: sealed bytes do not open with another digest or coding."""
        return _seal(self._extents, data, _BOUND.pack(digest, coding))

    def open_extent(self, sealed: bytes | bytearray | memoryview, digest: bytes, coding: int) -> bytes:
        """Raises Tampered."""
        return _open(self._extents, sealed, _BOUND.pack(digest, coding))

    def seal_ring(self, data: bytes, snapshot_uid: str) -> bytes:
        return _seal(self._ring, data, snapshot_uid.encode())

    def open_ring(self, sealed: bytes, snapshot_uid: str) -> bytes:
        """Raises Tampered."""
        return _open(self._ring, sealed, snapshot_uid.encode())


def new_secret() -> bytes:
    return os.urandom(KEY_BYTES)


def seal(key: bytes, data: bytes, bound: bytes) -> bytes:
    """`data` under a key that is used for nothing else: nonce, ciphertext, tag."""
    return _seal(AESGCM(key), data, bound)


def unseal(key: bytes, sealed: bytes, bound: bytes) -> bytes:
    """The inverse of `seal`. Raises Tampered."""
    return _open(AESGCM(key), sealed, bound)


def fingerprint(key: bytes) -> bytes:
    """Eight bytes by which a key is found again, and which tell nothing of it."""
    return hashlib.sha256(b"holdfast key 1" + key).digest()[:8]


def _derive(secret: bytes, use: bytes) -> bytes:
    return hmac.digest(secret, b"holdfast 1 " + use + b"\x01", "sha256")


def _seal(cipher: AESGCM, data: bytes | bytearray | memoryview, bound: bytes) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, data, bound)


def _open(cipher: AESGCM, sealed: bytes | bytearray | memoryview, bound: bytes) -> bytes:
    try:
        return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], bound)
    except (InvalidTag, ValueError) as error:
        raise Tampered from error
