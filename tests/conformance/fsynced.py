"""Runs in a guest: makes files in a folder, each on disk before its number is noted.

fsynced.py write FOLDER NOTES     until the file system is nearly full, or forever
fsynced.py check FOLDER COUNT     prints how many of the first COUNT files are not as they were written
"""

import hashlib
import os
import sys
from pathlib import Path

_KEPT = 400
"""Files: then the oldest are written over, each by a rename of a new one that is on disk."""


def content(number: int) -> bytes:
    seed = hashlib.sha256(str(number).encode()).digest()
    return seed * (1 + number * 37 % 2000)


def write(folder: Path, notes: str) -> None:
    log = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    directory = os.open(folder, os.O_RDONLY)
    number = 0
    while True:
        fresh = folder / "fresh"
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(file, content(number))
        os.fsync(file)
        os.close(file)
        fresh.rename(folder / str(number % _KEPT))
        os.fsync(directory)
        number += 1
        os.write(log, f"{number}\n".encode())


def check(folder: Path, count: int) -> None:
    """Of each name the last noted content, or a newer one: the writer went on after its last note."""
    wrong = 0
    for number in range(max(0, count - _KEPT), count):
        path = folder / str(number % _KEPT)
        found = path.read_bytes() if path.exists() else b""
        wrong += found not in (content(number), content(number + _KEPT))
    print(wrong)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]), sys.argv[3])
    else:
        check(Path(sys.argv[2]), int(sys.argv[3]))
