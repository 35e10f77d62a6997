"""The judges. They read the bytes of files, the values in etcd and what an initiator was told, by code of
their own. What they import are words in which they are told (Op, Outcome, Completion, ObservedVerify) and the
simulated disk. One word of a replica's own is believed: `suspect` (see there), that its disk failed it.

    history    what is read, and what each member holds when a write is acknowledged (history.py)
    I-1        a write is on every member when it is acknowledged; on disk, if only one is in sync
    I-2        who answers an initiator was the primary while the command was under way, or nobody is yet
    I-3        a takeover finds the primary's lease gone, or the epoch released by it; reads are not stale
               (history), and show nothing that another member does not hold
    I-4, I-5   only moves of the record that the design knows; a joiner has it all at that moment
    I-6        nothing of an older session is applied after a newer one has greeted, or its host has served
    I-7        where two copies of one history differ, a bitmap says so that survives a crash
    I-8        views (views.py)
    I-11       what ended without success is not carried out afterwards, on no host of the set; but on one
               that could not be asked for a while, before anything that overlaps has been answered
    flush      what was flushed is on every member's disk
    forced     what nobody may lose, though all members lose their memory: below
    cold       nothing is served after a cold start before an initiator was told of it (29/00)
    verify     a comparison of the replicas finds nothing
    rest       at the end, all copies are equal, byte for byte
    clean      and soon after it nothing is intended on any of them

The unit has a write cache, and says so. When the memory of all members is gone, that is announced (29/00),
and what was acknowledged may be gone with it, but for this:

    flushed    or written with FUA, and acknowledged: never. It is on every member's disk, and on the disk of
               whoever joins
    alone      acknowledged while one host alone was recorded: on its disk, and not lost while it is alone.
               Who joins has on its disk what was acknowledged before it was told that it is `whole`; that is
               never lost. What came after that is in its memory, as what two members have: from the moment
               that it is recorded, it may be lost with the memory of all. That ends when the first session
               to it as a member is aligned: both disks have it
    kept       whoever took over alone has all that was acknowledged on its disk before it answers anything
               with success. Before that it is in the memory of one: if that dies, it may be lost
"""

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from holdfast.base.device import Op as DeviceOp
from holdfast.base.device import Outcome
from holdfast.replicator.testing_disk import PAGE_BYTES, ZERO_PAGE, DataInode, Disk
from holdfast.target.control import ObservedVerify
from holdfast.target.testing import Completion

from .history import SECTOR_BYTES, History, Write, origin_content, value_of
from .host import Host
from .initiator import GOOD, Op, Try
from .kernel import Command
from .session import ClientSession, Sending
from .time import Timeline
from .views import EXTENT_BYTES, Views

REGION_BYTES = 4 * 1024 * 1024
_PAGES_PER_EXTENT = EXTENT_BYTES // PAGE_BYTES
_PAGES_PER_REGION = REGION_BYTES // PAGE_BYTES
PREFIX = "/holdfast/v1/"
HELD_MAX_S = 15.5
"""What a worker that runs may hold a command: 10 s, a second, and 2 s for others to drain, by the slowest
clock, and some for a disk.
"""
HEARD_S = 1.7
"""An heir has answered its primary within this: in a second (HEIR_HEARD_S) before a report, which holds for a
beat more; and the way of both.
"""
HELD_MIN_S, ENDED_MIN_S, RESET_MIN_S = 11.4, 1.85, 5.7
"""A command may end with a copy on its way after 12 s; 2 s, if its host's role ended or its disk failed; 6 s
of a new process. All by the fastest clock.
"""
_MOMENTS = (b'"hello"', b'"begin"', b'"whole"', b'"synced"', b'"settle"', b'"clean"')


class Violation(Exception):
    """A run has shown something that must not be. Not a HoldfastError: nobody handles it."""


class Record:
    """replicas/<volume>, as JSON has it."""

    def __init__(self, value: bytes) -> None:
        raw: dict[str, Any] = json.loads(value)
        self.epoch = int(raw.get("epoch", 0))
        self.primary = str(raw.get("primary_host_id", ""))
        self.in_sync = {str(one["host_id"]): str(one["boot_id"]) for one in raw.get("in_sync", [])}
        self.host_ids = [str(one) for one in raw.get("host_ids", [])]
        self.forced = len(raw.get("forced", []))
        self.cold_epoch = int(raw.get("cold_epoch", 0))
        self.released = int(raw.get("released_epoch", 0)) == self.epoch

    def __str__(self) -> str:
        return f"epoch {self.epoch}, primary {self.primary}, in sync {self.in_sync}, hosts {self.host_ids}"


