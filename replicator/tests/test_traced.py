"""A traced request goes the way of any other, and says when it was where."""

import pytest

from holdfast.base.device import Done, Op, Outcome, Request
from holdfast.base.trace import Trace, TracedRequest
from holdfast.replicator.testing import POISON
from holdfast.replicator.testing_rig import MakeRig, Rig

BLOCK = 4096
WRITTEN = ["admitted", "turn", "prepared", "sent", "here", "mirror", "done"]


class Traced:
    """A request to the primary's device; its owner holds `request` and hears of `outcomes`."""

    def __init__(
        self, rig: Rig, op: Op, offset: int = 0, content: bytes | int = b"", fua: bool = False
    ) -> None:
        self.outcomes: list[Outcome] = []
        self.ended: list[Trace] = []
        done: Done = self.outcomes.append
        length = content if isinstance(content, int) else len(content)
        self.buffer = bytearray(length if isinstance(content, int) else content)
        buffers = [memoryview(self.buffer)] if length else []
        self.request = Request(op, offset, length, done, buffers, fua)
        self.trace = Trace(self.request, rig.pair.a.loop.now)
        replica = rig.pair.a.replica
        assert replica is not None
        replica.device.submit_traced(TracedRequest(self.request, self.trace, self.ended.append))

    @property
    def stages(self) -> list[str]:
        return [name for name, _at_s in self.trace.stages]


def ended(rig: Rig, *what: Traced) -> None:
    rig.pair.until(lambda: all(one.outcomes for one in what))


def test_the_stages_of_each_kind(rig: Rig) -> None:
    write = Traced(rig, Op.WRITE, BLOCK, b"x" * BLOCK)
    ended(rig, write)
    assert write.outcomes == [Outcome.OK] and rig.same() and write.ended == [write.trace]
    assert sorted(write.stages) == sorted(WRITTEN) and write.stages[-1] == "done"
    times = [at_s for _name, at_s in write.trace.stages]
    assert times == sorted(times) and write.trace.took_s == times[-1] - write.trace.came_s
    read = Traced(rig, Op.READ, BLOCK, BLOCK)
    ended(rig, read)
    assert read.stages == ["turn", "read", "done"] and read.buffer == b"x" * BLOCK
    for other, wanted in (
        (Traced(rig, Op.FLUSH), ["sent", "on disk", "mirror", "done"]),
        (Traced(rig, Op.WRITE, 0, b"y" * BLOCK, fua=True), [*WRITTEN[:4], "on disk", *WRITTEN[5:]]),
    ):
        ended(rig, other)
        assert sorted(other.stages) == sorted(wanted)


def test_one_that_waits_for_another_has_no_turn_until_then(rig: Rig) -> None:
    first = Traced(rig, Op.WRITE, 0, b"a" * BLOCK)
    second = Traced(rig, Op.WRITE, 0, b"b" * BLOCK)
    assert "turn" in first.stages and second.stages == ["admitted"]
    ended(rig, first, second)
    turn = dict(second.trace.stages)["turn"]
    assert turn >= dict(first.trace.stages)["mirror"] and rig.pair.read(0, BLOCK) == b"b" * BLOCK


def test_alone_it_is_hardened_and_sent_to_nobody(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.pair.until_up()
    rig.pair.kill_mirror()
    rig.pair.epoch(9, "a", "a")
    write = Traced(rig, Op.WRITE, 0, b"z" * BLOCK)
    ended(rig, write)
    assert write.outcomes == [Outcome.OK]
    assert write.stages == ["admitted", "turn", "prepared", "here", "on disk", "done"]


def test_its_buffers_are_its_owners(rig: Rig) -> None:
    """A ring that closes takes them away: then nothing is read into them any more."""
    read = Traced(rig, Op.READ, 0, BLOCK)
    traced = TracedRequest(read.request, read.trace, read.ended.append)
    read.request.buffers = []
    assert traced.buffers == []
    traced.buffers = [memoryview(bytes([POISON]))]
    assert read.request.buffers == traced.buffers
    traced.miscompare_offset = 7
    assert read.request.miscompare_offset == 7


@pytest.mark.parametrize(
    ("offset", "length", "outcome"),
    [(-BLOCK, BLOCK, Outcome.INVALID), (1 << 40, BLOCK, Outcome.INVALID), (0, 0, Outcome.OK)],
)
def test_what_needs_no_job_gets_none(rig: Rig, offset: int, length: int, outcome: Outcome) -> None:
    one = Traced(rig, Op.WRITE, offset, length)
    assert one.outcomes == [outcome] and one.stages == ["done"]


def test_a_standby_refuses_it_as_any_other(rig: Rig) -> None:
    rig.pair.epoch(9, "b", "ab")
    rig.pair.until(lambda: rig.pair.leading_of("b") is not None)
    one = Traced(rig, Op.READ, 0, BLOCK)
    ended(rig, one)
    assert one.outcomes == [Outcome.STANDBY] and one.stages == ["done"]
