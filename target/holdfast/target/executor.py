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

from holdfast.base.device import Device, LookRequest, Op, Outcome, Request
from holdfast.base.loop import EDGE, READABLE, Loop
from holdfast.target.meter import Meter
from holdfast.target.ring import Command, Plain, Ring
from holdfast.target.scsi import commands
from holdfast.target.scsi.plan import Answer, Look, Step, Steps, Transfer, good
from holdfast.target.scsi.status import BUSY, CHECK_CONDITION, GOOD, WRONG_LENGTH, bad_field, of_outcome
from holdfast.target.scsi.transfer import COMPARED_BLOCKS_AT, TRANSFER_MAX_BLOCKS
from holdfast.target.scsi.unit import Unit
from holdfast.target.uio import UioLike

log = logging.getLogger(__name__)


_OK, _READ, _WRITE, _COMPARE = Outcome.OK, Op.READ, Op.WRITE, Op.COMPARE_AND_WRITE


class _Whole(Request):
    """A READ or WRITE of all of a command's buffers: one object for what nearly every command needs.

    Made by _ring.c too, which knows these slots and Request's.
    """

    __slots__ = ("cmd_id", "server")

    def __init__(self, server: "RingServer", command: Command, plan: Transfer) -> None:
        self.server = server
        self.cmd_id = command.id
        self.came_s = server.came_s
        self.op = plan.op
        self.offset = plan.offset
        self.length = plan.length
        self.buffers = command.buffers
        self.fua = plan.fua
        self.expected = b""
        self.miscompare_offset = 0

    def done(self, outcome: Outcome) -> None:
        server = self.server
        if outcome is _OK and not server.closed:
            server.good.append(self.cmd_id)
            if not server.signal_planned:
                server.signal_soon()
        else:
            server.transferred(self.cmd_id, self.op is _READ, 0, outcome)


