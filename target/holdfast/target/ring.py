"""The TCMU ring over any buffer that is laid out as one: new commands out, completions in.

Out-of-order completion (drivers/target/target_core_user.c, tcmu_handle_completions): the kernel walks
the entries up to cmd_tail and takes from each the id of a finished command, whichever command the entry
first held. So a completion is written over the *oldest* entry that is not yet given back, and tail moves
past it. That entry's own command may still be running: everything that it needs was copied out when it
was drained. There are never more completions than drained entries, so none is overwritten unread.

It follows that a ring cannot be read again after a restart: the successor resets it first (`uio.py`).

Invariants: an id is open from its drain to its completion, once. cmd_tail is stored last, by one aligned
4-byte store (a byte-wise one could be seen half done; `struct` makes those, a cast memoryview does not).
Programme order is enough on x86; elsewhere the system call of the signal orders it for the kernel.

Everything read from the mapping is checked before use; what cannot be right raises RingBroken.

Plain READs and WRITEs, and completions that are GOOD, have a twin in C (_ring.c). It takes only what is
wholly plain, and leaves everything else, and every complaint, to the code here.
"""

from collections import deque
from mmap import mmap
from typing import Any, NamedTuple

from holdfast.base.device import Request
from holdfast.base.errors import HoldfastError
from holdfast.base.twins import twin
from holdfast.target import ring_layout as at

_quick = twin("holdfast.target._ring")


class RingBroken(HoldfastError):
    """The shared memory holds what the kernel never writes. Only a reset of the ring helps."""

    def __init__(self, message: str) -> None:
        super().__init__("RING_BROKEN", message)


class Command:
    """A drained command. `buffers` lie in the mapping and are its alone until it is completed.

    `cdb` is padded with zeros to a multiple of 8 bytes.
    """

    __slots__ = ("buffers", "cdb", "id", "length")

    def __init__(self, cmd_id: int, cdb: bytes, buffers: list[memoryview], length: int) -> None:
        self.id = cmd_id
        self.cdb = cdb
        self.buffers = buffers
        self.length = length
        """Bytes that `buffers` hold together."""

    def content(self) -> bytes:
        """A copy of what `buffers` hold."""
        return b"".join(self.buffers)


class Notice:
    """A task management function, and the open commands that it was for."""

    __slots__ = ("command_ids", "name")

    def __init__(self, name: str, command_ids: tuple[int, ...]) -> None:
        self.name = name
        self.command_ids = command_ids


class Plain(NamedTuple):
    """What plain READs and WRITEs become without a Command between, where there is the twin for it."""

    kind: type[Request]
    """The class of executor.py, whose slots the twin fills."""
    blocks: tuple[int, int]
    """How many the volume has; how many one command may move."""
    shared: tuple[Any, ...]
    """What is the same for all: see the twin."""
    requests: dict[int, Request]
    """Where they are entered by their commands' ids."""


