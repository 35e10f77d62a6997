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
from holdfast.replicator.talk import REFUSED, Talk


def copy_extents(local: LocalReplica, talk: Talk, extents: Iterable[int]) -> Steps[None]:
    """Ascending extents, whose turn the caller holds; neighbours go together, and zeros as zeros. Raises
    Unavailable LOCAL_DISK, MIRROR_LOST or MIRROR_REFUSED.
    """
    for first, end in runs(extents):
        offset = first * EXTENT_BYTES
        length = min(end * EXTENT_BYTES, local.store.size_bytes) - offset
        yield from send(talk, offset, (yield from read(local, offset, length)))


def turn_of(local: LocalReplica, extents: range, exclusive: bool = False) -> Starter:
    """A step: nobody writes to `extents`, nor reads if `exclusive`, until the turn that this gives is given
    back.
    """
    first, end = extents.start * EXTENT_BYTES, min(extents.stop * EXTENT_BYTES, local.store.size_bytes)

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
    if outcome is Outcome.STALE_EPOCH:
        raise Unavailable("MIRROR_LOST", "the mirror has ended this session.")
    if outcome is not Outcome.OK:
        raise Unavailable(REFUSED, f"the mirror answered {outcome.value} to a copy.")


def _nobody(_outcome: Outcome) -> None:
    """A step's requests are ended by the step."""
