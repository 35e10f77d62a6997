"""An object store and an etcd in memory that count their calls, and end or fail one of them, for tests."""

import threading
from collections.abc import Callable, Iterator, Sequence
from enum import Enum

from holdfast.base.errors import OutcomeUnknown, Unavailable
from holdfast.metadata.etcd_types import Compare, Op, TxnResult
from holdfast.metadata.memory_store import MemoryStore
from holdfast.snapshotter.objects import ObjectInfo, unreachable
from holdfast.snapshotter.objects_faults import Killed
from holdfast.snapshotter.objects_memory import MemoryObjects


class How(Enum):
    """What becomes of the call that `Steps.at` is."""

    KILLED_BEFORE = "killed before"
    KILLED_AFTER = "killed after"
    FAILS = "fails"
    """It is not done."""
    LOSES_ANSWER = "loses its answer"
    """It is done, and says that it may not be."""


class Steps:
    """Counts calls that write or list; the one numbered `at` (from 0) goes as `how` says.

    `hold_at`: that one waits until `release` is set, with `held` set.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.count = 0
        self.at = -1
        self.how = How.KILLED_BEFORE
        self.dead = False
        self.hold_at = -1
        self.held = threading.Event()
        self.release = threading.Event()

    def step(self) -> bool:
        """Whether this call is the one."""
        with self._lock:
            number = self.count
            self.count += 1
        if number == self.hold_at:
            self.held.set()
            assert self.release.wait(60), "nobody let it go on"
        if self.dead:
            raise Killed  # another thread of it has died
        return number == self.at

    def die(self) -> None:
        self.dead = True
        raise Killed


class SteppedObjects:
    """One process's view of an object store; `deleting` is told of each delete before it is done."""

    def __init__(self, below: MemoryObjects, steps: Steps) -> None:
        self._below = below
        self._steps = steps
        self.deleting: Callable[[str], None] = lambda name: None

    def put(self, name: str, data: bytes | bytearray) -> None:
        self._do(lambda: self._below.put(name, data))

    def delete(self, name: str) -> None:
        def delete() -> None:
            self.deleting(name)
            self._below.delete(name)

        self._do(delete)

    def get(self, name: str) -> bytes:
        return self._below.get(name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self._below.get_range(name, offset, length)

    def get_pieces(self, name: str, offset: int, lengths: Sequence[int]) -> Iterator[bytes]:
        return self._below.get_pieces(name, offset, lengths)

    def size(self, name: str) -> int:
        return self._below.size(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._do(lambda: None)
        return self._below.list(prefix)

    def close(self) -> None:
        self._below.close()

    def _do(self, call: Callable[[], None]) -> None:
        hit, how = self._steps.step(), self._steps.how
        if hit and how is How.KILLED_BEFORE:
            self._steps.die()
        if hit and how is How.FAILS:
            raise unreachable("memory", "this call fails")
        call()
        if hit and how is How.KILLED_AFTER:
            self._steps.die()
        if hit and how is How.LOSES_ANSWER:
            raise unreachable("memory", "the answer was lost")


class SteppedEtcd(MemoryStore):
    """One process's view of an etcd in memory: it shares what `below` holds."""

    def __init__(self, below: MemoryStore, steps: Steps) -> None:
        super().__init__()
        self._below_store = below
        self._steps = steps

    def get(self, key: str):  # type: ignore[no-untyped-def]
        return self._below_store.get(key)

    def range(self, prefix: str, limit: int = 0, start_after: str = "", revision: int = 0):  # type: ignore[no-untyped-def]
        return self._below_store.range(prefix, limit, start_after, revision)

    def transact(
        self, compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()
    ) -> TxnResult:
        hit, how = self._steps.step(), self._steps.how
        if hit and how is How.KILLED_BEFORE:
            self._steps.die()
        if hit and how is How.FAILS:
            raise Unavailable("ETCD_UNREACHABLE", "This transaction is not sent.")
        result = self._below_store.transact(compares, success, failure)
        if hit and how is How.KILLED_AFTER:
            self._steps.die()
        if hit and how is How.LOSES_ANSWER:
            raise OutcomeUnknown("OUTCOME_UNKNOWN", "The answer was lost.")
        return result
