"""Secrets sealed to one recipient: only the holder of its private key can open them.

An ephemeral X25519 key agrees with the recipient's; HKDF-SHA256 makes a key of the agreement, both
public keys and the recipient's name; ChaCha20-Poly1305 encrypts. The recipient's name and the context
(what the secret is for) are associated data, so a sealed secret copied to another place does not open.

    ciphertext = ephemeral public key (32 bytes) ‖ encrypted secret ‖ tag (16 bytes)

The nonce is zero: each key is used once.
"""

import base64
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import DataLoss, Unavailable

KEY_BYTES = 32
SERVICE = "service"
_NONCE = bytes(12)
_INFO = b"holdfast seal v1"


def host_recipient(host_id: str) -> str:
    return f"host:{host_id}"


def public_key(private_key: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def seal(secret: bytes, recipient: str, recipient_public_key: bytes, context: str) -> r.SealedSecret:
    """Seal `secret` to `recipient`. `context` must be given again to open it, e.g. the attachment's uid."""
    ephemeral = X25519PrivateKey.generate()
    own_public = ephemeral.public_key().public_bytes_raw()
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(recipient_public_key))
    cipher = ChaCha20Poly1305(_derive(shared, own_public, recipient_public_key))
    sealed = cipher.encrypt(_NONCE, secret, _bound(recipient, context))
    return r.SealedSecret(recipient=recipient, ciphertext=own_public + sealed)


def unseal(sealed: r.SealedSecret, private_key: bytes, context: str) -> bytes:
    """The secret. Raises DataLoss CANNOT_UNSEAL if it was not sealed to this key for this context."""
    try:
        key = X25519PrivateKey.from_private_bytes(private_key)
        other_public = sealed.ciphertext[:KEY_BYTES]
        shared = key.exchange(X25519PublicKey.from_public_bytes(other_public))
        cipher = ChaCha20Poly1305(_derive(shared, other_public, key.public_key().public_bytes_raw()))
        return cipher.decrypt(_NONCE, sealed.ciphertext[KEY_BYTES:], _bound(sealed.recipient, context))
    except (InvalidTag, ValueError) as error:
        raise DataLoss(
            "CANNOT_UNSEAL",
            f"A secret sealed to {sealed.recipient} for {context} does not open with this key: "
            "is it the .seal file that belongs to this name?",
        ) from error


def read_private_key(path: Path) -> bytes:
    """The key in a `.seal` file (base64, one line). Raises Unavailable BAD_SEAL_KEY."""
    try:
        key = base64.b64decode(path.read_text().strip(), validate=True)
    except (OSError, ValueError) as error:
        raise Unavailable("BAD_SEAL_KEY", f"The seal key {path} cannot be read: {error}.") from error
    if len(key) != KEY_BYTES:
        raise Unavailable("BAD_SEAL_KEY", f"The seal key {path} holds {len(key)} bytes, not {KEY_BYTES}.")
    return key


def _derive(shared: bytes, ephemeral_public: bytes, recipient_public: bytes) -> bytes:
    salt = ephemeral_public + recipient_public
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=salt, info=_INFO).derive(shared)


def _bound(recipient: str, context: str) -> bytes:
    return recipient.encode() + b"\0" + context.encode()
