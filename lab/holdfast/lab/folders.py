"""Where short-lived data goes: in memory where there is room for it."""

import os
from pathlib import Path

_MEMORY = Path("/dev/shm")


def fast_dir(room_mib: int) -> Path | None:
    """The folder in memory if so much is free there (a container's is often tiny), else None."""
    if not _MEMORY.is_dir():
        return None
    free = os.statvfs(_MEMORY)
    return _MEMORY if free.f_bavail * free.f_frsize >= room_mib << 20 else None
