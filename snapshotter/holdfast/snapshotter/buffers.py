"""What packs are made in: memory that all uploads of a process share, so that it is bounded.

A buffer is used again, since memory that was just given back and taken again costs the kernel as much as
the checksums. When no upload has one any more, all are given back to the system.
"""

import threading

from holdfast.snapshotter.patient import Stopped

_LOOK_EVERY_S = 0.2
"""How soon somebody who waits sees that it was told to stop."""


class PackBuffers:
    """At most `most` of them; for many threads.

    Nobody waits for ever: whoever has one either fills it and sends it, or has sent it, and gives it back.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed = threading.Condition()
        self._free: list[bytearray] = []
        self.taken = 0
        self.made = 0
        """So many there are, taken or not."""

    def take(self, stop: threading.Event) -> bytearray:
        """One of any length. Raises Stopped if `stop` is set before there is one."""
        with self._changed:
            while self.taken >= self._most:
                if stop.is_set():
                    raise Stopped
                self._changed.wait(_LOOK_EVERY_S)
            self.taken += 1
            if self._free:
                return self._free.pop()
            self.made += 1
            return bytearray()

    def give_back(self, buffer: bytearray) -> None:
        with self._changed:
            self.taken -= 1
            self._free.append(buffer)
            if not self.taken:
                self._free.clear()
                self.made = 0
            self._changed.notify()
