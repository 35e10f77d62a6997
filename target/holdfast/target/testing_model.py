"""Random commands of every kind against a plain array of bytes, through a fake kernel's ring.

    python -m holdfast.target.testing_model --seeds 2000 --first 0

Batches of commands that do not overlap, over scattered memory and a ring that goes round all the time, with
notices of task management between them; requests end in any order, and some fail. Of each command is known
what it must answer and what it must leave behind; the CDBs are made here, by the standard's layouts, not by
the code under test.
"""

import argparse
import os
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass

from holdfast.base.device import Outcome, Request
from holdfast.base.loop import Loop
from holdfast.target.executor import RingServer
from holdfast.target.scsi.unit import Unit
from holdfast.target.testing import Completion, FakeKernel, FakeUio, RingFull
from holdfast.target.testing_device import BufferDevice

BLOCK = 512
BLOCKS = 4096
_UID = "0123456789abcdef01234567"
_MOST_BLOCKS = 40
_ROUNDS = 30
_IDLE_TURNS_MAX = 5
_GOOD, _CHECK, _MET, _BUSY = 0, 2, 4, 8
_DPO_FUA = (0x00, 0x08, 0x10, 0x18)


@dataclass
class Case:
    """A command, and what must come of it: status, sense if it is refused, its data, the blocks."""

    cdb: bytes
    out: bytes = b""
    room: int = 0
    status: int = _GOOD
    sense: str = ""
    data: bytes | None = None
    after: bytes | None = None
    may_fail: bool = False
    """One request: if the device refuses it, nothing has changed."""


def _cdb(size: int, opcode: int, flags: int, lba: int, blocks: int) -> bytes:
    if size == 6:
        return struct.pack(">BBHBB", opcode, lba >> 16, lba & 0xFFFF, blocks & 0xFF, 0)
    form = {10: ">BBIBHB", 12: ">BBIIBB", 16: ">BBQIBB"}[size]
    fields = (lba, 0, blocks, 0) if size == 10 else (lba, blocks, 0, 0)
    return struct.pack(form, opcode, flags, *fields)


