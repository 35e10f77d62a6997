"""Runs in a guest: one thread writes a number that grows, by one way; another reads it, by another way.

    stale.py READ_DEVICE WRITE_DEVICE OFFSET REPORT     until SIGTERM

A read that begins after a write has been acknowledged must bring that write's number, or a newer one, or
fail. Failing is all right: a primary that is none must refuse. Prints "begun" after the first right ones.
"""

import json
import mmap
import os
import signal
import struct
import sys
import threading
import time

_BLOCK_BYTES = 4096
_NUMBER = struct.Struct("<Q")
_PACE_S = 0.01
_BEGUN_READS = 10


class Race:
    def __init__(self, read_device: str, write_device: str, offset: int) -> None:
        self.reads = os.open(read_device, os.O_RDONLY | os.O_DIRECT)
        self.writes = os.open(write_device, os.O_RDWR | os.O_DIRECT)
        self.offset = offset
        self.acknowledged = 0
        self.stopping = False
        self.stale: list[str] = []
        self.right = self.failed = 0
        self.held_s = 0.0

    def write(self) -> None:
        buffer = mmap.mmap(-1, _BLOCK_BYTES)
        while not self.stopping:
            number = self.acknowledged + 1
            buffer[: _NUMBER.size] = _NUMBER.pack(number)
            os.pwritev(self.writes, [buffer], self.offset)
            self.acknowledged = number
            time.sleep(_PACE_S)

    def read(self) -> None:
        buffer = mmap.mmap(-1, _BLOCK_BYTES)
        while not self.stopping:
            least, began_s = self.acknowledged, time.monotonic()
            try:
                os.preadv(self.reads, [buffer], self.offset)
            except OSError:
                self.failed += 1
            else:
                (found,) = _NUMBER.unpack(buffer[: _NUMBER.size])
                self.right += found >= least
                if self.right == _BEGUN_READS:
                    print("begun", flush=True)
                if found < least:
                    self.stale.append(f"read {found} after {least} was acknowledged")
            self.held_s = max(self.held_s, time.monotonic() - began_s)
            time.sleep(_PACE_S)


def main() -> None:
    read_device, write_device, offset, report = sys.argv[1:]
    race = Race(read_device, write_device, int(offset))

    def stop(*_: object) -> None:
        race.stopping = True

    signal.signal(signal.SIGTERM, stop)
    writer = threading.Thread(target=race.write)
    # What is there before the first write is of somebody else.
    writer.start()
    while not race.acknowledged and not race.stopping:
        time.sleep(_PACE_S)
    race.read()
    writer.join()
    said = {"right": race.right, "failed": race.failed, "stale": race.stale, "held_s": race.held_s}
    with open(report, "w") as file:
        json.dump({**said, "writes": race.acknowledged}, file)


if __name__ == "__main__":
    main()
