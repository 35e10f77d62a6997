"""How many calls one caller, and all together, may have under way: more are told so, and wait themselves.

Nothing queues here: a call that is not let in costs no thread, so one caller's haste is nobody else's wait.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from holdfast.base.errors import Exhausted

CALLS_PER_USER = 16
CALLS_MAX = 64


class Quotas:
    """For many threads."""

    def __init__(self, per_user: int = CALLS_PER_USER, in_all: int = CALLS_MAX) -> None:
        self._per_user = per_user
        self._in_all = in_all
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()

    @contextmanager
    def call(self, user: str) -> Iterator[None]:
        """One call of `user`'s. Raises Exhausted TOO_MANY_CALLS."""
        with self._lock:
            if self._calls[user] >= self._per_user:
                raise Exhausted(
                    "TOO_MANY_CALLS",
                    f"{self._per_user} calls of yours are under way, the most: wait for one.",
                )
            if self._calls.total() >= self._in_all:
                raise Exhausted(
                    "TOO_MANY_CALLS",
                    f"{self._in_all} calls are under way, the most: try again, or elsewhere.",
                )
            self._calls[user] += 1
        try:
            yield
        finally:
            with self._lock:
                self._calls[user] -= 1
                if not self._calls[user]:
                    del self._calls[user]
