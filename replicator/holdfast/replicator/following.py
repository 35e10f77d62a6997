"""A replica that is not the primary: in sync (mirror), or being made so (joiner). It waits for its session.

It promises with every beacon that it answers not to act as the primary for BEACON_LEASE_S: it counts from
its answer, which is later than the primary's sending, and adds a margin for clocks that drift apart. What an
earlier process of this host promised it does not know, so it counts from its own start, too (I-3).
"""

from collections.abc import Callable, Collection
from enum import Enum
from functools import partial

from holdfast.base.errors import StaleEpoch, Unavailable
from holdfast.base.limits import BEACON_LEASE_S, BEACON_MARGIN_S
from holdfast.base.loop import Loop, Timer
from holdfast.base.steps import Steps
from holdfast.replicator import epochs
from holdfast.replicator.endings import Endings
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.mirror import Drain, MirrorExport


class Role(Enum):
    PRIMARY = "primary"
    """It takes users' requests."""
    MIRROR = "mirror"
    """In sync with the primary."""
    JOINER = "joiner"
    """Not in sync, or not any more."""


class Promise:
    """How long this host must not act against a lease that it gave. One for the life of a process."""

    def __init__(self, loop: Loop, made_s: float) -> None:
        self._loop = loop
        self._made_s = made_s

    def renew(self) -> None:
        self._made_s = self._loop.now()

    @property
    def over_s(self) -> float:
        """When it is over, on the loop's clock."""
        return self._made_s + BEACON_LEASE_S + BEACON_MARGIN_S

    @property
    def is_over(self) -> bool:
        return self._loop.now() >= self.over_s


class Following:
    """Loop thread only. A MirrorExport's Host.

    Args:
        standby_age_s: seconds since an initiator was last refused on this host's path.
    """

    def __init__(
        self,
        loop: Loop,
        local: LocalReplica,
        host_id: str,
        boot_id: str,
        promise: Promise,
        endings: Endings,
        standby_age_s: Callable[[], float],
        on_change: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._local = local
        self.drain = Drain()
        self._role = Role.JOINER
        self._epoch = 0
        self._peers: frozenset[str] = frozenset()
        self._entered = False
        self._promise = promise
        self._endings = endings
        self._standby_age_s = standby_age_s
        self._on_change = on_change
        self._timer: Timer | None = None
        self._told = local.store.state
        """As of the last beacon."""
        self.host_id = host_id
        self.boot_id = boot_id
        self.may_sync = True
        self.left_bytes = -1
        """Of its resync, as the primary last said; -1: none is under way."""

    @property
    def role(self) -> str:
        return self._role.value

    @property
    def standby_age_s(self) -> float:
        return self._standby_age_s()

    @property
    def connected(self) -> bool:
        return self.drain.current is not None

    @property
    def may_take_over(self) -> bool:
        """In sync, sound, and bound by no promise."""
        usable = self._entered and self._role is Role.MIRROR and not self._local.suspect
        return usable and self._promise.is_over

    def enter(
        self,
        role: Role,
        epoch: int,
        members: Collection[str],
        peers: Collection[str],
        may_be_new: bool,
    ) -> Steps[None]:
        """Serve in this role and epoch from now on, whatever it was before.

        Raises StaleEpoch, Precondition NOT_WHOLE, OSError.
        """
        store = self._local.store
        self._entered = False
        self._local.last_copy = False
        self.left_bytes = -1
        yield self.drain.end_all
        if role is Role.MIRROR:
            left_out = set(store.state.members) - set(members)
            entry = epochs.as_mirror(store.state, epoch, members, may_be_new)
            if left_out:
                # As Leading.enter: perhaps this one has what the new primary has not.
                store.doubt(store.intent.set_bits(), ())
            yield partial(self._local.in_pool, partial(store.record_entry, entry))
            for host in entry.drop:
                store.absent.pop(host).close()
        else:
            # It may have heard of a newer one from a primary, before its agent did.
            yield partial(self._local.in_pool, partial(store.hear_of, max(epoch, store.state.epoch)))
        self._role, self._epoch, self._peers = role, epoch, frozenset(peers)
        self._entered = True
        self._watch_promise()

    def open_session(self, peer: str, epoch: int) -> MirrorExport:
        """Raises StaleEpoch, or Unavailable while this host cannot say."""
        if not self._entered:
            raise Unavailable("NOT_READY", "this host is changing its role: try again.")
        if peer not in self._peers:
            raise StaleEpoch(f"host {peer} is no replica's in epoch {self._epoch}.")
        self._check(epoch)
        export = MirrorExport(self._local, self.drain, self)
        export.on_change = self._on_change
        return export

    def check(self, epoch: int) -> Steps[None]:
        """A joiner takes a newer epoch's word for it; one in sync must have heard of it from its agent."""
        if not self._entered:
            raise StaleEpoch("this host is changing its role.")
        self._check(epoch)
        if epoch > self._epoch:
            yield partial(self._local.in_pool, partial(self._local.store.hear_of, epoch))

    def _check(self, epoch: int) -> None:
        known = max(self._epoch, self._local.store.state.epoch)
        if epoch < known or (epoch > known and self._role is Role.MIRROR):
            raise StaleEpoch(f"epoch {epoch} is not the one that this host knows, {known}.")

    def lacks(self, left_bytes: int) -> None:
        if left_bytes != self.left_bytes:
            self.left_bytes = left_bytes
            self._on_change()

    def greeted(self, peer: str) -> None:
        self._endings.drained(peer)

    def beat(self) -> None:
        """Also the moment to tell of what changed here without a word: nothing else wakes this process."""
        was_over, state = self._promise.is_over, self._local.store.state
        self._promise.renew()
        if self._timer is None:
            self._watch_promise()
        if was_over or state is not self._told:
            self._told = state
            self._on_change()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._entered = False

    def leave(self) -> Steps[None]:
        """End; everything that was under way has ended (I-6)."""
        self.close()
        yield self.drain.end_all
        yield self._local.order.when_idle

    def _watch_promise(self) -> None:
        """Its end is told at once: a takeover waits for it. From then on until another is made there is
        nothing to watch.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._role is not Role.MIRROR or not self._entered:
            return
        left_s = self._promise.over_s - self._loop.now()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._watch_promise)
        else:
            self._on_change()
