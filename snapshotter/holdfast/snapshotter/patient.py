"""A store that waits for the one below it to come back, and says that it waits.

An upload must not fail because an object store is away for an hour; its frozen view waits too. Waits grow
to a limit, and `stop` ends them at once.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from holdfast.base.errors import HoldfastError, NotFound, Unavailable
from holdfast.snapshotter.envelope import StoredObject
from holdfast.snapshotter.objects import ObjectInfo, ObjectStore

T = TypeVar("T")
BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 15.0
CONFIRM_ATTEMPTS = 5


class Stopped(HoldfastError):
    """The work was told to stop; what it has done so far stays."""

    def __init__(self) -> None:
        super().__init__("STOPPED", "The work was told to stop.")


class PatientStore:
    """An ObjectStore around `store`.

    Args:
        stop: when set, every call raises Stopped, those that wait included.
        waiting: called from any thread with a sentence before each wait, and with "" when what had to
            wait has been done.
    """

    def __init__(self, store: ObjectStore, stop: threading.Event, waiting: Callable[[str], None]) -> None:
        self._store = store
        self._stop = stop
        self._waiting = waiting

    def put(self, name: str, data: bytes | bytearray) -> None:
        self._patiently(lambda: self._store.put(name, data))

    def put_confirmed(self, name: str, data: bytes | bytearray) -> StoredObject:
        """Put, then ask the store whether it is there, as long as it should be; put again if not."""
        for attempt in range(1, CONFIRM_ATTEMPTS + 1):
            self.put(name, data)
            try:
                found = self.size(name)
            except NotFound:
                found = -1
            if found == len(data):
                return StoredObject(name, found)
            self.pause(attempt, f"The object store took object {name} and then has {found} bytes of it.")
        raise Unavailable(
            "OBJECT_STORE_FORGETS",
            f"The object store took object {name} {CONFIRM_ATTEMPTS} times and lost it.",
        )

    def get(self, name: str) -> bytes:
        return self._patiently(lambda: self._store.get(name))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self._patiently(lambda: self._store.get_range(name, offset, length))

    def get_pieces(self, name: str, offset: int, lengths: Sequence[int]) -> Iterator[bytes]:
        for length in lengths:
            yield self.get_range(name, offset, length)
            offset += length

    def size(self, name: str) -> int:
        return self._patiently(lambda: self._store.size(name))

    def delete(self, name: str) -> None:
        self._patiently(lambda: self._store.delete(name))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._store.list(prefix)

    def close(self) -> None:
        """The store below belongs to whoever made it."""

    def _patiently(self, call: Callable[[], T]) -> T:
        attempt = 0
        while True:
            if self._stop.is_set():
                raise Stopped
            try:
                result = call()
            except Unavailable as error:
                attempt += 1
                self.pause(attempt, error.message)
                continue
            if attempt:
                self._waiting("")
            return result

    def pause(self, attempt: int, why: str) -> None:
        """Say why, and wait as befits the `attempt`th failure, from 1 on. Raises Stopped."""
        self._waiting(why)
        if self._stop.wait(min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** (attempt - 1))):
            raise Stopped
