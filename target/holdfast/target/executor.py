"""Joins a ring and a device: drains commands, carries out their plans, completes them, signals once.

    UIO readable -> drain all -> plan each (scsi/) -> submit to the device, with the ring's own memory as
    buffers -> done -> completion written -> one signal for all that ended in this turn of the loop

A command ends exactly once, when its last request has ended: holding commands, and giving up on them in
time, is the device's business (I-11). An initiator's ABORT TASK or LUN RESET waits in the kernel until
the command is completed here, so it is never answered while a copy can still be applied; the notice of
it in the ring, on kernels that send it, needs no answer.

The ring is looked at before the first event is waited for: commands may have come before it was opened.
"""

import logging
from functools import partial

from holdfast.base.device import Device, Op, Outcome, Request
from holdfast.base.loop import READABLE, Loop
from holdfast.target.ring import Command, Ring
from holdfast.target.scsi import commands
from holdfast.target.scsi.plan import Answer, Plan, Step, Steps, Transfer
from holdfast.target.scsi.status import CHECK_CONDITION, GOOD, INVALID_FIELD_IN_CDB, of_outcome
from holdfast.target.scsi.unit import Unit
from holdfast.target.uio import Uio

log = logging.getLogger(__name__)


class RingServer:
    """Serves one device over one ring, from now until `close`. Loop thread only.

    A broken ring raises RingBroken out of the loop: the process ends, and its successor resets the ring.

    Args:
        unit: what the initiators see; by default a plain unit of the device's size.
    """

    def __init__(
        self, loop: Loop, uio: Uio, device: Device, volume_uid: str, unit: Unit | None = None
    ) -> None:
        self._loop = loop
        self._uio = uio
        self._ring = Ring(uio.memory)
        self._device = device
        self.unit = unit or Unit(volume_uid, device.size_bytes)
        self._requests: dict[int, Request] = {}
        self._signal_planned = False
        self._closed = False
        loop.add(uio.fd, READABLE, self._readable)
        loop.call_soon(self._serve)

    @property
    def open_commands(self) -> int:
        """Commands that came and are not ended."""
        return 0 if self._closed else self._ring.open_commands

    def close(self) -> None:
        """Stop at once. Open commands are answered BUSY by the kernel when a successor resets the ring.

        Reads still under way find no buffers to fill; nothing that ends later is completed here. End the
        device first: a write under way still reads from the ring's memory.
        """
        if self._closed:
            return
        self._signal()
        self._closed = True
        self._loop.remove(self._uio.fd)
        for request in self._requests.values():
            if request.op is Op.READ:
                request.buffers = []
        self._requests.clear()
        self._ring.close()
        self._uio.close()

    def _readable(self, _events: int) -> None:
        self._uio.acknowledge()
        self._serve()

    def _serve(self) -> None:
        if self._closed:
            return
        for command in self._ring.drain():
            self._begin(command, commands.plan(command.cdb, self.unit, partial(_join, command)))
        for notice in self._ring.notices:
            log.info("initiator's %s for commands %s", notice.name, notice.command_ids)
        self._ring.notices.clear()
        self._signal_soon()

    def _begin(self, command: Command, plan: Plan) -> None:
        if type(plan) is Transfer:
            self._transfer(command, plan)
        elif type(plan) is Answer:
            self._answer(command, plan)
        elif type(plan) is Steps:
            _Run(self, command.id, plan.steps).next()
        else:
            raise AssertionError(f"no such plan: {plan}")

    def _transfer(self, command: Command, plan: Transfer) -> None:
        length = plan.length
        if plan.op is Op.COMPARE_AND_WRITE:
            if command.length != 2 * length:
                self.end(command.id, CHECK_CONDITION, INVALID_FIELD_IN_CDB)
                return
            expected = b"".join(_part(command.buffers, 0, length))
            buffers = _part(command.buffers, length, length)
        elif command.length == length:
            expected, buffers = b"", command.buffers
        elif command.length > length and plan.op is Op.READ:
            # The initiator made more room than its CDB asks for: it gets a residual.
            expected, buffers = b"", _part(command.buffers, 0, length)
        else:
            self.end(command.id, CHECK_CONDITION, INVALID_FIELD_IN_CDB)
            return
        reading = plan.op is Op.READ
        read_len = length if command.length != length and reading else 0
        done = partial(self._transferred, command.id, reading, read_len)
        request = Request(plan.op, plan.offset, length, done, buffers, plan.fua, expected)
        self._requests[command.id] = request
        self._device.submit(request)

    def _transferred(self, cmd_id: int, reading: bool, read_len: int, outcome: Outcome) -> None:
        if self._closed:
            return
        request = self._requests.pop(cmd_id)
        if outcome is Outcome.OK:
            self._ring.complete(cmd_id, GOOD, b"", read_len)
            if not self._signal_planned:
                self._signal_soon()
        else:
            status, sense = of_outcome(outcome, reading, request.miscompare_offset)
            self.end(cmd_id, status, sense)

    def _answer(self, command: Command, plan: Answer) -> None:
        left = plan.data
        for buffer in command.buffers:
            part, left = left[: len(buffer)], left[len(buffer) :]
            # The rest is cleared: ring memory holds what other commands left there.
            buffer[:] = part.ljust(len(buffer), b"\0")
        read_len = len(plan.data) if len(plan.data) < command.length else 0
        self.end(command.id, plan.status, plan.sense, read_len)

    def submit(self, request: Request, cmd_id: int) -> None:
        self._requests[cmd_id] = request
        self._device.submit(request)

    def end(self, cmd_id: int, status: int, sense: bytes = b"", read_len: int = 0) -> None:
        if self._closed:
            return
        self._requests.pop(cmd_id, None)
        self._ring.complete(cmd_id, status, sense, read_len)
        self._signal_soon()

    def _signal_soon(self) -> None:
        if self._ring.signal_needed and not self._signal_planned:
            self._signal_planned = True
            self._loop.call_soon(self._signal)

    def _signal(self) -> None:
        self._signal_planned = False
        if not self._closed and self._ring.signal_needed:
            self._ring.signal_needed = False
            self._uio.signal()


