"""The small interface that everything between an initiator and a disk shares.

A device takes requests and ends each exactly once by calling its `done`, perhaps before `submit`
returns, always on the loop's thread. Requests may end in any order; whoever needs an order waits for
`done`. Buffers belong to the request until then: a device neither copies nor keeps them longer.
"""

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Protocol


class Op(Enum):
    READ = "read"
    """Fill `buffers`."""
    WRITE = "write"
    """Store `buffers`."""
    ZERO = "zero"
    """The range reads as zeros from now on; space may be given back."""
    FLUSH = "flush"
    """Everything that ended OK before this was submitted is on disk, on every in-sync host."""
    COMPARE_AND_WRITE = "compare_and_write"
    """If the range equals `expected`, store `buffers`; as one step."""
    LOOK = "look"
    """Say where data is (`LookRequest`). Nothing is read, and nothing fetched to be looked at."""


class Outcome(Enum):
    OK = "ok"
    BUSY = "busy"
    """Not acknowledged, perhaps applied: the initiator tries again."""
    MISCOMPARE = "miscompare"
    """COMPARE AND WRITE found something else; nothing was written."""
    NO_SPACE = "no_space"
    MEDIUM_ERROR = "medium_error"
    """The bytes cannot be had, or are not what was stored."""
    STALE_EPOCH = "stale_epoch"
    """This host no longer owns the volume, or the sender does not."""
    STANDBY = "standby"
    """This host's path is not the active one; nothing was done. Another path leads to the primary."""
    READ_ONLY = "read_only"
    INVALID = "invalid"
    """Outside the device, or not understood."""


Done = Callable[[Outcome], None]
Runs = list[tuple[int, bool]]
"""(length in bytes, whether something is stored there), one behind the other."""


class Request:
    """One operation on [offset, offset + length) bytes.

    `buffers` together hold `length` bytes for READ (filled), WRITE and COMPARE_AND_WRITE (stored), and are
    empty otherwise. `fua`: on disk on every in-sync host before `done(OK)`. `miscompare_offset` is set with
    MISCOMPARE: the first byte that differs. `came_s`: when an initiator's command came, for who measures.
    """

    __slots__ = (
        "buffers", "came_s", "done", "expected", "fua", "length", "miscompare_offset", "offset", "op",
    )  # fmt: skip

    def __init__(
        self,
        op: Op,
        offset: int,
        length: int,
        done: Done,
        buffers: list[memoryview] | None = None,
        fua: bool = False,
        expected: bytes = b"",
    ) -> None:
        self.came_s = 0.0
        self.op = op
        self.offset = offset
        self.length = length
        self.done = done
        self.buffers = buffers or []
        self.fua = fua
        self.expected = expected
        self.miscompare_offset = 0


class LookRequest(Request):
    """LOOK. With OK, `runs` say it from `offset` on: of the whole range, or of its beginning."""

    __slots__ = ("runs",)

    def __init__(self, offset: int, length: int, done: Done) -> None:
        super().__init__(Op.LOOK, offset, length, done)
        self.runs: Runs = []


def submit_each(device: "Device", requests: list[Request]) -> None:
    """`submit_all` of a device that does nothing together."""
    for request in requests:
        device.submit(request)


class Device(Protocol):
    @property
    def size_bytes(self) -> int: ...

    def submit(self, request: Request) -> None: ...

    def submit_all(self, requests: list[Request]) -> None:
        """As `submit` of each, one after the other: they came together."""
        ...


def fill(buffers: Iterable[memoryview], pieces: Iterable[bytes | bytearray | memoryview]) -> None:
    """Copy `pieces`, one behind the other, into `buffers`; both together are equally long."""
    rest = memoryview(b"")
    coming = iter(pieces)
    for buffer in buffers:
        at = 0
        while at < len(buffer):
            if not rest:
                rest = memoryview(next(coming))
            count = min(len(rest), len(buffer) - at)
            buffer[at : at + count] = rest[:count]
            at, rest = at + count, rest[count:]
