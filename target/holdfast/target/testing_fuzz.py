"""A ring as no kernel writes it: commands with single fields spoilt, and what must hold all the same.

    python -m holdfast.target.testing_fuzz --seeds 100000 --first 0

Whatever the shared memory holds, the worker serves it or raises RingBroken: nothing else, and in bounded
time. It never writes to the kernel's part of the mailbox, and to the device only what a command that it found
there says, within that command's range and the device's.
"""

import argparse
import random
import struct
from collections.abc import Callable

from holdfast.base.device import Op, Request
from holdfast.base.loop import Loop
from holdfast.target import ring_layout as at
from holdfast.target.executor import RingServer
from holdfast.target.ring import RingBroken
from holdfast.target.scsi.unit import Unit
from holdfast.target.testing import CMDR_OFF, FakeKernel, FakeUio, RingFull
from holdfast.target.testing_device import BufferDevice

SIZE = 1 << 20
RING_BYTES = 2048
_UID = "0123456789abcdef01234567"
_CDB_BYTES = (6, 10, 10, 12, 16, 12, 10, 10)
"""What the kernel takes for the length of a CDB, by the highest 3 bits of its operation code."""
_UNTOUCHED, _SENT = 0x11, 0xEE
_HOSTILE = (0, 1, 7, 8, 47, 64, 111, 112, 4095, 4096, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
_HOSTILE_LONG = (*_HOSTILE, 1 << 32, 1 << 48, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


class Bench:
    """A worker's ring over a fake kernel's, whose data area holds one byte over and over."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.kernel = FakeKernel(RING_BYTES, data_blocks=32)
        chance.shuffle(self.kernel._free)
        self.uio = FakeUio(self.kernel)
        self.loop = Loop()
        self.device = BufferDevice(bytearray([_UNTOUCHED]) * SIZE)
        self.requests: list[Request] = []
        self.device.fail = lambda request: self.requests.append(request)
        unit = Unit(_UID, SIZE)
        self.server = RingServer(self.loop, self.uio, self.device, unit)

    def close(self) -> None:
        self.server.close()
        self.loop.close()


def queue_something(bench: Bench) -> None:
    chance, kernel = bench.chance, bench.kernel
    lba, blocks = chance.randrange(SIZE // 512), chance.randrange(1, 24)
    kind = chance.randrange(6)
    if kind == 0:
        kernel.queue_tmr(chance.randrange(1, 9), [chance.randrange(1, 9) for _ in range(chance.randrange(4))])
    elif kind == 1:
        kernel.queue(bytes([0x12, 0, 0, 0, 96, 0]), b"", chance.choice((0, 36, 96)))
    elif kind == 2:
        kernel.queue(struct.pack(">BBIBHB", 0x28, 0, lba, 0, blocks, 0), b"", blocks * 512)
    elif kind == 3:
        opcode = chance.randrange(256)
        kernel.queue(bytes([opcode]) + chance.randbytes(_CDB_BYTES[opcode >> 5] - 1), bytes([_SENT]) * 512)
    else:
        kernel.queue(struct.pack(">BBIBHB", 0x2A, 0, lba, 0, blocks, 0), bytes([_SENT]) * (blocks * 512))


def _fields(kernel: FakeKernel, entry: int) -> list[tuple[int, str]]:
    """Where the numbers of an entry are, with their formats, and the mailbox's that the worker reads."""
    iovecs = [(entry + at.IOVECS_AT + 8 * i, "Q") for i in range(4)]
    fixed = [(entry, "I"), (entry + 4, "H"), (entry + 8, "I"), (entry + 12, "I"), (entry + 24, "Q")]
    return [*fixed, *iovecs, (entry + 8, "B"), (entry + 12, "I"), (4 * at.HEAD_WORD, "I")]


def spoil(bench: Bench, entries: list[int]) -> None:
    chance, memory = bench.chance, bench.kernel.memory
    where, form = chance.choice(_fields(bench.kernel, chance.choice(entries)))
    if where + struct.calcsize(form) > CMDR_OFF + RING_BYTES:
        return
    limit = 1 << (8 * struct.calcsize(form))
    (now,) = struct.unpack_from(form, memory, where)
    value = chance.choice(
        (
            chance.randrange(limit),
            chance.choice(_HOSTILE_LONG) % limit,
            (now + chance.choice((-8, -1, 1, 8, 16, 4096))) % limit,
            now ^ (1 << chance.randrange(8 * struct.calcsize(form))),
        )
    )
    struct.pack_into(form, memory, where, value)


def play(seed: int) -> str:
    """One ring; what came of it. Raises AssertionError, or whatever the worker should not have raised."""
    chance = random.Random(seed)
    bench = Bench(chance)
    try:
        for _ in range(chance.randrange(0, 12)):  # so that the ring has gone round
            _round(bench, spoilt=False)
        broken = _round(bench, spoilt=True)
    finally:
        bench.close()
    return "broken" if broken else "served"


def _round(bench: Bench, spoilt: bool) -> bool:
    chance, kernel = bench.chance, bench.kernel
    entries = []
    for _ in range(chance.randrange(1, 5)):
        entries.append(CMDR_OFF + kernel.head)
        try:
            queue_something(bench)
        except RingFull:
            break
    if spoilt:
        bench.uio.signal = lambda: None  # type: ignore[method-assign]  # the real one would find it broken
        for _ in range(chance.randrange(1, 4)):
            spoil(bench, entries)
    mailbox = bytes(kernel.memory[:64])
    before = bytes(bench.device.data)
    bench.requests.clear()
    try:
        bench.server._serve()
        broken = False
    except RingBroken:
        broken = True
    assert bytes(kernel.memory[:64]) == mailbox, "the mailbox was written to"
    _check_device(bench, before)
    if not spoilt:
        assert not broken, "broken, though nothing was spoilt"
        bench.loop.run_once(0)
    return broken


def _check_device(bench: Bench, before: bytes) -> None:
    """Only requests have changed it, each within its own range and within the device."""
    wanted = bytearray(before)
    for request in bench.requests:
        start, end = request.offset, request.offset + request.length
        assert 0 <= start <= end <= SIZE, f"a request of [{start}, {end})"
        if request.op in (Op.WRITE, Op.COMPARE_AND_WRITE):
            sent = b"".join(bytes(buffer) for buffer in request.buffers)
            assert len(sent) == request.length
            if bytes(bench.device.data[start:end]) != before[start:end]:
                wanted[start:end] = bench.device.data[start:end]
        elif request.op is Op.ZERO:
            wanted[start:end] = bytes(end - start)
    assert bytes(bench.device.data) == wanted


def run(first: int, count: int, say: Callable[[str], None]) -> int:
    """Plays `count` seeds; 1 after the first that fails, whose seed is said."""
    came: dict[str, int] = {}
    for seed in range(first, first + count):
        try:
            outcome = play(seed)
        except BaseException:
            say(f"seed {seed} failed: python -m holdfast.target.testing_fuzz --first {seed} --seeds 1")
            raise
        came[outcome] = came.get(outcome, 0) + 1
    say(f"{count} rings from seed {first}: {came}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    return run(options.first, options.seeds, print)


if __name__ == "__main__":
    raise SystemExit(main())
