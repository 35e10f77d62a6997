"""How fast what is left of a long copy goes down, for people to be told: pure."""

import math

COUNT_INTERVAL_S = 2.0
STALE_S = 10.0
"""What has not been counted for so long stands still."""


class Rate:
    """Times are seconds of one clock."""

    def __init__(self) -> None:
        self._counted_at_s = -math.inf
        self._bytes_s = 0.0
        self.left_bytes = 0
        """When it was last counted."""

    def due(self, now_s: float) -> bool:
        """Whether to count anew."""
        return now_s - self._counted_at_s >= COUNT_INTERVAL_S

    def count(self, left_bytes: int, now_s: float) -> None:
        """The first time says nothing of the rate."""
        if now_s > self._counted_at_s:
            self._bytes_s = max(0.0, (self.left_bytes - left_bytes) / (now_s - self._counted_at_s))
        self.left_bytes, self._counted_at_s = left_bytes, now_s

    def bytes_s(self, now_s: float) -> int:
        return int(self._bytes_s) if now_s - self._counted_at_s < STALE_S else 0
