"""Not faster than so many bytes a second."""

import threading
import time
from collections.abc import Callable

from holdfast.snapshotter.patient import Stopped


class Pace:
    """For many threads together. What was not used of a second is not saved up.

    Args:
        stop: ends the waiting, with Stopped.
    """

    def __init__(
        self, bytes_s: float, stop: threading.Event, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bytes_s = bytes_s
        self._stop = stop
        self._clock = clock
        self._lock = threading.Lock()
        self._free_s = clock()

    def take(self, count: int) -> None:
        """Wait until `count` bytes may be read. Raises Stopped."""
        with self._lock:
            now_s = self._clock()
            begins_s = max(self._free_s, now_s)
            self._free_s = begins_s + count / self._bytes_s
        if self._stop.wait(begins_s - now_s):
            raise Stopped
