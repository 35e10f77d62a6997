"""How fast a volume's users may go: operations and bytes a second, each a limit of its own. Pure.

Each limit is a moment at which all that was let through so far is paid for (the generic cell rate
algorithm). A request begins once neither lies ahead, and then moves both by what it costs: so one that is
larger than a second's worth still goes, and those after it wait. What was not used is kept for BURST_S.
"""

from typing import NamedTuple

BURST_S = 0.25


class Limits(NamedTuple):
    """0 is none."""

    iops: int = 0
    bytes_s: int = 0


NO_LIMITS = Limits()


class Pace:
    """Times are seconds of one clock."""

    def __init__(self, limits: Limits, now_s: float) -> None:
        self.limits = limits
        self._operation_s = 1 / limits.iops if limits.iops else 0.0
        self._byte_s = 1 / limits.bytes_s if limits.bytes_s else 0.0
        self._operations_paid_s = self._bytes_paid_s = now_s - BURST_S

    def wait_s(self, now_s: float) -> float:
        """Until the next request may begin; 0 if it may now."""
        return max(0.0, self._operations_paid_s - now_s, self._bytes_paid_s - now_s)

    def spend(self, length: int, now_s: float) -> None:
        """A request of `length` bytes begins."""
        since_s = now_s - BURST_S
        self._operations_paid_s = max(self._operations_paid_s, since_s) + self._operation_s
        self._bytes_paid_s = max(self._bytes_paid_s, since_s) + length * self._byte_s
