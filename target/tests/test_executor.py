"""Commands from a fake kernel through the ring and the command set to a device, and back."""

import os
import random
from collections.abc import Iterator

import pytest

from holdfast.base.device import Op, Outcome, Request
from holdfast.base.loop import Loop
from holdfast.target.executor import RingServer
from holdfast.target.scsi.unit import Unit
from holdfast.target.testing import Completion, FakeKernel, FakeUio, RingFull
from holdfast.target.testing_device import BufferDevice

SIZE = 4 << 20
UID = "0123456789abcdef01234567"
TUR = bytes(6)


class Bench:
    def __init__(self) -> None:
        self.kernel = FakeKernel(1 << 16, data_blocks=256)
        self.uio = FakeUio(self.kernel)
        self.loop = Loop()
        self.device = BufferDevice(bytearray(SIZE))
        unit = Unit(UID, SIZE)
        self.server = RingServer(self.loop, self.uio, self.device, unit)  # type: ignore[arg-type]
        self.ended: list[Completion] = []

    def queue(self, cdb: bytes, out: bytes = b"", read: int = 0) -> None:
        self.kernel.queue(cdb, out, read, self.ended.append)
        os.eventfd_write(self.uio.fd, 1)

    def turn(self) -> list[Completion]:
        """Two turns of the loop: what came is served, what ended is signalled."""
        self.loop.run_once(0)
        self.loop.run_once(0)
        ended, self.ended[:] = self.ended[:], []
        return ended

    def one(self, cdb: bytes, out: bytes = b"", read: int = 0) -> Completion:
        self.queue(cdb, out, read)
        (ended,) = self.turn()
        return ended


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.server.close()
    bench.loop.close()


