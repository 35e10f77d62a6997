"""Who keeps the keys that data keys are wrapped with: what is asked of such a service, and its cache.

A key belongs to a user and has a name that is unique for that user: alice's `main` is another than bob's.
The user is the owner of the volume or snapshot, as the metadata service knows it from a certificate, so
nobody can name another's key. Wrapping is bound to a context: the snapshot, the user and the key's name.
"""

from collections.abc import Iterable
from typing import Protocol

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.snapshotter.cipher import KEY_BYTES, DataKey, new_secret
from holdfast.snapshotter.key_errors import KeyUnavailable
from holdfast.snapshotter.ring import WrappedKey


class KeyService(Protocol):
    """Wraps and unwraps; blocking, for many threads, and within a set time."""

    def wrap(self, user: str, name: str, context: bytes, secret: bytes) -> bytes:
        """`secret` as only the user's key `name` opens it. Raises KeyUnavailable."""

    def unwrap(self, user: str, name: str, context: bytes, wrapped: bytes) -> bytes:
        """The inverse. Raises KeyUnavailable, with `lost` if that key is not there or does not open it."""


class NoKeys:
    """A KeyService that has none."""

    def wrap(self, user: str, name: str, context: bytes, secret: bytes) -> bytes:
        raise _no_service()

    def unwrap(self, user: str, name: str, context: bytes, wrapped: bytes) -> bytes:
        raise _no_service()


NO_KEYS = NoKeys()


def _no_service() -> KeyUnavailable:
    return KeyUnavailable("This snapshotter has no keys: start it with --keys, as the others are.")


def context_of(snapshot_uid: str, user: str, name: str) -> bytes:
    """What the wrapped data key of a snapshot is bound to."""
    return f"holdfast 1 {snapshot_uid} {user} {name}".encode("ascii")


def wrap(service: KeyService, snapshot_uid: str, user: str, name: str, secret: bytes) -> WrappedKey:
    """The data key of a snapshot for the holder of that key. Raises KeyUnavailable."""
    return WrappedKey(user, name, service.wrap(user, name, context_of(snapshot_uid, user, name), secret))


def unwrap(service: KeyService, snapshot_uid: str, wrapped: WrappedKey) -> bytes:
    """The inverse. Raises KeyUnavailable."""
    user, name, ciphertext = wrapped
    secret = service.unwrap(user, name, context_of(snapshot_uid, user, name), ciphertext)
    if len(secret) != KEY_BYTES:
        raise KeyUnavailable(
            f"Key {name!r} of user {user} opened to {len(secret)} bytes, not {KEY_BYTES}: see its keeper.",
            lost=True,
        )
    return secret


def from_record(record: r.WrappedKey) -> WrappedKey:
    return WrappedKey(record.user, record.name, record.ciphertext)


def from_records(records: Iterable[r.WrappedKey]) -> tuple[WrappedKey, ...]:
    return tuple(from_record(record) for record in records)


def to_record(wrapped: WrappedKey) -> r.WrappedKey:
    return r.WrappedKey(user=wrapped.user, name=wrapped.name, ciphertext=wrapped.ciphertext)


def new_data_key(service: KeyService, snapshot_uid: str, user: str, name: str) -> WrappedKey:
    """A data key that nobody has used, as it is to be recorded. Raises KeyUnavailable."""
    return wrap(service, snapshot_uid, user, name, new_secret())


def open_data_key(service: KeyService, snapshot_uid: str, wrapped: WrappedKey) -> DataKey:
    """Raises KeyUnavailable."""
    return DataKey(unwrap(service, snapshot_uid, wrapped))
