"""What is to be done for a command, as values: the executor does it."""

from collections.abc import Callable

from holdfast.base.device import Op, Runs
from holdfast.target.scsi.status import CHECK_CONDITION, GOOD


class Answer:
    """The command is over: `data` for its Data-In Buffer, or a status and why."""

    __slots__ = ("data", "sense", "status")

    def __init__(self, status: int = GOOD, data: bytes = b"", sense: bytes = b"") -> None:
        self.status = status
        self.data = data
        self.sense = sense


class Transfer:
    """One request whose buffers are the command's own: READ, WRITE or COMPARE_AND_WRITE.

    `length` is that of the range. For COMPARE_AND_WRITE the command's buffers hold twice as much.
    """

    __slots__ = ("fua", "length", "offset", "op")

    def __init__(self, op: Op, offset: int, length: int, fua: bool = False) -> None:
        self.op = op
        self.offset = offset
        self.length = length
        self.fua = fua


class Step:
    """One of several requests. WRITE stores `data`; READ compares with `data`, if there is any."""

    __slots__ = ("data", "fua", "length", "offset", "op")

    def __init__(self, op: Op, offset: int, length: int, data: bytes = b"", fua: bool = False) -> None:
        self.op = op
        self.offset = offset
        self.length = length
        self.data = data
        self.fua = fua


class Steps:
    """Requests to be done one after the other; the first that fails ends the command, else `status` does."""

    __slots__ = ("status", "steps")

    def __init__(self, steps: list[Step], status: int = GOOD) -> None:
        self.steps = steps
        self.status = status


class Look:
    """Where in the range there is data; `answer` makes the command's Data-In Buffer of it."""

    __slots__ = ("answer", "length", "offset")

    def __init__(self, offset: int, length: int, answer: Callable[[Runs], bytes]) -> None:
        self.offset = offset
        self.length = length
        self.answer = answer


Plan = Answer | Transfer | Steps | Look


def good(data: bytes = b"") -> Answer:
    return Answer(GOOD, data)


def refused(sense: bytes) -> Answer:
    return Answer(CHECK_CONDITION, b"", sense)
