"""A replica as the primary, through its epochs: who must have a write, and who is brought back.

Only an epoch says who is in sync, and epochs come from outside (the agent, from etcd). This says what it
wants of them: to leave out who is lost, to let in who lacks nothing, to hand over. What is wanted may have
been recorded without anybody here knowing; so from when it is first said until the next epoch, nothing is
acknowledged that both outcomes would not allow (I-1, I-4).

    entering an epoch    sessions end; what those left out may lack is made durable (`absent/<host>`), then
                         the epoch (state.json), then sessions of the new epoch are dialled
    left out             its unconfirmed writes are marked, and wait for it no longer
    joining              attach (join.py) → copy (resync.py) → BOUND: it lacks nothing → on its disk, and
                         written down here that its joining is asked for → asked for
"""

import logging
import math
from collections.abc import Callable, Iterable
from functools import partial

from holdfast.base.device import Outcome
from holdfast.base.errors import HoldfastError, Unavailable
from holdfast.base.limits import (
    BEACON_INTERVAL_S,
    PATH_AWAY_S,
    REGION_BYTES,
    SYNC_MAX_BYTES_S,
)
from holdfast.base.loop import Loop, Timer
from holdfast.base.steps import Resume, Steps, run
from holdfast.replicator import epochs
from holdfast.replicator.align import align
from holdfast.replicator.bitmap import Bitmap
from holdfast.replicator.budget import Budget
from holdfast.replicator.chores import Chores
from holdfast.replicator.endings import Endings
from holdfast.replicator.following import Promise
from holdfast.replicator.hydrate import Hydrator
from holdfast.replicator.join import attach
from holdfast.replicator.link import Link, Sent
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.mending import MEND_FLOOR_BYTES_S, mend
from holdfast.replicator.messages import Message
from holdfast.replicator.partner import Partner, Standing, let_go
from holdfast.replicator.primary import Primary
from holdfast.replicator.settle import settle
from holdfast.replicator.syncing import Syncing
from holdfast.replicator.talk import REFUSED, Session, Talk
from holdfast.replicator.wanted import Wanted

log = logging.getLogger(__name__)

HEIR_HEARD_S = 2 * BEACON_INTERVAL_S
"""An heir that can be heard has answered a beacon within this."""
JOIN_RECORDED_S = 30.0
"""A joining that is not recorded for so long gives way to another's."""

Dial = Callable[[str, int, Callable[[Session], None], Callable[[str], None]], Session]
"""dial(host, epoch, on_ready, on_lost): see link.Dial."""


