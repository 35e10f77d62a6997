"""Runs in a guest: writes 4 MiB at an offset of a device, reads there, prints the names of errors as JSON."""

import errno
import json
import mmap
import os
import sys
from collections.abc import Callable

_BYTES = 4 << 20


def outcome(call: Callable[..., int], file: int, buffers: list[mmap.mmap], offset: int) -> str:
    try:
        call(file, buffers, offset)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def main() -> None:
    file = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT)
    buffer = mmap.mmap(-1, _BYTES)
    buffer[:] = b"\x5a" * _BYTES
    offset = int(sys.argv[2])
    said = {
        name: outcome(call, file, [buffer], offset)
        for name, call in (("write", os.pwritev), ("read", os.preadv))
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