class Maker:
    """Makes cases for [lba, lba + blocks), whose content is `now`."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.kinds: list[Callable[[int, int, bytes], Case]] = [
            *(self.read, self.write, self.write, self.write_same, self.unmap, self.compare_and_write),
            *(self.verify, self.write_and_verify, self.flush, self.prefetch, self.look, self.wrong),
        ]

    def make(self, lba: int, blocks: int, now: bytes) -> Case:
        return self.chance.choice(self.kinds)(lba, blocks, now)

    def read(self, lba: int, blocks: int, now: bytes) -> Case:
        size, opcode = self.chance.choice(((6, 0x08), (10, 0x28), (12, 0xA8), (16, 0x88)))
        more = self.chance.choice((0, 0, 0, 512, 5000))
        cdb = _cdb(size, opcode, self.chance.choice(_DPO_FUA), lba, blocks)
        return Case(cdb, room=len(now) + more, data=now, may_fail=True)

    def write(self, lba: int, blocks: int, now: bytes) -> Case:
        size, opcode = self.chance.choice(((6, 0x0A), (10, 0x2A), (12, 0xAA), (16, 0x8A)))
        content = self.chance.randbytes(len(now))
        cdb = _cdb(size, opcode, self.chance.choice(_DPO_FUA), lba, blocks)
        return Case(cdb, content, after=content, may_fail=True)

    def write_same(self, lba: int, blocks: int, now: bytes) -> Case:
        size, opcode = self.chance.choice(((10, 0x41), (16, 0x93)))
        if size == 16 and self.chance.random() < 0.3:
            cdb = _cdb(size, opcode, self.chance.choice((0x01, 0x09)), lba, blocks)
            return Case(cdb, after=bytes(len(now)), may_fail=True)
        block = self.chance.choice((bytes(BLOCK), self.chance.randbytes(BLOCK)))
        cdb = _cdb(size, opcode, self.chance.choice((0x00, 0x08)), lba, blocks)
        return Case(cdb, block, after=block * blocks, may_fail=True)

    def unmap(self, lba: int, blocks: int, now: bytes) -> Case:
        """Up to three pieces of the range."""
        cuts = sorted(self.chance.sample(range(blocks + 1), min(blocks + 1, self.chance.choice((2, 4, 6)))))
        pieces = list(zip(cuts[::2], cuts[1::2], strict=False))
        after = bytearray(now)
        for start, end in pieces:
            after[start * BLOCK : end * BLOCK] = bytes((end - start) * BLOCK)
        body = b"".join(struct.pack(">QI4x", lba + start, end - start) for start, end in pieces)
        out = struct.pack(">HH4x", len(body) + 6, len(body)) + body
        return Case(struct.pack(">BB5xHB", 0x42, 0, len(out), 0), out, after=bytes(after))

    def compare_and_write(self, lba: int, blocks: int, now: bytes) -> Case:
        new = self.chance.randbytes(len(now))
        expected = self._perhaps_other(now)
        cdb = struct.pack(">BBQ3xBxB", 0x89, self.chance.choice(_DPO_FUA), lba, blocks, 0)
        if expected == now:
            return Case(cdb, expected + new, after=new, may_fail=True)
        return Case(cdb, expected + new, status=_CHECK, sense="0e/1d/00")

    def verify(self, lba: int, blocks: int, now: bytes) -> Case:
        size, opcode = self.chance.choice(((10, 0x2F), (12, 0xAF), (16, 0x8F)))
        if self.chance.random() < 0.3:
            return Case(_cdb(size, opcode, 0x00, lba, blocks), may_fail=True)
        if self.chance.random() < 0.3:
            block = self._perhaps_other(now[:BLOCK])
            case = Case(_cdb(size, opcode, 0x06, lba, blocks), block)
            same = block * blocks == now
        else:
            content = self._perhaps_other(now)
            case = Case(_cdb(size, opcode, 0x02, lba, blocks), content)
            same = content == now
        if not same:
            case.status, case.sense = _CHECK, "0e/1d/00"
        return case

    def write_and_verify(self, lba: int, blocks: int, now: bytes) -> Case:
        size, opcode = self.chance.choice(((10, 0x2E), (12, 0xAE), (16, 0x8E)))
        content = self.chance.randbytes(len(now))
        cdb = _cdb(size, opcode, self.chance.choice((0x00, 0x02, 0x12)), lba, blocks)
        return Case(cdb, content, after=content)

    def flush(self, lba: int, blocks: int, now: bytes) -> Case:
        size, opcode = self.chance.choice(((10, 0x35), (16, 0x91)))
        return Case(_cdb(size, opcode, self.chance.choice((0, 2)), lba, blocks), may_fail=True)

    def prefetch(self, lba: int, blocks: int, now: bytes) -> Case:
        size, opcode = self.chance.choice(((10, 0x34), (16, 0x90)))
        return Case(_cdb(size, opcode, 0, lba, blocks), status=_MET, may_fail=True)

    def look(self, lba: int, blocks: int, now: bytes) -> Case:
        return Case(struct.pack(">BBQIBB", 0x9E, 0x12, lba, 24, 0, 0), room=24)

    def wrong(self, lba: int, blocks: int, now: bytes) -> Case:
        """Refused, and nothing written."""
        content = self.chance.randbytes(len(now))
        beyond = BLOCKS - blocks + 1
        longer = "05/0e/03" if lba + blocks < BLOCKS else "05/21/00"
        return self.chance.choice(
            (
                Case(_cdb(10, 0x2A, 0, beyond, blocks), content, status=_CHECK, sense="05/21/00"),
                Case(_cdb(16, 0x8A, 0, (1 << 64) - 1, blocks), content, status=_CHECK, sense="05/21/00"),
                Case(_cdb(10, 0x28, 0, beyond, blocks), room=len(now), status=_CHECK, sense="05/21/00"),
                Case(_cdb(10, 0x2A, 0x20, lba, blocks), content, status=_CHECK, sense="05/24/00"),
                Case(_cdb(10, 0x2A, 0, lba, blocks + 1), content, status=_CHECK, sense=longer),
                Case(_cdb(12, 0xAA, 0, lba, blocks), content + bytes(9), status=_CHECK, sense="05/0e/03"),
                Case(_cdb(10, 0x2A, 0, lba, blocks), status=_CHECK, sense="05/0e/03"),
                Case(_cdb(10, 0x28, 0, lba, blocks + 1), room=len(now), status=_CHECK, sense=longer),
                Case(_cdb(10, 0x2E, 0, lba, blocks), content[:-1], status=_CHECK, sense="05/0e/03"),
                Case(_cdb(16, 0x93, 0x10, lba, blocks), content[:BLOCK], status=_CHECK, sense="05/24/00"),
                Case(_cdb(16, 0x93, 0, lba, blocks), content + b"!", status=_CHECK, sense="05/0e/03"),
                Case(_cdb(16, 0x93, 0, lba, 0), content[:BLOCK], status=_CHECK, sense="05/24/00"),
                Case(_cdb(16, 0x8B, 0, lba, blocks), content, status=_CHECK, sense="05/20/00"),
                Case(_cdb(16, 0x8A, 0, lba, blocks)[:15] + b"\4", content, status=_CHECK, sense="05/24/00"),
            )
        )

    def _perhaps_other(self, content: bytes) -> bytes:
        if self.chance.random() < 0.6:
            return content
        at = self.chance.randrange(len(content))
        return content[:at] + bytes([content[at] ^ (1 << self.chance.randrange(8))]) + content[at + 1 :]


class Model:
    def __init__(self, seed: int) -> None:
        self.chance = chance = random.Random(seed)
        self.kernel = FakeKernel(chance.choice((1024, 2048, 4096)), data_blocks=96)
        chance.shuffle(self.kernel._free)
        self.loop = Loop()
        self.device = BufferDevice(bytearray(BLOCKS * BLOCK))
        self.device.hold = True
        self.device.fail = self._fail
        self.uio = uio = FakeUio(self.kernel)
        unit = Unit(_UID, BLOCKS * BLOCK)
        self.server = RingServer(self.loop, uio, self.device, unit)
        self.expected = bytearray(BLOCKS * BLOCK)
        self.failing: dict[int, Outcome] = {}
        self.open = 0

    def _fail(self, request: Request) -> Outcome | None:
        return self.failing.get(request.offset // BLOCK)

    def play(self) -> None:
        try:
            for _ in range(_ROUNDS):
                self._round()
            assert not self.kernel.pending
        finally:
            self.server.close()
            self.loop.close()

    def _round(self) -> None:
        chance = self.chance
        maker, at = Maker(chance), 0
        self.failing.clear()
        while at + _MOST_BLOCKS < BLOCKS:
            lba = at + chance.randrange(1, 600)
            blocks = chance.randrange(1, _MOST_BLOCKS)
            at = lba + blocks
            if at > BLOCKS or not self._queue(maker, lba, blocks):
                break
        os.eventfd_write(self.uio.fd, 1)
        for _ in range(2):
            self.loop.run_once(0)
        idle = 0
        while self.open:
            idle = 0 if self.device.held else idle + 1
            assert idle < _IDLE_TURNS_MAX, "commands are open, and no request of theirs is"
            if self.device.held:
                self.device.release(chance.randrange(len(self.device.held)))
            if idle or chance.random() < 0.2:
                self.loop.run_once(0)
        assert self.device.data == self.expected

    def _queue(self, maker: Maker, lba: int, blocks: int) -> bool:
        chance = self.chance
        start, end = lba * BLOCK, (lba + blocks) * BLOCK
        case = maker.make(lba, blocks, bytes(self.expected[start:end]))
        fails = case.may_fail and chance.random() < 0.1
        outcome = chance.choice((Outcome.BUSY, Outcome.MEDIUM_ERROR, Outcome.NO_SPACE))

        def done(got: Completion) -> None:
            self.open -= 1
            _check(case, got, outcome if fails and got.status != case.status else None)

        try:
            self.kernel.queue(case.cdb, case.out, case.room, done)
            if chance.random() < 0.1:
                self.kernel.queue_tmr(chance.randrange(1, 9), [chance.randrange(1, 20) for _ in range(3)])
        except RingFull:
            if len(self.kernel.pending) == self.open:
                return False  # the command itself did not fit
        self.open += 1
        if fails and case.cdb[0] not in (0x35, 0x91):  # a flush is of everything
            self.failing[lba] = outcome
        elif case.after is not None:
            self.expected[start:end] = case.after
        return True


def _check(case: Case, got: Completion, failed: Outcome | None) -> None:
    said = f"{got.sense[2]:02x}/{got.sense[12]:02x}/{got.sense[13]:02x}" if got.status == _CHECK else ""
    what = f"{case.cdb.hex()} with {len(case.out)} bytes out, {case.room} in: {got.status:#x} {said}"
    if failed is not None:
        assert got.status == (_BUSY if failed is Outcome.BUSY else _CHECK), what
        assert said[:2] in ("", "03", "07"), what
        return
    assert got.status == case.status and (not case.sense or said == case.sense), what
    if case.data is not None:
        assert got.data == case.data, what


def run(first: int, count: int, say: Callable[[str], None]) -> None:
    for seed in range(first, first + count):
        try:
            Model(seed).play()
        except BaseException:
            say(f"seed {seed} failed: python -m holdfast.target.testing_model --first {seed} --seeds 1")
            raise
    say(f"{count} stories from seed {first} went as the model has it")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    run(options.first, options.seeds, print)


if __name__ == "__main__":
    main()
