"""Runs in a guest: writes blocks in order, flushes now and then, and notes what it had flushed.

    flushed.py write DEVICE OFFSET SIZE RUN NOTES    until the region is full, or SIGTERM
    flushed.py check DEVICE OFFSET COUNT RUN         prints how many of the first COUNT blocks are wrong

A line `N` in NOTES: the first N blocks had been written before an fsync that has returned. They may never
be lost, whatever happens; the others may be, when every copy loses its power.
"""

import mmap
import os
import signal
import struct
import sys
from typing import NoReturn

_BLOCK_BYTES = 4096
_WRITES_PER_FLUSH = 24
_MARK = struct.Struct("<QQ")


def content(run: int, block: int) -> bytes:
    return _MARK.pack(run, block) * (_BLOCK_BYTES // _MARK.size)


def write(device: str, offset: int, size: int, run: int, notes: str) -> None:
    file = os.open(device, os.O_RDWR | os.O_DIRECT)
    log = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    buffer = mmap.mmap(-1, _BLOCK_BYTES)
    for block in range(size // _BLOCK_BYTES):
        buffer[:] = content(run, block)
        os.pwritev(file, [buffer], offset + block * _BLOCK_BYTES)
        if block % _WRITES_PER_FLUSH == 0:
            os.fsync(file)
            os.write(log, f"{block + 1}\n".encode())


def check(device: str, offset: int, count: int, run: int) -> None:
    file = os.open(device, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, _BLOCK_BYTES)
    wrong = 0
    for block in range(count):
        os.preadv(file, [buffer], offset + block * _BLOCK_BYTES)
        wrong += buffer[:] != content(run, block)
    print(wrong)


def _end(*_: object) -> NoReturn:
    sys.exit(0)


def main() -> None:
    how, device, *rest = sys.argv[1:]
    signal.signal(signal.SIGTERM, _end)
    if how == "write":
        offset, size, run = map(int, rest[:3])
        write(device, offset, size, run, rest[3])
    else:
        offset, count, run = map(int, rest)
        check(device, offset, count, run)


if __name__ == "__main__":
    main()
