"""What a volume may answer: a history of requests, and the bytes that are right given it.

Every write fills its sectors with a number of its own, so a sector tells which write it came from. The
rule is that of a regular register, for each sector: a value is right if its write began before the look
ended, and no other write was acknowledged before the look began that itself began after the first ended.
A write that was not acknowledged (BUSY, an error, a crash) may have happened or not, once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from holdfast.base.device import Outcome

SECTOR_BYTES = 512
_NUMBER_BYTES = 8
_REPEATED = SECTOR_BYTES // _NUMBER_BYTES
_ORIGIN = 1 << 40
_GROUP_SECTORS = 64


@dataclass
class Write:
    """`began` and `ended` are ticks of the history; `impossible`: it was given up before it began."""

    value: int
    began: int
    ended: int | None = None
    outcome: Outcome | None = None
    impossible: bool = False


@dataclass
class History:
    sectors: int
    has_origin: bool = False
    ticks: int = 0
    writes: dict[int, list[Write]] = field(default_factory=dict)
    _groups: set[int] = field(default_factory=set)

    def tick(self) -> int:
        self.ticks += 1
        return self.ticks

    def begin(self, offset: int, length: int, value: int) -> Write:
        write = Write(value, self.tick())
        for sector in _sectors(offset, length):
            self.writes.setdefault(sector, []).append(write)
            self._groups.add(sector // _GROUP_SECTORS)
        return write

    def end(self, write: Write, outcome: Outcome | None) -> None:
        write.ended, write.outcome = self.tick(), outcome
        if outcome is Outcome.MISCOMPARE:
            write.impossible = True

    def initial(self, sector: int) -> int:
        return origin_value(sector) if self.has_origin else 0

    def may_hold(self, sector: int, value: int, since: int, until: int) -> bool:
        """Whether a look that began at tick `since` and ended at `until` may have found `value`."""
        writes = self.writes.get(sector, [])
        newest = max(
            (w.began for w in writes if w.outcome is Outcome.OK and w.ended is not None and w.ended < since),
            default=0,
        )
        if value == self.initial(sector) and newest == 0:
            return True
        return any(
            w.value == value and w.began < until and not w.impossible and not _before(w, newest)
            for w in writes
        )

    def wrong(self, offset: int, content: bytes | bytearray, since: int, until: int) -> Iterator[str]:
        """What is wrong with `content`, found at `offset` between two ticks."""
        for first, end in self._worth_a_look(offset, content):
            yield from self._wrong_among(range(first, end), offset, content, since, until)

    def _worth_a_look(self, offset: int, content: bytes | bytearray) -> Iterator[tuple[int, int]]:
        """Runs of sectors without those that were never written and look it."""
        sectors = _sectors(offset, len(content))
        for first in range(sectors.start, sectors.stop, _GROUP_SECTORS):
            end = min(first + _GROUP_SECTORS, sectors.stop)
            found = content[first * SECTOR_BYTES - offset : end * SECTOR_BYTES - offset]
            untouched = self._groups.isdisjoint(range(first // _GROUP_SECTORS, end // _GROUP_SECTORS + 1))
            if not untouched or found != self._initial_content(first, end):
                yield first, end

    def _initial_content(self, first: int, end: int) -> bytes:
        if not self.has_origin:
            return bytes((end - first) * SECTOR_BYTES)
        return b"".join(fill(self.initial(sector), SECTOR_BYTES) for sector in range(first, end))

    def _wrong_among(
        self, sectors: range, offset: int, content: bytes | bytearray, since: int, until: int
    ) -> Iterator[str]:
        for sector in sectors:
            at = sector * SECTOR_BYTES - offset
            number = bytes(content[at : at + _NUMBER_BYTES])
            value = int.from_bytes(number, "little")
            if content[at : at + SECTOR_BYTES] != number * _REPEATED:
                yield f"sector {sector} is torn: {bytes(content[at : at + 16])!r}"
            elif not self.may_hold(sector, value, since, until):
                known = [(w.value, w.began, w.ended, w.outcome) for w in self.writes.get(sector, [])]
                yield f"sector {sector} holds {value} in [{since}, {until}]; its writes: {known[-5:]}"


def fill(value: int, length: int) -> bytes:
    """The bytes of a write."""
    return value.to_bytes(_NUMBER_BYTES, "little") * (length // _NUMBER_BYTES)


def origin_value(sector: int) -> int:
    """Every third stretch of 2 MiB is a hole."""
    return 0 if sector // 4096 % 3 == 1 else _ORIGIN | sector


def origin_content(sectors: int) -> bytes:
    return b"".join(fill(origin_value(sector), SECTOR_BYTES) for sector in range(sectors))


def _before(write: Write, newest: int) -> bool:
    """It had ended when the newest of those that must be seen began."""
    return write.ended is not None and write.ended < newest


def _sectors(offset: int, length: int) -> range:
    return range(offset // SECTOR_BYTES, (offset + length) // SECTOR_BYTES)
