"""Answers that are not asked for again for a moment."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """For many threads. What could not be answered is not remembered."""

    def __init__(self, fresh_s: float, most: int = 4096, clock: Callable[[], float] = time.monotonic) -> None:
        self._fresh_s = fresh_s
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[K, tuple[V, float]] = OrderedDict()

    def get(self, key: K, ask: Callable[[], V]) -> V:
        """The answer for `key`, at most `fresh_s` old. Raises what `ask` raises."""
        now_s = self._clock()
        with self._lock:
            known = self._known.get(key)
        if known is not None and now_s - known[1] < self._fresh_s:
            return known[0]
        answer = ask()
        with self._lock:
            self._known[key] = (answer, now_s)
            self._known.move_to_end(key)
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        return answer
