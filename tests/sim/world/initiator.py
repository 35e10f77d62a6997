"""A compute host: commands, over whichever path takes them, as Linux' multipath would.

Each command writes a number of its own, also one that repeats another: so a command that is carried out
after its initiator has turned to another path, or has been answered, is found out. An answer of BUSY, of a
standby path or of a unit attention is tried again; a path that says nothing is given up, its commands with
it, and logged in to again; a command that takes too long is aborted.
"""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Protocol

from holdfast.target.testing import Completion

from .history import SECTOR_BYTES, History, Write, fill
from .kernel import Command, HostKernel
from .net import Connection, Network
from .time import Timeline

NAME = "initiator"
GOOD, CHECK_CONDITION, BUSY = 0x00, 0x02, 0x08
SILENT_S = 1.5
PING_S = 1.5
LOGIN_AGAIN_S = 0.7
ABORT_WAIT_S = 8.0
OUTSTANDING_MAX = 8


class Op:
    READ = "read"
    WRITE = "write"
    ZERO = "zero"
    UNMAP = "unmap"
    COMPARE = "compare"
    FLUSH = "flush"


WRITING = (Op.WRITE, Op.ZERO, Op.UNMAP, Op.COMPARE)


class Io:
    """What is wanted; each try of it is a Try."""

    __slots__ = ("count", "fua", "op", "sector", "tries")

    def __init__(self, op: str, sector: int, count: int, fua: bool) -> None:
        self.op = op
        self.sector = sector
        self.count = count
        self.fua = fua
        self.tries = 0


class Try:
    """One SCSI command (kernel.Command)."""

    def __init__(self, io: Io, value: int, began: int, write: Write | None, expected: bytes) -> None:
        self.io = io
        self.value = value
        self.began = began
        self.write = write
        self.expected = expected
        self.sent_s = 0.0
        self.aborted_s = 0.0
        self.arrived_s = 0.0
        """In the ring."""
        self.era = 0
        """Of the history, in which it was carried out."""
        self.good: list[str] = []
        """Other hosts with a good copy, when it failed."""
        self.over = False
        self.read_length = io.count * SECTOR_BYTES if io.op == Op.READ else 0
        self.cdb, self.data_out = _encode(io, value, expected)

    def __str__(self) -> str:
        return f"{self.io.op} {self.value} of {self.io.sector}+{self.io.count}"


class Judge(Protocol):
    def read(self, command: Try, content: bytes) -> None: ...
    def acknowledged(self, command: Try) -> None: ...
    def failed(self, host: str, command: Try, completion: Completion) -> None: ...


class Session:
    """One login over one path (kernel.Answers)."""

    def __init__(self, path: "Path", number: int) -> None:
        self.number = number
        self.path = path
        self.connection = Connection(path.net, NAME, path.host)
        self.up = False

    def to_kernel(self, call: Callable[[HostKernel], None]) -> None:
        def arrive() -> None:
            kernel = self.path.kernel()
            if kernel is not None:
                kernel.arrive(partial(call, kernel))

        self.connection.there.send(arrive)

    def _to_initiator(self, call: Callable[[], None]) -> None:
        def arrive() -> None:
            if self.path.session is self:
                call()

        self.connection.back.send(arrive)

    def answered(self, command: Command, completion: Completion) -> None:
        assert isinstance(command, Try)
        self._to_initiator(lambda: self.path.heard(command, completion))

    def aborted(self, command: Command) -> None:
        assert isinstance(command, Try)
        self._to_initiator(lambda: self.path.heard(command, None))

    def logged_in(self) -> None:
        self._to_initiator(self.path.logged_in)

    def alive(self) -> None:
        self._to_initiator(self.path.alive)