class RingServer:
    """Serves one device over one ring, from now until `close`. Loop thread only.

    A broken ring raises RingBroken out of the loop: the process ends, and its successor resets the ring.

    `unit` is what initiators see, and `device` who does what they ask. Both may be exchanged between turns of
    the loop: each command meets one of each, whole. What is under way stays with the device that it went to.
    """

    def __init__(
        self, loop: Loop, uio: UioLike, device: Device, unit: Unit, meter: Meter | None = None
    ) -> None:
        self._loop = loop
        self._uio = uio
        self._ring = Ring(uio.memory)
        self._meter = meter or Meter(loop)
        self.came_s = 0.0
        """When the commands at hand came."""
        self.device = device
        self.unit = unit
        self._requests: dict[int, Request] = {}
        self.good: list[int] = []
        """Commands that have ended well: the ring is told of all of them when it is signalled."""
        self.signal_planned = False
        self.closed = False
        # By its edge: the ring says what has come, so the count in the descriptor need not be read.
        loop.add(uio.fd, READABLE | EDGE, self._readable)
        loop.call_soon(self._serve)

    @property
    def open_commands(self) -> int:
        """Commands that came and are not ended."""
        return 0 if self.closed else self._ring.open_commands

    def close(self) -> None:
        """Stop at once. Open commands are answered BUSY by the kernel when a successor resets the ring.

        Reads still under way find no buffers to fill; nothing that ends later is completed here. End the
        device first: a write under way still reads from the ring's memory.
        """
        if self.closed:
            return
        self._signal()
        self.closed = True
        self._loop.remove(self._uio.fd)
        for request in self._requests.values():
            if request.op is Op.READ:
                request.buffers = []
        self._requests.clear()
        self._ring.close()
        self._uio.close()

    def _readable(self, events: int) -> None:
        if events & ~READABLE:
            self._uio.check()
        self._serve()

    def _serve(self) -> None:
        if self.closed:
            return
        decide, unit, requests = commands.plan, self.unit, self._requests
        together: list[Request] = []
        """READs and WRITEs that follow each other."""
        self.came_s = self._loop.now()
        for command in self._ring.drain(self._plain(unit)):
            if not isinstance(command, Command):
                together.append(command)
                continue
            plan = decide(command.cdb, unit, command.content)
            if type(plan) is Transfer and command.length == plan.length and plan.op is not _COMPARE:
                requests[command.id] = request = _Whole(self, command, plan)
                together.append(request)
                continue
            if together:
                self._submit(together)
                together = []
            if type(plan) is Transfer:
                self._transfer(command, plan)
            elif type(plan) is Answer:
                self._answer(command, plan)
            elif type(plan) is Steps:
                _Run(self, command.id, plan).next()
            elif type(plan) is Look:
                self._look(command, plan)
        if together:
            self._submit(together)
        for notice in self._ring.notices:
            log.info("initiator's %s for commands %s", notice.name, notice.command_ids)
        self._ring.notices.clear()
        self._signal_soon()

    def _submit(self, together: list[Request]) -> None:
        if len(together) == 1:
            self.device.submit(together[0])
        else:
            self.device.submit_all(together)

    def _plain(self, unit: Unit) -> Plain | None:
        """For READs and WRITEs that scsi/commands.py would only pass on; None while it has more to say."""
        if unit.attentions.waiting or unit.path_sense or unit.read_only:
            return None
        shared = (self, self.came_s, _READ, _WRITE)
        return Plain(_Whole, (unit.blocks, TRANSFER_MAX_BLOCKS), shared, self._requests)

    def _transfer(self, command: Command, plan: Transfer) -> None:
        cmd_id = command.id
        if plan.op is Op.COMPARE_AND_WRITE:
            self._compare_and_write(command, plan)
        elif plan.op is Op.READ and command.length > plan.length:
            # The initiator made more room than its CDB asks for: it gets a residual.
            done = partial(self.transferred, cmd_id, True, plan.length)
            buffers = _part(command.buffers, 0, plan.length)
            self.submit(Request(Op.READ, plan.offset, plan.length, done, buffers), cmd_id)
        else:
            self.end(cmd_id, CHECK_CONDITION, WRONG_LENGTH)

    def _compare_and_write(self, command: Command, plan: Transfer) -> None:
        length = plan.length
        if command.length != 2 * length:
            # That many blocks may well be what it cannot say in its one byte.
            self.end(command.id, CHECK_CONDITION, bad_field(COMPARED_BLOCKS_AT))
            return
        if length == 0:
            self.end(command.id, GOOD)
            return
        expected = b"".join(_part(command.buffers, 0, length))
        buffers = _part(command.buffers, length, length)
        done = partial(self.transferred, command.id, False, 0)
        self.submit(Request(plan.op, plan.offset, length, done, buffers, plan.fua, expected), command.id)

    def transferred(self, cmd_id: int, reading: bool, read_len: int, outcome: Outcome) -> None:
        if self.closed:
            return
        request = self._requests[cmd_id]
        if outcome is _OK:
            self.end(cmd_id, GOOD, b"", read_len)
        else:
            self.end(cmd_id, *self.status_of(outcome, reading, request.miscompare_offset))

    def _look(self, command: Command, plan: Look) -> None:
        def done(outcome: Outcome) -> None:
            if self.closed:
                return
            if outcome is Outcome.OK:
                self._answer(command, good(plan.answer(request.runs)))
            else:
                self.end(command.id, *self.status_of(outcome, True, 0))

        request = LookRequest(plan.offset, plan.length, done)
        self.submit(request, command.id)

    def _answer(self, command: Command, plan: Answer) -> None:
        left = plan.data
        for buffer in command.buffers:
            part, left = left[: len(buffer)], left[len(buffer) :]
            # The rest is cleared: ring memory holds what other commands left there.
            buffer[:] = part.ljust(len(buffer), b"\0")
        read_len = len(plan.data) if len(plan.data) < command.length else 0
        self.end(command.id, plan.status, plan.sense, read_len)

    def status_of(self, outcome: Outcome, reading: bool, miscompare_offset: int) -> tuple[int, bytes]:
        """`of_outcome`, as this host's path says it."""
        if outcome is Outcome.STANDBY and self.unit.path_sense:
            return CHECK_CONDITION, self.unit.path_sense
        return of_outcome(outcome, reading, miscompare_offset)

    def submit(self, request: Request, cmd_id: int) -> None:
        self._requests[cmd_id] = request
        request.came_s = request.came_s or self.came_s
        self.device.submit(request)

    def end(self, cmd_id: int, status: int, sense: bytes = b"", read_len: int = 0) -> None:
        if self.closed:
            return
        request = self._requests.pop(cmd_id, None)
        if request is not None:
            self._count(request, status)
        self._ring.complete(cmd_id, status, sense, read_len)
        self._signal_soon()

    def _count(self, request: Request, status: int) -> None:
        if status in (BUSY, CHECK_CONDITION):
            self._meter.bad(status == BUSY)
        else:
            self._meter.good((request,), self._loop.now())

    def _signal_soon(self) -> None:
        if self._ring.signal_needed and not self.signal_planned:
            self.signal_soon()

    def signal_soon(self) -> None:
        """At the end of this turn, with all that end in it."""
        self.signal_planned = True
        self._loop.call_soon(self._signal)

    def _signal(self) -> None:
        self.signal_planned = False
        if self.closed:
            return
        if self.good:
            good, self.good = self.good, []
            take = self._requests.pop
            self._meter.good([take(cmd_id) for cmd_id in good], self._loop.now())
            self._ring.complete_good(good)
        if self._ring.signal_needed:
            self._ring.signal_needed = False
            self._uio.signal()


