"""The kernel's half of a TCMU ring, for tests and simulation: what target_core_user.c does, checked.

`FakeKernel` lays out a ring in a bytearray, queues commands and task management notices into it, and
takes completions from it by the kernel's own rules: anything that would make the kernel mark the device
broken raises AssertionError.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from holdfast.target import ring_layout as at

BLOCK_BYTES = 4096
CMDR_OFF = 128
WRITE = "write"
READ = "read"
NONE = "none"


@dataclass
class Completion:
    """What an initiator would get."""

    status: int
    sense: bytes
    data: bytes


@dataclass
class _Pending:
    direction: str
    length: int
    blocks: list[int]
    done: Callable[[Completion], None] | None


class RingFull(Exception):
    """No room for the entry, or for its data: the kernel would queue the command."""


class FakeKernel:
    """A ring of `ring_bytes` and a data area of `data_blocks` blocks of 4 KiB."""

    def __init__(self, ring_bytes: int = 4096, data_blocks: int = 64) -> None:
        self.ring_bytes = ring_bytes
        self.data_start = -(-(CMDR_OFF + ring_bytes) // BLOCK_BYTES) * BLOCK_BYTES
        self.memory = bytearray(self.data_start + data_blocks * BLOCK_BYTES)
        self._view = memoryview(self.memory)
        self._words = self._view[:CMDR_OFF].cast("I")
        self._free = list(range(data_blocks))
        self._cleaned = 0
        self.pending: dict[int, _Pending] = {}
        at.MAILBOX.pack_into(self.memory, 0, at.VERSION, 15, CMDR_OFF, ring_bytes, 0)

    @property
    def head(self) -> int:
        return self._words[at.HEAD_WORD]

    def queue(
        self,
        cdb: bytes,
        data_out: bytes = b"",
        read_length: int = 0,
        done: Callable[[Completion], None] | None = None,
    ) -> int:
        """Put a command into the ring and return its id; `done` is called by `handle_completions`.

        Raises RingFull, having changed nothing.
        """
        length = len(data_out) or read_length
        wanted = -(-length // BLOCK_BYTES)
        if wanted > len(self._free):
            raise RingFull
        blocks = self._free[:wanted]
        iovecs = self._iovecs(blocks, length)
        base_bytes = max(at.IOVECS_AT + at.IOVEC.size * len(iovecs), at.COMMAND_MIN_BYTES)
        entry_bytes = base_bytes + -(-len(cdb) // 8) * 8
        entry = self._reserve(entry_bytes)
        del self._free[:wanted]
        cmd_id = next(i for i in range(1, 65536) if i not in self.pending)
        direction = WRITE if data_out else READ if read_length else NONE
        self.pending[cmd_id] = _Pending(direction, length, blocks, done)
        for number, (base, size) in enumerate(iovecs):
            at.IOVEC.pack_into(self.memory, entry + at.IOVECS_AT + number * at.IOVEC.size, base, size)
            if data_out:
                self.memory[base : base + size] = data_out[:size]
                data_out = data_out[size:]
        first = iovecs[0] if iovecs else (0, 0)
        at.COMMAND.pack_into(
            self.memory, entry, entry_bytes | at.OP_CMD, cmd_id, 0, 0, len(iovecs), 0, 0,
            entry + base_bytes, *first,
        )  # fmt: skip
        self.memory[entry + base_bytes : entry + base_bytes + len(cdb)] = cdb
        self._advance_head(entry_bytes)
        return cmd_id

    def queue_tmr(self, kind: int, cmd_ids: list[int]) -> None:
        entry_bytes = -(-(at.TMR_IDS_AT + 2 * len(cmd_ids)) // 8) * 8
        entry = self._reserve(entry_bytes)
        at.TMR.pack_into(self.memory, entry, entry_bytes | at.OP_TMR, 0, 0, 0, kind, len(cmd_ids))
        ids = b"".join(i.to_bytes(2, "little") for i in cmd_ids)
        self.memory[entry + at.TMR_IDS_AT : entry + at.TMR_IDS_AT + len(ids)] = ids
        self._advance_head(entry_bytes)

    def handle_completions(self) -> int:
        """What a write to the UIO descriptor does; the number of commands that ended."""
        ended = 0
        while self._cleaned != self._words[at.TAIL_WORD]:
            entry = CMDR_OFF + self._cleaned
            len_op, cmd_id, _kflags, _uflags = at.HEADER.unpack_from(self.memory, entry)
            length = len_op & ~at.OP_MASK
            if len_op & at.OP_MASK == at.OP_CMD:
                assert cmd_id in self.pending, f"cmd_id {cmd_id} not found, ring is broken"
                self._finish(entry, self.pending.pop(cmd_id))
                ended += 1
            self._cleaned = (self._cleaned + length) % self.ring_bytes
        return ended

    def _finish(self, entry: int, command: _Pending) -> None:
        response = at.RESPONSE.unpack_from(self.memory, entry + at.RESPONSE_AT)
        _cmd_id, _kflags, uflags, status, read_len = response
        sense = bytes(self.memory[entry + at.SENSE_AT : entry + at.SENSE_AT + at.SENSE_BYTES])
        length = command.length if command.direction == READ else 0
        if uflags & at.UFLAG_READ_LEN and read_len:
            length = min(length, read_len)
        data = b"".join(
            self.memory[base : base + size] for base, size in self._iovecs(command.blocks, command.length)
        )[:length]
        self._free += command.blocks
        for block in command.blocks:
            # The blocks will serve another command: whoever still reads them must not get by with it.
            start = self.data_start + block * BLOCK_BYTES
            self.memory[start : start + BLOCK_BYTES] = b"\xdb" * BLOCK_BYTES
        if command.done is not None:
            command.done(Completion(status, sense if status == 2 else b"", bytes(data)))

    def _iovecs(self, blocks: list[int], length: int) -> list[tuple[int, int]]:
        """Neighbouring blocks share an iovec, as the kernel's do."""
        iovecs: list[tuple[int, int]] = []
        for number, block in enumerate(blocks):
            base = self.data_start + block * BLOCK_BYTES
            size = min(BLOCK_BYTES, length - number * BLOCK_BYTES)
            if iovecs and iovecs[-1][0] + iovecs[-1][1] == base:
                iovecs[-1] = (iovecs[-1][0], iovecs[-1][1] + size)
            else:
                iovecs.append((base, size))
        return iovecs

    def _reserve(self, entry_bytes: int) -> int:
        """Where the entry goes, with a PAD before it if the ring's end is too near."""
        to_end = self.ring_bytes - self.head
        pad = to_end if to_end < entry_bytes else 0
        used = (self.head - self._cleaned) % self.ring_bytes
        # One byte stays free: head == tail means empty.
        if used + pad + entry_bytes >= self.ring_bytes:
            raise RingFull
        if pad:
            at.HEADER.pack_into(self.memory, CMDR_OFF + self.head, pad | at.OP_PAD, 0, 0, 0)
            self._advance_head(pad)
        entry = CMDR_OFF + self.head
        self.memory[entry : entry + entry_bytes] = bytes(entry_bytes)
        return entry

    def _advance_head(self, length: int) -> None:
        self._words[at.HEAD_WORD] = (self.head + length) % self.ring_bytes


class FakeUio:
    """A device (uio.py) whose descriptor is an eventfd, and whose kernel is the fake one."""

    def __init__(self, kernel: FakeKernel) -> None:
        self.kernel = kernel
        self.memory = kernel.memory
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.signals = 0
        self.closed = False

    def check(self) -> None:
        pass

    def signal(self) -> None:
        self.signals += 1
        self.kernel.handle_completions()

    def close(self) -> None:
        os.close(self.fd)
        self.closed = True
