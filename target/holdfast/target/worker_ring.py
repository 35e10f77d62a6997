"""The TCMU ring of a worker: opened when its backstore is there, and kept through every change of role.

A promotion must not close it: a successor resets the ring, which initiators see, and a backstore without a
server hangs whatever waits for it. What is behind the ring changes instead: the replica's device, which stays
the same object in all roles, or nothing, while there is no replica (then this path refuses).

Opening it resets it, which ends for their initiators the commands of the process before, aborted ones too. So
it waits until no copy of them can be applied any more (I-11; replicator's endings.py).
"""

import logging
from collections.abc import Callable
from dataclasses import replace

from holdfast.base.device import Device, Outcome, Request, submit_each
from holdfast.base.errors import HoldfastError
from holdfast.base.loop import Loop
from holdfast.target.control import Desired, DesiredRing
from holdfast.target.executor import RingServer
from holdfast.target.meter import Meter
from holdfast.target.paths import port_groups
from holdfast.target.role_names import PRIMARY
from holdfast.target.scsi.unit import (
    POWER_ON,
    RESERVATIONS_PREEMPTED,
    STANDBY,
    UNAVAILABLE,
    PortGroup,
    Unit,
)
from holdfast.target.tracing import Traceable, Traces, Tracing
from holdfast.target.uio import UioLike, open_uio

log = logging.getLogger(__name__)

OpenDevice = Callable[[str, str], UioLike]
"""Called with a backstore's configfs directory and its UIO device's name."""


class NoReplica:
    """What is behind the ring while this host has nothing to serve from."""

    size_bytes = 0

    def submit(self, request: Request) -> None:
        request.done(Outcome.STANDBY)

    def submit_all(self, requests: list[Request]) -> None:
        submit_each(self, requests)


class Ring:
    """Loop thread only."""

    def __init__(
        self,
        loop: Loop,
        volume_uid: str,
        open_device: OpenDevice = open_uio,
        meter: Meter | None = None,
    ) -> None:
        self._loop = loop
        self._uid = volume_uid
        self._open_device = open_device
        self._meter = meter or Meter(loop)
        self._device: Device = NoReplica()
        self.traces = Traces(loop)
        self.traces.changed = self._serve_device
        self._empty = True
        self._unit: Unit | None = None
        self._active = False
        self._cold_epoch = 0
        self._reserved_since = 0
        self._served: DesiredRing | None = None
        self.waits = False
        """It is to be opened, and may not be yet."""
        self._server: RingServer | None = None
        self.trouble = ""

    @property
    def is_open(self) -> bool:
        return self._server is not None

    @property
    def open_commands(self) -> int:
        return self._server.open_commands if self._server is not None else 0

    def serve_from(self, device: Device | None) -> None:
        """Commands go to `device` from now on; what the one before had under way, it ends."""
        self._device, self._empty = device or NoReplica(), device is None
        self._active = self._active and not self._empty
        self._serve_device()

    def _serve_device(self) -> None:
        if self._server is not None:
            self._server.device = self.device

    @property
    def device(self) -> Device:
        """What commands go to: the replica's device, behind a trace while one is wanted."""
        if self.traces.every and isinstance(self._device, Traceable):
            return Tracing(self.traces, self._device)
        return self._device

    @property
    def is_active(self) -> bool:
        """This path is shown as the active one."""
        return self._active

    def apply(self, desired: Desired, leads: bool, may_open: bool = True) -> None:
        """Show the volume as `desired` has it, and serve its ring and nothing else.

        Args:
            leads: the replica is the primary by now. Shown as active before that, the path would be tried,
                refuse, and be left alone by initiators until their next look.
            may_open: it may be reset by now.
        """
        self._active = desired.role == PRIMARY and (leads or self._active)
        self._show(desired)
        wanted = desired.ring
        self.waits = wanted is not None and self._server is None and not may_open
        if self.waits:
            return
        if wanted == self._served and (self._server is not None) == (wanted is not None):
            return
        self.close()
        self._served = wanted
        if wanted is None or self._unit is None:
            return
        try:
            self._server = self._serve(wanted, self._unit)
        except HoldfastError as error:
            self.trouble = error.message
            log.error("%s", error)

    def _serve(self, wanted: DesiredRing, unit: Unit) -> RingServer:
        opened = self._open_device(wanted.configfs, wanted.uio)
        try:
            return RingServer(self._loop, opened, self.device, unit, self._meter)
        except HoldfastError:
            # Only one may have it open: kept, it would be busy at the next try.
            opened.close()
            raise

    def _show(self, desired: Desired) -> None:
        groups, here = port_groups(desired)
        if desired.role == PRIMARY and not self._active:
            groups = _with_state(groups, here, UNAVAILABLE if self._empty else STANDBY)
        if self._unit is None:
            self._unit = Unit(self._uid, desired.size_bytes, groups=groups, here=here)
            # An older one was told by the process before: those who log in since then have lost nothing.
            self._cold_epoch = desired.cold_epoch if desired.cold_epoch < desired.epoch else 0
        else:
            self._unit = self._unit.with_groups(groups, here, not desired.kernel_tells_paths)
        self._tell_cold(desired, self._unit)
        self._unit = self._tell_reservations(desired, self._unit)
        if self._server is not None:
            self._server.unit = self._unit

    def _tell_cold(self, desired: Desired, unit: Unit) -> None:
        """By the path that serves from then on, once. The others' sessions the agent has ended."""
        if desired.role == PRIMARY and not self._active:
            return
        if desired.role == PRIMARY and desired.cold_epoch > self._cold_epoch:
            unit.attentions.establish(*POWER_ON)
        self._cold_epoch = desired.cold_epoch

    def _tell_reservations(self, desired: Desired, unit: Unit) -> Unit:
        """That there are none from before. A new process cannot know what the one before has told, and tells
        it again: that costs an initiator a look, while one that is not told would rely on what is gone.
        """
        if self._active and desired.reserved_since > self._reserved_since:
            unit.attentions.establish(*RESERVATIONS_PREEMPTED)
            self._reserved_since = desired.reserved_since
        reservable = self._active and (unit.reservable or desired.reserved_since > 0)
        return unit if reservable == unit.reservable else replace(unit, reservable=reservable)

    def close(self) -> None:
        self.trouble = ""
        if self._server is not None:
            self._server.close()
            self._server = None


def _with_state(groups: tuple[PortGroup, ...], here: int, state: int) -> tuple[PortGroup, ...]:
    own = groups[here]
    return (*groups[:here], PortGroup(own.group, own.relative_port, state), *groups[here + 1 :])
