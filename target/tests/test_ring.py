"""The ring against the kernel's half of it: nothing lost, nothing twice, nothing corrupted."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.target import ring_layout as at
from holdfast.target.ring import Command, Ring, RingBroken
from holdfast.target.testing import CMDR_OFF, Completion, FakeKernel, RingFull

NONE, OUT, IN = 0, 1, 2


def answer(cdb: bytes, out: bytes, read: int) -> tuple[int, bytes, bytes]:
    """Status, sense and data: a function of the command alone, so that any mix-up shows."""
    rng = random.Random(cdb + out)
    return (
        rng.choice((0, 0, 2, 8)),
        rng.randbytes(18),
        rng.randbytes(rng.randrange(1, read + 1) if read else 0),
    )


class Initiator:
    """Queues commands of known content and checks that each ends once, with what it should get."""

    def __init__(self, kernel: FakeKernel, rng: random.Random) -> None:
        self.kernel = kernel
        self.rng = rng
        self.sent = 0
        self.ended = 0

    def send(self) -> None:
        direction = self.rng.choice((NONE, OUT, IN))
        cdb = bytes([direction]) + self.sent.to_bytes(5, "little") + bytes(self.rng.choice((0, 4, 6, 10)))
        size = self.rng.choice((1, 512, 4096, 9000, 20000)) if direction else 0
        out = self.rng.randbytes(size) if direction == OUT else b""
        read = size if direction == IN else 0
        self.kernel.queue(cdb, out, read, lambda got: self.check(got, cdb[:6], out, read))
        self.sent += 1

    def check(self, got: Completion, cdb: bytes, out: bytes, read: int) -> None:
        status, sense, data = answer(cdb, out, read)
        assert (got.status, got.data) == (status, data)
        assert got.sense == (sense.ljust(96, b"\0") if status == 2 else b"")
        self.ended += 1


def serve(ring: Ring, command: Command) -> None:
    direction = command.cdb[0]
    out = b"".join(command.buffers) if direction == OUT else b""
    status, sense, data = answer(command.cdb[:6], out, command.length if direction == IN else 0)
    left = data
    for buffer in command.buffers:
        part, left = left[: len(buffer)], left[len(buffer) :]
        if direction == IN:
            buffer[: len(part)] = part
    ring.complete(command.id, status, sense if status == 2 else b"", len(data))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.integers(600, 3000), st.lists(st.integers(0, 9), max_size=300))
def test_any_interleaving_ends_every_command_once_with_its_own_answer(
    seed: int, ring_bytes: int, moves: list[int]
) -> None:
    rng = random.Random(seed)
    kernel = FakeKernel(ring_bytes // 8 * 8, data_blocks=24)
    ring = Ring(kernel.memory)
    initiator = Initiator(kernel, rng)
    open_commands: list[Command] = []
    notices = 0
    for move in moves:
        try:
            if move <= 4:
                initiator.send()
            elif move == 5:
                kernel.queue_tmr(5, [c.id for c in open_commands][:8])
                notices += 1
        except RingFull:
            pass
        if move in (4, 6, 7):
            open_commands += ring.drain()
        if move in (7, 8) and open_commands:
            serve(ring, open_commands.pop(rng.randrange(len(open_commands))))
        if move == 9:
            kernel.handle_completions()
    open_commands += ring.drain()
    rng.shuffle(open_commands)
    for command in open_commands:
        serve(ring, command)
    kernel.handle_completions()
    assert initiator.ended == initiator.sent
    assert not kernel.pending and ring.open_commands == 0
    assert len(ring.notices) == notices
    # Everything was given back: the kernel sees an empty ring.
    assert kernel.head == kernel._cleaned


def test_completions_out_of_order_across_the_end_of_the_ring() -> None:
    kernel = FakeKernel(4096 - 8)
    ring = Ring(kernel.memory)
    ended: list[int] = []
    for turn in range(40):
        names = []
        for number in range(3):
            name = turn * 3 + number
            kernel.queue(bytes([NONE]) * 16, done=lambda _got, name=name: ended.append(name))
            names.append(name)
        commands = ring.drain()
        for command in reversed(commands):
            ring.complete(command.id, 0)
        assert ring.signal_needed
        assert kernel.handle_completions() == 3
        assert ended[-3:] == names[::-1]


def test_a_notice_alone_is_given_back_at_once() -> None:
    kernel = FakeKernel()
    ring = Ring(kernel.memory)
    kernel.queue_tmr(1, [3, 4])
    assert ring.drain() == []
    assert [(n.name, n.command_ids) for n in ring.notices] == [("ABORT TASK", (3, 4))]
    assert ring.signal_needed and ring._words[at.TAIL_WORD] == kernel.head


def test_completing_twice_is_refused() -> None:
    kernel = FakeKernel()
    ring = Ring(kernel.memory)
    kernel.queue(bytes(6))
    (command,) = ring.drain()
    ring.complete(command.id, 0)
    with pytest.raises(AssertionError, match="is not open"):
        ring.complete(command.id, 0)


def _word(offset: int, value: int) -> Callable[[FakeKernel], None]:
    def damage(kernel: FakeKernel) -> None:
        kernel.memory[CMDR_OFF + offset : CMDR_OFF + offset + 4] = value.to_bytes(4, "little")

    return damage


def _head(value: int) -> Callable[[FakeKernel], None]:
    def damage(kernel: FakeKernel) -> None:
        kernel._words[at.HEAD_WORD] = value

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        _word(0, 0),  # an entry without length
        _word(0, 8 | at.OP_CMD),  # too short for a command
        _word(0, 1 << 20 | at.OP_CMD),  # longer than the ring
        _word(0, 128 | 7),  # no such operation
        _word(0, 16 | at.OP_TMR),  # too short for a notice
        _word(8, 1000),  # more iovecs than fit
        _word(24, 0),  # CDB in the mailbox
        _word(24, 1 << 30),  # CDB outside the mapping
        _word(48, 0),  # data in the mailbox
        _word(52, 1),  # data beyond the mapping
        _word(56, 1 << 30),  # data longer than the mapping
        _head(4),
        _head(1 << 20),
    ],
)
def test_a_broken_ring_is_noticed(damage: Callable[[FakeKernel], None]) -> None:
    kernel = FakeKernel()
    ring = Ring(kernel.memory)
    kernel.queue(bytes(6), bytes(512))
    damage(kernel)
    with pytest.raises(RingBroken):
        ring.drain()


def test_an_id_that_comes_again_is_noticed() -> None:
    kernel = FakeKernel()
    ring = Ring(kernel.memory)
    kernel.queue(bytes(6))
    ring.drain()
    kernel.pending.clear()
    kernel.queue(bytes(6))
    with pytest.raises(RingBroken, match="came again"):
        ring.drain()


@pytest.mark.parametrize("mailbox", [(1, 15, 128, 4096, 0), (2, 0, 128, 4096, 0), (2, 15, 128, 1 << 30, 0)])
def test_a_mailbox_that_does_not_fit_is_refused(mailbox: tuple[int, ...]) -> None:
    kernel = FakeKernel()
    at.MAILBOX.pack_into(kernel.memory, 0, *mailbox)
    with pytest.raises(RingBroken):
        Ring(kernel.memory)


@pytest.mark.parametrize("tail", [4, 1 << 20, (1 << 32) - 8])
def test_a_tail_outside_the_ring_is_refused(tail: int) -> None:
    kernel = FakeKernel()
    memoryview(kernel.memory).cast("B").cast("I")[at.TAIL_WORD] = tail
    with pytest.raises(RingBroken, match="cmd_tail"):
        Ring(kernel.memory)