class Path:
    """To one host."""

    def __init__(self, initiator: "Initiator", host: str, kernel: Callable[[], HostKernel | None]) -> None:
        self.host = host
        self.kernel = kernel
        self.net = initiator.net
        self.session: Session | None = None
        self._initiator = initiator
        self._timeline = initiator.timeline
        self._numbers = 0
        self._heard_s = 0.0
        self._watched = False
        self._removed = False
        self.open: dict[Try, None] = {}

    @property
    def up(self) -> bool:
        return self.session is not None and self.session.up

    def log_in(self) -> None:
        """A new session; the old one's commands are given up."""
        if self._initiator.over or self._removed:
            return
        self._numbers += 1
        old, self.session = self.session, Session(self, self._numbers)
        if old is not None:
            old.connection.there.lose()
        session = self.session
        session.to_kernel(lambda kernel: kernel.login(session))
        self._timeline.after(LOGIN_AGAIN_S * 3, partial(self._login_late, session))

    def _login_late(self, session: Session) -> None:
        if self.session is session and not session.up:
            self.log_in()

    def logged_in(self) -> None:
        if self.session is not None and not self.session.up:
            self.session.up = True
            self._heard_s = self._timeline.now
            self._initiator.path_is_up()

    def send(self, command: Try) -> None:
        session = self.session
        assert session is not None
        command.sent_s = self._timeline.now
        self.open[command] = None
        session.to_kernel(lambda kernel: kernel.take(session, command))
        if not self._watched:
            self._watched = True
            self._timeline.after(SILENT_S, self._watch)

    def alive(self) -> None:
        self._heard_s = self._timeline.now

    def heard(self, command: Try, completion: Completion | None) -> None:
        self._heard_s = self._timeline.now
        if self.open.pop(command, 0) is None:
            self._initiator.heard(self, command, completion)

    def _watch(self) -> None:
        """While commands are open: is anybody there, and does any take too long?"""
        self._watched = False
        session, now = self.session, self._timeline.now
        if session is None or not self.open or self._initiator.over:
            return
        if now - self._heard_s > SILENT_S + PING_S:
            self.give_up()
            return
        if now - self._heard_s > SILENT_S * 0.9:
            session.to_kernel(lambda kernel: kernel.ping(session))
        for command in list(self.open):
            if command.aborted_s and now - command.aborted_s > ABORT_WAIT_S:
                self.give_up()
                return
            if not command.aborted_s and now - command.sent_s > self._initiator.abort_s:
                command.aborted_s = now
                session.to_kernel(lambda kernel, aborted=command: kernel.abort(session, aborted))  # type: ignore[misc]
        self._watched = True
        self._timeline.after(PING_S / 2, self._watch)

    def remove(self) -> None:
        """Its target is not there any more."""
        if not self._removed:
            self._removed = True
            self.give_up()

    def give_up(self) -> None:
        """Nothing comes any more: every command of it is tried elsewhere."""
        session, self.session = self.session, None
        if session is not None:
            # What is in the sockets may still arrive, and be carried out.
            session.connection.there.lose()
        given_up, self.open = list(self.open), {}
        for command in given_up:
            self._initiator.heard(self, command, None)
        self._timeline.after(LOGIN_AGAIN_S, self.log_in)


