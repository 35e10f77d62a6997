"""A store that goes wrong on purpose: a wrapper with rules, for tests and for trying a cluster out.

store = FaultyStore(DirectoryStore(root))
store.rules.append(Rule("put", "pack-", after=3, times=2, fault=Fault.LOST_ANSWER))
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from holdfast.snapshotter.objects import ObjectInfo, ObjectStore, missing, unreachable


class Fault(Enum):
    """What goes wrong with a call."""

    UNREACHABLE = "unreachable"
    """Nothing happens, and Unavailable is raised."""
    LOST_ANSWER = "lost_answer"
    """It is done, and Unavailable is raised."""
    MISSING = "missing"
    """NotFound, whatever is there."""
    FORGET = "forget"
    """A put that says that it was done and was not."""
    FLIP = "flip"
    """A read with its middle byte changed."""
    KILL = "kill"
    """Killed is raised, which no code handles: as if the process had died there."""


class Killed(BaseException):
    """The process has died; see Fault.KILL."""


@dataclass
class Rule:
    """`fault` for calls of `operation` ("" is any) on names that contain `part`: after the first `after`
    of them, `times` times."""

    operation: str
    part: str
    fault: Fault
    after: int = 0
    times: int = 1 << 30
    seen: int = field(default=0, compare=False)

    def hits(self, operation: str, name: str) -> bool:
        if self.operation not in ("", operation) or self.part not in name:
            return False
        self.seen += 1
        return self.after < self.seen <= self.after + self.times


class FaultyStore:
    """An ObjectStore around another. `calls` lists what was asked, in order, as (operation, name)."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self.rules: list[Rule] = []
        self.calls: list[tuple[str, str]] = []

    def put(self, name: str, data: bytes | bytearray) -> None:
        fault = self._fault("put", name)
        if fault is not Fault.FORGET:
            self._store.put(name, data)
        self._lose_answer(fault)

    def get(self, name: str) -> bytes:
        fault = self._fault("get", name)
        return _flipped(self._store.get(name), fault)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        fault = self._fault("get_range", name)
        return _flipped(self._store.get_range(name, offset, length), fault)

    def get_pieces(self, name: str, offset: int, lengths: Sequence[int]) -> Iterator[bytes]:
        """For the rules it is a `get_range`."""
        fault = self._fault("get_range", name)
        for number, piece in enumerate(self._store.get_pieces(name, offset, lengths)):
            yield _flipped(piece, fault if number == len(lengths) // 2 else None)

    def size(self, name: str) -> int:
        self._fault("size", name)
        return self._store.size(name)

    def delete(self, name: str) -> None:
        fault = self._fault("delete", name)
        self._store.delete(name)
        self._lose_answer(fault)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._fault("list", prefix)
        return self._store.list(prefix)

    def close(self) -> None:
        self._store.close()

    def _fault(self, operation: str, name: str) -> Fault | None:
        """The fault for this call; those that come before the call are raised here."""
        with self._lock:
            self.calls.append((operation, name))
            hits = [rule.fault for rule in self.rules if rule.hits(operation, name)]
        fault = hits[0] if hits else None
        if fault is Fault.KILL:
            raise Killed
        if fault is Fault.UNREACHABLE:
            raise unreachable("a faulty store", f"injected into {operation} {name}")
        if fault is Fault.MISSING:
            raise missing(name, "a faulty store")
        return fault

    @staticmethod
    def _lose_answer(fault: Fault | None) -> None:
        if fault is Fault.LOST_ANSWER:
            raise unreachable("a faulty store", "the answer was lost")


def _flipped(data: bytes, fault: Fault | None) -> bytes:
    if fault is not Fault.FLIP or not data:
        return data
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x40]) + data[middle + 1 :]
