"""Between hosts: connections as TCP makes them.

What is sent one way on one connection arrives in its order, or not at all; between connections there is no
order. A cut from one host to another holds back what goes that way, without telling anybody, until it is
mended: then it arrives after all (TCP sends it again), unless the connection was given up meanwhile. A lost
connection delivers a prefix of what was under way, and each end is told in its own time.
"""

from collections import deque
from collections.abc import Callable
from random import Random

from .time import Call, Timeline

_AGAIN_MAX_S = 0.8
"""Until what was lost in a cut is sent again."""


class Network:
    def __init__(self, timeline: Timeline, chance: Random) -> None:
        self.timeline = timeline
        self.chance = chance
        self._cut: dict[tuple[str, str], None] = {}
        self._held: list[Pipe] = []
        self.delay_max_s = 0.004
        self.stall = 0.02
        """How often a message takes much longer."""

    def cut(self, source: str, target: str) -> None:
        self._cut[source, target] = None

    def mend(self, source: str, target: str) -> None:
        if self._cut.pop((source, target), 0) is None:
            held, self._held = self._held, []
            for pipe in held:
                pipe.mended()

    def mend_all(self) -> None:
        for source, target in list(self._cut):
            self.mend(source, target)

    def is_cut(self, source: str, target: str) -> bool:
        return (source, target) in self._cut

    def hold(self, pipe: "Pipe") -> None:
        self._held.append(pipe)

    def delay_s(self) -> float:
        chance = self.chance.random()
        if chance < self.stall:
            return self.chance.random() * 0.3
        return 0.0001 + chance * self.delay_max_s


class Pipe:
    """One direction of a connection."""

    __slots__ = ("_held", "_last", "_net", "_queue", "source", "target")
    """`_held`: of what is queued, how much no arrival is planned for, because a cut met it."""

    def __init__(self, net: Network, source: str, target: str) -> None:
        self._net = net
        self.source = source
        self.target = target
        self._queue: deque[Call] = deque()
        self._held = 0
        self._last = 0.0

    def send(self, arrive: Call) -> None:
        self._queue.append(arrive)
        if self._held or self._net.is_cut(self.source, self.target):
            self._hold()
        else:
            self._plan(self._net.delay_s())

    def lose(self) -> None:
        """The connection is gone: a prefix of what is under way still arrives."""
        on_its_way = len(self._queue) - self._held
        self._held = 0
        kept = on_its_way - self._net.chance.randrange(on_its_way + 1)
        while len(self._queue) > kept:
            self._queue.pop()

    def drop(self) -> None:
        self._held = 0
        self._queue.clear()

    def mended(self) -> None:
        if self._net.is_cut(self.source, self.target):
            if self._held:
                self._net.hold(self)
            return
        held, self._held = self._held, 0
        again_s = self._net.chance.random() * _AGAIN_MAX_S
        for _ in range(held):
            self._plan(again_s)

    def _plan(self, delay_s: float) -> None:
        timeline = self._net.timeline
        due = timeline.now + delay_s
        self._last = due = due if due > self._last else self._last
        timeline.at(due, self._arrive)

    def _arrive(self) -> None:
        if len(self._queue) == self._held:
            return  # What was to arrive now was lost with the connection.
        if self._held or self._net.is_cut(self.source, self.target):
            self._hold()
        else:
            self._queue.popleft()()

    def _hold(self) -> None:
        if not self._held:
            self._net.hold(self)
        self._held += 1


class Connection:
    """Two pipes, and two ends that are told once that it is over."""

    def __init__(self, net: Network, client: str, server: str) -> None:
        self.net = net
        self.there = Pipe(net, client, server)
        self.back = Pipe(net, server, client)
        self.client_over: Callable[[str], None] = lambda _why: None
        self.server_over: Callable[[str], None] = lambda _why: None
        self.client_open = True
        self.server_open = True
        self.broken = False

    def close_client(self) -> None:
        """The client's process closes it, or dies: what it sent arrives, then the end of it."""
        if self.client_open:
            self.client_open = False
            self.back.drop()
            self.there.send(self._tell_server)

    def close_server(self) -> None:
        if self.server_open:
            self.server_open = False
            self.there.drop()
            self.back.send(self._tell_client)

    def silence_client(self) -> None:
        """The client's machine is gone: nobody is told."""
        self.client_open = False
        self.back.drop()
        self.there.lose()

    def silence_server(self) -> None:
        self.server_open = False
        self.there.drop()
        self.back.lose()

    def break_it(self) -> None:
        """Lost between the two."""
        if self.broken:
            return
        self.broken = True
        self.there.lose()
        self.back.lose()
        chance, timeline = self.net.chance, self.net.timeline
        timeline.after(chance.choice((0.0, 0.005, 0.05, 0.5)), self._tell_client)
        timeline.after(chance.choice((0.0, 0.005, 0.05, 0.5, 3.0)), self._tell_server)

    def _tell_client(self) -> None:
        if self.client_open:
            self.client_open = False
            self.back.drop()
            self.client_over("the connection was lost")

    def _tell_server(self) -> None:
        if self.server_open:
            self.server_open = False
            self.there.drop()
            self.server_over("the connection was lost")
