"""Whose turn it is to be brought up to date: at most HOST_SYNCS_MAX volumes of a host at once.

A host that comes back is a joiner of every volume that it holds; brought up to date all at once they would
starve each other and whoever uses the disks. So a host has two lines: of the volumes whose primary is here,
and of its copies that are not in sync. First come, first served; a volume that has made no progress
for STALLED_S while others wait goes to the end of the line, so that one whose joiner is away keeps nobody
waiting. When many come at once each waits a little, by chance, so that hosts do not all turn to the same one.

A resync needs a turn at both ends, and the joiner's comes first: a primary stands in line only for joiners
that have theirs (Observed.syncable). So who has a primary's turn waits for nobody, and no ring of hosts can
wait for each other.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

HOST_SYNCS_MAX = 4
STALLED_S = 30.0
JITTER_S = 2.0


@dataclass
class _Turn:
    remaining_bytes: int
    progress_s: float


class Syncs:
    """Loop thread only. `granted(uid)` is called when a volume's turn has come by another's end."""

    def __init__(
        self, rng: random.Random, granted: Callable[[str], None], limit: int = HOST_SYNCS_MAX
    ) -> None:
        self._rng = rng
        self._granted = granted
        self._limit = limit
        self._running: dict[str, _Turn] = {}
        self._waiting: dict[str, float] = {}
        """Not before when."""

    def wanted(self, uid: str, remaining_bytes: int, now_s: float, under_way: bool = False) -> bool:
        """Whether the volume, which has somebody to bring up to date, may do it now. Ask again and again.

        Args:
            remaining_bytes: as far as is known, to see progress by.
            under_way: it goes on whatever is said here, since an earlier agent's time perhaps. It counts,
                beyond the limit if need be, unless it has lost its turn.
        """
        if under_way and uid not in self._waiting:
            self._running.setdefault(uid, _Turn(remaining_bytes, now_s))
        turn = self._running.get(uid)
        if turn is not None:
            if remaining_bytes != turn.remaining_bytes:
                turn.remaining_bytes, turn.progress_s = remaining_bytes, now_s
            elif now_s - turn.progress_s > STALLED_S and self._waiting:
                del self._running[uid]
                self._waiting[uid] = now_s
                self._grant(now_s)
            return uid in self._running
        if uid not in self._waiting:
            crowded = bool(self._waiting) or len(self._running) >= self._limit
            self._waiting[uid] = now_s + (self._rng.uniform(0, JITTER_S) if crowded else 0)
        self._grant(now_s, uid)
        if uid in self._running:
            self._running[uid].remaining_bytes = remaining_bytes
        return uid in self._running

    def over(self, uid: str, now_s: float) -> None:
        """The volume has nobody to bring up to date (any more). Idempotent."""
        self._waiting.pop(uid, None)
        if self._running.pop(uid, None) is not None:
            self._grant(now_s)

    def _grant(self, now_s: float, asking: str = "") -> None:
        for uid in [uid for uid, not_before_s in self._waiting.items() if not_before_s <= now_s]:
            if len(self._running) >= self._limit:
                return
            del self._waiting[uid]
            self._running[uid] = _Turn(-1, now_s)
            if uid != asking:
                self._granted(uid)
