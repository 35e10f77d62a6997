"""Objects in memory, for tests: with a clock of their own, as every real store has."""

import threading
from collections.abc import Callable, Iterator, Sequence

from holdfast.base.errors import AlreadyExists
from holdfast.snapshotter.objects import ObjectInfo, check_name, missing, truncated

_WHERE = "memory"


class MemoryObjects:
    """An ObjectStore that passes the suite of all stores.

    Args:
        clock: seconds since 1970; what objects were modified at.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.objects: dict[str, tuple[bytes, float]] = {}

    def put(self, name: str, data: bytes | bytearray) -> None:
        check_name(name)
        with self._lock:
            before = self.objects.get(name)
            if before is not None and before[0] != data:
                raise AlreadyExists(
                    "OBJECT_EXISTS", f"Object {name} exists with other bytes: names are used once."
                )
            self.objects[name] = (bytes(data), self._clock())

    def get(self, name: str) -> bytes:
        found = self.objects.get(check_name(name))
        if found is None:
            raise missing(name, _WHERE)
        return found[0]

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        data = self.get(name)[offset : offset + length]
        if len(data) != length:
            raise truncated(name, offset, length, len(data))
        return data

    def get_pieces(self, name: str, offset: int, lengths: Sequence[int]) -> Iterator[bytes]:
        for length in lengths:
            yield self.get_range(name, offset, length)
            offset += length

    def size(self, name: str) -> int:
        return len(self.get(name))

    def delete(self, name: str) -> None:
        with self._lock:
            self.objects.pop(check_name(name), None)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._lock:
            found = sorted(self.objects.items())
        for name, (data, modified_s) in found:
            if name.startswith(prefix):
                yield ObjectInfo(name, len(data), modified_s)

    def close(self) -> None:
        """Nothing is held open."""