class _Run:
    """A command of several requests, one after the other."""

    __slots__ = ("_at", "_cmd_id", "_ended", "_running", "_server", "_steps")

    def __init__(self, server: RingServer, cmd_id: int, steps: list[Step]) -> None:
        self._server = server
        self._cmd_id = cmd_id
        self._steps = steps
        self._at = 0
        self._running = False
        self._ended = True

    def next(self) -> None:
        """Submit until one does not end at once: a loop, so that many short ones need no deep stack."""
        self._running = True
        while self._ended and self._at < len(self._steps):
            self._ended = False
            step = self._steps[self._at]
            buffers = []
            if step.op is Op.WRITE:
                buffers = [memoryview(step.data)[: step.length]]
            elif step.op is Op.READ:
                buffers = [memoryview(bytearray(step.length))]
            self._server.submit(Request(step.op, step.offset, step.length, self._done, buffers), self._cmd_id)
        self._running = False
        if self._ended and self._at == len(self._steps):
            self._at += 1
            self._server.end(self._cmd_id, GOOD)

    def _done(self, outcome: Outcome) -> None:
        if outcome is not Outcome.OK:
            reading = self._steps[self._at].op is Op.READ
            self._at = len(self._steps) + 1
            self._server.end(self._cmd_id, *of_outcome(outcome, reading))
            return
        self._ended = True
        self._at += 1
        if not self._running:
            self.next()


def _join(command: Command) -> bytes:
    return b"".join(command.buffers)


def _part(buffers: list[memoryview], start: int, length: int) -> list[memoryview]:
    """Bytes [start, start + length) of what `buffers` hold together."""
    found = []
    for buffer in buffers:
        if start < len(buffer) and length:
            piece = buffer[start : start + length]
            found.append(piece)
            length -= len(piece)
        start = max(0, start - len(buffer))
    return found
