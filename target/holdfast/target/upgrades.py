"""Workers of older code are replaced by such as this agent would start: gently, one at a time on a host.

An upgrade is: install the new code, restart the agent. The agent's record of each worker says what code that
was started with. One that differs is ended in good order while its volume is well, and the next one starts
at once; in between initiators wait, and what was in flight they send again (BUSY). The next volume's turn
comes when this one's worker, the new one, is well: new code that does not serve costs a host one volume's
worker, not all of them. A volume that is not well keeps its worker; whoever wants to kills it.

Two hosts do not ask each other. Both workers of a volume may be replaced at the same moment: a longer pause,
and nothing lost, since what is in memory is in the page cache, and the hosts' boots go on.
"""

import hashlib
import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import holdfast.base
import holdfast.replicator
import holdfast.target
from holdfast.target.control import Desired, Observed
from holdfast.target.role_names import JOINER, PRIMARY

log = logging.getLogger(__name__)

_CODE = ("*.py", "*.so")


def code_id() -> str:
    """What code a worker that is started now would run: where it is, and what is there."""
    roots = [Path(p) for each in (holdfast.base, holdfast.replicator, holdfast.target) for p in each.__path__]
    return digest(sys.executable, roots)


def digest(interpreter: str, roots: Iterable[Path]) -> str:
    total = hashlib.sha256(interpreter.encode())
    for root in roots:
        for path in sorted(path for pattern in _CODE for path in root.rglob(pattern)):
            total.update(f"\0{path}\0".encode())
            total.update(path.read_bytes())
    return total.hexdigest()[:16]


def is_well(told: Desired | None, observed: Observed | None) -> bool:
    """The worker does all that it is to do, and nothing that a restart of it would undo."""
    if told is None or observed is None or observed.reason:
        return False
    if (observed.epoch, observed.role) != (told.epoch, told.role):
        return False
    if told.ring is not None and not observed.ring_open:
        return False
    if told.role == JOINER:
        return True
    lonely = told.role == PRIMARY and len(told.members) > 1 and not observed.peer_connected
    busy = observed.verify is not None and observed.verify.running
    return observed.serving and not (lonely or busy)


class Upgrades:
    """Whose turn it is. Loop thread only. `granted()` is called when another may ask."""

    def __init__(self, granted: Callable[[], None]) -> None:
        self._granted = granted
        self._uid = ""

    def take(self, uid: str) -> bool:
        """Whether the volume's worker may be replaced now. The turn is its own until `over`."""
        self._uid = self._uid or uid
        return self._uid == uid

    def over(self, uid: str) -> None:
        if self._uid == uid:
            self._uid = ""
            self._granted()
