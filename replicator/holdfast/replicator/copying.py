"""Copying a range of the primary to another host, in its turn of the order: a step of alignments, resyncs
and repairs.
"""

from collections.abc import Iterable

from holdfast.base.device import Op, Outcome, Request
from holdfast.base.errors import Unavailable
from holdfast.base.extents import runs
from holdfast.base.limits import EXTENT_BYTES
from holdfast.base.steps import Resume, Starter, Steps
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.order import Turn
from holdfast.replicator.talk import REFUSED, Talk


def copy(local: LocalReplica, talk: Talk, offset: int, length: int) -> Steps[None]:
    """Zeros go as zeros. Raises Unavailable LOCAL_DISK, MIRROR_LOST or MIRROR_REFUSED."""
    turn: Turn = yield shared_turn(local, offset, length)
    try:
        content = yield from read(local, offset, length)
        yield from send(talk, offset, content)
    finally:
        local.order.give_back(turn)


def copy_extents(local: LocalReplica, talk: Talk, extents: Iterable[int]) -> Steps[None]:
    """As `copy`, of ascending extents whose turn the caller holds; neighbours go together."""
    for first, end in runs(extents):
        offset = first * EXTENT_BYTES
        length = min(end * EXTENT_BYTES, local.store.size_bytes) - offset
        yield from send(talk, offset, (yield from read(local, offset, length)))


def turn_of(local: LocalReplica, extents: range, exclusive: bool = False) -> Starter:
    """A step: nobody writes to `extents`, nor reads if `exclusive`, until the turn that this gives is given
    back.
    """
    start = extents.start * EXTENT_BYTES
    return _turn(local, start, min(extents.stop * EXTENT_BYTES, local.store.size_bytes), exclusive)


def shared_turn(local: LocalReplica, offset: int, length: int) -> Starter:
    """A step: nothing is written to the range until the turn that this gives is given back."""
    return _turn(local, offset, offset + length, exclusive=False)


def _turn(local: LocalReplica, first: int, end: int, exclusive: bool) -> Starter:
    def start(resume: Resume) -> None:
        local.order.take(first, end, exclusive, resume)

    return start


def read(local: LocalReplica, offset: int, length: int) -> Steps[bytearray]:
    content = bytearray(length)
    request = Request(Op.READ, offset, length, _nobody, [memoryview(content)])

    def start(resume: Resume) -> None:
        local.read(request, resume)

    outcome = yield start
    if outcome is not Outcome.OK:
        raise Unavailable(
            "LOCAL_DISK", f"the primary's disk is in trouble: {local.suspect or 'a read failed'}"
        )
    return content


def send(talk: Talk, offset: int, content: bytearray) -> Steps[None]:
    length = len(content)
    if content == bytes(length):
        request = Request(Op.ZERO, offset, length, _nobody)
    else:
        request = Request(Op.WRITE, offset, length, _nobody, [memoryview(content)])
    outcome = yield talk.confirm(request)
    if outcome is not Outcome.OK:
        raise Unavailable(REFUSED, f"the mirror answered {outcome.value} to a copy.")


def _nobody(_outcome: Outcome) -> None:
    """A step's requests are ended by the step."""
