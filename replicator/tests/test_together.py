"""Requests that come together: as if one came after the other, whatever goes wrong with one of them."""

import errno
from random import Random

import pytest

from holdfast.base.device import Op, Outcome, Request
from holdfast.replicator.testing import poison
from holdfast.replicator.testing_rig import MakeRig, Rig

BLOCK = 4096


def _together(rig: Rig, wanted: list[tuple[Op, int, bytes | int, bool]]) -> list[list[Outcome]]:
    """Submit all at once; each list holds its outcome when it is known."""
    requests, ended = [], []
    for op, offset, content, fua in wanted:
        length = content if isinstance(content, int) else len(content)
        buffers = [] if isinstance(content, int) else [memoryview(bytearray(content))]
        outcomes: list[Outcome] = []

        def done(outcome: Outcome, mine: list[Outcome] = outcomes, own: list[memoryview] = buffers) -> None:
            assert not mine, "a request was ended twice"
            mine.append(outcome)
            poison(own)

        requests.append(Request(op, offset, length, done, buffers, fua))
        ended.append(outcomes)
    rig.pair.primary.submit_all(requests)
    return ended


@pytest.mark.parametrize("seed", range(12))
def test_they_take_turns_where_they_overlap(make_rig: MakeRig, seed: int) -> None:
    chance, rig = Random(seed), make_rig(seed)
    rig.pair.until_up()
    model = bytearray(rig.pair.size_bytes)
    for _ in range(20):
        wanted: list[tuple[Op, int, bytes | int, bool]] = []
        for _ in range(chance.randrange(1, 12)):
            op = chance.choice((Op.WRITE,) * 8 + (Op.ZERO, Op.FLUSH))
            length = chance.choice((512, BLOCK, 3 * BLOCK))
            start = chance.randrange((len(model) - length) // 512) * 512 if chance.random() < 0.5 else 0
            start += chance.randrange(4) * BLOCK if not start else 0
            if op is Op.WRITE:
                content = chance.randbytes(length)
                model[start : start + length] = content
                wanted.append((op, start, content, chance.random() < 0.1))
            elif op is Op.ZERO:
                model[start : start + length] = bytes(length)
                wanted.append((op, start, length, False))
            else:
                wanted.append((op, 0, 0, False))
        outcomes = _together(rig, wanted)
        rig.pair.until(lambda outcomes=outcomes: all(outcomes))  # type: ignore[misc]
        assert all(one == [Outcome.OK] for one in outcomes)
    for disk in rig.disks.values():
        assert disk.content("data")[: len(model)] == model


def test_one_outside_is_refused_and_the_others_are_written(rig: Rig) -> None:
    size = rig.pair.size_bytes
    outcomes = _together(
        rig,
        [
            (Op.WRITE, 0, b"a" * 512, False),
            (Op.WRITE, size - 512, b"b" * 1024, False),
            (Op.WRITE, 512, b"", False),
            (Op.WRITE, 512, b"c" * 512, False),
        ],
    )
    rig.pair.until(lambda: all(outcomes))
    assert [one[0] for one in outcomes] == [Outcome.OK, Outcome.INVALID, Outcome.OK, Outcome.OK]
    assert rig.pair.read(0, 1024) == b"a" * 512 + b"c" * 512 and rig.same()


def test_a_session_lost_at_once_costs_no_write(rig: Rig) -> None:
    wanted = [(Op.WRITE, i * BLOCK, bytes([i + 1]) * BLOCK, False) for i in range(20)]
    outcomes = _together(rig, wanted)
    rig.pair.net.cut()
    rig.pair.until(lambda: all(outcomes))
    assert all(one == [Outcome.OK] for one in outcomes) and rig.same()


@pytest.mark.parametrize("failing", range(6))
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("refuses", [False, True])
def test_the_disk_fails_one_of_them(rig: Rig, failing: int, error: int, refuses: bool) -> None:
    """None ends well that the mirror has not. Who is told of the trouble may give all of them up at once."""
    rig.pair.do(Op.WRITE, 0, b"x" * 6 * BLOCK)
    count = 0

    def on_step(kind: str, name: str) -> None:
        nonlocal count
        if kind == "write" and name == "data":
            count += 1
            if count == failing + 1:
                raise OSError(error, "injected")

    rig.disks["a"].on_step = on_step
    told: list[Outcome] = []

    def trouble(outcome: Outcome) -> None:
        told.append(outcome)
        if refuses:
            rig.pair.primary.refuse_all()

    rig.pair.primary.on_trouble = trouble
    outcomes = _together(rig, [(Op.WRITE, i * BLOCK, bytes([i + 1]) * BLOCK, False) for i in range(6)])
    rig.mend()
    rig.pair.until(lambda: all(outcomes))
    assert told and outcomes[failing] == [Outcome.BUSY]
    here, there = (rig.disks[name].content("data") for name in ("a", "b"))
    for i, one in enumerate(outcomes):
        if one == [Outcome.OK]:
            assert here[i * BLOCK : (i + 1) * BLOCK] == there[i * BLOCK : (i + 1) * BLOCK]
            assert here[i * BLOCK] == i + 1
        else:
            assert one == [Outcome.BUSY]
