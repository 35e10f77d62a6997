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
        self._operations_paid_s = self._bytes_paid_s = self.free_s = now_s - BURST_S
        """`free_s`: when the next request may begin."""

    def spend(self, length: int, now_s: float) -> None:
        """A request of `length` bytes begins, not before `free_s`."""
        since_s = now_s - BURST_S
        operations_s, bytes_s = self._operations_paid_s, self._bytes_paid_s
        operations_s = (operations_s if operations_s > since_s else since_s) + self._operation_s
        bytes_s = (bytes_s if bytes_s > since_s else since_s) + length * self._byte_s
        self._operations_paid_s, self._bytes_paid_s = operations_s, bytes_s
        self.free_s = operations_s if operations_s > bytes_s else bytes_s
