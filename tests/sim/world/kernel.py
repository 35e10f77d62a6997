"""A storage host's kernel: the iSCSI sessions of an initiator, and the ring to the worker.

As LIO and TCMU do it: what came stays with the kernel while there is no worker; a worker that opens the ring
resets it, which answers what was in it with BUSY; an abort is answered when its command has ended, and that
command then has no answer of its own; a new login from an initiator ends its old session, and waits until
all of its commands have ended.
"""

import itertools
from collections import deque
from functools import partial
from typing import Protocol

from holdfast.target.testing import Completion, FakeKernel, RingFull

from .process import Process
from .time import Call, Timeline

RING_BYTES = 4096
DATA_BLOCKS = 80
_ABORT_TASK = 1
BUSY = 0x08

_fds = itertools.count(1000)


class Command(Protocol):
    """What an initiator sends."""

    cdb: bytes
    data_out: bytes
    read_length: int
    arrived_s: float


class Answers(Protocol):
    """Where a session's answers go."""

    number: int

    def answered(self, command: Command, completion: Completion) -> None: ...
    def aborted(self, command: Command) -> None: ...
    def logged_in(self) -> None: ...
    def alive(self) -> None: ...


class Watcher(Protocol):
    def completed(
        self, host: str, command: Command, completion: Completion, aborted: bool, by_reset: bool
    ) -> None: ...
    def abort_answered(self, host: str, command: Command) -> None: ...


class Uio:
    """What stands for holdfast.target.uio.Uio."""

    def __init__(self, kernel: "HostKernel", loop: Process, ring: FakeKernel) -> None:
        self.fd = next(_fds)
        self.memory = ring.memory
        self.ring = ring
        self.loop = loop
        self._kernel = kernel
        self._open = True

    def check(self) -> None:
        pass

    def signal(self) -> None:
        if self._open and not self.loop.dead:
            self._kernel.signalled(self)

    def close(self) -> None:
        self._open = False
        self._kernel.closed(self)


class HostKernel:
    """From one boot of a host to the loss of its power."""

    def __init__(self, timeline: Timeline, host: str, watcher: Watcher) -> None:
        self.host = host
        self.frozen = False
        self.off = False
        self._timeline = timeline
        self._watcher = watcher
        self._ring: FakeKernel | None = None
        self._uio: Uio | None = None
        self._session: Answers | None = None
        self._waiting: deque[tuple[Answers, Command]] = deque()
        self._open: dict[int, tuple[Answers, Command]] = {}
        self._ids: dict[int, int] = {}
        self._aborting: dict[int, Command] = {}
        self._logins: list[Answers] = []
        self._late: list[Call] = []

    # Its machine.

    def arrive(self, call: Call) -> None:
        """Something comes over the network."""
        if self.off:
            return
        if self.frozen:
            self._late.append(call)
        else:
            call()

    def thaw(self) -> None:
        self.frozen = False
        late, self._late = self._late, []
        for call in late:
            self._timeline.after(0.0, partial(self.arrive, call))

    # Its initiator.

    def login(self, session: Answers) -> None:
        self._session = None
        self._waiting.clear()
        self._logins = [session]
        self._let_in()

    def ping(self, session: Answers) -> None:
        if session is self._session:
            session.alive()

    def take(self, session: Answers, command: Command) -> None:
        if session is self._session:
            self._waiting.append((session, command))
            self._fill()

    def abort(self, session: Answers, command: Command) -> None:
        if session is not self._session:
            return
        number = self._ids.get(id(command))
        if number is None:
            self._waiting = deque(item for item in self._waiting if item[1] is not command)
            self._watcher.abort_answered(self.host, command)
            session.aborted(command)
            return
        self._aborting[number] = command
        if self._ring is not None:
            try:
                self._ring.queue_tmr(_ABORT_TASK, [number])
            except RingFull:
                return
            self._kick()

    @property
    def idle(self) -> bool:
        """Nothing came that has not ended."""
        return not (self._open or self._waiting)

    def _let_in(self) -> None:
        if self._logins and not self._open:
            self._session = self._logins.pop()
            self._session.logged_in()

    def _fill(self) -> None:
        if self._ring is None or not self._waiting:
            return
        while self._waiting:
            session, command = self._waiting[0]
            try:
                number = self._ring.queue(
                    command.cdb, command.data_out, command.read_length, partial(self._done, command)
                )
            except RingFull:
                break
            self._waiting.popleft()
            command.arrived_s = self._timeline.now
            self._open[number] = (session, command)
            self._ids[id(command)] = number
        self._kick()

    def _kick(self) -> None:
        if self._uio is not None:
            self._uio.loop.readable(self._uio.fd)

    def _done(self, command: Command, completion: Completion, by_reset: bool = False) -> None:
        number = self._ids.pop(id(command))
        session, _command = self._open.pop(number)
        aborted = self._aborting.pop(number, None) is not None
        self._watcher.completed(self.host, command, completion, aborted, by_reset)
        if aborted:
            self._watcher.abort_answered(self.host, command)
            session.aborted(command)
        else:
            session.answered(command, completion)

    # Its worker.

    def open_uio(self, loop: Process) -> Uio:
        """Exclusive; what is in the ring is answered BUSY."""
        assert self._uio is None or self._uio.loop.dead, "two processes serve one ring"
        for number in list(self._open):
            _session, command = self._open[number]
            self._done(command, Completion(BUSY, b"", b""), by_reset=True)
        self._ring = FakeKernel(RING_BYTES, DATA_BLOCKS)
        self._uio = Uio(self, loop, self._ring)
        self._let_in()
        self._fill()
        return self._uio

    def signalled(self, uio: Uio) -> None:
        if uio is self._uio and self._ring is not None:
            self._ring.handle_completions()
            self._fill()
            self._let_in()

    def closed(self, uio: Uio) -> None:
        if uio is self._uio:
            self._uio = None