def rw(opcode: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return bytes([opcode, flags]) + lba.to_bytes(4, "big") + b"\0" + blocks.to_bytes(2, "big") + b"\0"


def test_what_is_written_is_read(bench: Bench) -> None:
    content = random.Random(1).randbytes(40 * 512)
    assert bench.one(rw(0x2A, 7, 40, 0x08), content).status == 0
    assert bench.device.log == [(Op.WRITE, 7 * 512, 40 * 512, True)]
    assert bench.one(rw(0x28, 7, 40), read=len(content)).data == content


def test_a_batch_is_one_signal(bench: Bench) -> None:
    for lba in range(20):
        bench.queue(rw(0x2A, lba, 1), bytes([lba]) * 512)
    assert len(bench.turn()) == 20
    assert bench.uio.signals == 1


def test_commands_that_came_before_the_first_event_are_served(bench: Bench) -> None:
    bench.kernel.queue(TUR, done=bench.ended.append)
    assert len(bench.turn()) == 1


def test_requests_end_in_any_order(bench: Bench) -> None:
    bench.device.hold = True
    order: list[int] = []
    for number in range(8):
        bench.kernel.queue(rw(0x28, number, 1), b"", 512, lambda _got, n=number: order.append(n))
        bench.device.data[number * 512] = number
    bench.turn()
    assert bench.server.open_commands == 8
    for index in (5, 0, 3, 0, 2, 2, 0, 0):
        bench.device.release(index)
        bench.turn()
    assert sorted(order) == list(range(8)) and order[:2] == [5, 0]


@pytest.mark.parametrize(
    ("outcome", "status", "sense"),
    [(Outcome.BUSY, 8, b""), (Outcome.MEDIUM_ERROR, 2, b"\x03"), (Outcome.STALE_EPOCH, 8, b"")],
)
def test_an_outcome_becomes_a_status(bench: Bench, outcome: Outcome, status: int, sense: bytes) -> None:
    bench.device.fail = lambda _request: outcome
    got = bench.one(rw(0x28, 0, 1), read=512)
    assert (got.status, got.sense[2:3]) == (status, sense)


def test_answers_are_cut_and_say_how_long_they_are(bench: Bench) -> None:
    assert len(bench.one(bytes.fromhex("12000000ff00"), read=255).data) == 96
    assert bench.one(bytes.fromhex("120000000500"), read=5).data == bytes.fromhex("000006125b")
    # Less room than the allocation length claims.
    assert bench.one(bytes.fromhex("12000000ff00"), read=8).data == bytes.fromhex("000006125b101002")


def test_a_buffer_that_does_not_fit_the_command_is_refused(bench: Bench) -> None:
    assert bench.one(rw(0x2A, 0, 2), bytes(512)).sense[12:14] == b"\x0e\3"
    assert bench.one(rw(0x2A, 0, 1), bytes(1024)).sense[12:14] == b"\x0e\3"
    assert bench.one(rw(0x28, 0, 2), read=512).sense[12:14] == b"\x0e\3"
    bench.device.data[:512] = b"x" * 512
    assert bench.one(rw(0x28, 0, 1), read=2048).data == b"x" * 512
    assert all(op is Op.READ for op, *_ in bench.device.log)


def test_compare_and_write(bench: Bench) -> None:
    cdb = bytes.fromhex("8900" + "0000000000000004" + "00000002" + "0000")
    old, new = bytes(1024), b"n" * 1024
    assert bench.one(cdb, old + new).status == 0
    assert bench.device.data[2048:3072] == new
    wrong = new[:700] + b"?" + new[701:]
    got = bench.one(cdb, wrong + old)
    assert got.status == 2 and got.sense[2] == 0x0E and int.from_bytes(got.sense[3:7], "big") == 700
    assert bench.device.data[2048:3072] == new
    assert bench.one(cdb, new).sense[12:18] == bytes.fromhex("240000c0000d")
    nothing = bytes.fromhex("8900" + "0000000000000004" + "00000000" + "0000")
    assert bench.one(nothing).status == 0
    assert bench.one(nothing, old).sense[12:14] == b"\x24\0"


def test_verify_with_data(bench: Bench) -> None:
    content = random.Random(3).randbytes(3 << 18)
    bench.device.data[512 : 512 + len(content)] = content
    cdb = bytes.fromhex("2f0200000001000600" + "00")
    assert bench.one(cdb, content).status == 0
    wrong = bytearray(content)
    wrong[5000] ^= 1
    got = bench.one(cdb, bytes(wrong))
    assert got.sense[2] == 0x0E and int.from_bytes(got.sense[3:7], "big") == 5000


def test_write_and_verify(bench: Bench) -> None:
    content = random.Random(4).randbytes(3 << 18)
    assert bench.one(bytes.fromhex("2e0200000001000600" + "00"), content).status == 0
    assert bench.device.data[512 : 512 + len(content)] == content
    assert bench.device.log == [(Op.WRITE, 512, len(content), True), (Op.READ, 512, len(content), False)]


def test_prefetch_meets_its_condition(bench: Bench) -> None:
    assert bench.one(bytes.fromhex("34000000000100" + "0008" + "00")).status == 4
    assert bench.one(bytes.fromhex("34000000000100" + "2000" + "00")).sense[12] == 0x21


def test_where_data_is(bench: Bench) -> None:
    cdb = bytes.fromhex("9e12" + "0000000000000004" + "00000028" + "0000")
    got = bench.one(cdb, read=40)
    assert got.status == 0 and int.from_bytes(got.data[:4], "big") == 4 + 16 * 1024
    lbas = [(int.from_bytes(got.data[at : at + 8], "big"), got.data[at + 12]) for at in (8, 24)]
    assert lbas == [(4, 0), (12, 1)]
    bench.device.fail = lambda _request: Outcome.STANDBY
    assert bench.one(cdb, read=40).sense[12:14] == b"\x04\x0b"


def test_several_steps_stop_at_the_first_that_fails(bench: Bench) -> None:
    pattern = b"p" * 512
    cdb = bytes.fromhex("4100" + "00000001" + "00" + "1000" + "00")
    assert bench.one(cdb, pattern).status == 0
    assert bench.device.data[: SIZE // 2 + 512] == bytes(512) + pattern * 4096
    calls: list[Request] = []

    def fail(request: Request) -> Outcome | None:
        calls.append(request)
        return Outcome.NO_SPACE if len(calls) == 2 else None

    bench.device.fail = fail
    assert bench.one(cdb, pattern).sense[12:14] == b"\x27\x07"
    assert len(calls) == 2


def test_steps_that_wait(bench: Bench) -> None:
    bench.device.hold = True
    bench.queue(bytes.fromhex("4100" + "00000000" + "00" + "1001" + "00"), b"p" * 512)
    for _ in range(3):
        assert bench.turn() == []
        bench.device.release()
    assert [got.status for got in bench.turn()] == [0]


def test_closing_leaves_the_ring_alone(bench: Bench) -> None:
    bench.device.hold = True
    bench.queue(rw(0x28, 0, 8), read=4096)
    bench.turn()
    (request,) = bench.device.held
    bench.server.close()
    assert request.buffers == []
    bench.device.release()
    assert bench.kernel.handle_completions() == 0 and len(bench.kernel.pending) == 1


def test_unit_attention(bench: Bench) -> None:
    bench.server.unit.attentions.establish(0x29, 0)
    assert bench.one(TUR).sense[12] == 0x29
    assert bench.one(TUR).status == 0


def test_a_model_of_random_commands() -> None:
    """Reads, writes, zeroes and patterns, ended in random order, against a plain bytearray."""
    rng = random.Random(7)
    bench = Bench()
    bench.server.unit = Unit(UID, SIZE)
    model = bytearray(SIZE)
    for _ in range(400):
        busy: set[int] = set()
        bench.device.hold = True
        for _ in range(rng.randrange(1, 12)):
            lba = rng.randrange(0, SIZE // 512 - 64)
            blocks = rng.randrange(1, 64)
            covered = set(range(lba, lba + blocks))
            if covered & busy:
                continue
            busy |= covered
            start, end = lba * 512, (lba + blocks) * 512
            kind = rng.randrange(3)
            try:
                if kind == 0:
                    content = rng.randbytes(blocks * 512)
                    bench.queue(rw(0x2A, lba, blocks), content)
                    model[start:end] = content
                elif kind == 1:
                    bench.queue(rw(0x41, lba, blocks, 8), bytes(512))
                    model[start:end] = bytes(end - start)
                else:
                    wanted = bytes(model[start:end])
                    bench.kernel.queue(
                        rw(0x28, lba, blocks), b"", end - start, lambda got, w=wanted: check(got, w)
                    )
            except RingFull:
                break
        bench.loop.run_once(0)
        while bench.device.held:
            bench.device.release(rng.randrange(len(bench.device.held)))
        assert all(got.status == 0 for got in bench.turn())
    assert bench.device.data == model and not bench.kernel.pending
    bench.server.close()
    bench.loop.close()


def check(got: Completion, wanted: bytes) -> None:
    assert got.status == 0 and got.data == wanted
