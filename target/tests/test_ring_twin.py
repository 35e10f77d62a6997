"""The ring's C twin beside its Python form: the same memory in, the same requests and the same memory out."""

import os
import random

import pytest

from holdfast.target import ring
from holdfast.target.ring import RingBroken
from holdfast.target.testing import RingFull
from holdfast.target.testing_fuzz import Bench, queue_something, spoil

STORIES = 100
ROUNDS_MAX = 12
quick = ring._quick

needs_twin = pytest.mark.skipif(quick is None, reason="built without a compiler")


def _story(seed: int) -> tuple[list[object], int]:
    """What came of each round of a ring whose last one is spoilt; and how many requests there were."""
    chance = random.Random(seed)
    bench = Bench(chance)
    bench.device.hold = True
    found: list[object] = []
    requests = 0
    try:
        bench.loop.run_once(0)
        rounds = chance.randrange(1, ROUNDS_MAX)
        for number in range(rounds):
            entries = []
            for _ in range(chance.randrange(1, 6)):
                entries.append(128 + bench.kernel.head)
                try:
                    queue_something(bench)
                except RingFull:
                    break
            if number == rounds - 1:
                spoil(bench, entries)
            os.eventfd_write(bench.uio.fd, 1)
            bench.loop.run_once(0)
            held = bench.device.held
            requests += len(held)
            for one in held:
                content = [bytes(buffer) for buffer in one.buffers]
                found.append((one.op, one.offset, one.length, one.fua, one.expected, content))
                found.append((one.miscompare_offset, type(one).__name__, getattr(one, "cmd_id", None)))
            while held:
                bench.device.release(chance.randrange(len(held)))
            found.append(bytes(bench.kernel.memory))
            bench.loop.run_once(0)
            found.append(bytes(bench.kernel.memory))
    except (RingBroken, AssertionError) as error:  # The kernel's half asserts that ids are its own.
        found.append(str(error))
    finally:
        bench.close()
    return found, requests


@needs_twin
def test_rings_are_served_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    first, requests = random.randrange(1 << 32), 0
    for seed in range(first, first + STORIES):
        monkeypatch.setattr(ring, "_quick", quick)
        in_c, count = _story(seed)
        monkeypatch.setattr(ring, "_quick", None)
        in_python, _count = _story(seed)
        assert in_c == in_python, f"seed {seed}"
        requests += count
    assert requests > STORIES


@needs_twin
def test_the_twin_takes_what_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    assert quick is not None

    class Watched:
        give_back = staticmethod(quick.give_back)

        @staticmethod
        def take(*arguments: object) -> int:
            before = len(arguments[-1])  # type: ignore[arg-type]
            stopped: int = quick.take(*arguments)
            taken.append(len(arguments[-1]) - before)  # type: ignore[arg-type]
            return stopped

    monkeypatch.setattr(ring, "_quick", Watched)
    requests = sum(_story(seed)[1] for seed in range(20))
    assert sum(taken) > requests / 3


@needs_twin
def test_a_command_that_is_not_open_cannot_be_ended() -> None:
    assert quick is not None
    with pytest.raises(AssertionError, match="command 7 is not open"):
        quick.give_back(memoryview(bytearray(256)), [7], {8}, [])
