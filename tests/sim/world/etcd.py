"""etcd, as hosts reach it: slowly, not at all, or in one direction only.

A change is made in three moments: what it reads, what it commits, and what the caller hears of it. Between
them anything may happen; the last may be lost (OutcomeUnknown), and a commit that was sent may be carried
out long after its sender gave up. Leases are counted by etcd's own clock, which a new leader starts afresh
(late) or an operator's mistake moves (early). Watches lag, in their order.

The transactions themselves are those of holdfast.metadata.memory_store, which passes the tests of the real
one.
"""

from collections.abc import Callable, Sequence
from functools import partial
from random import Random

from holdfast.base.errors import OutcomeUnknown, Unavailable
from holdfast.metadata import etcd_types as etcd
from holdfast.metadata.cas import Draft
from holdfast.metadata.keys import host_lease
from holdfast.metadata.memory_store import MemoryStore

from .net import Network, Pipe
from .process import Process
from .time import Timeline

NAME = "etcd"
TIMEOUT_S = 5.0
_ATTEMPTS_MAX = 6
_PAUSE_MAX_S = 0.05

Decision = Callable[[Draft], object]
Result = Callable[[object], None]
OnEvent = Callable[[str, etcd.Entry | None], None]


class _Lease:
    __slots__ = ("ends", "ttl_s")

    def __init__(self, ttl_s: float) -> None:
        self.ttl_s = ttl_s
        self.ends = 0.0


class _Noting(MemoryStore):
    """Notes what each transaction changed."""

    def __init__(self, changed: Callable[[list[str]], None], leases: dict[int, "_Lease"]) -> None:
        super().__init__()
        self._changed = changed
        self._leases = leases

    def transact(
        self, compares: Sequence[etcd.Compare], success: Sequence[etcd.Op], failure: Sequence[etcd.Op] = ()
    ) -> etcd.TxnResult:
        for op in success:
            lease_id = op.message.request_put.lease
            if lease_id and lease_id not in self._leases:
                raise etcd.LeaseGone(lease_id)
        before = dict(self.entries)
        result = super().transact(compares, success, failure)
        after = self.entries
        keys = [key for key in after if after[key] is not before.get(key)]
        keys += [key for key in before if key not in after]
        if keys:
            self._changed(keys)
        return result


class Watch:
    """Changes below a prefix, in their order, as one process hears of them."""

    def __init__(self, net: Network, host: str, prefix: str, hear: OnEvent, loop: Process) -> None:
        self.prefix = prefix
        self.host = host
        self.loop = loop
        self.late_s = 0.0
        self._hear = hear
        self._timeline = net.timeline
        self._pipe = Pipe(net, NAME, host)
        self._last = 0.0

    def tell(self, key: str, entry: etcd.Entry | None) -> None:
        self.then(lambda: self._hear(key, entry))

    def then(self, call: Callable[[], None]) -> None:
        """After all that was told before."""
        self._last = max(self._last, self._timeline.now + self.late_s)
        self._timeline.at(self._last, lambda: self._pipe.send(lambda: self.loop.deliver(call)))


