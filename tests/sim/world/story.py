"""One run: a world made from a seed, commands and faults for some seconds, then all is mended and judged."""

import gc
import hashlib
from collections.abc import Callable
from functools import partial
from random import Random

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import Unavailable
from holdfast.metadata import keys
from holdfast.metadata.assigned import Assignments
from holdfast.metadata.cas import Draft
from holdfast.metadata.derived import write as write_replica
from holdfast.replicator import chores
from holdfast.replicator.testing import FakeSource
from holdfast.replicator.testing_disk import PAGE_BYTES

from . import agent, codec
from .checks import REGION_BYTES, Checks, Violation
from .etcd import Etcd
from .faults import Faults
from .history import SECTOR_BYTES, History, origin_content
from .host import Host, Surroundings
from .initiator import Initiator, Io, Op
from .kernel import HostKernel
from .net import Network
from .time import Timeline
from .views import EXTENT_BYTES

VOLUME = "v1"
ORIGIN = "origin"
TTL_S = 3.0
MENDED_MAX_S = 150.0
_QUIET_STEP_S = 0.25
_CLEAN_MAX_S = 60.0
"""Some cleans. Each finds what was not written to since the one before."""
_WINDOW = 24
_SECTORS_PER_EXTENT = EXTENT_BYTES // SECTOR_BYTES

codec.install()
agent.install()


class Stuck(Violation):
    """All is mended, and yet it does not come to rest."""