class Ring:
    """One device's ring. `signal_needed` after completions: tell the kernel, then set it False.

    Args:
        memory: the whole mapping, cleared by a reset of the ring, or never used before.
    """

    def __init__(self, memory: mmap | memoryview | bytearray) -> None:
        self._memory = memory
        self._bytes = memoryview(memory).cast("B")
        if len(self._bytes) < at.MAILBOX_BYTES:
            raise RingBroken(f"The ring's mapping has only {len(self._bytes)} bytes.")
        version, flags, self._base, self._size, _head = at.MAILBOX.unpack_from(self._bytes, 0)
        if version != at.VERSION or not flags & at.CAP_OUT_OF_ORDER:
            raise RingBroken(f"The ring has version {version} and flags {flags}; this needs 2 and bit 1.")
        self._data_start = self._base + self._size
        self._total = len(self._bytes)
        self._unpack = at.COMMAND.unpack_from
        self._pack_response = at.RESPONSE.pack_into
        whole = self._base >= at.MAILBOX_BYTES and self._data_start <= len(self._bytes)
        if not whole or self._base % 8 or self._size % 8 or not self._size:
            raise RingBroken(f"The ring claims [{self._base}, {self._data_start}) of {len(self._bytes)}.")
        self._read_len_flag = at.UFLAG_READ_LEN if flags & at.CAP_READ_LEN else 0
        self._words = self._bytes[: at.MAILBOX_BYTES].cast("I")
        self._headers = self._bytes[self._base : self._data_start].cast("I")
        self._next = self._words[at.TAIL_WORD]
        if self._next >= self._size or self._next % at.ALIGN_BYTES:
            raise RingBroken(f"cmd_tail is {self._next} in a ring of {self._size} bytes.")
        # What is drained and not given back, oldest first: (entry, or -1 if it needs no answer; tail after).
        self._slots: deque[tuple[int, int]] = deque()
        self._open: set[int] = set()
        self.notices: list[Notice] = []
        self.signal_needed = False

    @property
    def open_commands(self) -> int:
        """Commands drained and not completed."""
        return len(self._open)

    def drain(self, plain: Plain | None = None) -> list[Command | Request]:
        """Every command that came since the last call; notices are appended to `notices`.

        Args:
            plain: makes requests of plain READs and WRITEs, if it is given and the twin is there.
        """
        commands: list[Command | Request] = []
        words = self._words
        if _quick is None:
            plain = None
        while self._next != (head := words[at.HEAD_WORD]):
            if head >= self._size or head % at.ALIGN_BYTES:
                raise RingBroken(f"cmd_head is {head} in a ring of {self._size} bytes.")
            self._take_entries(head, commands, plain)
        if self._slots and self._slots[0][0] < 0:
            self._give_back_silent()
        return commands

    def complete(self, cmd_id: int, status: int, sense: bytes = b"", read_len: int = 0) -> None:
        """End an open command, in any order.

        Args:
            sense: with CHECK CONDITION, at most 96 bytes.
            read_len: how much of the buffers was filled, if not all; 0 means all.
        """
        try:
            self._open.remove(cmd_id)
        except KeyError:
            raise AssertionError(f"command {cmd_id} is not open: ended twice, or never drained") from None
        entry, tail = self._slots.popleft()
        uflags = self._read_len_flag if read_len else 0
        self._pack_response(self._bytes, entry + at.RESPONSE_AT, cmd_id, 0, uflags, status, read_len)
        if sense:
            start = entry + at.SENSE_AT
            self._bytes[start : start + at.SENSE_BYTES] = sense.ljust(at.SENSE_BYTES, b"\0")
        self._words[at.TAIL_WORD] = tail
        self.signal_needed = True
        if self._slots and self._slots[0][0] < 0:
            self._give_back_silent()

    def complete_good(self, cmd_ids: list[int]) -> None:
        """End open commands with GOOD, all of their buffers filled or stored."""
        opened, slots, pack, data = self._open, self._slots, self._pack_response, self._bytes
        response_at, tail = at.RESPONSE_AT, -1
        if _quick is not None and len(cmd_ids) > 1:
            tail = _quick.give_back(data, cmd_ids, opened, slots)
            cmd_ids = []
        for cmd_id in cmd_ids:
            try:
                opened.remove(cmd_id)
            except KeyError:
                raise AssertionError(f"command {cmd_id} is not open: ended twice, or never drained") from None
            entry, tail = slots.popleft()
            pack(data, entry + response_at, cmd_id, 0, 0, 0, 0)
            if slots and slots[0][0] < 0:
                self._words[at.TAIL_WORD] = tail
                self._give_back_silent()
                tail = self._words[at.TAIL_WORD]
        if tail >= 0:
            self._words[at.TAIL_WORD] = tail
            self.signal_needed = True

    def close(self) -> None:
        """Let go of the mapping; buffers of open commands keep it alive until they are gone."""
        self._words.release()
        self._headers.release()
        self._bytes.release()

    def _give_back_silent(self) -> None:
        while self._slots and self._slots[0][0] < 0:
            self._words[at.TAIL_WORD] = self._slots.popleft()[1]
            self.signal_needed = True

    def _take_entries(self, head: int, commands: list[Command | Request], plain: Plain | None) -> None:
        base, size, headers, slots = self._base, self._size, self._headers, self._slots
        here = self._next
        while here != head:
            if plain is not None and (here := self._take_plain(here, head, commands, plain)) == head:
                break
            len_op = headers[here >> 2]
            length = len_op & ~at.OP_MASK
            end = here + length
            if not length or end > size or here < head < end:
                raise RingBroken(
                    f"The entry at {here} claims {length} bytes in a ring of {size}, written up to {head}."
                )
            op = len_op & at.OP_MASK
            entry = base + here
            here = end if end < size else 0
            if op == at.OP_CMD:
                commands.append(self._command(entry, base + end))
                slots.append((entry, here))
            elif op == at.OP_PAD:
                slots.append((-1, here))
            elif op == at.OP_TMR:
                self.notices.append(self._notice(entry, length))
                slots.append((-1, here))
            else:
                raise RingBroken(f"The entry at {entry - base} has operation {op}.")
        self._next = here

    def _take_plain(self, here: int, head: int, commands: list[Command | Request], plain: Plain) -> int:
        """Where what is not plain begins, if anything."""
        assert _quick is not None
        place = (self._base, self._size, self._data_start)
        stopped: int = _quick.take(
            plain.kind, self._bytes, place, here, head, plain.blocks, plain.shared,
            self._open, self._slots, plain.requests, commands,
        )  # fmt: skip
        return stopped

    def _command(self, entry: int, end: int) -> Command:
        data = self._bytes
        if end - entry < at.COMMAND_MIN_BYTES:
            raise RingBroken(f"The command's entry at {entry} has only {end - entry} bytes.")
        _len_op, cmd_id, _, _, count, _, _, cdb_at, start, length = self._unpack(data, entry)
        if cmd_id in self._open:
            raise RingBroken(f"Command {cmd_id} came again before it was answered.")
        if not entry + at.IOVECS_AT + count * 16 <= cdb_at < end <= cdb_at + at.CDB_MAX_BYTES:
            raise RingBroken(f"Command {cmd_id} in [{entry}, {end}): {count} iovecs, CDB at {cdb_at}.")
        if end - cdb_at < at.CDB_LONG_BYTES and end - cdb_at < at.CDB_BYTES[data[cdb_at] >> 5]:
            raise RingBroken(f"Command {cmd_id} has a CDB of only {end - cdb_at} bytes.")
        self._open.add(cmd_id)
        cdb = data[cdb_at:end].tobytes()
        if count != 1:
            return self._scattered(cmd_id, cdb, entry + at.IOVECS_AT, count)
        if not self._data_start <= start <= start + length <= self._total:
            raise RingBroken(f"Command {cmd_id} has an iovec at {start} of {length} bytes.")
        return Command(cmd_id, cdb, [data[start : start + length]], length)

    def _scattered(self, cmd_id: int, cdb: bytes, iovecs_at: int, count: int) -> Command:
        data = self._bytes
        buffers = []
        total = 0
        for base, length in at.IOVEC.iter_unpack(data[iovecs_at : iovecs_at + count * at.IOVEC.size]):
            if not self._data_start <= base <= base + length <= len(data):
                raise RingBroken(f"Command {cmd_id} has an iovec at {base} of {length} bytes.")
            buffers.append(data[base : base + length])
            total += length
        return Command(cmd_id, cdb, buffers, total)

    def _notice(self, entry: int, length: int) -> Notice:
        if length < at.TMR_IDS_AT:
            raise RingBroken(f"The task management entry at {entry} has only {length} bytes.")
        kind, count = at.TMR.unpack_from(self._bytes, entry)[4:]
        ids_at = entry + at.TMR_IDS_AT
        if at.TMR_IDS_AT + 2 * count > length:
            raise RingBroken(
                f"The task management entry at {entry} names {count} commands in {length} bytes."
            )
        ids = tuple(self._bytes[ids_at : ids_at + 2 * count].cast("H"))
        return Notice(at.TMR_NAMES.get(kind, f"function {kind}"), ids)
