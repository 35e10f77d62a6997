"""How a process is known again: by its id and its start time. A worker says which it is without loading what
starts others (workers.py).
"""

import json
from pathlib import Path


def record_of(pid: int, code: str = "") -> str:
    """Which process that is, so that `Workers.adopt` knows it again, and what it runs."""
    return json.dumps({"pid": pid, "started": start_time(pid), "code": code})


def start_time(pid: int) -> int:
    """Clock ticks from boot to the start of a process (proc(5), field 22 of stat); 0 if it is no more."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])
