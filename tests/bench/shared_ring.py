"""A TCMU ring in memory that two processes share: the worker's device, and the kernel's side that loads it.

The layout and the rules are target_core_user.c's. (holdfast.target.testing.FakeKernel keeps them all; this
side those that a plain READ or WRITE meets, at a fraction of the cost: it is not what is to be measured.)
Two eventfds stand for the UIO descriptor: the worker waits on one, and its signal is a write to the other.
"""

import contextlib
import mmap
import os
from struct import Struct

from holdfast.target import ring_layout as at

RING_BYTES = 1 << 20
CMDR_OFF = 128
DATA_AT = CMDR_OFF + RING_BYTES + (4096 - CMDR_OFF)
CDB_BYTES = 16
ENTRY_BYTES = at.COMMAND_MIN_BYTES + CDB_BYTES
"""A command with one iovec. It divides RING_BYTES: no padding is ever needed."""
LOGICAL_BLOCK_BYTES = 512

_EIGHT = 8
_ENTRY = Struct("IHBBIII4xQ16xQQ48x16s")
"""A whole entry: at.COMMAND, the room that a response needs, the CDB."""
_CDB = Struct(">BBQIBB")
assert _ENTRY.size == ENTRY_BYTES and RING_BYTES % ENTRY_BYTES == 0

READ_16, WRITE_16 = 0x88, 0x8A


class Refused(Exception):
    """A command ended with another status than GOOD."""


class SharedUio:
    """holdfast.target.uio.Uio, of descriptors that were inherited."""

    def __init__(self, memory_fd: int, event_fd: int, signal_fd: int) -> None:
        self.fd = event_fd
        self.memory = mmap.mmap(memory_fd, os.fstat(memory_fd).st_size)
        self._signal_fd = signal_fd
        self._one = (1).to_bytes(_EIGHT, "little")

    def check(self) -> None:
        pass

    def signal(self) -> None:
        os.write(self._signal_fd, self._one)

    def close(self) -> None:
        os.close(self.fd)


class SharedRing:
    """Made by whoever starts both sides; its descriptors are inherited."""

    def __init__(self, data_bytes: int) -> None:
        self.memory_fd = os.memfd_create("ring")
        os.ftruncate(self.memory_fd, DATA_AT + data_bytes)
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.signal_fd = os.eventfd(0)
        with mmap.mmap(self.memory_fd, DATA_AT) as memory:
            at.MAILBOX.pack_into(memory, 0, at.VERSION, 15, CMDR_OFF, RING_BYTES, 0)

    @property
    def fds(self) -> tuple[int, int, int]:
        return self.memory_fd, self.event_fd, self.signal_fd

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


class LoadKernel:
    """Keeps commands of one size in flight. Every id has its own piece of the data area."""

    def __init__(self, memory_fd: int, size: int, reading: bool) -> None:
        self._memory = mmap.mmap(memory_fd, os.fstat(memory_fd).st_size)
        self._words = memoryview(self._memory)[:CMDR_OFF].cast("I")
        self._size = size
        self._opcode = READ_16 if reading else WRITE_16
        self._blocks = size // LOGICAL_BLOCK_BYTES
        self._head = self._cleaned = self._words[at.HEAD_WORD]
        assert self._head == self._words[at.TAIL_WORD], "commands of another load are still under way"
        self._open: set[int] = set()

    def queue(self, cmd_id: int, offset: int) -> None:
        """A command for [offset, offset + size); `publish` shows it to the worker."""
        start = DATA_AT + (cmd_id - 1) * self._size
        cdb = _CDB.pack(self._opcode, 0, offset // LOGICAL_BLOCK_BYTES, self._blocks, 0, 0)
        self._put(cmd_id, 1, start, self._size, cdb)

    def queue_test_unit_ready(self) -> None:
        self._put(1, 0, 0, 0, bytes(CDB_BYTES))

    def _put(self, cmd_id: int, iovecs: int, start: int, length: int, cdb: bytes) -> None:
        entry = CMDR_OFF + self._head
        _ENTRY.pack_into(
            self._memory, entry, ENTRY_BYTES | at.OP_CMD, cmd_id, 0, 0, iovecs, 0, 0,
            entry + at.COMMAND_MIN_BYTES, start, length, cdb,
        )  # fmt: skip
        self._head = (self._head + ENTRY_BYTES) % RING_BYTES
        self._open.add(cmd_id)

    def publish(self) -> None:
        self._words[at.HEAD_WORD] = self._head

    def ended(self) -> list[int]:
        """Ids of the commands that have ended, as the kernel takes them: whichever the entry names."""
        memory, tail, ids = self._memory, self._words[at.TAIL_WORD], []
        while self._cleaned != tail:
            entry = CMDR_OFF + self._cleaned
            self._cleaned = (self._cleaned + ENTRY_BYTES) % RING_BYTES
            (_len_op, cmd_id) = at.HEADER.unpack_from(memory, entry)[:2]
            status = memory[entry + 8]
            self._open.remove(cmd_id)
            ids.append(cmd_id)
            if status:
                raise Refused(f"command {cmd_id} ended with status {status}")
        return ids


def take_attentions(kernel: LoadKernel, event_fd: int, signal_fd: int) -> None:
    """A unit that has just become active says so to the first that comes."""
    for _ in range(4):
        kernel.queue_test_unit_ready()
        kernel.publish()
        os.eventfd_write(event_fd, 1)
        with contextlib.suppress(Refused):
            # A signal may be left from the load before, which saw what it was for before it came.
            while not kernel.ended():
                os.eventfd_read(signal_fd)
            return
