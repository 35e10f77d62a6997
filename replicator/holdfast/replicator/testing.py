"""A primary and its mirror in one process, with a network between them that a test can spoil.

Each host is a loop of its own on a common clock, so that killing a host's process is leaving its loop. A
session between them carries requests in order and answers in any; what is in flight when it is lost may
still arrive at the mirror, a prefix of it, as with TCP. Memory that was given back is poisoned: request
buffers by whoever submitted them (see `poison`), the mirror's receive buffers here.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from holdfast.base.device import Device, Done, Op, Outcome, Request
from holdfast.base.errors import DataLoss, HoldfastError
from holdfast.base.extents import runs
from holdfast.base.limits import BLOCK_BYTES
from holdfast.base.steps import Steps, run
from holdfast.base.testing_loop import Clock, TestingLoop, run_for, run_until
from holdfast.base.tls import PeerIdentity
from holdfast.replicator.files import Files
from holdfast.replicator.following import Following, Role
from holdfast.replicator.hydrate import Hydrator
from holdfast.replicator.leading import Dial, Leading
from holdfast.replicator.link import Link
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.mirror import MirrorExport
from holdfast.replicator.primary import Primary
from holdfast.replicator.replica import Replica
from holdfast.replicator.store import Store, create, exists
from holdfast.replicator.talk import Session
from holdfast.replicator.wanted import Wanted

POISON = 0xDD
MIRROR_POISON = 0xEE
EPOCH = 1
MEMBERS = frozenset(("a", "b"))
_DELAY_MAX_S = 0.01
_SILENCE_STEP_S = 0.1


def poison(buffers: list[memoryview], value: int = POISON) -> None:
    for buffer in buffers:
        if not buffer.readonly:
            buffer[:] = bytes([value]) * len(buffer)


class Network:
    """Between the hosts of a volume."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.hosts: dict[str, Host] = {}
        self.sessions: list[FakeSession] = []
        self.refuse_dial = False
        self.silent = False
        """The mirror's answers are held back, and no loss is told."""
        self.fail: Callable[[Request], Outcome | None] = lambda _request: None
        """What the mirror's host answers instead of doing a request."""
        self.delay_max_s = _DELAY_MAX_S

    def dial(
        self,
        client: str,
        server: str,
        epoch: int,
        on_ready: Callable[[Session], None],
        on_lost: Callable[[str], None],
    ) -> Session:
        session = FakeSession(self, (self.hosts[client], self.hosts[server]), epoch, on_ready, on_lost)
        self.sessions.append(session)
        return session

    def killed(self, name: str) -> None:
        """A host's process is gone: each end hears of it when it does."""
        for session in self.sessions:
            if session.client is self.hosts[name]:
                session.client_died()
            if session.server is self.hosts[name]:
                session.server_died()
            if self.hosts[name] in (session.client, session.server):
                session.cut()

    def cut(self) -> None:
        """Every session is lost; each end hears of it when it does."""
        for session in self.sessions:
            session.cut()

    def delay_s(self) -> float:
        return self.chance.random() * self.delay_max_s if self.chance.random() < 0.7 else 0.0


class _Client:
    """What the mirror sees of a connection (holdfast.base.nbd.export.Served)."""

    def __init__(self, session: "FakeSession") -> None:
        self._session = session
        self.in_flight = 0
        self.peer: PeerIdentity | None = None

    def drain(self) -> None:
        raise NotImplementedError

    def close(self, reason: str) -> None:
        self._session.server_closed()


