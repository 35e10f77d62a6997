"""A volume worker: opens the store, has a Replica, serves the ring, says how it is.

It does what holdfast.target.worker does, in as few lines, with a simulated disk, network and kernel; what it
is made of (store, local replica, replica, ring server, command set) is production's.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from holdfast.base.errors import HoldfastError, Unavailable
from holdfast.base.limits import RING_WAIT_MAX_S
from holdfast.base.nbd.export import Export
from holdfast.replicator.hydrate import Source
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.replica import Replica
from holdfast.replicator.store import Store, create, exists
from holdfast.replicator.testing_disk import Disk
from holdfast.target.control import Desired, Observed
from holdfast.target.executor import RingServer
from holdfast.target.scsi.unit import Unit
from holdfast.target.worker_replica import observed_of, snapshots_of, wanted_of

from .kernel import HostKernel
from .process import Process
from .session import ClientSession

if TYPE_CHECKING:
    from .host import Surroundings

TICK_S = 1.0


class Machine(Protocol):
    """What a worker knows of the host that it runs on."""

    around: "Surroundings"
    name: str
    boot_id: str
    disk: Disk
    kernel: HostKernel | None
    source: Source | None
    origin: str

    def dial(
        self,
        peer: str,
        epoch: int,
        on_ready: Callable[[ClientSession], None],
        on_lost: Callable[[str], None],
    ) -> ClientSession: ...
    def worker_says(self, observed: Observed) -> None: ...


class Worker:
    """From one start of the process to its end (session.Listener)."""

    def __init__(self, loop: Process, machine: Machine) -> None:
        self.loop = loop
        self._machine = machine
        self._desired: Desired | None = None
        self._local: LocalReplica | None = None
        self._replica: Replica | None = None
        self._ring: RingServer | None = None
        self._cold_epoch = 0
        self._began_s = loop.now()
        self._trouble = ("", "")
        self._said: Observed | None = None
        self._seen: object = None
        self._looked: tuple[tuple[object, ...], Observed] | None = None
        """What was seen last, behind all that it was seen from."""
        self._saying = False
        loop.call_later(TICK_S, self._tick)

    def apply(self, desired: Desired) -> None:
        if self._desired is not None and desired.epoch < self._desired.epoch:
            return
        self._desired = desired
        self._trouble = ("", "")
        if desired.rebuild and (self._local is None or self._local.suspect):
            self._throw_away()
        try:
            self._open(desired)
        except (HoldfastError, OSError) as error:
            reason = error.reason if isinstance(error, HoldfastError) else "STORE_UNUSABLE"
            self._trouble = (reason, str(error))
            self.say()
            return
        assert self._replica is not None
        self._replica.apply(wanted_of(desired))
        self._serve(desired)
        self.say()

    def _open(self, desired: Desired) -> None:
        if self._local is not None:
            return
        machine, around = self._machine, self._machine.around
        files = machine.disk.files()
        if not desired.initialized and not exists(files):
            create(files, around.volume_uid, desired.size_bytes, machine.boot_id, machine.origin)
        store = Store(files, around.volume_uid, desired.size_bytes, machine.boot_id)
        self._local = LocalReplica(self.loop, store, lambda _why: self.say_soon())
        self._replica = Replica(self.loop, self._local, machine.name, machine.boot_id, machine.dial)
        self._replica.on_change = self.say_soon
        self._replica.use_source(machine.source)

    def _throw_away(self) -> None:
        """The copy is bad and its host is not in the set: a new one is made (and all sessions end)."""
        if self._ring is not None:
            self._ring.close()
            # What was to be told goes with it, and is told by the next.
            self._ring, self._cold_epoch = None, 0
        for session in self._machine.around.sessions:
            if session.hosts[1] == self._machine.name:
                session.discarded = True
                session.server_closes()
        if self._replica is not None:
            self._replica.close()
        if self._local is not None:
            self._local.store.throw_away()
        self._replica = self._local = None
        disk = self._machine.disk
        disk.inodes.clear()
        disk.durable_names.clear()

    def _serve(self, desired: Desired) -> None:
        kernel = self._machine.kernel
        if kernel is None or self._replica is None:
            return
        if self._ring is None and not self._may_open_ring():
            return
        if self._ring is None:
            unit = Unit(self._machine.around.volume_uid, desired.size_bytes)
            self._ring = RingServer(self.loop, kernel.open_uio(self.loop), self._replica.device, unit)  # type: ignore[arg-type]
        if desired.role == "primary" and desired.cold_epoch > self._cold_epoch:
            self._cold_epoch = desired.cold_epoch
            self._ring.unit.attentions.establish(0x29, 0x00)

    def _may_open_ring(self) -> bool:
        drained = self._replica is not None and self._replica.drained
        return drained or self.loop.now() - self._began_s >= RING_WAIT_MAX_S

    # Saying how it is.

    def say_soon(self) -> None:
        """Once for all that changes in a turn."""
        if not self._saying:
            self._saying = True
            self.loop.call_soon(self.say)

    def say(self) -> None:
        self._saying = False
        if self.loop.dead:
            return
        if self._ring is None and self._desired is not None:
            self._serve(self._desired)
        observed = self.observe()
        if observed != self._said:
            self._said = observed
            self._machine.worker_says(observed)

    def say_again(self) -> None:
        """To an agent that has just come."""
        self._said = None
        self.say()

    def observe(self) -> Observed:
        desired = self._desired
        reason, message = self._trouble
        if desired is None or self._local is None or self._replica is None:
            return Observed(self._machine.around.volume_uid, reason=reason, message=message)
        report, state = self._replica.report(), self._local.store.state
        sources = (desired, report, state, self._local.suspect)
        # A comparison goes on in its place: it is equal to itself.
        if self._looked is None or report.verification or sources != self._looked[0]:
            self._looked = sources, observed_of(*sources)
        seen = self._looked[1]
        known = (seen, reason, message, self._ring is not None)
        if known == self._seen and self._said is not None and not desired.snapshots:
            return self._said
        self._seen = known
        lost = self._local.views.lost()
        return replace(
            seen,
            reason=reason or seen.reason,
            message=message if reason else seen.message,
            ring_open=self._ring is not None,
            snapshots=snapshots_of(desired, report, state, lost) if desired.snapshots else (),
        )

    def _tick(self) -> None:
        desired = self._desired
        if desired is not None and desired.rebuild:
            self.apply(desired)
        if desired is None or (self._ring is None and self._machine.kernel is not None):
            self.say()
        self.loop.call_later(TICK_S, self._tick)

    @property
    def settled(self) -> bool:
        """It serves what it is to serve, and nothing is under way."""
        return self._replica is not None and self._replica.report().connected and not self._trouble[0]

    # session.Listener.

    def open_export(self, peer_host_id: str, epoch: int) -> Export:
        if self._replica is None:
            raise Unavailable("NOT_READY", "this host has no replica open.")
        return self._replica.open_session(peer_host_id, epoch)