class Initiator:
    """`start(io)` begins one; `peek` gives what a range holds, for COMPARE AND WRITE."""

    def __init__(
        self,
        timeline: Timeline,
        net: Network,
        chance: Random,
        history: History,
        judge: Judge,
        peek: Callable[[int, int], bytes],
        abort_s: float,
    ) -> None:
        self.timeline = timeline
        self.net = net
        self.history = history
        self.abort_s = abort_s
        self.over = False
        self.paths: list[Path] = []
        self.values = 0
        self.done = 0
        self._chance = chance
        self._judge = judge
        self._peek = peek
        self._active = 0
        self._waiting: list[Io] = []
        self.under_way = 0

    def add_path(self, host: str, kernel: Callable[[], HostKernel | None]) -> None:
        path = Path(self, host, kernel)
        self.paths.append(path)
        path.log_in()

    @property
    def idle(self) -> bool:
        return not self.under_way

    def start(self, io: Io) -> None:
        if self.under_way < OUTSTANDING_MAX and not self.over:
            self.under_way += 1
            self._try(io)

    def _try(self, io: Io) -> None:
        if self.over:
            return
        path = self._choose(io.op == Op.READ)
        if path is None:
            self._waiting.append(io)
            return
        history, value, write, expected = self.history, 0, None, b""
        if io.op == Op.COMPARE:
            expected = self._peek(io.sector * SECTOR_BYTES, io.count * SECTOR_BYTES)
        if io.op in WRITING:
            if io.op in (Op.WRITE, Op.COMPARE):
                self.values += 1
                value = self.values
            write = history.begin(io.sector, io.count, value)
            began = write.began
        else:
            began = history.tick()
        io.tries += 1
        path.send(Try(io, value, began, write, expected))

    def _choose(self, reading: bool) -> Path | None:
        count = len(self.paths)
        if reading and self._chance.random() < 0.2:
            # As a path checker would, or another initiator: what does that host say?
            path = self._chance.choice(self.paths)
            if path.up:
                return path
        for step in range(count):
            index = (self._active + step) % count
            if self.paths[index].up:
                self._active = index
                return self.paths[index]
        return None

    def path_is_up(self) -> None:
        waiting, self._waiting = self._waiting, []
        for io in waiting:
            self._try(io)

    def heard(self, path: Path, command: Try, completion: Completion | None) -> None:
        """An answer, or (None) the certainty that there will be none."""
        command.over = True
        again_s = -1.0
        if completion is None:
            self._ended(command, False)
            again_s = 0.01 + self._chance.random() * 0.1
        elif completion.status == GOOD:
            self._ended(command, True)
            if command.io.op == Op.READ:
                self._judge.read(command, completion.data)
            else:
                self._judge.acknowledged(command)
        else:
            again_s = self._not_good(path, command, completion)
        if again_s < 0 or (command.io.tries > 6 and self._chance.random() < 0.3):
            self.under_way -= 1
            self.done += 1
        else:
            self.timeline.after(again_s, partial(self._try, command.io))

    def _not_good(self, path: Path, command: Try, completion: Completion) -> float:
        """Seconds until it is tried again; negative: it is over."""
        key, asc, ascq = completion.sense[2:3], completion.sense[12:13], completion.sense[13:14]
        if completion.status == BUSY:
            self._ended(command, False)
            if self._chance.random() < 0.15:
                return -1.0
            return 0.02 + self._chance.random() * 0.6
        if (key, asc, ascq) in ((b"\x02", b"\x04", b"\x0b"), (b"\x02", b"\x04", b"\x0c")):
            self._nothing_done(command)
            if path is self.paths[self._active]:
                self._active = (self._active + 1) % len(self.paths)
            return 0.02 + self._chance.random() * 0.4
        if key == b"\x06":
            self._nothing_done(command)
            return 0.01
        if key == b"\x0e":
            self._nothing_done(command)
            return -1.0
        self._ended(command, False)
        self._judge.failed(path.host, command, completion)
        return 0.3 + self._chance.random()

    def _nothing_done(self, command: Try) -> None:
        if command.write is not None:
            command.write.impossible = True
        self._ended(command, False)

    def _ended(self, command: Try, ok: bool) -> None:
        if command.write is not None:
            self.history.end(command.write, ok)


def _encode(io: Io, value: int, expected: bytes) -> tuple[bytes, bytes]:
    """CDB and Data-Out Buffer."""
    at = io.sector.to_bytes(8, "big")
    count = io.count.to_bytes(4, "big")
    flags = 0x08 if io.fua else 0
    if io.op == Op.READ:
        return bytes([0x88, 0, *at, *count, 0, 0]), b""
    if io.op == Op.WRITE:
        return bytes([0x8A, flags, *at, *count, 0, 0]), fill(value, io.count * SECTOR_BYTES)
    if io.op == Op.ZERO:
        return bytes([0x93, 0, *at, *count, 0, 0]), bytes(SECTOR_BYTES)
    if io.op == Op.UNMAP:
        listed = bytes([0, 22, 0, 16, 0, 0, 0, 0, *at, *count, 0, 0, 0, 0])
        return bytes([0x42, 0, 0, 0, 0, 0, 0, 0, len(listed), 0]), listed
    if io.op == Op.COMPARE:
        data = expected + fill(value, io.count * SECTOR_BYTES)
        return bytes([0x89, flags, *at, 0, 0, 0, io.count, 0, 0]), data
    return bytes([0x91, 0, *bytes(14)]), b""