class Etcd:
    """`committed(keys)` is called after every change, at its moment."""

    def __init__(self, timeline: Timeline, net: Network, chance: Random) -> None:
        self._timeline = timeline
        self._net = net
        self._chance = chance
        self._leases: dict[int, _Lease] = {}
        self.store = _Noting(self._changed, self._leases)
        self.committed: Callable[[list[str]], None] = lambda _keys: None
        self.about_to_commit: Callable[[], None] = lambda: None
        self.up = True
        self.slow = 1.0
        self.asked_s = 0.0
        """When what is being committed was begun."""
        self._granted = 0
        self.watches: list[Watch] = []

    # Changes.

    def run(self, loop: Process, host: str, decide: Decision, result: Result, attempt: int = 1) -> None:
        """holdfast.metadata.cas.run, stretched over time. `result` gets its result or the exception."""

        asked_s = self._timeline.now

        def commit(draft: Draft) -> object:
            self.asked_s = asked_s
            return draft.commit()

        def read() -> object:
            draft = Draft(self.store)
            decided = decide(draft)
            return draft, decided

        def was_read(found: object) -> None:
            if isinstance(found, Exception):
                end(found)
                return
            assert isinstance(found, tuple)
            draft, decided = found
            self.about_to_commit()
            self._ask(loop, host, partial(commit, draft), lambda done: committed(done, decided), True)

        def committed(done: object, decided: object) -> None:
            if isinstance(done, OutcomeUnknown) or done is False:
                again(done)
            else:
                end(done if isinstance(done, Exception) else decided)

        def again(why: object) -> None:
            if attempt == _ATTEMPTS_MAX:
                end(
                    why if isinstance(why, Exception) else Unavailable("CONTENDED", "others kept changing it")
                )
                return
            pause_s = self._chance.random() * _PAUSE_MAX_S
            loop.call_later(pause_s, lambda: self.run(loop, host, decide, result, attempt + 1))

        def end(value: object) -> None:
            loop.deliver(lambda: result(value))

        self._ask(loop, host, read, was_read, False)

    def _ask(
        self, loop: Process, host: str, work: Callable[[], object], result: Result, changes: bool
    ) -> None:
        """Carry `work` to etcd and its result back. What is lost on the way is told after TIMEOUT_S."""
        state = {"answered": False}

        def answer(value: object) -> None:
            if not state["answered"] and not loop.dead:
                state["answered"] = True
                result(value)

        def arrive() -> None:
            if not self.up:
                return
            try:
                value = work()
            except Exception as error:
                value = error
            if self.up:
                Pipe(self._net, NAME, host).send(
                    lambda: self._timeline.after(self._s(), lambda: answer(value))
                )

        def too_late() -> None:
            answer(
                OutcomeUnknown("OUTCOME_UNKNOWN", "no answer")
                if changes
                else Unavailable("ETCD_UNREACHABLE", "no answer")
            )

        Pipe(self._net, host, NAME).send(lambda: self._timeline.after(self._s(), arrive))
        self._timeline.after(TIMEOUT_S, too_late)

    def change(self, decide: Decision) -> object:
        """By somebody who is at etcd: an operator, the control plane."""
        draft = Draft(self.store)
        decided = decide(draft)
        assert draft.commit()
        return decided

    def _s(self) -> float:
        return self._chance.random() * 0.004 * self.slow

    # Leases.

    def grant(self, loop: Process, host: str, ttl_s: float, result: Result) -> None:
        def work() -> object:
            self._granted += 1
            lease = self._leases[self._granted] = _Lease(ttl_s)
            self._renewed(self._granted, lease)
            return self._granted

        self._ask(loop, host, work, result, False)

    def keep_alive(self, loop: Process, host: str, lease_id: int, result: Result) -> None:
        def work() -> object:
            lease = self._leases.get(lease_id)
            if lease is None:
                raise etcd.LeaseGone(lease_id)
            self._renewed(lease_id, lease)
            return lease_id

        self._ask(loop, host, work, result, False)

    def _renewed(self, lease_id: int, lease: _Lease) -> None:
        lease.ends = self._timeline.now + lease.ttl_s
        self._timeline.at(lease.ends, lambda: self._look(lease_id, lease))

    def _look(self, lease_id: int, lease: _Lease) -> None:
        if self._timeline.now < lease.ends - 1e-9:
            return
        if not self.up:
            # Without a leader nothing expires; the next one counts anew.
            lease.ends = self._timeline.now + lease.ttl_s
            self._timeline.at(lease.ends, lambda: self._look(lease_id, lease))
            return
        self.revoke(lease_id)

    def revoke(self, lease_id: int) -> None:
        if self._leases.pop(lease_id, None) is None:
            return
        gone = [key for key, entry in self.store.entries.items() if entry.lease_id == lease_id]
        if gone:
            self.store.transact([], [etcd.delete(key) for key in gone])

    def forget(self, host: str) -> None:
        """Its lease ends now, whatever it was told."""
        entry = self.store.entries.get(host_lease(host))
        if entry is not None:
            self.revoke(entry.lease_id)

    def new_leader(self) -> None:
        """Every lease counts afresh."""
        for lease_id, lease in list(self._leases.items()):
            self._renewed(lease_id, lease)

    def lease_ids(self) -> list[int]:
        return list(self._leases)

    # Watches.

    def watch(self, loop: Process, host: str, prefix: str, hear: OnEvent, listed: Callable[[], None]) -> None:
        """What is there now comes first, then `listed()`, then every change."""
        watch = Watch(self._net, host, prefix, hear, loop)
        self.watches = [one for one in self.watches if not one.loop.dead]
        self.watches.append(watch)
        for key, entry in self.store.entries.items():
            if key.startswith(prefix):
                watch.tell(key, entry)
        watch.then(listed)

    def _changed(self, keys: list[str]) -> None:
        for watch in self.watches:
            for key in keys:
                if key.startswith(watch.prefix) and not watch.loop.dead:
                    watch.tell(key, self.store.entries.get(key))
        self.committed(keys)