class Leading:
    """Loop thread only."""

    def __init__(
        self,
        loop: Loop,
        local: LocalReplica,
        host_id: str,
        dial: Dial,
        hydrator: Hydrator,
        promise: Promise,
        endings: Endings,
        on_change: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._local = local
        self._host_id = host_id
        self._dial = dial
        self.hydrator = hydrator
        self._promise = promise
        self._endings = endings
        self._on_change = on_change
        self._wanted: Wanted | None = None
        self._entered = False
        self._serve_from_s = 0.0
        self._standby_at_s = -math.inf
        self._leaving_out: set[str] = set()
        self._noting = False
        self._yields = (0, "")
        """(epoch, heir): what this host has begun to yield for."""
        self.partners: dict[str, Partner] = {}
        self._mending: dict[str, Talk] = {}
        """The session over which a host was last being made equal beside serving."""
        self.primary = Primary(loop, local, hydrator, endings)
        self.primary.on_trouble = self._disk_trouble
        self.chores = Chores(loop, self.primary, on_change)
        self.syncing = Syncing(loop, self.primary, self._may_sync)
        self.trouble = ""
        """Why this host should not be the primary, although another could be; empty while it should."""
        self._trouble_s = 0.0
        hydrator.on_change = on_change
        hydrator.busy = lambda: self.primary.serving_users
        self._timer: Timer | None = None
        self.primary.on_work = self._keep_looking

    # Epochs.

    def enter(self, wanted: Wanted) -> Steps[None]:
        """Be the primary of this epoch. Raises OSError, and what `epochs.as_primary` does."""
        store = self._local.store
        before = store.state
        entry = epochs.as_primary(
            before,
            wanted.epoch,
            wanted.members,
            wanted.peers,
            may_be_new=wanted.may_be_new,
            accept_half_synced=wanted.accept_half_synced,
        )
        self._entered = False
        self._refresh()
        self.chores.give_up_gates("another epoch of its volume began.")
        self.chores.only_on(wanted.members)
        for partner in self.partners.values():
            partner.link.pause("another epoch begins")
        yield from self._intend_all()
        made: dict[str, Bitmap] = {}
        for host in entry.make:
            regions, ranges = self._lacking(host, before.members)
            work = partial(store.make_absent, host, regions, ranges)
            made[host] = yield partial(self._local.in_pool, work)
        yield partial(self._local.in_pool, partial(store.record_entry, entry))
        store.absent.update(made)
        for host in entry.drop:
            store.absent.pop(host).close()
        left_out = set(before.members) - set(wanted.members)
        self._serve_from_s = self._promise.over_s if left_out and not before.led else 0.0
        if left_out and not before.led and len(wanted.members) > 1:
            # Who led knew what had come to one of its mirrors and not to another, and is out.
            store.doubt(store.intent.set_bits(), ())
        self._leaving_out = set(store.state.leaving)
        self._take_standings(wanted)
        if self.primary.alone:
            # Whatever others may lack is marked.
            store.in_doubt.clear()
            yield from self._keep_alone()
        self._entered = True
        self._begin()

    def _lacking(self, host: str, members: tuple[str, ...]) -> tuple[Iterable[int], list[tuple[int, int]]]:
        """Regions and ranges that a host which is left out may lack."""
        store = self._local.store
        partner = self.partners.get(host)
        if host not in members:
            return (), []
        if self._wanted is not None and partner is not None:
            # This very process has led before.
            regions, ranges = partner.doubtful()
            return regions | store.in_doubt, ranges
        # Another process led, or another host: all that is intended.
        return store.intent.set_bits(), []

    def _take_standings(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self.primary.needs_mirror = wanted.needs_mirror
        released: list[Sent] = []
        for host in sorted(set(self.partners) - set(wanted.peers)):
            released += self.partners.pop(host).dismiss()
        for host in wanted.peers:
            if host not in self.partners:
                self.partners[host] = Partner(host, self._local.store, self._make_link)
            partner = self.partners[host]
            if host in wanted.members:
                if partner.standing is Standing.JOINING:
                    partner.become(Standing.AWAY)
                partner.become(Standing.MEMBER)
            elif host == self._local.store.state.binding:
                # Asked for by an earlier process in this very epoch: only another epoch undoes it.
                partner.become(Standing.BOUND)
                partner.asked_s = self._loop.now()
                partner.link.hopeless = "whether it is in sync is not known after a restart"
            elif partner.standing is not Standing.AWAY:
                released += partner.fall_back()
        self.primary.partners = [self.partners[host] for host in sorted(self.partners)]
        self._hand_on_doubts()
        # Counted before what waited for those left out ends: alone, that must be on this disk.
        self._recount()
        let_go(released)

    def _hand_on_doubts(self) -> None:
        """Each may differ from this host, and is made equal by itself, whatever was done for others."""
        required = [partner for partner in self.partners.values() if partner.required]
        for partner in required:
            partner.link.in_doubt |= self._local.store.in_doubt
        if required:
            self._local.store.in_doubt.clear()

    def _recount(self) -> None:
        self.primary.alone = not any(partner.required for partner in self.partners.values())
        members = any(partner.standing is Standing.MEMBER for partner in self.partners.values())
        self.primary.hardens = bool(self._leaving_out) or not members
        self._local.last_copy = self.primary.alone
        self._lease()

    def _intend_all(self) -> Steps[None]:
        """Whatever is intended here is so by this process, too, and a clean finds it from now on: what is in
        doubt is handed on to others, who may be left out.
        """
        store, hot = self._local.store, self._local.intent.hot
        regions = store.in_doubt.union(region for region in store.intent.set_bits() if not hot.get(region))

        def adopt(resume: Resume) -> None:
            self._local.intend(regions, partial(resume, None), resume)

        if regions:
            yield adopt

    def _keep_alone(self) -> Steps[None]:
        """What two hosts had in memory, one has now: it must survive that, as what follows will."""
        try:
            yield from settle(self._local)
        except Unavailable as error:
            # The last copy is served as far as it goes.
            log.error("%s", error)

    def _begin(self) -> None:
        for partner in self.partners.values():
            if not partner.asked:
                partner.link.renew("another epoch begins")
        wait_s = self._serve_from_s - self._loop.now()
        if wait_s > 0:
            self._loop.call_later(wait_s, self._refresh)
        self.tune(self._wanted)

    def tune(self, wanted: Wanted | None) -> None:
        """What changes without an epoch."""
        if wanted is None or not self._entered:
            return
        self._wanted = wanted
        self.chores.want(wanted.snapshots)
        self.chores.verify(wanted.verify_request, wanted.verify_rate_bytes_s)
        self.syncing.most_bytes_s = wanted.sync_max_bytes_s or SYNC_MAX_BYTES_S
        self.hydrator.limit(self.syncing.most_bytes_s)
        self.primary.limit(wanted.limits)
        self.primary.on_quiet = self._on_change if wanted.yield_to else _nothing
        self._refresh()

    def leave(self) -> Steps[None]:
        """Be the primary no more: all is answered BUSY, and what was under way has ended (I-6, I-11)."""
        self._stop()
        for partner in self.partners.values():
            # Should this host be the primary again before it is restarted, these are copied.
            regions, ranges = partner.doubtful()
            self._local.store.doubt(regions, ranges)
            partner.link.close()
        yield self.chores.stop
        yield self._local.order.when_idle

    def close(self) -> None:
        """The process ends."""
        self._stop()
        for partner in self.partners.values():
            partner.link.close()

    def _stop(self) -> None:
        self._entered = False
        if self._timer is not None:
            self._timer.cancel()
        self.hydrator.stop()
        self._refresh()
        self.primary.close()

    # What may begin.

    def _refresh(self) -> None:
        """The one place that says what users' requests may do now."""
        primary = self.primary
        if self._entered:
            self._notice_lost()
        if self._entered and self._local.suspect and not primary.alone:
            self._give_way(f"the disk of this host is not to be trusted: {self._local.suspect}")
        wanted = self._wanted
        if self._entered and wanted is not None and (primary.equal or not wanted.yield_to):
            # Once begun, whatever happens: the agent may be handing over.
            self._yields = (wanted.epoch, wanted.yield_to)
        serving = self._entered and not self.trouble and self._loop.now() >= self._serve_from_s
        required = [partner for partner in self.partners.values() if partner.required]
        complete = all(partner.link.up for partner in required)
        enough = bool(required) or not primary.needs_mirror
        primary.reads = serving and not self._yield_to
        primary.writes = primary.reads and complete and enough
        if primary.reads or primary.writes:
            primary.release_held()
        if primary.writes:
            self.hydrator.go_on()
            self.chores.tick()
        self._on_change()
        self._keep_looking()

    def _notice_lost(self) -> None:
        """From when it is first said, the record may be of this host alone: what is acknowledged, also if the
        lost one is back, is on this disk until another epoch tells.
        """
        lost = {host for host, partner in self.partners.items() if self._is_lost(partner)}
        if not lost <= self._leaving_out:
            self._leaving_out |= lost
            self._recount()
        if not self._noting and self._leaving_out != set(self._local.store.state.leaving):
            self._noting = True
            run(self._note_leaving(), self._noted, self._noted)

    def _note_leaving(self) -> Steps[None]:
        """Before anybody is told: a process that begins anew must know that it may have been done."""
        assert self._wanted is not None
        epoch, hosts = self._wanted.epoch, tuple(sorted(self._leaving_out))
        yield partial(self._local.in_pool, partial(self._local.store.note_leaving, epoch, hosts))

    def _noted(self, error: object) -> None:
        self._noting = False
        if isinstance(error, Exception):
            if not isinstance(error, OSError):
                raise error
            log.warning("who is lost could not be written down, it is tried again: %s", error)
        self._on_change()

    def _lease(self) -> None:
        leases = [p.link.leased_until_s for p in self.partners.values() if p.required]
        self.primary.lease_until(min(leases, default=math.inf))

    def _disk_trouble(self, outcome: Outcome) -> None:
        why = self._local.suspect or "there is no room on it"
        self._give_way(f"the disk of this host failed a request ({outcome.value}): {why}")

    def _give_way(self, why: str) -> None:
        if not self.trouble:
            self.trouble, self._trouble_s = why, self._loop.now()
            log.error("%s", why)
            self._loop.call_soon(self._refuse)

    def _refuse(self) -> None:
        self._refresh()
        self.primary.refuse_all()

    # Sessions.

    def _make_link(self, partner: Partner) -> Link:
        link = Link(self._loop, partial(self._dial_partner, partner), partial(self._align, partner))
        link.wants_lease = lambda: not self.trouble
        link.left_bytes = partial(self.syncing.left_bytes, partner.host_id)
        link.on_change = partial(self._link_changed, partner)
        link.on_beat = partial(self._beaten, partner)
        link.on_greeted = partial(self._greeted, partner)
        return link

    def _dial_partner(
        self, partner: Partner, on_ready: Callable[[Session], None], on_lost: Callable[[str], None]
    ) -> Session:
        assert self._wanted is not None
        return self._dial(partner.host_id, self._wanted.epoch, on_ready, on_lost)

    def _align(self, partner: Partner, link: Link) -> Steps[None]:
        assert self._wanted is not None
        member, epoch = partner.standing is Standing.MEMBER, self._wanted.epoch
        try:
            if member:
                yield from align(self._local, self._host_id, epoch, link)
            else:
                yield from attach(self._local, self._host_id, epoch, partner)
        except OSError as error:
            # Not that host's fault, and it would be tried again for ever.
            self._local.not_noted(error)
            if member:
                self._give_way(f"the disk of this host failed what must be written down: {error}")
            raise

    def _link_changed(self, partner: Partner) -> None:
        if not self._entered:
            return
        if partner.link.up:
            self._lease()
            if partner.standing is Standing.AWAY:
                partner.become(Standing.JOINING)
            self._mend(partner)
        elif partner.standing is Standing.JOINING or (
            partner.standing is Standing.BOUND and not partner.asked
        ):
            released = partner.fall_back()
            self._recount()
            let_go(released)
        self._tick_syncing()
        self._refresh()

    def _mend(self, partner: Partner) -> None:
        """What is in doubt at a session that is up is made equal beside serving."""
        link = partner.link
        talk = link.talk()
        if not link.in_doubt or self._mending.get(partner.host_id) is talk:
            return
        self._mending[partner.host_id] = talk
        budget = Budget(self._loop.now(), self.syncing.most_bytes_s, MEND_FLOOR_BYTES_S)

        def pause_s() -> float:
            return budget.spend(REGION_BYTES, self._loop.now(), self.primary.under_way > 0)

        def failed(error: Exception) -> None:
            if not isinstance(error, HoldfastError | OSError):
                raise error
            log.warning("what may differ on host %s is not equal yet: %s", partner.host_id, error)
            if isinstance(error, OSError):
                self._local.not_noted(error)
            if not link.is_at(talk):
                return
            if isinstance(error, HoldfastError) and error.reason == REFUSED:
                link.give_up_hope(str(error), sound=True)
            else:
                link.start_over(str(error))

        run(mend(self._local, link, pause_s), lambda _nothing: self._refresh(), failed)

    def _greeted(self, partner: Partner) -> None:
        partner.may_sync = False
        self._endings.drained(partner.host_id)
        self._on_change()

    def _beaten(self, partner: Partner, answer: Message) -> None:
        age_s = answer.get("standby_age_s")
        if isinstance(age_s, int | float) and 0 <= age_s <= PATH_AWAY_S:
            self._standby_at_s = max(self._standby_at_s, self._loop.now() - age_s)
        if partner.required:
            self._lease()
        # A host of older code does not say.
        may_sync = answer.get("may_sync") is not False
        if may_sync is not partner.may_sync:
            partner.may_sync = may_sync
            self._tick_syncing()
            self._on_change()
        if self.trouble:
            self._on_change()

    # Joining.

    def _may_sync(self) -> bool:
        return self._wanted is not None and self._wanted.may_sync and self._entered

    def _tick_syncing(self) -> None:
        for partner in list(self.partners.values()):
            if partner.standing is Standing.JOINING and partner.link.up and partner.may_sync:
                self.syncing.begin(partner, partial(self._synced, partner))

    def _synced(self, partner: Partner) -> None:
        """It lacks nothing, at this moment of the loop: from here on everything waits for it. One host at a
        time: only one can be written down as asked for (State.binding), and a process that begins anew must
        know it.
        """
        if not self._entered or partner.standing is not Standing.JOINING or self.primary.freezing:
            return
        if any(other.standing is Standing.BOUND for other in self.partners.values()):
            return
        partner.become(Standing.BOUND)
        self._recount()
        self._refresh()
        run(self._ask(partner), lambda _nothing: self._refresh(), partial(self._not_asked, partner))

    def _ask(self, partner: Partner) -> Steps[None]:
        talk = partner.link.talk()
        yield talk.ask({"do": "whole"})
        talk.check()
        # Before anybody is told: a process that begins anew must know that it may have been done.
        yield partial(self._local.in_pool, partial(self._local.store.bind, partner.host_id))
        if partner.standing is Standing.BOUND and partner.link.is_at(talk):
            partner.asked_s = self._loop.now()

    def _not_asked(self, partner: Partner, error: Exception) -> None:
        if not isinstance(error, HoldfastError | OSError):
            raise error
        log.warning("host %s did not come in sync, it is tried again: %s", partner.host_id, error)
        partner.link.start_over(str(error))

    # What is wanted of the agent.

    @property
    def wants_leave_out(self) -> tuple[str, ...]:
        """Until an epoch tells, also if they are back: it may have been recorded."""
        return self._local.store.state.leaving if self._entered else ()

    def _is_lost(self, partner: Partner) -> bool:
        member = partner.standing is Standing.MEMBER
        return bool((member or partner.asked) and partner.lost) or self._blocks(partner)

    def _blocks(self, partner: Partner) -> bool:
        """Another waits until its joining is recorded, and nobody does that: its host has no lease, say."""
        others = (other for other in self.partners.values() if other.standing is Standing.JOINING)
        return self._loop.now() - partner.asked_s > JOIN_RECORDED_S and any(other.link.up for other in others)

    @property
    def wants_join(self) -> tuple[str, str]:
        """(host, boot) of one that lacks nothing; empty if there is none."""
        for host, partner in sorted(self.partners.items()):
            if (
                self._entered
                and partner.standing is Standing.BOUND
                and partner.asked
                and not self._is_lost(partner)
            ):
                return host, partner.boot_id
        return "", ""

    def attached(self, standing: Standing) -> tuple[str, ...]:
        """Hosts of that standing whose sessions are up."""
        up = (p.host_id for p in self.partners.values() if p.standing is standing and p.link.up)
        return tuple(sorted(up)) if self._entered else ()

    @property
    def syncable(self) -> tuple[str, ...]:
        """Joiners whose hosts let them be brought up to date, or that already are being."""
        partners = (self.partners[host] for host in self.attached(Standing.JOINING))
        return tuple(p.host_id for p in partners if p.may_sync or self.syncing.left_bytes(p.host_id) >= 0)

    @property
    def wants_resign(self) -> bool:
        """Its disk fails it, and another host has it all: also one that it cannot reach, as it is."""
        return bool(self.trouble) and any(partner.heir for partner in self.partners.values())

    @property
    def yielded(self) -> bool:
        """Nothing is under way that this host could still acknowledge, and nothing will be in this epoch."""
        if not self._entered:
            return False
        if self.wants_resign:
            return bool(self.heirs)
        # All: what another may lack only this host knows.
        required = {host for host, partner in self.partners.items() if partner.required}
        return self._yield_to in required and self.primary.equal and self.primary.quiet

    @property
    def gives_up(self) -> bool:
        """It wants to resign and hears from no heir: one that lives says so itself, by taking over."""
        waited_s = self._loop.now() - self._trouble_s
        return self._entered and self.wants_resign and not self.yielded and waited_s > HEIR_HEARD_S

    @property
    def heirs(self) -> tuple[str, ...]:
        """Those in sync that have answered since this host is in trouble, and lately. A lease in etcd would
        tell of a death much later, when this host, good disk or bad, holds the only copy.
        """
        if not (self._entered and self.trouble):
            return ()
        heard_s = max(self._trouble_s, self._loop.now() - HEIR_HEARD_S)
        heirs = (partner for partner in self.partners.values() if partner.heir)
        return tuple(sorted(heir.host_id for heir in heirs if heir.link.answered_s >= heard_s))

    @property
    def _yield_to(self) -> str:
        """The heir of a planned switch; empty while there is none, or its turn has not come."""
        return self._yields[1] if self._wanted is not None and self._yields[0] == self._wanted.epoch else ""

    @property
    def standby_io_age_s(self) -> float:
        """Seconds since another host last refused an initiator's I/O; -1 if that is long ago."""
        age_s = self._loop.now() - self._standby_at_s
        return float(math.floor(age_s)) if age_s <= PATH_AWAY_S else -1.0

    @property
    def serving(self) -> bool:
        return self.primary.writes

    @property
    def _at_rest(self) -> bool:
        """Nothing changes here before somebody asks for something. With others there always is: silence."""
        primary = self.primary
        quiet = primary.rests and not self.chores.pending and not self._local.store.missing.left
        return quiet and primary.reads and not self.partners and not self.trouble

    def _keep_looking(self) -> None:
        """An idle process is not to be woken; with others it is, at these moments, to send them beacons."""
        if self._timer is None and self._entered and not self._at_rest:
            self._timer = self._loop.call_about(BEACON_INTERVAL_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self._entered:
            return
        if self.trouble and self.primary.alone:
            # Nobody else has it: what can be read is served, and errors are told as they are.
            self.trouble = ""
        self._tick_syncing()
        self._refresh()


def _nothing() -> None:
    """Nobody waits for quiet."""