class FakeSession:
    """holdfast.replicator.talk.Session in memory, and its server's side."""

    def __init__(
        self,
        net: Network,
        ends: "tuple[Host, Host]",
        epoch: int,
        on_ready: Callable[[Session], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._net = net
        self.client, self.server = ends
        self._epoch = epoch
        self._client_loop = self.client.loop
        self._server_loop: TestingLoop | None = None
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._export: MirrorExport | None = None
        self._unsent: list[Callable[[], Callable[[MirrorExport], None]]] = []
        self._stream: deque[Callable[[MirrorExport], None]] = deque()
        self._delivering = False
        self._client_open = True
        self._client_dead = False
        self._server_open = True
        self._lost = False
        self._client_loop.call_later(net.delay_s(), self._connect)

    # The client's side. Buffers are read at the end of a turn at the earliest, as by sendmsg or TLS.

    def write(self, offset: int, buffers: list[memoryview], fua: bool, done: Done) -> None:
        def copy() -> Callable[[MirrorExport], None]:
            content = bytearray(b"".join(buffers))
            return partial(self._deliver, Op.WRITE, offset, len(content), content, fua, done)

        self._queue(copy)

    def write_all(self, requests: list[Request], dones: list[Done]) -> None:
        for request, done in zip(requests, dones, strict=True):
            self.write(request.offset, request.buffers, request.fua, done)

    def zero(self, offset: int, length: int, fua: bool, done: Done) -> None:
        self._queue(lambda: partial(self._deliver, Op.ZERO, offset, length, bytearray(), fua, done))

    def flush(self, done: Done) -> None:
        self._queue(lambda: partial(self._deliver, Op.FLUSH, 0, 0, bytearray(), False, done))

    def control(self, payload: bytes, done: Callable[[Outcome, bytes], None]) -> None:
        def deliver(export: MirrorExport) -> None:
            export.control(payload, lambda outcome, answer: self._answer(partial(done, outcome, answer)))

        self._queue(lambda: deliver)

    def close(self) -> None:
        self._client_open = False
        self._unsent.clear()
        self.cut()

    def _connect(self) -> None:
        if not self._client_open:
            return
        replica = self.server.replica
        if self._lost or self._net.refuse_dial or replica is None:
            self._tell_lost("refused")
            return
        try:
            self._export = replica.open_session(self.client.name, self._epoch)
        except HoldfastError as error:
            self._tell_lost(error.message)
            return
        self._server_loop = self.server.loop
        self._export.opened(_Client(self))
        self._on_ready(self)

    def _queue(self, copy: Callable[[], Callable[[MirrorExport], None]]) -> None:
        if self._client_dead:
            return  # Said by what is left of a killed process while it is collected.
        assert self._client_open, "a request on a session that is closed"
        if not self._unsent:
            self._client_loop.call_later(self._net.delay_s(), self._send)
        self._unsent.append(copy)

    def _send(self) -> None:
        if self._client_open and not self._lost:
            self._stream.extend(copy() for copy in self._unsent)
            self._unsent.clear()
            self._keep_delivering()

    # The network.

    def cut(self) -> None:
        """What is under way arrives in part. Each end is told in its own time."""
        if self._lost:
            return
        self._lost = True
        for _ in range(self._net.chance.randrange(len(self._stream) + 1)):
            self._stream.pop()
        self._client_loop.call_later(self._net.delay_s(), partial(self._tell_lost, "cut"))
        if self._server_loop is not None:
            self._server_loop.call_later(self._net.chance.choice((0.0, 0.01, 0.5)), self.server_closed)

    def _tell_lost(self, why: str) -> None:
        if self._client_open:
            self._client_open = False
            self._on_lost(why)
        self.cut()

    def _keep_delivering(self) -> None:
        if not self._delivering and self._stream and self._server_loop is not None:
            self._delivering = True
            self._server_loop.call_later(self._net.delay_s(), self._deliver_some)

    def _deliver_some(self) -> None:
        self._delivering = False
        for _ in range(self._net.chance.randrange(1, 5)):
            if self._stream and self._server_open and self._export is not None:
                self._stream.popleft()(self._export)
        self._keep_delivering()

    def client_died(self) -> None:
        self._client_open, self._client_dead = False, True

    def server_died(self) -> None:
        self._server_open = False

    # The server's side.

    def server_closed(self) -> None:
        if self._server_open:
            self._server_open = False
            self._stream.clear()
            if self._export is not None:
                self._export.closed()
            self.cut()

    def _deliver(
        self,
        op: Op,
        offset: int,
        length: int,
        content: bytearray,
        fua: bool,
        done: Done,
        export: MirrorExport,
    ) -> None:
        ended = False
        buffers = [memoryview(content)] if content else []

        def end(outcome: Outcome) -> None:
            nonlocal ended
            assert not ended, "a request was ended twice"
            ended = True
            poison(buffers, MIRROR_POISON)
            self._answer(partial(done, outcome))

        request = Request(op, offset, length, end, buffers, fua)
        failure = self._net.fail(request)
        if failure is None:
            export.submit(request)
        else:
            end(failure)

    def _answer(self, tell: Callable[[], None]) -> None:
        def arrive() -> None:
            if not self._client_open or self._lost:
                return
            if self._net.silent:
                self._client_loop.call_later(_SILENCE_STEP_S, arrive)
            else:
                tell()

        if self._server_open:
            self._client_loop.call_later(self._net.delay_s(), arrive)


_ZEROS = bytes(BLOCK_BYTES)


class FakeSource:
    """holdfast.replicator.hydrate.Source: `content`, with failures on demand."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.fail: Callable[[int], Exception | None] = lambda _offset: None
        self.reads = 0
        self._lost: set[int] = set()

    def read(self, offset: int, length: int) -> bytes:
        self.reads += 1
        error = self.fail(offset)
        if error is not None:
            raise error
        if any(offset <= at < offset + length for at in self._lost):
            raise DataLoss("LOST", "an object is gone")
        return self.content[offset : offset + length]

    def holes(self, offset: int, length: int) -> list[tuple[int, int]]:
        error = self.fail(offset)
        if error is not None:
            raise error
        empty = (
            at
            for at in range(offset, offset + length, BLOCK_BYTES)
            if _ZEROS.startswith(self.content[at : min(at + BLOCK_BYTES, offset + length)])
        )
        blocks = runs(at // BLOCK_BYTES for at in empty)
        return [(first * BLOCK_BYTES, (end - first) * BLOCK_BYTES) for first, end in blocks]

    def lose(self, offset: int) -> None:
        """The extent that begins at `offset` is gone for good."""
        self._lost.add(offset)

    def mend(self) -> None:
        """All is there again."""
        self._lost.clear()


class Host:
    """One host: a disk's files, a boot, and, while `local` is set, a process."""

    def __init__(self, name: str, files: Callable[[], Files], clock: Clock, chance: Random) -> None:
        self.name = name
        self._files = files
        self._clock = clock
        self._chance = chance
        self.boot = 1
        self.loop = TestingLoop(clock, chance)
        self.local: LocalReplica | None = None
        self.replica: Replica | None = None
        self.suspicions: list[str] = []
        self._dead: list[object] = []

    @property
    def store(self) -> Store:
        assert self.local is not None
        return self.local.store

    @property
    def boot_id(self) -> str:
        return f"{self.name}-boot-{self.boot}"

    def open(self, uid: str, size_bytes: int, origin: str, dial: Dial) -> Replica:
        boot_id = self.boot_id
        if not exists(self._files()):
            create(self._files(), uid, size_bytes, boot_id, origin)
        self.local = LocalReplica(
            self.loop, Store(self._files(), uid, size_bytes, boot_id), self.suspicions.append
        )
        self.replica = Replica(self.loop, self.local, self.name, boot_id, dial)
        return self.replica

    def kill(self) -> None:
        """The process is gone; its files are as it left them.

        Its objects stay (TestingLoop.die): what a collector makes of them would act on the next one's disk.
        """
        self.loop.die()
        self._dead.append((self.loop, self.local, self.replica))
        self.loop = TestingLoop(self._clock, self._chance)
        self.local = self.replica = None


class Pair:
    """A volume on two hosts, both in sync in one epoch. `a` is the primary, `b` the mirror."""

    def __init__(
        self,
        size_bytes: int,
        files: Callable[[str], Callable[[], Files]],
        seed: int = 0,
        origin: FakeSource | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.size_bytes = size_bytes
        self.origin = origin
        self.hydrates = True
        """In the background too."""
        self.clock = clock or Clock()
        self.chance = Random(seed)
        self.net = Network(self.chance)
        self._dead: list[object] = []
        """Sessions of killed processes (Host.kill)."""
        self.a = Host("a", files("a"), self.clock, self.chance)
        self.b = Host("b", files("b"), self.clock, self.chance)
        self.hosts = self.net.hosts = {"a": self.a, "b": self.b}
        self.start_mirror()
        self.start_primary()

    def start(self, name: str, role: Role, epoch: int = EPOCH, members: str = "ab", **more: Any) -> None:
        """A process of host `name`, in this role."""
        host = self.hosts[name]
        origin = "origin" if self.origin else ""
        replica = host.open("volume", self.size_bytes, origin, partial(self.net.dial, name))
        replica.use_source(self.origin)
        self.tell(name, role, epoch, members, **more)

    def tell(self, name: str, role: Role, epoch: int, members: str, **more: Any) -> None:
        """What its agent says to a host's process. Hosts have names of one letter."""
        peers = tuple(other for other in sorted(self.hosts) if other != name)
        replica = self.hosts[name].replica
        assert replica is not None
        more.setdefault("may_be_new", epoch == EPOCH)
        replica.apply(Wanted(role, epoch, frozenset(members), peers, **more))

    def epoch(self, epoch: int, primary: str, members: str) -> None:
        """An epoch begins, and every process hears of it at once."""
        for name, host in self.hosts.items():
            if host.replica is not None:
                in_sync = Role.MIRROR if name in members else Role.JOINER
                self.tell(name, Role.PRIMARY if name == primary else in_sync, epoch, members)

    def leading_of(self, name: str) -> Leading:
        replica = self.hosts[name].replica
        assert replica is not None and replica.device.leading is not None
        return replica.device.leading

    def start_mirror(self) -> None:
        self.start("b", Role.MIRROR)

    def start_primary(self) -> None:
        self.start("a", Role.PRIMARY)
        self.hydrator = self.leading.hydrator
        self.leading.hydrator = _Background(self, self.hydrator)  # type: ignore[assignment]
        self.until(lambda: bool(self.leading.partners))

    @property
    def leading(self) -> Leading:
        return self.leading_of("a")

    @property
    def following(self) -> Following:
        assert self.b.replica is not None
        return self.b.replica.following

    @property
    def primary(self) -> Primary:
        return self.leading.primary

    @property
    def link(self) -> Link:
        return self.leading.partners["b"].link

    def kill(self, name: str) -> None:
        """A host's process: `start` the next."""
        self.hosts[name].kill()
        self.net.killed(name)
        self._dead += self.net.sessions
        self.net.sessions.clear()

    def kill_primary(self) -> None:
        self.kill("a")

    def kill_mirror(self) -> None:
        self.kill("b")

    # Running.

    @property
    def loops(self) -> list[TestingLoop]:
        return [host.loop for host in self.hosts.values()]

    def until(self, condition: Callable[[], bool], limit_s: float = 60.0) -> None:
        run_until(self.loops, condition, limit_s)

    def for_s(self, seconds: float) -> None:
        run_for(self.loops, seconds)

    def turn(self) -> None:
        for loop in self.loops:
            loop.run_once()

    def until_up(self) -> None:
        """And equal."""
        self.until(lambda: self.link.equal)

    def finish(self, steps: Steps[object], limit_s: float = 60.0) -> object:
        """Run `steps` on the primary's loop to its end; raises what it raises."""
        results: list[object] = []
        errors: list[Exception] = []
        run(steps, results.append, errors.append)
        self.until(lambda: bool(results or errors), limit_s)
        if errors:
            raise errors[0]
        return results[0]

    # Requests, one at a time: buffers are poisoned when the device is done with them.

    def submit(
        self, op: Op, offset: int = 0, content: bytes | int = b"", at: str = "a", **more: object
    ) -> list[Outcome]:
        """`content`: the bytes of a write, or the length otherwise; `at`: the host that is asked. The outcome
        is in the list when known.
        """
        length = content if isinstance(content, int) else len(content)
        writes = op in (Op.WRITE, Op.COMPARE_AND_WRITE)
        buffers = [memoryview(bytearray(content))] if writes and not isinstance(content, int) else []
        outcomes: list[Outcome] = []

        def done(outcome: Outcome) -> None:
            assert not outcomes, "a request was ended twice"
            outcomes.append(outcome)
            poison(buffers)

        if op is Op.READ:
            buffers = [memoryview(bytearray(length))]
        self._device(at).submit(Request(op, offset, length, done, buffers, **more))  # type: ignore[arg-type]
        return outcomes

    def _device(self, at: str) -> Device:
        replica = self.hosts[at].replica
        assert replica is not None
        return replica.device

    def do(
        self, op: Op, offset: int = 0, content: bytes | int = b"", at: str = "a", **more: object
    ) -> Outcome:
        outcomes = self.submit(op, offset, content, at, **more)
        self.until(lambda: bool(outcomes))
        return outcomes[0]

    def read(self, offset: int, length: int, at: str = "a") -> bytes:
        content = bytearray(length)
        outcomes: list[Outcome] = []
        request = Request(Op.READ, offset, length, outcomes.append, [memoryview(content)])
        self._device(at).submit(request)
        self.until(lambda: bool(outcomes))
        assert outcomes == [Outcome.OK], outcomes
        return bytes(content)


class _Background:
    """The primary's hydrator, whose background pass goes on only while the pair says so."""

    def __init__(self, pair: Pair, hydrator: Hydrator) -> None:
        self._pair = pair
        self._hydrator = hydrator
        self.stop, self.limit = hydrator.stop, hydrator.limit

    def go_on(self) -> None:
        if self._pair.hydrates:
            self._hydrator.go_on()
