"""One replica of one volume in whatever role it has: the same device to its initiators through all of them.

    apply(wanted) → another role or epoch: end the one at hand whole, then begin the new (I-6)
                  → else: follow at once

What is wanted may change again while a role is being changed: the newest counts.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from holdfast.base.device import Outcome, Request
from holdfast.base.errors import HoldfastError, StaleEpoch, Unavailable
from holdfast.base.loop import Loop
from holdfast.base.steps import Steps, run
from holdfast.base.trace import TracedRequest
from holdfast.replicator.endings import Endings
from holdfast.replicator.files import no_room
from holdfast.replicator.following import Following, Promise, Role
from holdfast.replicator.gate import Gate
from holdfast.replicator.hydrate import Hydrator, Source
from holdfast.replicator.leading import Dial, Leading
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.mirror import MirrorExport
from holdfast.replicator.partner import Standing
from holdfast.replicator.syncing import Progress
from holdfast.replicator.traced import TracedJob
from holdfast.replicator.verify import Verification
from holdfast.replicator.wanted import Wanted

log = logging.getLogger(__name__)
RETRY_S = 1.0


class Front:
    """holdfast.base.device.Device: what a ring serves, whoever is the primary."""

    def __init__(self, loop: Loop, size_bytes: int) -> None:
        self._loop = loop
        self._refused_at_s = -math.inf
        self.size_bytes = size_bytes
        self.leading: Leading | None = None

    @property
    def refused_age_s(self) -> float:
        """Seconds since an initiator's I/O was last refused here; -1 if never."""
        age_s = self._loop.now() - self._refused_at_s
        return age_s if math.isfinite(age_s) else -1.0

    def submit(self, request: Request) -> None:
        if self.leading is not None:
            self.leading.primary.submit(request)
        else:
            self._refused_at_s = self._loop.now()
            request.done(Outcome.STANDBY)

    def submit_all(self, requests: list[Request]) -> None:
        """`submit` of each, one after the other."""
        if self.leading is not None:
            self.leading.primary.submit_all(requests)
        else:
            for request in requests:
                self.submit(request)

    def submit_traced(self, request: TracedRequest) -> None:
        if self.leading is not None:
            primary = self.leading.primary
            primary.submit_job(TracedJob(primary, request, primary.born_s()))
        else:
            self.submit(request)