class _Run:
    """A command of several requests, one after the other."""

    __slots__ = ("_at", "_came_s", "_cmd_id", "_ended", "_found", "_running", "_server", "_status", "_steps")

    def __init__(self, server: RingServer, cmd_id: int, plan: Steps) -> None:
        self._server = server
        self._came_s = server.came_s
        self._cmd_id = cmd_id
        self._steps = plan.steps
        self._status = plan.status
        self._at = 0
        self._found = bytearray()
        self._running = False
        self._ended = True

    def next(self) -> None:
        """Submit until one does not end at once: a loop, so that many short ones need no deep stack."""
        self._running = True
        while self._ended and self._at < len(self._steps):
            self._ended = False
            self._submit(self._steps[self._at])
        self._running = False
        if self._ended and self._at == len(self._steps):
            self._at += 1
            self._server.end(self._cmd_id, self._status)

    def _submit(self, step: Step) -> None:
        buffers = []
        if step.op is Op.WRITE:
            buffers = [memoryview(step.data)[: step.length]]
        elif step.op is Op.READ:
            self._found = bytearray(step.length)
            buffers = [memoryview(self._found)]
        request = Request(step.op, step.offset, step.length, self._done, buffers, step.fua)
        request.came_s = self._came_s
        self._server.submit(request, self._cmd_id)

    def _done(self, outcome: Outcome) -> None:
        step = self._steps[self._at]
        reading = step.op is Op.READ
        if outcome is Outcome.OK and reading and step.data and step.data != self._found:
            outcome = Outcome.MISCOMPARE
        if outcome is not Outcome.OK:
            self._at = len(self._steps) + 1
            difference = self._first_difference(step)
            self._server.end(self._cmd_id, *self._server.status_of(outcome, reading, difference))
            return
        self._ended = True
        self._at += 1
        if not self._running:
            self.next()

    def _first_difference(self, step: Step) -> int:
        """Where in the Data-Out Buffer of a VERIFY."""
        pairs = zip(step.data, self._found, strict=False)
        within = next((at for at, (one, other) in enumerate(pairs) if one != other), 0)
        return step.offset - self._steps[0].offset + within


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
