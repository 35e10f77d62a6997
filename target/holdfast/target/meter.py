"""How long initiators wait, counted by a worker and read by whoever may: histograms of powers of two.

The counts are a small file in the run directory, written a second after something ended, so that reading
them wakes no worker, and a volume that rests does not either. A worker that begins goes on counting from its
predecessor's file: what is read there only grows, but for what a killed one had counted since it last wrote.

    offset   bytes   field, little endian
    0        8       "HFMETER1"
    8        8 each  for READ, WRITE, ZERO, FLUSH, COMPARE AND WRITE, in this order:
                     bytes, microseconds in all, BUCKETS counts; count i is of [2^(i-1), 2^i) microseconds,
                     the first of less than one, the last also of all that is longer
    …        8 each  requests that ended BUSY, and with CHECK CONDITION: in no histogram
"""

import contextlib
import logging
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from holdfast.base.device import Op, Request
from holdfast.base.loop import Loop

log = logging.getLogger(__name__)

MAGIC = b"HFMETER1"
BUCKETS = 28
"""The last begins at 67 s: nothing is held so long."""
KINDS = (Op.READ, Op.WRITE, Op.ZERO, Op.FLUSH, Op.COMPARE_AND_WRITE)
SLOW_US = 1_000_000
SAVE_AFTER_S = 1.0
_LAYOUT = struct.Struct(f"<8s{len(KINDS) * (2 + BUCKETS) + 2}Q")
_READ, _WRITE = KINDS[:2]


class Kind:
    """What is counted of one kind of request."""

    __slots__ = ("buckets", "bytes", "us")

    def __init__(self) -> None:
        self.bytes = 0
        self.us = 0
        self.buckets = [0] * BUCKETS


class Counts(NamedTuple):
    """What a file holds, by the values of KINDS."""

    kinds: dict[str, Kind]
    busy: int
    checked: int


def read(path: Path) -> Counts | None:
    """None if there is no such file, or it is another's."""
    try:
        numbers = _LAYOUT.unpack(path.read_bytes())
    except (OSError, struct.error):
        return None
    if numbers[0] != MAGIC:
        return None
    kinds = {}
    for place, op in enumerate(KINDS):
        at = 1 + place * (2 + BUCKETS)
        kinds[op.value] = kind = Kind()
        kind.bytes, kind.us = numbers[at : at + 2]
        kind.buckets = list(numbers[at + 2 : at + 2 + BUCKETS])
    return Counts(kinds, *numbers[-2:])


class Meter:
    """Loop thread only.

    Args:
        path: where the counts are kept; None: only in memory.
    """

    def __init__(self, loop: Loop, path: Path | None = None, volume_uid: str = "") -> None:
        self._loop = loop
        self._uid = volume_uid
        before = read(path) if path is not None else None
        self._kinds = before.kinds if before else {op.value: Kind() for op in KINDS}
        self._busy, self._checked = (before.busy, before.checked) if before else (0, 0)
        self._reads, self._writes = self._kinds[_READ.value], self._kinds[_WRITE.value]
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644) if path is not None else -1
        self._save_planned = path is None
        self._slow = 0
        self._slowest: tuple[int, str] = (0, "")

    def good(self, requests: Iterable[Request], now_s: float) -> None:
        """These have ended well, now."""
        if not self._save_planned:
            self._plan_save()
        reads, writes = self._reads, self._writes
        for request in requests:
            us = int((now_s - request.came_s) * 1e6)
            op = request.op
            kind = reads if op is _READ else writes if op is _WRITE else self._kinds.get(op.value)
            if kind is None:
                continue  # LOOK: nobody's I/O
            kind.us += us
            kind.bytes += request.length
            if us < SLOW_US:
                kind.buckets[us.bit_length()] += 1
            else:
                self._count_slow(kind, request, us)

    def _count_slow(self, kind: Kind, request: Request, us: int) -> None:
        kind.buckets[min(us.bit_length(), BUCKETS - 1)] += 1
        self._slow += 1
        what = f"a {request.op.value} of {request.length} bytes at {request.offset}"
        self._slowest = max(self._slowest, (us, what))

    def bad(self, busy: bool) -> None:
        """One has ended BUSY, or with CHECK CONDITION."""
        if not self._save_planned:
            self._plan_save()
        if busy:
            self._busy += 1
        else:
            self._checked += 1

    def _plan_save(self) -> None:
        self._save_planned = True
        self._loop.call_later(SAVE_AFTER_S, self.save)

    def save(self) -> None:
        """Write the counts down, and say what was slow."""
        self._save_planned = False
        if self._slow:
            us, what = self._slowest
            log.warning(
                "volume %s: %d requests took a second or more, the longest %.1f s: %s",
                self._uid, self._slow, us / 1e6, what,
            )  # fmt: skip
            self._slow, self._slowest = 0, (0, "")
        if self._fd < 0:
            return
        numbers: list[int] = []
        for kind in self._kinds.values():
            numbers += (kind.bytes, kind.us, *kind.buckets)
        with contextlib.suppress(OSError):  # a full run directory costs figures, and no I/O
            os.pwrite(self._fd, _LAYOUT.pack(MAGIC, *numbers, self._busy, self._checked), 0)

    def close(self) -> None:
        self.save()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
