"""What an initiator may be told: every write and read of each sector, and whether one order explains them.

Every write fills its sectors with a number of its own. Two judges:

- `wrong`, at once: the rule of a regular register. What was found must come from a write that had begun,
  and that no write superseded: one acknowledged before the look began, which began after the first ended.
- `contradictions`, at the end of a run: a linearizable register (Gibbons and Korach's zones). Each write that
  was acknowledged or seen took place at one moment between its beginning and its end, for its initiator;
  each read between its own. So a write that ended without being acknowledged, whose value is not there when
  a later read looks, must not appear afterwards (I-11), and what was seen once must not vanish.

Zeros are not unique, and are judged by the first rule only.

When every in-sync host loses its memory, what was acknowledged and not flushed may be lost (`forget`): one
order explains what is seen before, and one what is seen after.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

SECTOR_BYTES = 512
_NUMBER_BYTES = 8
_REPEATED = SECTOR_BYTES // _NUMBER_BYTES
ZERO_SECTOR = bytes(SECTOR_BYTES)
_NEVER = 1 << 60


class Write:
    """One command that writes. `ended` for its initiator; `ok`: acknowledged. `impossible`: it was answered
    that nothing was done. `lost`: it may be gone with the memory of all, acknowledged or not.
    """

    __slots__ = ("began", "ended", "first", "impossible", "lost", "ok", "seen", "stop", "value")

    def __init__(self, value: int, began: int, first: int, stop: int) -> None:
        self.value = value
        self.began = began
        self.first = first
        self.stop = stop
        self.ended: int | None = None
        self.ok = False
        self.impossible = False
        self.lost = False
        self.seen = False

    def __str__(self) -> str:
        end = "under way" if self.ended is None else f"{'ok' if self.ok else 'not ok'} at {self.ended}"
        flags = "".join(f", {name}" for name in ("impossible", "lost", "seen") if getattr(self, name))
        return f"{self.value} began {self.began}, {end}{flags}"


class Look:
    """A sector was found to hold a value, between two ticks."""

    __slots__ = ("began", "ended", "era", "value")

    def __init__(self, value: int, began: int, ended: int, era: int) -> None:
        self.value = value
        self.began = began
        self.ended = ended
        self.era = era


class History:
    """Ticks are moments; all that happens in one call of the world has one of its own."""

    def __init__(self, sectors: int, has_origin: bool = False) -> None:
        self.sectors = sectors
        self.has_origin = has_origin
        self.ticks = 0
        self.era = 0
        self.eras = [0]
        """The tick at which each began."""
        self.writes: dict[int, list[Write]] = {}
        self.looks: dict[int, list[Look]] = {}
        self._all: list[Write] = []

    def tick(self) -> int:
        self.ticks += 1
        return self.ticks

    def begin(self, first: int, count: int, value: int) -> Write:
        write = Write(value, self.tick(), first, first + count)
        self._all.append(write)
        for sector in range(first, first + count):
            if sector in self.writes:
                self.writes[sector].append(write)
            else:
                self.writes[sector] = [write]
        return write

    def end(self, write: Write, ok: bool) -> None:
        if write.ended is None:
            write.ended, write.ok = self.tick(), ok

    def initial(self, sector: int) -> int:
        return origin_value(sector) if self.has_origin else 0

    def forget(self, kept: set[int]) -> None:
        """The memory of all is gone: what was acknowledged, and of which `kept` has not the id, may be lost,
        also what the initiator has yet to hear of, or has given up waiting for.
        """
        self.era += 1
        self.eras.append(self.tick())
        for write in self._all:
            if id(write) not in kept:
                write.lost = True

    def unflushed(self) -> list[Write]:
        return [write for write in self._all if write.ok and not write.lost]

    # The first rule.

    def may_hold(self, sector: int, value: int, since: int, until: int) -> bool:
        """Whether a look that began at tick `since` and ended at `until` may have found `value`."""
        writes = self.writes.get(sector, ())
        newest = 0
        for write in writes:
            if write.ok and not write.lost and write.ended is not None and write.ended < since:
                newest = max(newest, write.began)
        if newest == 0 and value == self.initial(sector):
            return True
        return any(
            write.value == value
            and write.began < until
            and not write.impossible
            and not (write.ended is not None and write.ended < newest)
            for write in writes
        )

    def is_older(self, sector: int, one: int | None, two: int | None) -> bool:
        """Whether `one` was in a sector before `two` was written, beyond doubt."""
        if one == two or one is None or not two:
            return False
        written = {write.value: write for write in self.writes.get(sector, ())}
        if two not in written:
            return False
        if one not in written:
            return one == self.initial(sector)
        first = written[one]
        return bool(one) and first.ended is not None and first.ended < written[two].began

    def wrong(self, offset: int, content: bytes | bytearray, since: int, until: int) -> Iterator[str]:
        """What is wrong with `content`, found at byte `offset` between two ticks."""
        first = offset // SECTOR_BYTES
        for index in range(len(content) // SECTOR_BYTES):
            sector = first + index
            found = content[index * SECTOR_BYTES : (index + 1) * SECTOR_BYTES]
            if sector not in self.writes and not self.has_origin:
                if found != ZERO_SECTOR:
                    yield f"sector {sector} was never written and holds {bytes(found[:16])!r}"
                continue
            value = value_of(found)
            if value is None:
                yield f"sector {sector} is torn: {bytes(found[:16])!r}"
            elif not self.may_hold(sector, value, since, until):
                yield f"sector {sector} holds {value} in [{since}, {until}]; {self.told(sector)}"

    def told(self, sector: int) -> str:
        known = self.writes.get(sector, [])
        return "its writes: " + "; ".join(str(write) for write in known[-6:])

    def saw(self, offset: int, content: bytes | bytearray, since: int, until: int, era: int) -> None:
        """A read was answered with this; it was carried out in `era`."""
        first = offset // SECTOR_BYTES
        for index in range(len(content) // SECTOR_BYTES):
            value = value_of(content[index * SECTOR_BYTES : (index + 1) * SECTOR_BYTES])
            if value is not None:
                look = Look(value, since, until, era)
                self.looks.setdefault(first + index, []).append(look)

    # The second rule.

    def contradictions(self) -> Iterator[str]:
        """What no order of the writes and reads of a sector explains."""
        done: set[tuple[object, ...]] = set()
        for sector, looks in self.looks.items():
            # Neighbours that went through the same need one look.
            same = (
                tuple(map(id, self.writes.get(sector, ()))),
                tuple((look.value, look.began) for look in looks),
            )
            if same in done:
                continue
            done.add(same)
            for era in sorted({look.era for look in looks}):
                yield from self._contradictions(sector, era, [look for look in looks if look.era == era])

    def _contradictions(self, sector: int, era: int, looks: list[Look]) -> Iterator[str]:
        began = self.eras[era]
        over = self.eras[era + 1] if era + 1 < len(self.eras) else _NEVER
        zones: list[tuple[int, int, int]] = []
        old_values: set[int] = set()
        by_value: dict[int, list[Look]] = {}
        for look in looks:
            by_value.setdefault(look.value, []).append(look)
        writes = {write.value: write for write in self.writes.get(sector, ()) if write.value}
        for value, seen in by_value.items():
            write = writes.get(value)
            if not value:
                continue
            if write is None or (write.ended is not None and write.ended < began):
                # Of before: what the era began with. (One that was under way may be of either.)
                old_values.add(value)
                first_end, last_start = began, max(look.began for look in seen)
            else:
                end = write.ended if write.ended is not None and write.ended < over else over
                first_end = min([end, *(look.ended for look in seen)])
                last_start = max([write.began, *(look.began for look in seen)])
            zones.append((first_end, last_start, value))
        for value, write in writes.items():
            if value not in by_value and write.ok and not write.lost and write.began >= began:
                assert write.ended is not None
                if write.ended < over:
                    zones.append((write.ended, write.began, value))
        if len(old_values) > 1:
            both = sorted(old_values)
            yield f"sector {sector} held {both} of before a loss of all memory; {self.told(sector)}"
        yield from self._overlaps(sector, zones)

    def _overlaps(self, sector: int, zones: list[tuple[int, int, int]]) -> Iterator[str]:
        """A zone (first end, last start): forward if its first end is before its last start. No two forward
        zones overlap, and no backward one lies within a forward one.
        """
        forward = sorted(zone for zone in zones if zone[0] < zone[1])
        backward = [(zone[1], zone[0], zone[2]) for zone in zones if zone[0] >= zone[1]]
        for one, two in pairwise(forward):
            if two[0] < one[1]:
                yield (
                    f"sector {sector}: {one[2]} was there from {one[0]} to {one[1]}, {two[2]} from {two[0]} "
                    f"to {two[1]}; {self.told(sector)}"
                )
        for start, end, value in backward:
            for one in forward:
                if one[0] < start and end < one[1]:
                    yield (
                        f"sector {sector}: {value} took place in [{start}, {end}], but {one[2]} was there "
                        f"from {one[0]} to {one[1]}; {self.told(sector)}"
                    )


def value_of(sector: bytes | bytearray) -> int | None:
    """The number that a sector is filled with; None if it is torn."""
    number = bytes(sector[:_NUMBER_BYTES])
    return int.from_bytes(number, "little") if sector == number * _REPEATED else None


def fill(value: int, length: int) -> bytes:
    return value.to_bytes(_NUMBER_BYTES, "little") * (length // _NUMBER_BYTES)


_ORIGIN = 1 << 40


def origin_value(sector: int) -> int:
    """Every third extent of 128 KiB is a hole."""
    return 0 if sector // 256 % 3 == 1 else _ORIGIN | sector


@lru_cache(4)
def origin_content(sectors: int) -> bytes:
    return b"".join(fill(origin_value(sector), SECTOR_BYTES) for sector in range(sectors))
