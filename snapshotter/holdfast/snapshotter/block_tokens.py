"""Block tokens: leave to read one block, given by a list, for one caller, while their grant is the same.

    1 byte version · 8 bytes expiry, seconds since 1970 · the first 16 bytes of an HMAC-SHA256

The HMAC is over the expiry and everything that the token is bound to, which is not in it: whoever shows
it must be, and ask for, what it was made for. All snapshotters make and take the same tokens, with a key
derived from a file that they share; none is kept anywhere.
"""

import hmac
import struct
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from holdfast.base.errors import BadInput, Precondition, Unavailable

VALID_S = 24 * 3600
_VERSION = 1
_HEAD = struct.Struct(">BQ")
_MAC_BYTES = 16
_KEY_BYTES = 32
_INFO = b"holdfast block tokens v1"


def derive_key(secret: bytes) -> bytes:
    """The tokens' key, from a secret that serves other ends too."""
    return HKDF(algorithm=hashes.SHA256(), length=_KEY_BYTES, salt=None, info=_INFO).derive(secret)


def key_from(path: Path) -> bytes:
    """The tokens' key, from a file that only services can read. Raises Unavailable BAD_TOKEN_KEY."""
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise Unavailable("BAD_TOKEN_KEY", f"The key {path} cannot be read: {error}.") from error
    if len(secret) < _KEY_BYTES:
        raise Unavailable(
            "BAD_TOKEN_KEY", f"The key {path} holds {len(secret)} bytes: give it {_KEY_BYTES} or more."
        )
    return derive_key(secret)


class BlockTokens:
    """Makes and checks tokens. `holder` says who may use one: the caller, and by which grant."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def make(self, snapshot_uid: str, block: int, holder: str, expire_s: int) -> bytes:
        head = _HEAD.pack(_VERSION, expire_s)
        return head + self._mac(head, snapshot_uid, block, holder)

    def check(self, token: bytes, snapshot_uid: str, block: int, holder: str, now_s: float) -> None:
        """Raises BadInput BAD_BLOCK_TOKEN, or Precondition TOKEN_EXPIRED."""
        head = token[: _HEAD.size]
        good = len(token) == _HEAD.size + _MAC_BYTES and head[0] == _VERSION
        if not good or not hmac.compare_digest(
            token[_HEAD.size :], self._mac(head, snapshot_uid, block, holder)
        ):
            raise BadInput(
                "BAD_BLOCK_TOKEN", f"That token is not yours for block {block} of this snapshot: list again."
            )
        if now_s >= _HEAD.unpack(head)[1]:
            raise Precondition("TOKEN_EXPIRED", f"The token for block {block} has expired: list again.")

    def _mac(self, head: bytes, snapshot_uid: str, block: int, holder: str) -> bytes:
        bound = b"\0".join([head, snapshot_uid.encode(), str(block).encode(), holder.encode()])
        return hmac.digest(self._key, bound, "sha256")[:_MAC_BYTES]