class Story:
    def __init__(self, seed: int, trace: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.chance = chance = Random(seed)
        self._aside = Random(f"{seed}, what came later")
        self.timeline = Timeline()
        self._digest = hashlib.blake2b(digest_size=16)
        self._trace = trace
        self.size_bytes = 8 * EXTENT_BYTES
        if chance.random() < 0.2:
            self.size_bytes = REGION_BYTES + 2 * EXTENT_BYTES + 3 * PAGE_BYTES
        sectors = self.size_bytes // SECTOR_BYTES
        self.source = FakeSource(origin_content(sectors)) if chance.random() < 0.12 else None
        self.replaces = chance.random() < 0.1
        self.needs_mirror = self._aside.random() < 0.08
        self._moments = 3
        self.wholes = 0.03
        """How many commands that write are for a whole extent."""
        self.history = History(sectors, self.source is not None)
        self.net = Network(self.timeline, chance)
        self.etcd = Etcd(self.timeline, self.net, chance)
        self.checks = Checks(self.timeline, self.history, VOLUME, self.size_bytes)
        self.around = Surroundings(
            self.timeline, self.net, self.etcd, chance, self.checks, VOLUME, self.size_bytes, TTL_S
        )
        self.around.note = self.checks.note = self._note
        self.checks.hosts = self.around.hosts
        self.checks.needs_mirror = self.needs_mirror
        self.checks.entry = self._entry
        self.checks.asked_s = lambda: self.etcd.asked_s
        self.etcd.committed = self.checks.committed
        drifting = chance.random() < 0.5
        for name in ("a", "b", "c") if self.replaces else ("a", "b"):
            rate = 1.0 + (chance.random() - 0.5) * 0.1 if drifting else 1.0
            host = self.around.hosts[name] = Host(self.around, name, rate)
            host.source, host.origin = self.source, ORIGIN if self.source else ""
        self.initiator = Initiator(
            self.timeline,
            self.net,
            chance,
            self.history,
            self.checks,
            self._peek,
            chance.choice((4.0, 7.0, 30.0)),
        )
        self.faults = Faults(self.around, chance, self.checks, self.initiator)
        self._bases = self._windows()

    # The world.

    def _windows(self) -> list[int]:
        """Where most commands go, in sectors: some extents, the border of regions, the end."""
        last = self.size_bytes // SECTOR_BYTES
        extents = -(-self.size_bytes // EXTENT_BYTES)
        bases = [0, _SECTORS_PER_EXTENT - _WINDOW // 2, 2 * _SECTORS_PER_EXTENT, last - _WINDOW]
        if extents > 32:
            bases[1] = REGION_BYTES // SECTOR_BYTES - _WINDOW // 2
        return self.chance.sample(bases, 2)

    def _create(self, draft: Draft) -> object:
        hosts = self.around.hosts
        volume = r.VolumeRecord(uid=VOLUME, volume_id=VOLUME, owner="user", size_bytes=self.size_bytes)
        volume.origin_snapshot_uid = origin = ORIGIN if self.source else ""
        volume.state = r.VOLUME_STATE_CREATING
        draft.put(keys.volume(VOLUME), volume)
        record = r.ReplicaRecord(volume_uid=VOLUME, primary_host_id="a", host_ids=["a", "b"])
        for number, name in enumerate(("a", "b"), 1):
            record.in_sync.add(host_id=name, boot_id=hosts[name].boot_id)
            assignment = r.Assignment(
                host_id=name,
                volume_uid=VOLUME,
                size_bytes=self.size_bytes,
                nbd_port=20000,
                portal_group=number,
                origin_snapshot_uid=origin,
                needs_mirror=self.needs_mirror,
            )
            draft.put(keys.assignment(name, VOLUME), assignment)
        for name in hosts:
            draft.put(keys.host(name), r.HostRecord(host_id=name, boot_id=hosts[name].boot_id, address=name))
        draft.put(keys.replica(VOLUME), record)
        return write_replica(draft, record)

    def _entry(self, key: str) -> bytes | None:
        entry = self.etcd.store.entries.get(key)
        return entry.value if entry is not None else None

    def _peek(self, offset: int, length: int) -> bytes:
        """What the primary holds, for a comparison that has a chance."""
        record = self.checks.record
        host = self.around.hosts[record.primary if record else "a"]
        if "data" not in host.disk.inodes:
            return bytes(length)
        return bytes(self.checks.bytes_of(host.name, offset, length, False))

    def _note(self, line: str) -> None:
        self._digest.update(f"{self.timeline.now:.9f} {line}\n".encode())
        if self._trace is not None:
            self._trace(f"{self.timeline.now:9.4f}  {line}")

    @property
    def digest(self) -> str:
        """Of everything that was noted, and how it ended."""
        self._digest.update(f"{self.timeline.steps} {self.timeline.now} {self.history.ticks}".encode())
        return self._digest.hexdigest()

    # Commands.

    def _io(self) -> None:
        chance = self.chance
        op = chance.choices(
            (Op.WRITE, Op.READ, Op.FLUSH, Op.ZERO, Op.UNMAP, Op.COMPARE), (50, 30, 8, 3, 3, 6)
        )[0]
        fua = op in (Op.WRITE, Op.COMPARE) and chance.random() < 0.15
        base = chance.choice(self._bases)
        if chance.random() < 0.2:
            base = chance.randrange(self.history.sectors - _WINDOW)
        count = chance.choice((1, 1, 2, 4, 8))
        sector = base + chance.randrange(_WINDOW - count + 1)
        if chance.random() < self.wholes and op in (Op.WRITE, Op.ZERO, Op.UNMAP):
            count = _SECTORS_PER_EXTENT
            sector = sector // count * count
            count = min(count, self.history.sectors - sector)
        self.initiator.start(Io(op, sector, count, fua))

    def _burst(self, count: int) -> None:
        for _ in range(count):
            self.timeline.after(self.chance.random() * 0.03, self._io)

    # A run.

    def tell(self) -> None:
        """Raises Violation, or whatever else went wrong."""
        chance, timeline = self.chance, self.timeline
        for host in self.around.hosts.values():
            host.power_on()
        self.etcd.change(self._create)
        self.faults.command = self._io
        # Production looks every ten seconds; a story is over by then.
        setattr(chores, "CLEAN_INTERVAL_S", chance.choice((10.0, 1.5, 0.4)))  # noqa: B010
        self.checks.moment = partial(self._moment, False)
        self.etcd.about_to_commit = partial(self._moment, True)
        for name in ("a", "b"):
            self._add_path(name)
        end = 1.0 + chance.choice((3.0, 6.0, 12.0))
        for _ in range(chance.randrange(1, 7)):
            at = 0.5 + chance.random() * (end - 0.5)
            timeline.at(at - 0.01, partial(self._burst, chance.randrange(2, 6)))
            timeline.at(at, self.faults.strike)
            timeline.at(at + chance.choice((0.005, 0.2, 1.0)), partial(self._burst, chance.randrange(1, 4)))
        if chance.random() < (0.5 if self.replaces else 0.12):
            self.wholes = 0.2
            for number in range(chance.choice((1, 1, 2))):
                timeline.at(0.5 + chance.random() * (end - 0.5), partial(self._freeze, f"s{number}"))
        if self.replaces:
            timeline.at(1.0 + chance.random() * (end - 1.0), self._replace)
        if self.source is not None:
            timeline.at(1.0 + chance.random() * (end - 1.0), self._origin_fails)
        if self._aside.random() < 0.15:
            timeline.at(0.5 + self._aside.random() * (end - 0.5), self._verify)
        for _ in range(chance.randrange(5, 12)):
            timeline.at(0.3 + chance.random() * (end - 0.3), partial(self._burst, 1))
        timeline.run_until(end)
        self._finish()

    def _add_path(self, name: str) -> None:
        host = self.around.hosts[name]
        self.initiator.add_path(name, partial(_kernel, host))
        host.path = self.initiator.paths[-1]

    def _replace(self) -> None:
        """Host c takes the place of one that is not the primary."""
        record = self.checks.record
        gone = [name for name in record.host_ids if name != record.primary] if record else []
        if gone:
            self.faults.replace(gone[0], "c")
        now = self.checks.record
        if now is not None and "c" in now.host_ids:
            self._add_path("c")

    def _moment(self, committing: bool) -> None:
        """Much is about to change: now and then commands come, or something breaks, in the middle of it."""
        if self._moments and self.chance.random() < 0.2 and not self.initiator.over:
            self._moments -= 1
            self._burst(2)
        self.faults.tempt(committing)

    def _freeze(self, uid: str) -> None:
        """A snapshot is asked for."""

        def ask(draft: Draft) -> object:
            replica = draft.need(keys.replica(VOLUME), r.ReplicaRecord)
            for name in replica.host_ids:
                one = draft.need(keys.assignment(name, VOLUME), r.Assignment)
                one.snapshots.add(uid=uid, state=r.SNAPSHOT_STATE_PENDING)
                draft.put(keys.assignment(name, VOLUME), one)
            record = r.SnapshotRecord(uid=uid, volume_uid=VOLUME, size_bytes=self.size_bytes)
            record.state = r.SNAPSHOT_STATE_PENDING
            return draft.put(keys.snapshot(uid), record)

        self._note(f"snapshot {uid} is asked for")
        self.checks.views.asked(uid)
        self.faults.operator(ask)

    def _verify(self) -> None:
        """A comparison of the replicas is asked for, at whatever rate."""
        rate = int(self._aside.choice((256 * 1024, 2 << 20, 64 << 20)))

        def ask(draft: Draft) -> object:
            assignments = Assignments.read(draft, VOLUME)
            for one in assignments.each:
                one.verify_request, one.verify_rate_bytes_s = one.verify_request + 1, rate
            return assignments.save(draft)

        self._note("a comparison is asked for")
        self.faults.operator(ask)

    def _origin_fails(self) -> None:
        assert self.source is not None
        chance = self.chance
        self._note("the origin fails now and then")
        self.source.fail = lambda _at: Unavailable("AWAY", "away") if chance.random() < 0.5 else None

    def _finish(self) -> None:
        self._note("all is mended")
        self.faults.mend_all()
        if self.source is not None:
            self.source.fail = lambda _at: None
        timeline = self.timeline
        limit = timeline.now + MENDED_MAX_S
        while not self._quiet():
            if timeline.now >= limit:
                if self._hopeless():
                    self._note("the only good copy is on a disk that failed")
                    self.checks.judge_order()
                    return
                raise Stuck(f"not at rest {MENDED_MAX_S} s after all was mended; {self._state()}")
            timeline.run_until(timeline.now + _QUIET_STEP_S)
        for base in self._bases:
            self.initiator.start(Io(Op.READ, base, _WINDOW, False))
        while not self.initiator.idle and timeline.now < limit:
            timeline.run_until(timeline.now + 0.02)
        self.initiator.over = True
        self.checks.at_rest()
        self._note("at rest")
        limit = timeline.now + _CLEAN_MAX_S
        while (intended := self.checks.intended()) and timeline.now < limit:
            timeline.run_until(timeline.now + _QUIET_STEP_S)
        if intended:
            self.checks.violated(f"clean: intended {_CLEAN_MAX_S} s after the last write, at {intended}")

    def _quiet(self) -> bool:
        record = self.checks.record
        if record is None or not self.initiator.idle:
            return False
        hosts = self.around.hosts
        return all(
            record.in_sync.get(name) == hosts[name].boot_id
            and hosts[name].worker_alive()
            and self._settled(hosts[name])
            for name in record.host_ids
        )

    @staticmethod
    def _settled(host: Host) -> bool:
        worker, kernel = host.worker, host.kernel
        return worker is not None and worker.settled and kernel is not None and kernel.idle

    def _hopeless(self) -> bool:
        """Of every host that is in sync, the memory is gone or the disk failed: an operator must say what is
        to be given up.
        """
        record, hosts = self.checks.record, self.around.hosts
        assert record is not None
        if not self.checks.bad_disks:
            return False
        return all(
            self.checks.suspect(name) or hosts[name].boot_id != boot for name, boot in record.in_sync.items()
        )

    def _state(self) -> str:
        workers = {
            name: host.worker.observe() if host.worker else None for name, host in self.around.hosts.items()
        }
        return (
            f"the record: {self.checks.record}; open commands {self.initiator.under_way}; workers: {workers}"
        )


def _kernel(host: Host) -> HostKernel | None:
    return host.kernel


def tell(seed: int, trace: Callable[[str], None] | None = None) -> Story:
    """One run. The collector waits until it is over: what it does must not depend on when it comes."""
    gc.disable()
    story = Story(seed, trace)
    story.tell()
    return story