class Checks:
    """Everything that a judge hears of comes here; `violated` raises."""

    def __init__(self, timeline: Timeline, history: History, volume_uid: str, size_bytes: int) -> None:
        self.history = history
        self.timeline = timeline
        self.hosts: dict[str, Host] = {}
        self.size_bytes = size_bytes
        self.record: Record | None = None
        self.answers: dict[str, int] = {}
        self.needs_mirror = False
        """The volume's policy: writes go to two hosts or wait."""
        self.bad_disks: set[str] = set()
        """Hosts whose disk has failed something for good; those that were only full:"""
        self.full_disks: set[str] = set()
        self.comparisons = 0
        self.note: Callable[[str], None] = lambda _line: None
        self.moment: Callable[[], None] = lambda: None
        """A word was said after which much changes."""
        self.asked_s: Callable[[], float] = lambda: 0.0
        """When what is being committed was begun."""
        self.entry: Callable[[str], bytes | None] = lambda _key: None
        self.views = Views(
            history,
            size_bytes,
            self._live,
            lambda host: self.hosts[host].disk,
            self.has_had_trouble,
            self.violated,
        )
        self._uid = volume_uid
        self._durable: dict[int, Write] = {}
        """What nobody may lose."""
        self._alone: dict[int, tuple[int, Write]] = {}
        """What is on the disk of the only member, and the tick at which that was so."""
        self._joined: tuple[str, list[Write]] = "", []
        """Who joined last, and what was on one disk alone and is in its memory."""
        self._wholes: dict[str, int] = {}
        """When a host was last told that it lacks nothing."""
        self._to_keep = False
        """Somebody took over alone, and has not yet served."""
        self._primaries: list[tuple[int, str]] = []
        self._took_over_era = 0
        """Of the history, in which the newest of them became that."""
        self._finished: dict[int, tuple[int, Try, str, bool]] = {}
        self._copies: set[tuple[str, int, bytes]] = set()
        """(host, offset, content) of what was sent to it as a copy, and is no longer than a command's."""
        self._served_at: dict[int, int] = {}
        self._hellos: dict[str, int] = {}
        self._greeted: dict[int, tuple[int, int]] = {}
        self._served: dict[str, int] = {}
        self._untold_epoch = 0
        """That began without what had not been flushed, and no initiator has been told so yet; 0: none."""

    def violated(self, what: str) -> None:
        raise Violation(f"at {self.timeline.now:.3f} s: {what}; the record: {self.record}")

    # etcd.

    def committed(self, changed: list[str]) -> None:
        for uid in self.views.wanted:
            snapshot = self.entry(f"{PREFIX}snapshots/{uid}")
            if snapshot is not None and f"{PREFIX}snapshots/{uid}" in changed:
                self.views.recorded(uid, snapshot, self._holds_memory)
        key = f"{PREFIX}replicas/{self._uid}"
        value = self.entry(key)
        if key not in changed or value is None:
            return
        old, new = self.record, Record(value)
        self.record = new
        if old is not None and new.cold_epoch > old.cold_epoch:
            self._untold_epoch = new.cold_epoch
        self.moment()
        if old is not None:
            self.note(f"etcd: {new}")
            self._judge_move(old, new)
        if old is None or old.primary != new.primary:
            self._primaries.append((self.history.tick(), new.primary))
            self._took_over_era = self.history.era
        self._judge_assignments(new)
        if old is not None:
            self._judge_memory(old, new)

    def _judge_memory(self, old: Record, new: Record) -> None:
        """A change may be recorded when whom it names is dead already. That is as if it had died afterwards,
        unless the primary chose it itself: it must know that its heir lived a moment ago.
        """
        if any(self._holds_memory(host, boot) for host, boot in new.in_sync.items()):
            return
        was = old.primary
        known_s = self.asked_s() - HEARD_S
        late = all(self.hosts[host].died_s < known_s for host in new.in_sync)
        if (
            late
            and was not in new.in_sync
            and self._leased(old)
            and self._holds_memory(was, old.in_sync[was])
        ):
            self.violated(f"I-4: {was} resigned, and nobody else holds what is acknowledged")
        if any(self._holds_memory(host, boot) for host, boot in old.in_sync.items()):
            self.note("the memory of all members is lost")
            self._forget()

    def _forget(self) -> None:
        self.history.forget(self._durable.keys() | self._alone.keys())
        self._joined = "", []

    def _leased(self, record: Record) -> bool:
        """The primary's lease is there, of the boot that is in sync."""
        value = self.entry(f"{PREFIX}leases/hosts/{record.primary}")
        return value is not None and json.loads(value).get("boot_id") == record.in_sync[record.primary]

    def _judge_move(self, old: Record, new: Record) -> None:
        same = (old.in_sync, old.primary, old.host_ids) == (new.in_sync, new.primary, new.host_ids)
        if new.epoch != old.epoch + 1 and not (same and new.epoch == old.epoch):
            self.violated(f"I-2: the epoch went from {old.epoch} to {new.epoch}")
        if not new.in_sync or new.primary not in new.in_sync:
            self.violated("I-4: the primary is not in sync")
        self._to_keep = False
        kept = {host for host, boot in new.in_sync.items() if old.in_sync.get(host) == boot}
        added = [host for host in new.in_sync if host not in kept]
        cold = bool(added) and not kept
        if cold:
            alive = [host for host, boot in old.in_sync.items() if self._holds_memory(host, boot)]
            if new.forced == old.forced and alive:
                self.violated(f"I-4: a cold start while {alive} kept their memory")
            if new.forced == old.forced and any(host not in old.in_sync for host in added):
                self.violated("I-4: a cold start from a host that was not in sync")
            return
        if old.primary not in old.in_sync:
            self.violated("I-4: the primary was not in sync")
        if added:
            if len(added) > 1 or new.primary != old.primary:
                self.violated(f"I-5: {added} joined, not by the primary")
            self._judge_join(new, added[0])
            self._judge_forced(new, added[0])
        if new.primary != old.primary:
            self._judge_new_primary(old, new, kept)

    def _judge_new_primary(self, old: Record, new: Record, kept: set[str]) -> None:
        if new.primary not in kept:
            self.violated("I-4: a host became the primary that was not in sync")
        self._to_keep = len(new.in_sync) == 1
        gone = set(old.in_sync) - set(new.in_sync)
        resigned = self.has_had_trouble(old.primary)
        if old.primary in gone and old.primary in new.host_ids and not (resigned or old.released):
            self._judge_lease(old)
        others = gone - {old.primary}
        if others and old.primary in new.in_sync:
            self.violated(f"I-4: {sorted(others)} left by a hand-over")

    def _judge_lease(self, old: Record) -> None:
        """I-3: who takes over finds the lease of the primary's boot gone. (A bad disk may resign.)"""
        if self._leased(old):
            self.violated(f"I-3: a takeover while {old.primary} held its lease")

    def _judge_assignments(self, record: Record) -> None:
        for host in record.host_ids:
            value = self.entry(f"{PREFIX}assignments/{host}/{self._uid}")
            if value is None:
                continue
            raw = json.loads(value)
            if int(raw.get("epoch", 0)) != record.epoch:
                self.violated(f"the assignment of {host} is of epoch {raw.get('epoch')}")
            if raw.get("boot_id", "") != record.in_sync.get(host, ""):
                self.violated(f"the assignment of {host} names boot {raw.get('boot_id')}")
            if (raw.get("role") == "ROLE_PRIMARY") != (host == record.primary):
                self.violated(f"the assignment of {host} says {raw.get('role')}")

    def _holds_memory(self, host: str, boot: str) -> bool:
        machine = self.hosts[host]
        return machine.on and machine.boot_id == boot

    def _judge_join(self, record: Record, joiner: str) -> None:
        """I-5: it holds everything that is acknowledged, and the primary's bitmaps."""
        if not self._holds_memory(joiner, record.in_sync[joiner]):
            return  # It died after it had everything: nobody could know yet.
        self._judge_bytes(f"I-5: {joiner} joins", joiner)
        if not self._state(joiner).get("consistent", False):
            self.violated(f"I-5: {joiner} joins and says of itself that it is not whole")
        self._judge_changed(record.primary, joiner)
        self.views.look(f"I-5: {joiner} joins", joiner)

    def _judge_forced(self, record: Record, joiner: str) -> None:
        """What was forced to one disk is on two, or in the memory of whoever has joined since."""
        lives = self._holds_memory(joiner, record.in_sync[joiner])
        if lives:
            for write in self._durable.values():
                self._judge_holds(f"flushed, {joiner} joins", joiner, write, True)
        self._joined = joiner, []
        for tick, write in self._alone.values():
            if not self._lacks(joiner, write, True):
                self._durable[id(write)] = write
            elif lives and tick < self._wholes.get(joiner, 0):
                self._judge_holds(f"forced, {joiner} joins", joiner, write, True)
            else:
                self._joined[1].append(write)
        self._alone.clear()

    def _judge_aligned(self, session: ClientSession) -> None:
        """Both hosts have settled."""
        joiner, writes = self._joined
        record = self.record
        if record is None or session.epoch != record.epoch or joiner not in session.hosts:
            return
        for write in writes:
            for host in session.hosts:
                self._judge_holds("forced, aligned", host, write, True)
            self._durable[id(write)] = write
        self._joined = "", []

    def _judge_changed(self, primary: str, joiner: str) -> None:
        """I-5: it has every generation of `changed` that is closed. The open one is in motion; a newer file
        may only be prepared.
        """
        if not self._holds_memory(primary, self.hosts[primary].boot_id):
            return
        newest = int(self._state(primary).get("generation", 0))
        for name in [name for name in self.hosts[primary].disk.inodes if name.startswith("changed/")]:
            lacks = self._bits(primary, name) & ~self._bits(joiner, name)
            if lacks and int(name.removeprefix("changed/")) < newest:
                self.violated(f"I-5: {joiner} joins without what {primary} has in {name}: {lacks:#x}")

    # What initiators are told.

    def completed(
        self, host: str, command: Command, completion: Completion, aborted: bool, by_reset: bool
    ) -> None:
        """The kernel has it back from the worker, or (`by_reset`) has answered it for one that died."""
        assert isinstance(command, Try)
        status = completion.status
        held_s = self.timeline.now - max(command.arrived_s, self.hosts[host].steady_since_s)
        if held_s > HELD_MAX_S:
            self.violated(f"I-11: {host} held {command} for {held_s:.1f} s")
        self.note(f"{host}: {command} ended {status:#x}{' (aborted)' if aborted else ''}")
        kind = f"{command.io.op} {status:#x} {completion.sense[2:3].hex()}{completion.sense[12:14].hex()}"
        self.answers[kind] = self.answers.get(kind, 0) + 1
        if status != GOOD:
            command.good = self._good_copies(host)
            if completion.sense[2:3] == b"\x06" and completion.sense[12:14] == b"\x29\x00":
                self._untold_epoch = 0
            if command.value:
                waited = self._waited(host, command, by_reset)
                self._finished[command.value] = (self.history.tick(), command, host, waited)
            return
        record = self.record
        assert record is not None
        now = self.history.tick()
        self._served_at.update(
            dict.fromkeys(range(command.io.sector, command.io.sector + command.io.count), now)
        )
        # What an old primary may still show is of before the other one took over.
        command.era = self.history.era if record.primary == host else self._took_over_era
        self._judge_answerer(host, command)
        if record.primary == host:
            self._served[host] = record.epoch
            if self._untold_epoch:
                self.violated(f"cold: {host} serves, and nobody was told (29/00) that a cache was lost")
        if aborted:
            return
        self._judge_acknowledged(host, record, command, now)
        if self._to_keep and record.primary == host:
            self._judge_kept(host, now)
        if command.io.op == Op.READ and record.primary == host:
            self._judge_shown(host, record, command, completion.data)

    def _judge_acknowledged(self, host: str, record: Record, command: Try, now: int) -> None:
        # What an old primary may still tell was acknowledged by both, before the other one took over; and was
        # lost since then if that lost its memory.
        alone = len(record.in_sync) == 1 and record.primary == host
        members = [name for name, boot in record.in_sync.items() if self._holds_memory(name, boot)]
        if command.write is not None and command.write.lost and record.primary != host:
            return
        if command.write is not None:
            command.write.lost = False
            if alone and self.needs_mirror:
                self._judge_policy(host, record, command)
            for member in members:
                self._judge_holds(f"I-1: acknowledged by {host}", member, command.write, False)
                if alone or command.io.fua:
                    self._judge_holds(f"forced, acknowledged by {host}", member, command.write, True)
            if command.io.fua:
                self._durable[id(command.write)] = command.write
            elif alone:
                self._alone[id(command.write)] = now, command.write
        elif command.io.op == Op.FLUSH:
            for member in members:
                self._judge_flushed(f"flushed by {host}", member, command.began, now)

    def _judge_policy(self, host: str, record: Record, command: Try) -> None:
        """What had confirmed it may have lost it since, or thrown it away: then nobody can tell."""
        write = command.write
        assert write is not None
        others = [name for name in self.hosts if name != host and self._data(name) is not None]
        kept = set(record.host_ids) == set(self.hosts)
        kept = kept and all(self.hosts[other].died_s < command.sent_s for other in others)
        kept = kept and self.bad_disks.isdisjoint(others)
        if kept and all(self._lacks(other, write, False) for other in others):
            self.violated(f"policy: {host} acknowledged {command}, which no other host has")

    def _judge_kept(self, host: str, now: int) -> None:
        """It took over alone, and serves: it has on its disk what two had in memory."""
        self._to_keep = False
        if host in self.bad_disks:
            return  # The last copy is served as far as it goes.
        self._judge_flushed(f"kept by {host}, which serves alone", host, now, now)
        for write in self.history.unflushed():
            if write.ended is not None and write.ended < now:
                self._alone[id(write)] = now, write

    def _judge_shown(self, host: str, record: Record, command: Try, content: bytes) -> None:
        """I-3: nothing is read that another member does not hold: it would be gone when that takes over."""
        offset = command.io.sector * SECTOR_BYTES
        for member, boot in record.in_sync.items():
            if member == host or not self._holds_memory(member, boot):
                continue
            held = self.bytes_of(member, offset, len(content), False)
            if held == content:
                continue
            for index in range(command.io.count):
                part = slice(index * SECTOR_BYTES, (index + 1) * SECTOR_BYTES)
                shown, there, sector = (
                    value_of(content[part]),
                    value_of(held[part]),
                    command.io.sector + index,
                )
                if self.history.is_older(sector, there, shown):
                    self.violated(f"I-3: {host} shows {shown} in sector {sector}, {member} holds {there}")

    def _judge_answerer(self, host: str, command: Try) -> None:
        """I-2: it was the primary at some moment since the command was sent, or nobody has served since. (Who
        takes over serves once every lease that it gave is over, so the old one may still answer reads.)
        """
        last = ""
        for tick, primary in self._primaries:
            if tick <= command.began:
                last = primary
            elif primary == host:
                return
        record = self.record
        assert record is not None
        if last != host and self._served.get(record.primary) == record.epoch:
            self.violated(f"I-2: {host} answered a {command.io.op} and was not the primary")

    def _judge_holds(self, what: str, host: str, write: Write, durable: bool) -> None:
        lacks = self._lacks(host, write, durable)
        if lacks:
            self.violated(f"{what}: {lacks}")

    def _lacks(self, host: str, write: Write, durable: bool) -> str:
        """How it is seen that a host does not have a write, nor what may have come after it; or empty."""
        first = write.first * SECTOR_BYTES
        content = self.bytes_of(host, first, (write.stop - write.first) * SECTOR_BYTES, durable)
        for index, sector in enumerate(range(write.first, write.stop)):
            value = value_of(content[index * SECTOR_BYTES : (index + 1) * SECTOR_BYTES])
            if value == write.value and value is not None:
                continue
            known = self.history.writes[sector]
            if not any(
                one.value == value
                and not one.impossible
                and not (one.ended is not None and one.ended < write.began)
                for one in known
            ):
                where = "on its disk" if durable else "in its memory"
                return (
                    f"{host} holds {value} in sector {sector} {where}, not {write.value}; "
                    f"{self.history.told(sector)}"
                )
        return ""

    def _judge_flushed(self, what: str, host: str, since: int, now: int) -> None:
        inode = self._data(host)
        if inode is None:
            self.violated(f"flush: {host} has no data")
            return
        durable = self.hosts[host].disk.durable_names.get("data")
        if durable is not inode:
            self.violated(f"flush: the data file of {host} is not on its disk")
        for page in sorted(inode.content.touched | inode.dropped):
            if inode.content.pages.get(page, ZERO_PAGE) != inode.durable.pages.get(page, ZERO_PAGE):
                content = self.bytes_of(host, page * PAGE_BYTES, PAGE_BYTES, True)
                for wrong in self.history.wrong(page * PAGE_BYTES, content, since, now):
                    self.violated(f"{what}, on the disk of {host}: {wrong}")

    def read(self, command: Try, content: bytes) -> None:
        """The initiator has the bytes."""
        history, offset = self.history, command.io.sector * SECTOR_BYTES
        now = history.tick()
        if len(content) != command.io.count * SECTOR_BYTES:
            self.violated(f"a read of {command.io.count} sectors brought {len(content)} bytes")
        for wrong in history.wrong(offset, content, command.began, now):
            self.violated(f"I-3: a read: {wrong}")
        history.saw(offset, content, command.began, now, command.era)

    def acknowledged(self, command: Try) -> None:
        history = self.history
        if command.io.op == Op.FLUSH:
            for write in history.unflushed():
                if write.ended is not None and write.ended < command.began:
                    self._durable[id(write)] = write
        elif command.io.op == Op.COMPARE and command.write is not None:
            offset, now = command.io.sector * SECTOR_BYTES, history.ticks
            own = command.write
            ok, ended = own.ok, own.ended
            own.ok, own.ended = False, None
            for wrong in history.wrong(offset, command.expected, command.began, now):
                self.violated(f"a comparison found what was not there: {wrong}")
            own.ok, own.ended = ok, ended

    def failed(self, host: str, command: Try, completion: Completion) -> None:
        """An error that the initiator does not try again: only the last copy may tell, of its own disk."""
        if command.good or not self.has_had_trouble(host):
            self.violated(
                f"{host} answered a {command.io.op} with {completion.status} {completion.sense.hex()}; "
                f"good copies were on {command.good}"
            )

    def _good_copies(self, but: str) -> list[str]:
        members = self.record.in_sync.items() if self.record is not None else ()
        return [
            name
            for name, boot in members
            if name != but and self._holds_memory(name, boot) and not self.has_had_trouble(name)
        ]

    # I-11.

    def _waited(self, host: str, command: Try, by_reset: bool) -> bool:
        """It was held for so long that it may end while a copy is on its way."""
        now_s = self.timeline.now
        if by_reset:
            return now_s - self.hosts[host].worker_since_s >= RESET_MIN_S
        since, primary = self._primaries[-1]
        leads = primary == host and since < command.began and not self.has_had_trouble(host)
        return now_s - command.arrived_s >= (HELD_MIN_S if leads else ENDED_MIN_S)

    def abort_answered(self, host: str, command: Command) -> None:
        """Its command has ended."""
        assert isinstance(command, Try)
        self.note(f"{host}: the abort of {command} is answered")

    def data_written(self, host: str, name: str, offset: int, content: bytes) -> None:
        if name != "data":
            return
        found = self._finished.get(int.from_bytes(content[:8], "little"))
        if found is None:
            return
        tick, command, by, waited = found
        exact = (offset, len(content)) == (command.io.sector * SECTOR_BYTES, command.io.count * SECTOR_BYTES)
        if not exact or (host, offset, content) in self._copies:
            return  # A copy of where it is already.
        if host == by:
            self.violated(f"I-11: {command.value}, ended at tick {tick}, is applied on {host} afterwards")
        record = self.record
        if record is None or record.in_sync.get(host) != self.hosts[host].boot_id:
            return  # A copy of nothing, until it is brought up to date.
        what = f"I-11: {command.value}, ended by {by} at tick {tick}, is applied on {host}"
        if not waited:
            self.violated(f"{what} afterwards")
        sectors = range(command.io.sector, command.io.sector + command.io.count)
        if any(self._served_at.get(sector, 0) > tick for sector in sectors):
            self.violated(f"{what} after something else was answered")

    # Sessions.

    def copy_sent(self, session: ClientSession, offset: int, content: bytes) -> None:
        """What a host holds, and no command: to make another equal, or because a read is about to show it."""
        if len(content) <= EXTENT_BYTES:
            self._copies.add((session.hosts[1], offset, content))

    def session_heard(self, session: ClientSession, payload: bytes) -> None:
        """A word has come, and nothing is done about it yet."""
        if b'"whole"' in payload[:24]:
            self._wholes[session.hosts[1]] = self.history.tick()

    def session_said(self, session: ClientSession, payload: bytes, answer: bytes | None) -> None:
        """A word was carried out, or not (None)."""
        word = payload[:24]
        if any(one in word for one in _MOMENTS):
            self.moment()
        if answer is None or b'"failed"' in answer:
            return
        if b'"synced"' in word:
            self._judge_aligned(session)
        if b'"hello"' in word:
            server = session.hosts[1]
            self._hellos[server] = self._hellos.get(server, 0) + 1
            session.number = self._hellos[server]
            self._greeted[id(session)] = (session.number, self.history.tick())

    def session_applied(self, session: ClientSession, message: Sending, outcome: Outcome) -> None:
        if outcome is not Outcome.OK or message.op not in (DeviceOp.WRITE, DeviceOp.ZERO):
            return
        if session.discarded:
            return
        server = session.hosts[1]
        if session.number < self._hellos.get(server, 0):
            self.violated(
                f"I-6: session {session.number} to {server} applied something after session "
                f"{self._hellos[server]} had greeted"
            )
        if session.epoch < self._served.get(server, -1):
            self.violated(f"I-6: {server} applied a write of epoch {session.epoch} after serving a newer one")

    def compared(self, host: str, found: ObservedVerify) -> None:
        """`volume verify`: hosts in sync differ in nothing that no write is under way on."""
        self.comparisons += not found.running and not found.failed
        if found.differing_bytes:
            self.violated(f"verify: {host} found {found.differing_bytes} bytes that differ")

    # Machines.

    def power_lost(self, host: Host) -> None:
        self.judge_differences(f"{host.name} loses power")

    def power_is_lost(self, host: Host) -> None:
        self.judge_differences(f"{host.name} has lost power")
        record = self.record
        if record is None or record.in_sync.get(host.name) != host.boot_id:
            return
        if any(self._holds_memory(name, boot) for name, boot in record.in_sync.items()):
            return
        self.note("the memory of all members is lost")
        self._forget()

    def worker_ended(self, host: Host) -> None:
        self.judge_differences(f"the worker of {host.name} ended")

    # Bytes.

    def _data(self, host: str) -> DataInode | None:
        inode = self.hosts[host].disk.inodes.get("data")
        return inode if isinstance(inode, DataInode) else None

    def bytes_of(self, host: str, offset: int, length: int, durable: bool) -> bytearray:
        """The volume as a host has it, or would have it after a power cut at the worst moment."""
        inode = self._data(host)
        if inode is None:
            return bytearray(length)
        content = (inode.durable if durable else inode.content).read(offset, length)
        if self.history.has_origin:
            missing = self._missing(host, durable)
            origin = origin_content(self.size_bytes // SECTOR_BYTES)
            for extent in range(offset // EXTENT_BYTES, (offset + length - 1) // EXTENT_BYTES + 1):
                if missing >> extent & 1:
                    start, end = (
                        max(offset, extent * EXTENT_BYTES),
                        min(offset + length, (extent + 1) * EXTENT_BYTES),
                    )
                    content[start - offset : end - offset] = origin[start:end]
        return content

    def _live(self, host: str, offset: int, length: int) -> bytearray:
        return self.bytes_of(host, offset, length, False)

    def _missing(self, host: str, durable: bool = False) -> int:
        if durable:
            return _number(self.hosts[host].disk.durable("missing"))
        return self._bits(host, "missing") & ~self._bits(host, "filled")

    def _bits(self, host: str, name: str, durable: bool = False) -> int:
        disk: Disk = self.hosts[host].disk
        if name not in (disk.durable_names if durable else disk.inodes):
            return 0
        return _number(disk.durable(name) if durable else disk.content(name))

    def _state(self, host: str) -> dict[str, Any]:
        inode = self.hosts[host].disk.inodes.get("state.json")
        found: dict[str, Any] = json.loads(bytes(inode.content)) if inode is not None else {}
        return found

    def _judge_bytes(self, what: str, host: str) -> None:
        """All that a host holds is right at this moment."""
        now = self.history.tick()
        done = 0
        for sector in self.history.writes:
            page = sector * SECTOR_BYTES // PAGE_BYTES
            if done >> page & 1:
                continue
            done |= 1 << page
            content = self.bytes_of(host, page * PAGE_BYTES, PAGE_BYTES, False)
            for wrong in self.history.wrong(page * PAGE_BYTES, content, now, now):
                self.violated(f"{what}: {wrong}")

    # I-7.

    def judge_differences(self, when: str) -> None:
        """Copies of one history differ only where a bitmap will say so after a crash of anything. That of a
        host which was replaced is thrown away, and nobody tracks it.
        """
        ours = self.record.host_ids if self.record is not None else tuple(self.hosts)
        names = [name for name in ours if "state.json" in self.hosts[name].disk.inodes]
        for index, one in enumerate(names):
            for two in names[index + 1 :]:
                self._judge_pair(when, one, two)

    def _judge_pair(self, when: str, one: str, two: str) -> None:
        ours, theirs = self._data(one), self._data(two)
        if ours is None or theirs is None:
            return
        states = self._state(one), self._state(two)
        if not self._one_history(one, two, *states):
            return
        covered: tuple[int, int] | None = None
        for page in self._differing(one, two, ours, theirs):
            if covered is None:
                covered = self._covered(one, two)
            regions, extents = covered
            if not (regions >> (page // _PAGES_PER_REGION) & 1 or extents >> (page // _PAGES_PER_EXTENT) & 1):
                sector = page * PAGE_BYTES // SECTOR_BYTES
                self.violated(
                    f"I-7: {when}: {one} and {two} differ in page {page} (sector {sector}), and no bitmap "
                    f"on disk says so; regions {regions:#x}, extents {extents:#x}; states {states}"
                )

    def _one_history(self, one: str, two: str, ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
        """Whether what differs between two copies is tracked, and not found out by comparing them."""
        if not (ours.get("synced_epoch") and theirs.get("synced_epoch")):
            return False
        tracked = self._tracks(one, two, ours, theirs) or self._tracks(two, one, theirs, ours)
        both = ours["synced_epoch"] == theirs["synced_epoch"]
        both = both and two in ours.get("members", ()) and one in theirs.get("members", ())
        return tracked or both

    def _tracks(self, host: str, other: str, says: dict[str, Any], of: dict[str, Any]) -> bool:
        """Where the disk was full there is no bitmap: with the process, what it tracked is lost."""
        since = says.get("absent", {}).get(other)
        return since == of["synced_epoch"] and f"absent/{other}" in self.hosts[host].disk.inodes

    def _differing(self, one: str, two: str, ours: DataInode, theirs: DataInode) -> Iterator[int]:
        if not self.history.has_origin:
            yield from ours.content.differing(theirs.content)
            return
        missing, other = self._missing(one), self._missing(two)
        mine, others = ours.content.pages, theirs.content.pages
        for page in sorted(mine.keys() | others.keys()):
            extent = page // _PAGES_PER_EXTENT
            if missing & other & 1 << extent:
                continue
            if not (missing | other) & 1 << extent and mine.get(page) == others.get(page):
                continue
            at = page * PAGE_BYTES
            if self.bytes_of(one, at, PAGE_BYTES, False) != self.bytes_of(two, at, PAGE_BYTES, False):
                yield page

    def _covered(self, one: str, two: str) -> tuple[int, int]:
        """Regions and extents that are marked, in memory and on disk."""
        regions = extents = 0
        for host, other in ((one, two), (two, one)):
            regions |= self._bits(host, "intent") & self._bits(host, "intent", True)
            extents |= self._bits(host, f"absent/{other}") & self._bits(host, f"absent/{other}", True)
        return regions, extents

    def suspect(self, host: str) -> bool:
        """Its disk failed, by its own word, which it may not have been able to write down."""
        worker = self.hosts[host].worker
        says = self._state(host).get("suspect") or (worker is not None and worker.observe().suspect)
        if says and host not in self.bad_disks:
            self.violated(f"{host} distrusts a disk that never failed: {says}")
        return bool(says)

    def has_had_trouble(self, host: str) -> bool:
        """Its disk has failed, or was full."""
        return host in self.bad_disks or host in self.full_disks

    # The end.

    def at_rest(self) -> None:
        """All is mended and in sync, and nothing is under way."""
        record = self.record
        assert record is not None
        names = [name for name in record.in_sync if self._data(name) is not None]
        # The others are compared with the first.
        self._judge_bytes(f"at rest, {names[0]}", names[0])
        for name in names:
            self.views.look("at rest", name)
        for one, two in pairwise(names):
            ours, theirs = self._data(one), self._data(two)
            assert ours is not None and theirs is not None
            for page in self._differing(one, two, ours, theirs):
                self.violated(f"at rest, {one} and {two} differ in page {page}")
        self.judge_differences("at rest")
        self.judge_order()

    def intended(self) -> list[str]:
        """The members that would have something copied after a loss of power."""
        assert self.record is not None
        return [name for name in self.record.in_sync if self._bits(name, "intent")]

    def judge_order(self) -> None:
        for contradiction in self.history.contradictions():
            self.violated(f"no order explains: {contradiction}")


def _number(bits: bytes) -> int:
    return int.from_bytes(bits, "little")
