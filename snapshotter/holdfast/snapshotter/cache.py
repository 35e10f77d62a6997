"""A cache bounded in bytes, for many threads, that never makes one thing twice at the same time."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """The most recently used values, up to `limit_bytes` of them. A value larger than that is not kept."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._making: dict[K, Future[V]] = {}
        self.kept_bytes = 0

    def peek(self, key: K) -> V | None:
        """The value if it is kept."""
        with self._lock:
            return self._used(key)

    def get(self, key: K, make: Callable[[], V], size_bytes: Callable[[V], int]) -> V:
        """The value of `key`, made if need be. Who asks while it is being made waits for that.

        What `make` raises is raised to all who wait, and forgotten.
        """
        with self._lock:
            found = self._used(key)
            if found is not None:
                return found
            making = self._making.get(key)
            if making is None:
                mine = self._making[key] = Future()
        if making is not None:
            return making.result()
        try:
            value = make()
        except BaseException as error:
            self._made(key)
            mine.set_exception(error)
            raise
        self.put(key, value, size_bytes(value))
        self._made(key)
        mine.set_result(value)
        return value

    def put(self, key: K, value: V, size_bytes: int) -> None:
        """Keep `value`, dropping what was used longest ago."""
        with self._lock:
            _, old_bytes = self._kept.pop(key, (None, 0))
            self.kept_bytes -= old_bytes
            if size_bytes > self._limit_bytes:
                return
            self._kept[key] = (value, size_bytes)
            self.kept_bytes += size_bytes
            while self.kept_bytes > self._limit_bytes:
                _, (_, dropped_bytes) = self._kept.popitem(last=False)
                self.kept_bytes -= dropped_bytes

    def _used(self, key: K) -> V | None:
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def _made(self, key: K) -> None:
        with self._lock:
            del self._making[key]
