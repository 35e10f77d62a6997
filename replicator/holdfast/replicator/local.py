"""This host's replica, driven on a loop: prepare, apply, read, flush.

Whoever calls holds a turn of `order` on the range, from before `prepare` to after the end of `apply`.

A write goes: intent bits on disk; old content to every frozen view that still needs it (`prepare`); then
the `changed` bits, the data, the `filled` bits (`apply`). The primary sends to the mirror between the two.

What may block runs in the pool; the page cache is written from the loop's thread, which is faster than
handing over. A local error that leaves the disk's content in doubt makes the replica `suspect`: it acts
on nothing more, and its owner is told once (a failed sync is never retried as if nothing had happened).
It stays so when it is opened again, as far as its disk still takes that down. The last copy of a volume is
read all the same: what can be read of it is all that there is.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import TypeVar

from holdfast.base.device import Done, LookRequest, Op, Outcome, Request, Runs
from holdfast.base.errors import Unavailable
from holdfast.base.extents import covering, inside
from holdfast.base.limits import EXTENT_BYTES, MIB, REGION_BYTES
from holdfast.base.loop import Loop
from holdfast.base.twins import twin
from holdfast.replicator.files import SyncFailed, no_room
from holdfast.replicator.intent import Intent
from holdfast.replicator.look import look
from holdfast.replicator.order import BUCKET_SHIFT, Order, Turn
from holdfast.replicator.serial import Serial
from holdfast.replicator.store import Store
from holdfast.replicator.views import Views

_quick = twin("holdfast.replicator._turns")
_OK, _ZERO, _WRITE = Outcome.OK, Op.ZERO, Op.WRITE
_Turn = TypeVar("_Turn", bound=Turn)
_REGION_SHIFT = REGION_BYTES.bit_length() - 1
assert REGION_BYTES == 1 << _REGION_SHIFT
INLINE_ZERO_MAX_BYTES = MIB
_FAILED_SYNC = "the disk failed a sync: {}"


class LocalReplica:
    """An open store as an ordered, asynchronous replica. Loop thread only."""

    def __init__(self, loop: Loop, store: Store, on_suspect: Callable[[str], None]) -> None:
        self.loop = loop
        self._on_suspect = on_suspect
        self._flush_waiting: list[Done] = []
        self._flushing = False
        self._serial = Serial(loop)
        self.store = store
        self.order = Order()
        self.intent = Intent(loop, store.intent)
        self.views = Views(loop, store, self._serial)
        self.suspect = store.state.suspect
        """Why nothing here is to be trusted; empty while all is well."""
        self.last_copy = False
        """No other host is in sync: errors of reading are the initiator's to know."""
        if self.suspect:
            loop.call_soon(partial(on_suspect, self.suspect))

    def is_prepared(self, offset: int, length: int) -> bool:
        """Short for `prepare`, whose `then` the caller calls itself if True; False says nothing."""
        if self.suspect or self.store.views:
            return False
        intent, region = self.intent, offset // REGION_BYTES
        byte, bit = region >> 3, 1 << (region & 7)
        if intent.hot.buffer[byte] & bit and offset + length <= (region + 1) * REGION_BYTES:
            intent.touched.buffer[byte] |= bit
            return True
        return False

    def enter_plain(self, template: _Turn, requests: list[Request], at: int) -> tuple[list[_Turn], int]:
        """The turns of the WRITEs from `requests[at]` on that are plain (_turns.c), held and prepared; the
        index of the first that is not. Without the twin none is: each goes its own way.

        Args:
            template: of which the turns are copies, but for their ranges and their `request`.
        """
        store, entered = self.store, list[_Turn]()
        if _quick is not None and not (self.suspect or store.views or store.missing.left):
            known = (self.order.buckets, self.intent.hot.buffer, self.intent.touched.buffer)
            sizes = (store.size_bytes, BUCKET_SHIFT, _REGION_SHIFT)
            at = _quick.enter(template, requests, at, _WRITE, known, sizes, entered)
        return entered, at

    def prepare(self, offset: int, length: int, then: Callable[[], None], failed: Done) -> None:
        """Make it safe to overwrite the range: intent, then frozen copies. `failed(outcome)` otherwise."""
        if self.suspect:
            failed(Outcome.MEDIUM_ERROR)
        elif self.store.views:
            self.intent.ensure(
                offset,
                length,
                partial(self._copy_before_write, offset, length, then, failed),
                partial(self._sync_failed, failed),
            )
        else:
            self.intent.ensure(offset, length, then, partial(self._sync_failed, failed))

    def intend(self, regions: Collection[int], then: Callable[[], None], failed: Done) -> None:
        """Call `then()` when the intent bits of `regions` are on disk: somebody else writes there."""
        self.intent.adopt(regions, then, partial(self._sync_failed, failed))

    def intend_write(self, offset: int, length: int, resume: Callable[[Unavailable | None], None]) -> None:
        """A step: as for a write here, which somebody else is to be sent. Raises Unavailable LOCAL_DISK."""
        failed = partial(self._sync_failed, lambda _outcome: resume(self.trouble()))
        self.intent.ensure(offset, length, partial(resume, None), failed)

    def trouble(self) -> Unavailable:
        return Unavailable("LOCAL_DISK", f"the disk of this host is in trouble: {self.suspect}")

    def _copy_before_write(self, offset: int, length: int, then: Callable[[], None], failed: Done) -> None:
        extents = covering(offset, length, EXTENT_BYTES)
        self.views.keep_old(extents, then, partial(self._read_failed, failed))

    def apply(self, request: Request, done: Done, count_as_change: bool = True) -> None:
        """Carry out a WRITE or ZERO (with `request.buffers`), then `done(outcome)`; FUA includes a flush.

        `count_as_change` is false for bytes that a volume's origin has anyway.
        """
        if self.suspect:
            done(Outcome.MEDIUM_ERROR)
            return
        store, offset, length = self.store, request.offset, request.length
        if count_as_change:
            first, last = offset // EXTENT_BYTES, (offset + length - 1) // EXTENT_BYTES
            if first == last:
                store.changed.set(first)
            else:
                store.changed.set_range(first, last + 1)
        zeroing = request.op is _ZERO
        if zeroing and length > INLINE_ZERO_MAX_BYTES:
            self.loop.in_pool(
                partial(store.data.zero, offset, length),
                lambda _nothing: self._applied(request, done),
                partial(self._write_failed, done),
            )
            return
        try:
            if zeroing:
                store.data.zero(offset, length)
            else:
                store.data.write(request.buffers, offset, length)
        except OSError as error:
            self._write_failed(done, error)
            return
        if request.fua or store.missing.left:
            self._applied(request, done)
        else:
            done(_OK)

    def apply_all(self, requests: list[Request], dones: list[Done]) -> None:
        """`apply` of WRITEs without FUA, each prepared, while nothing is missing; neighbours in one go.

        A request whose owner gives it up meanwhile, and empties its buffers, ends BUSY.
        """
        count, changed = 0, self.store.changed
        if not self.suspect:
            for request in requests:
                first, last = (
                    request.offset // EXTENT_BYTES,
                    (request.offset + request.length - 1) // EXTENT_BYTES,
                )
                if first == last:
                    changed.set(first)
                else:
                    changed.set_range(first, last + 1)
            count, error = self.store.data.write_all(requests)
            for number in range(count):
                dones[number](_OK)
            if error is not None:
                self._write_failed(dones[count], error)
                count += 1
        for request, done in zip(requests[count:], dones[count:], strict=True):
            if request.buffers:
                self.apply(request, done)
            else:
                done(Outcome.BUSY)

    def _applied(self, request: Request, done: Done) -> None:
        if self.store.missing.left:
            self.store.missing.fill(self.wholly_covered(request.offset, request.length))
        if request.fua:
            self.flush(done)
        else:
            done(Outcome.OK)

    def wholly_covered(self, offset: int, length: int) -> range:
        """Extents that the range overwrites to the last byte; the volume's last one may be short."""
        end = offset + length
        if end == self.store.size_bytes:
            end = -(-end // EXTENT_BYTES) * EXTENT_BYTES
        return inside(offset, end - offset, EXTENT_BYTES)

    def partly_covered(self, offset: int, length: int) -> list[int]:
        """Missing extents of which the range leaves some bytes alone: fill them before writing."""
        missing = self.store.missing
        if not missing.left:
            return []
        whole = self.wholly_covered(offset, length)
        return [e for e in missing.among(covering(offset, length, EXTENT_BYTES)) if e not in whole]

    def read(self, request: Request, done: Done) -> None:
        """Fill `request.buffers`, from the page cache at once or from the disk in the pool.

        The pool reads into memory of its own: a caller that gives the request up meanwhile empties
        `request.buffers`, and nothing is written to memory that may serve another command by then.
        """
        if self.suspect and not self.last_copy:
            done(Outcome.MEDIUM_ERROR)
            return
        data = self.store.data
        try:
            if data.read_cached(request.buffers, request.offset, request.length):
                done(Outcome.OK)
                return
        except OSError as error:
            self._read_failed(done, error)
            return

        def copy(content: bytearray) -> None:
            source, at = memoryview(content), 0
            for buffer in request.buffers:
                buffer[:] = source[at : at + len(buffer)]
                at += len(buffer)
            done(Outcome.OK)

        self.loop.in_pool(
            partial(data.read, request.offset, request.length), copy, partial(self._read_failed, done)
        )

    def look(self, request: LookRequest, done: Done) -> None:
        """Set `request.runs`."""

        def found(runs: Runs) -> None:
            request.runs = runs
            done(Outcome.OK)

        where = partial(look, self.store, request.offset, request.length)
        self.loop.in_pool(where, found, partial(self._read_failed, done))

    def flush(self, done: Done) -> None:
        """All that was applied before is on disk here. Flushes that wait together share one sync."""
        if self.suspect:
            done(Outcome.MEDIUM_ERROR)
            return
        self._flush_waiting.append(done)
        if not self._flushing:
            self._start_flush()

    def _start_flush(self) -> None:
        batch, self._flush_waiting = self._flush_waiting, []
        self._flushing = True
        unsettled = self.store.missing.take_unsettled()

        def sync() -> None:
            self.store.data.sync()
            self.store.missing.settle(unsettled)

        def succeeded(_nothing: None) -> None:
            self._flushing = False
            if self.suspect:
                # Something else failed meanwhile; whether this sync was told of it is the kernel's secret.
                end(Outcome.MEDIUM_ERROR)
                return
            if self._flush_waiting:
                self._start_flush()
            for done in batch:
                done(Outcome.OK)

        def failed(error: BaseException) -> None:
            self.store.missing.give_back(unsettled)
            self._flushing = False
            self.distrust(_FAILED_SYNC.format(error))
            end(Outcome.MEDIUM_ERROR)

        def end(outcome: Outcome) -> None:
            waiting, self._flush_waiting = self._flush_waiting, []
            for done in batch + waiting:
                done(outcome)

        if unsettled:
            self.loop.in_pool(sync, succeeded, failed)
        else:
            self.store.data.sync_soon(self.loop, succeeded, failed)

    def in_pool(self, work: Callable[[], object], resume: Callable[[object], None]) -> None:
        """For sequences (base.steps): run blocking store work, resume with its result or the exception.
        Such work is done in the order in which it was asked for. Of a sync that failed, whoever asked for it
        may try again: what it lost is lost, and so the replica is suspect.
        """

        def ended(result: object) -> None:
            if isinstance(result, SyncFailed):
                self.distrust(_FAILED_SYNC.format(result))
            resume(result)

        self._serial.run(work, ended)

    def distrust(self, why: str) -> None:
        """Act on nothing more: what is on this disk is in doubt. Idempotent."""
        if self.suspect:
            return
        self.suspect = why
        self.store.distrust()
        record = partial(self.store.update_state, lambda now: replace(now, suspect=why))
        self._serial.run(record, lambda _result: None)
        self._on_suspect(why)

    def not_noted(self, error: OSError) -> None:
        """Something that must be written down was not."""
        if not no_room(error):
            self.distrust(f"the disk failed what must be written down: {error}")

    def _write_failed(self, done: Done, error: BaseException) -> None:
        if no_room(error):
            done(Outcome.NO_SPACE)
            return
        self.distrust(f"the disk failed a write: {error}")
        done(Outcome.MEDIUM_ERROR)

    def _sync_failed(self, done: Done, error: BaseException) -> None:
        """No room is no excuse here: what a failed sync has dropped is not known."""
        self.distrust(_FAILED_SYNC.format(error))
        done(Outcome.MEDIUM_ERROR)

    def _read_failed(self, done: Done, error: BaseException) -> None:
        if not self.last_copy:
            self.distrust(f"the disk failed a read: {error}")
        done(Outcome.MEDIUM_ERROR)