@dataclass(frozen=True)
class ReplicaReport:
    """What a replica is, and what it wants of its agent (target/control.py says what each means)."""

    role: Role | None
    """The one that it has; None while it has none, or changes."""
    epoch: int
    connected: bool
    serving: bool
    reason: str = ""
    message: str = ""
    wants_leave_out: tuple[str, ...] = ()
    wants_join: str = ""
    wants_join_boot: str = ""
    wants_resign: bool = False
    gives_up: bool = False
    yielded: bool = False
    heirs: tuple[str, ...] = ()
    may_take_over: bool = False
    standby_io_age_s: float = -1.0
    frozen: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(snapshot, other hosts that hold it too) of views that are recorded and on disk."""
    gates: tuple[tuple[str, Gate], ...] = ()
    """(snapshot, how it stands) of those that are frozen together with other volumes."""
    syncs: tuple[Progress, ...] = ()
    left_bytes: int = -1
    joining: tuple[str, ...] = ()
    syncable: tuple[str, ...] = ()
    bound: tuple[str, ...] = ()
    verification: Verification | None = None
    hydrate_remaining_bytes: int = 0
    hydrate_total_bytes: int = 0
    hydrate_rate_bytes_s: int = 0
    hydrate_trouble: tuple[str, str] = ("", "")
    """What keeps it from its origin: a word and a sentence."""


class Replica:
    """Loop thread only. `on_change` is called when a report may differ."""

    def __init__(self, loop: Loop, local: LocalReplica, host_id: str, boot_id: str, dial: Dial) -> None:
        self._loop = loop
        self._local = local
        self._host_id = host_id
        self._boot_id = boot_id
        self._dial = dial
        self._promise = Promise(loop, loop.now())
        self._endings = Endings(loop)
        self._wanted: Wanted | None = None
        self._is: Wanted | None = None
        self._changing = False
        self._closed = False
        self._source: Source | None = None
        self._hydrator: Hydrator | None = None
        self._following: Following | None = None
        self._leading: Leading | None = None
        self._trouble = ("", "")
        self.device = Front(loop, local.store.size_bytes)
        self.on_change: Callable[[], None] = lambda: None

    def apply(self, wanted: Wanted) -> None:
        """Become and do what is wanted. Idempotent; what is older than what is known is ignored."""
        if self._wanted is not None and wanted.epoch < self._wanted.epoch:
            log.warning("ignoring epoch %d: %d is known", wanted.epoch, self._wanted.epoch)
            return
        self._wanted = wanted
        self._go_on()

    def use_source(self, source: Source | None) -> None:
        """Where the volume's origin is read from now on; None while nobody serves it."""
        self._source = source
        if self._hydrator is not None:
            self._hydrator.use(source)

    def open_session(self, peer: str, epoch: int) -> MirrorExport:
        """For `peer`, which says that it is the primary in `epoch`. Raises StaleEpoch, Unavailable."""
        return self.following.open_session(peer, epoch)

    @property
    def following(self) -> Following:
        """The role at hand, of one that is not the primary. Raises Unavailable."""
        if self._following is None:
            raise Unavailable("NOT_READY", "this host is the primary, or is changing its role: try again.")
        return self._following

    def close(self) -> None:
        """The process ends: everything is answered BUSY, and nothing more is begun."""
        self._closed = True
        self.device.leading = None
        if self._leading is not None:
            self._leading.close()
        if self._following is not None:
            self._following.close()

    @property
    def drained(self) -> bool:
        """No copy of a command that an earlier process of this host took on can still be applied on a host of
        the set: its initiator may be told that it is over.
        """
        now, heard = self._is, self._endings.heard
        if now is None:
            return False
        if now.role is Role.PRIMARY:
            return now.members - {self._host_id} <= heard
        return bool(heard)

    # Roles.

    def _go_on(self) -> None:
        if self._changing or self._closed or self._wanted is None:
            return
        if self._is is not None and self._wanted.identity == self._is.identity:
            self._is = self._wanted
            if self._leading is not None:
                self._leading.tune(self._wanted)
            if self._following is not None:
                self._following.may_sync = self._wanted.may_sync
            return
        self._changing = True
        run(self._change(self._wanted), self._changed, self._not_changed)

    def _change(self, wanted: Wanted) -> Steps[Wanted]:
        self._is = None
        if wanted.role is Role.PRIMARY:
            yield from self._stop_following()
            leading = self._leading or self._make_leading()
            yield from leading.enter(wanted)
        else:
            yield from self._stop_leading()
            following = self._following or self._make_following()
            yield from following.enter(
                wanted.role, wanted.epoch, wanted.members, wanted.peers, wanted.may_be_new
            )
        self._endings.only(wanted.members)
        return wanted

    def _changed(self, wanted: Wanted) -> None:
        self._changing = False
        self._is = wanted
        self._trouble = ("", "")
        self.on_change()
        self._go_on()

    def _not_changed(self, error: Exception) -> None:
        self._changing = False
        if not isinstance(error, HoldfastError | OSError):
            raise error
        if isinstance(error, HoldfastError):
            self._trouble = (error.reason, str(error))
        else:
            self._local.not_noted(error)
            reason = "NO_SPACE" if no_room(error) else "DISK_FAILED"
            self._trouble = (reason, f"this host cannot write down that an epoch begins: {error}.")
        log.error("the role cannot be taken: %s", error)
        self.on_change()
        self._loop.call_later(RETRY_S, self._go_on)

    def _make_leading(self) -> Leading:
        self._hydrator = Hydrator(self._loop, self._local.store)
        self._hydrator.use(self._source)
        self._leading = Leading(
            self._loop,
            self._local,
            self._host_id,
            self._dial,
            self._hydrator,
            self._promise,
            self._endings,
            self._tell,
        )
        # From now on commands wait here, to be served or answered BUSY, and are not sent away.
        self.device.leading = self._leading
        return self._leading

    def _make_following(self) -> Following:
        self._following = Following(
            self._loop,
            self._local,
            self._host_id,
            self._boot_id,
            self._promise,
            self._endings,
            lambda: self.device.refused_age_s,
            self._tell,
        )
        return self._following

    def _stop_leading(self) -> Steps[None]:
        leading, self._leading, self._hydrator = self._leading, None, None
        self.device.leading = None
        if leading is not None:
            yield from leading.leave()

    def _stop_following(self) -> Steps[None]:
        following, self._following = self._following, None
        if following is not None:
            yield from following.leave()

    def _tell(self) -> None:
        if not self._closed:
            self.on_change()

    # Reporting.

    def report(self) -> ReplicaReport:
        now, leading, following = self._is, self._leading, self._following
        if now is None:
            return self._report_of_none()
        reason, message = self._trouble
        if leading is None:
            assert following is not None
            frozen = tuple((uid, ()) for uid in sorted(self._local.store.state.views))
            return ReplicaReport(
                now.role,
                now.epoch,
                following.connected,
                following.connected,
                reason,
                message,
                may_take_over=following.may_take_over,
                frozen=frozen,
                left_bytes=following.left_bytes,
            )
        hydrator = self._hydrator
        join, join_boot = leading.wants_join
        return ReplicaReport(
            now.role,
            now.epoch,
            all(p.link.equal for p in leading.partners.values()),
            leading.serving,
            reason,
            message or leading.trouble,
            wants_leave_out=leading.wants_leave_out,
            wants_join=join,
            wants_join_boot=join_boot,
            wants_resign=leading.wants_resign,
            gives_up=leading.gives_up,
            yielded=leading.yielded,
            heirs=leading.heirs,
            standby_io_age_s=leading.standby_io_age_s,
            frozen=tuple(sorted(leading.chores.frozen.items())),
            gates=tuple(leading.chores.gates.items()),
            syncs=tuple(leading.syncing.progress()),
            joining=leading.attached(Standing.JOINING),
            syncable=leading.syncable,
            bound=leading.attached(Standing.BOUND),
            verification=leading.chores.verification,
            hydrate_remaining_bytes=hydrator.remaining_bytes if hydrator else 0,
            hydrate_total_bytes=hydrator.total_bytes if hydrator else 0,
            hydrate_rate_bytes_s=hydrator.rate_bytes_s if hydrator else 0,
            hydrate_trouble=hydrator.trouble if hydrator else ("", ""),
        )

    def _report_of_none(self) -> ReplicaReport:
        """A primary that cannot begin its epoch, for its disk or for what is on it, acknowledges nothing in
        it, and has no session over which it could hear of its heir.
        """
        reason, message = self._trouble
        wanted = self._wanted
        leads = wanted is not None and wanted.role is Role.PRIMARY and len(wanted.members) > 1
        stuck = leads and reason not in ("", StaleEpoch.REASON)
        epoch = self._local.store.state.epoch
        return ReplicaReport(None, epoch, False, False, reason, message, wants_resign=stuck, gives_up=stuck)
