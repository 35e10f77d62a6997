"""How fast a resync or a comparison may go: users' I/O comes first, but it never stands still. Pure.

The rate grows while nobody else uses the volume and shrinks while somebody does, between a floor and what
the operator allows; what it allows is spent in advance and waited for afterwards.
"""

from holdfast.base.limits import SYNC_FLOOR_BYTES_S

GROW = 1.25
SHRINK = 0.7
ADAPT_S = 0.1
DEBT_MAX_S = 10.0
"""A long pause of ours is not made up for by a burst, nor a huge piece by a long silence."""


class Budget:
    """`spend` says how long to wait after a piece of work. Times are seconds of one clock."""

    def __init__(self, now_s: float, most_bytes_s: int, floor_bytes_s: int = SYNC_FLOOR_BYTES_S) -> None:
        self._floor = min(floor_bytes_s, most_bytes_s)
        self._free_at_s = now_s
        self._adapted_at_s = now_s
        self.most_bytes_s = most_bytes_s
        self.rate_bytes_s = float(most_bytes_s)

    def spend(self, count: int, now_s: float, busy: bool) -> float:
        """Seconds to wait, after `count` bytes, before the next piece. `busy`: users' I/O is under way."""
        if now_s - self._adapted_at_s >= ADAPT_S:
            self._adapted_at_s = now_s
            self.rate_bytes_s *= SHRINK if busy else GROW
        self.rate_bytes_s = min(max(self.rate_bytes_s, self._floor), self.most_bytes_s)
        started_s = max(self._free_at_s, now_s - ADAPT_S)
        self._free_at_s = min(started_s + count / self.rate_bytes_s, now_s + DEBT_MAX_S)
        return max(0.0, self._free_at_s - now_s)
