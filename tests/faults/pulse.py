"""Runs in a guest: writes 4 KiB after 4 KiB, and says how long the longest pause was and what was wrong.

Arguments: device, offset and size of the region that is its own, report file; then "flushed" if every write
is to be flushed before it counts, so that it outlives a loss of power. Ends at SIGTERM. Needs the
standard library only.

Each write goes to a random block and is followed by a read of another: a read must bring what was last
acknowledged there (or, after a failed write, what was being written). Once more at the end, of all blocks.
"""

import json
import mmap
import os
import random
import signal
import struct
import sys
import time

_BLOCK_BYTES = 4096
_PACE_S = 0.005  # a pulse, not a load: two hundred a second, and the machine is left to the others
_MARK = struct.Struct("<QQ")


class Pulse:
    def __init__(self, device: str, offset: int, size: int, flushed: bool) -> None:
        self.file = os.open(device, os.O_RDWR | os.O_DIRECT | (os.O_DSYNC if flushed else 0))
        self.offset, self.blocks = offset, size // _BLOCK_BYTES
        self.buffer = mmap.mmap(-1, _BLOCK_BYTES)
        self.run = random.getrandbits(48)
        # What each block may hold: one number once a write has been acknowledged.
        self.may_hold: dict[int, set[int]] = {}
        self.number = 0
        self.errors: list[str] = []
        self.wrong_blocks: list[str] = []
        self.pauses: list[tuple[float, float]] = []
        self.stopping = False

    def beat_until_stopped(self) -> None:
        began_s = last_s = time.monotonic()
        while not self.stopping:
            self._write(random.randrange(self.blocks))
            now_s = time.monotonic()
            self.pauses.append((now_s - last_s, last_s - began_s))
            self.pauses = sorted(self.pauses, reverse=True)[:5]
            last_s = now_s
            self._check(random.choice(list(self.may_hold)) if self.number % 8 == 0 else None)
            time.sleep(_PACE_S)

    def check_all(self) -> None:
        for block in self.may_hold:
            self._check(block)

    def _write(self, block: int) -> None:
        self.number += 1
        self.buffer[:] = _MARK.pack(self.run ^ block, self.number) * (_BLOCK_BYTES // _MARK.size)
        try:
            os.pwritev(self.file, [self.buffer], self.offset + block * _BLOCK_BYTES)
        except OSError as error:
            self.errors.append(f"write {self.number}: {error}")
            self.may_hold.setdefault(block, {0}).add(self.number)
        else:
            self.may_hold[block] = {self.number}

    def _check(self, block: int | None) -> None:
        if block is None:
            return
        try:
            os.preadv(self.file, [self.buffer], self.offset + block * _BLOCK_BYTES)
        except OSError as error:
            self.errors.append(f"read of block {block}: {error}")
            return
        whole = self.buffer[: _MARK.size] * (_BLOCK_BYTES // _MARK.size) == self.buffer[:]
        owner, number = _MARK.unpack(self.buffer[: _MARK.size])
        ours = owner == self.run ^ block
        wanted = self.may_hold[block]
        if not whole or (number if ours else 0) not in wanted:
            found = f"write {number}" if whole and ours else "other bytes"
            self.wrong_blocks.append(f"block {block}: {found}, wanted {sorted(wanted)}")


def main() -> None:
    device, offset, size, report, *how = sys.argv[1:]
    pulse = Pulse(device, int(offset), int(size), flushed=how == ["flushed"])

    def stop(*_: object) -> None:
        pulse.stopping = True

    signal.signal(signal.SIGTERM, stop)
    pulse.beat_until_stopped()
    pulse.check_all()
    said = {
        "writes": pulse.number,
        "errors": pulse.errors,
        "wrong_blocks": pulse.wrong_blocks,
        "pauses": [{"ms": round(long * 1000), "at_s": round(at, 1)} for long, at in pulse.pauses],
    }
    with open(report, "w") as file:
        json.dump(said, file)


if __name__ == "__main__":
    main()
