"""A story: a pair under random requests and faults, chosen by a seed, and judged at every step.

What is judged, by a model of its own (testing_model.py), from files, answers and exports: the history
(testing_model.py) on reads, on both hosts when a write is acknowledged, and on both disks when a flush is;
regions that differ are intended; views are what was frozen, on both hosts, and stay so; what differs
between two views is counted as changed; memory that was given back is left alone.
"""

import errno
import itertools
from collections import Counter
from collections.abc import Callable
from random import Random

from holdfast.base.device import Op, Outcome, Request
from holdfast.base.errors import DataLoss, HoldfastError, Unavailable
from holdfast.base.limits import EXTENT_BYTES, KIB, MIB, REGION_BYTES
from holdfast.base.steps import Steps, run
from holdfast.replicator.clean import clean
from holdfast.replicator.exports import FrozenExport, ReplicaExport
from holdfast.replicator.freeze import freeze
from holdfast.replicator.link import Sent
from holdfast.replicator.testing import POISON, FakeSource, Host, Pair, poison
from holdfast.replicator.testing_disk import Disk
from holdfast.replicator.testing_model import SECTOR_BYTES, History, Write, fill, origin_content

SIZE_BYTES = REGION_BYTES + 3 * EXTENT_BYTES + 5 * 4 * KIB
OUTSTANDING_MAX = 12


class Story:
    """`tell(steps)` runs it; it raises AssertionError with what went wrong."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.disks = {name: Disk(self.chance) for name in ("a", "b")}
        hydrated = self.chance.random() < 0.4
        sectors = SIZE_BYTES // SECTOR_BYTES
        self.history = History(sectors, hydrated)
        self.source = FakeSource(origin_content(sectors)) if hydrated else None
        self.pair = Pair(SIZE_BYTES, lambda name: self.disks[name].files, seed, self.source)
        self.pair.hydrates = self.chance.random() < 0.3
        self.outstanding: dict[Request, Write | None] = {}
        self.given_back: list[memoryview] = []
        self.frozen: dict[str, tuple[int, bytes]] = {}
        self.flushed = 0
        """The tick at which the newest flush that ended OK began."""
        self.forced: set[int] = set()
        self.lives = 0
        """Of the primary's process."""
        self.freezing = ""
        self.views_made = 0
        self.values = 0
        self.outcomes: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        self.refusals: Counter[str] = Counter()
        """Why freezes failed, and (kept as it is) how many did not."""
        self._watch_sends()

    def tell(self, steps: int) -> None:
        requests = [
            (30, self._write),
            (6, self._zero),
            (6, self._compare_and_write),
            (10, self._read),
            (5, self._flush),
            (25, self._turns),
            (6, self._wait_for_all),
            (8, self._freeze),
            (5, self._wait_for_freeze),
            (2, self._drop),
            (3, self._clean),
            (3, self._check_hosts),
            (2, self._check_views),
        ]
        faults = [
            (6, self.pair.net.cut),
            (1, self._silence),
            (1, self._mirror_fails),
            (2, self._refuse),
            (1, self._restart_primary),
            (1, self._restart_mirror),
            (1, self._power_cut),
            (2, self._no_room_for_views),
            (1, self._source_fails),
            (3, self._pass_time),
        ]
        storm = self.chance.choice((0.2, 0.5, 1.5))
        acts: list[Callable[[], None]] = [act for _weight, act in requests + faults]
        weights = [float(weight) for weight, _act in requests] + [weight * storm for weight, _act in faults]
        for _ in range(steps):
            self.chance.choices(acts, weights)[0]()
        self._end()

    # Requests.

    def _write(self) -> None:
        offset, length = self._range(300 * KIB)
        self._submit(Op.WRITE, offset, length, fua=self.chance.random() < 0.1)

    def _zero(self) -> None:
        offset, length = self._range(self.chance.choice((64 * KIB, 2 * MIB)))
        self._submit(Op.ZERO, offset, length)

    def _compare_and_write(self) -> None:
        offset, length = self._range(4 * KIB)
        content = self._bytes_of(self.pair.a)
        self._submit(Op.COMPARE_AND_WRITE, offset, length, expected=content[offset : offset + length])

    def _read(self) -> None:
        offset, length = self._range(300 * KIB)
        self._submit(Op.READ, offset, length)

    def _flush(self) -> None:
        self._submit(Op.FLUSH, 0, 0)

    def _range(self, most: int) -> tuple[int, int]:
        unit = self.chance.choice((SECTOR_BYTES, 4 * KIB, EXTENT_BYTES))
        # Most meet on a few extents: the first, those where regions meet, the last.
        first = self.chance.choice((0, 0, REGION_BYTES - EXTENT_BYTES, SIZE_BYTES - 2 * EXTENT_BYTES))
        span = SIZE_BYTES - first if self.chance.random() < 0.1 else 2 * EXTENT_BYTES
        offset = (first + self.chance.randrange(span)) // unit * unit
        length = unit * self.chance.randrange(1, max(2, min(most // unit, 8)))
        return offset, min(length, SIZE_BYTES - offset)

    def _submit(self, op: Op, offset: int, length: int, fua: bool = False, expected: bytes = b"") -> None:
        if len(self.outstanding) >= OUTSTANDING_MAX:
            return
        history, write, value = self.history, None, 0
        buffers = [memoryview(bytearray(length))] if op is Op.READ else []
        if op in (Op.WRITE, Op.COMPARE_AND_WRITE):
            self.values += 1
            value = self.values
            buffers = [memoryview(bytearray(fill(value, length)))]
        if op not in (Op.READ, Op.FLUSH):
            write = history.begin(offset, length, value)
        began = history.tick()

        life = self.lives

        def done(outcome: Outcome) -> None:
            if life != self.lives:
                return  # Said by what is left of a killed process while it is collected.
            assert request in self.outstanding, "a request was ended twice"
            del self.outstanding[request]
            self.outcomes[outcome] += 1
            self._ended(request, write, began, outcome, buffers)

        request = Request(op, offset, length, done, list(buffers), fua, expected)
        self.outstanding[request] = write
        self.pair.primary.submit(request)

    def _ended(
        self, request: Request, write: Write | None, began: int, outcome: Outcome, buffers: list[memoryview]
    ) -> None:
        history, offset, length = self.history, request.offset, request.length
        if write is not None:
            if outcome is Outcome.BUSY and request not in self.begun:
                write.impossible = True
            history.end(write, outcome)
        now = history.tick()
        if request.op is Op.READ and outcome is Outcome.OK:
            self._judge("a read", offset, bytes(buffers[0]), began, now)
        if write is not None and outcome is Outcome.OK:
            for host in (self.pair.a, self.pair.b):
                content = self._bytes_of(host, offset, length)
                self._judge(f"acknowledged, on {host.name}", offset, content, now, now)
        if outcome is Outcome.OK and request.op is Op.FLUSH:
            self.flushed = max(self.flushed, began)
        if outcome is Outcome.OK and write is not None and request.fua:
            self.forced.add(id(write))
        if outcome is Outcome.OK and (request.op is Op.FLUSH or request.fua):
            for host in (self.pair.a, self.pair.b):
                if request.fua:
                    content = self._bytes_of(host, offset, length, durable=True)
                    self._judge(f"forced, on {host.name}'s disk", offset, content, now, now)
                else:
                    content = self._bytes_of(host, durable=True)
                    self._judge(f"flushed, on {host.name}'s disk", 0, content, began, now)
        poison(buffers)
        self.given_back += buffers

    def _watch_sends(self) -> None:
        """Note which requests reach the link: those may have happened."""
        self.begun: set[Request] = set()
        link = self.pair.link
        send = link.send

        def watched(request: Request, done: Callable[[Outcome], None]) -> Sent:
            self.begun.add(request)
            return send(request, done)

        link.send = watched  # type: ignore[method-assign]

    # Faults and time.

    def _turns(self) -> None:
        for _ in range(self.chance.randrange(1, 12)):
            self.pair.turn()
        self.pair.for_s(self.chance.random() * 0.02)

    def _wait_for_all(self) -> None:
        self.pair.until(lambda: not self.outstanding)

    def _wait_for_freeze(self) -> None:
        self.pair.until(lambda: not self.freezing)

    def _pass_time(self) -> None:
        self.pair.for_s(self.chance.choice((0.5, 3.0, 13.0)))

    def _silence(self) -> None:
        self.pair.net.silent = True
        self.pair.a.loop.call_later(self.chance.choice((1.0, 6.0, 15.0)), self._mend)

    def _refuse(self) -> None:
        self.pair.net.refuse_dial = True
        self.pair.net.cut()
        self.pair.a.loop.call_later(self.chance.choice((0.3, 2.0, 12.0)), self._mend)

    def _mirror_fails(self) -> None:
        outcomes = (Outcome.NO_SPACE, Outcome.MEDIUM_ERROR, Outcome.STALE_EPOCH)
        self.pair.net.fail = lambda _request: self.chance.choice((None, None, None, *outcomes))
        self.pair.a.loop.call_later(self.chance.choice((0.1, 2.0, 12.0)), self._mend)

    def _no_room_for_views(self) -> None:
        def full(kind: str, name: str) -> None:
            if kind in ("write", "make", "write record") and (name.startswith("frozen") or kind[5:]):
                raise OSError(errno.ENOSPC, "no room")

        self.chance.choice(list(self.disks.values())).on_step = full
        self.pair.a.loop.call_later(self.chance.random(), self._mend)

    def _source_fails(self) -> None:
        if self.source is not None:
            self.source.fail = lambda _offset: (
                Unavailable("GONE", "away") if self.chance.random() < 0.5 else None
            )
            self.pair.a.loop.call_later(self.chance.random() * 5, self._mend)

    def _mend(self) -> None:
        net = self.pair.net
        net.silent, net.refuse_dial, net.fail = False, False, lambda _request: None
        for disk in self.disks.values():
            disk.on_step = lambda _kind, _name: None
        if self.source is not None:
            self.source.fail = lambda _offset: None

    def _power_cut(self) -> None:
        """Of both hosts, which come back by themselves: what was flushed is there, nothing is overlooked."""
        self._mend()
        self._kill_primary()
        self.pair.kill_mirror()
        for host in (self.pair.a, self.pair.b):
            self.disks[host.name].power_cut()
            host.boot += 1
        unflushed = {id(w): w for writes in self.history.writes.values() for w in writes}
        for write in unflushed.values():
            if (
                write.outcome is Outcome.OK
                and (write.ended or 0) > self.flushed
                and id(write) not in self.forced
            ):
                self.history.end(write, None)
        now = self.history.tick()
        for host in (self.pair.a, self.pair.b):
            self._judge(f"after a power cut, on {host.name}", 0, self._bytes_of(host, durable=True), now, now)
        self.pair.start_mirror()
        self.pair.start_primary()
        self._watch_sends()
        for host in (self.pair.a, self.pair.b):
            assert not host.store.views, "a view of another boot"
        self._check_hosts()
        self._check_views()

    def _restart_primary(self) -> None:
        self._mend()
        self._kill_primary()
        self._check_hosts()
        self.pair.start_primary()
        self._watch_sends()

    def _kill_primary(self) -> None:
        self.lives += 1
        self.pair.kill_primary()
        for write in self.outstanding.values():
            if write is not None:
                self.history.end(write, None)
        self.outstanding.clear()
        self.freezing = ""

    def _restart_mirror(self) -> None:
        # What was to be mended on the primary's loop still is; the disk's faults are not for an opening.
        self._mend()
        self.pair.kill_mirror()
        self._check_hosts()
        self.pair.start_mirror()

    # Snapshots.

    def _freeze(self) -> None:
        pair = self.pair
        if self.freezing:
            return
        if not pair.link.up and self.chance.random() < 0.7:
            self._wait_for_all()
        if not pair.link.up:
            return
        self.views_made += 1
        uid = self.freezing = f"s{self.views_made}"
        began = self.history.tick()

        def done(_hosts: tuple[str, ...]) -> None:
            self.freezing = ""
            self.refusals[""] += 1
            self._frozen(uid, began)

        def failed(error: Exception) -> None:
            assert isinstance(error, HoldfastError | OSError), error
            self.freezing = ""
            self.refusals[str(error)[:60]] += 1

        run(freeze(pair.a.loop, pair.primary, uid, lambda: 1.0), done, failed)

    def _frozen(self, uid: str, began: int) -> None:
        now = self.history.tick()
        # The bytes straight from the files: requests are under way.
        contents = [self._view_of(host, uid) for host in (self.pair.a, self.pair.b)]
        good = [content for content in contents if content is not None]
        for content in good:
            self._judge(f"view {uid}", 0, content, began, now)
            assert content == good[0], f"view {uid} differs between the hosts"
        for host in (self.pair.a, self.pair.b):
            if uid in host.store.state.views and good:
                self.frozen[uid] = (host.store.state.views[uid].generation, good[0])

    def _view_of(self, host: Host, uid: str) -> bytes | None:
        assert host.local is not None
        view = host.local.views.usable(uid)
        if view is None:
            return None
        live = self._bytes_of(host)
        old = self.disks[host.name].content(f"frozen/{uid}.data")
        content = bytearray(live)
        for extent in range(host.store.extents):
            start, end = extent * EXTENT_BYTES, min((extent + 1) * EXTENT_BYTES, SIZE_BYTES)
            if view.copied.get(extent):
                content[start:end] = old[start:end]
            elif view.missing.get(extent):
                assert self.source is not None
                content[start:end] = self.source.content[start:end]
        return bytes(content)

    def _check_views(self) -> None:
        for uid, (_generation, content) in self.frozen.items():
            for host in (self.pair.a, self.pair.b):
                found = self._view_of(host, uid)
                assert found is None or found == content, f"view {uid} changed on {host.name}"
        frozen = sorted(self.frozen.values())
        for (first, old), (second, new) in itertools.pairwise(frozen):
            for host in (self.pair.a, self.pair.b):
                self._check_changed(host, first, second, old, new)
        if frozen:
            for host in (self.pair.a, self.pair.b):
                last, old = frozen[-1]
                self._check_changed(host, last, host.store.generation + 1, old, self._bytes_of(host))

    def _check_changed(self, host: Host, first: int, end: int, old: bytes, new: bytes) -> None:
        try:
            changed = host.store.changed_between(first, end)
        except DataLoss:
            return
        covered = {extent for start, stop in changed for extent in range(start, stop)}
        for extent in range(host.store.extents):
            if extent not in covered:
                at = slice(extent * EXTENT_BYTES, (extent + 1) * EXTENT_BYTES)
                assert old[at] == new[at], (
                    f"extent {extent} changed in [{first}, {end}) on {host.name}, unseen"
                )

    def _drop(self) -> None:
        if self.frozen:
            uid = self.chance.choice(list(self.frozen))
            for host in (self.pair.a, self.pair.b):
                assert host.local is not None
                host.local.views.drop(uid)
            if self.chance.random() < 0.5:
                # Else: its generation stays the base of the next.
                del self.frozen[uid]

    def _clean(self) -> None:
        pair = self.pair
        assert pair.a.local is not None

        def failed(error: Exception) -> None:
            assert isinstance(error, HoldfastError | OSError), error

        run(clean(pair.primary), lambda _count: None, failed)

    # Judging.

    def _bytes_of(
        self, host: Host, offset: int = 0, length: int = SIZE_BYTES, durable: bool = False
    ) -> bytes:
        """The volume as a host has it, or would have it after a power cut at the worst moment."""
        disk = self.disks[host.name]
        if not durable:
            content = disk.inodes["data"].content[offset : offset + length]
            missing, filled = disk.content("missing"), disk.content("filled")
        else:
            content = disk.durable_names["data"].durable[offset : offset + length]
            missing, filled = disk.durable("missing"), bytes(len(disk.content("filled")))
        if self.source is not None:
            for extent in range(offset // EXTENT_BYTES, (offset + length - 1) // EXTENT_BYTES + 1):
                if missing[extent >> 3] & ~filled[extent >> 3] & (1 << (extent & 7)):
                    start = max(offset, extent * EXTENT_BYTES)
                    end = min(offset + length, (extent + 1) * EXTENT_BYTES)
                    content[start - offset : end - offset] = self.source.content[start:end]
        return bytes(content)

    def _judge(self, what: str, offset: int, content: bytes, since: int, until: int) -> None:
        wrong = next(self.history.wrong(offset, content, since, until), None)
        assert wrong is None, f"{what}: {wrong}"

    def _check_hosts(self) -> None:
        """Regions that differ are intended, on disk."""
        a, b = (self._bytes_of(host) for host in (self.pair.a, self.pair.b))
        intended = _intended(self.disks["a"]) | _intended(self.disks["b"])
        for region in range(-(-SIZE_BYTES // REGION_BYTES)):
            at = slice(region * REGION_BYTES, (region + 1) * REGION_BYTES)
            assert a[at] == b[at] or intended >> region & 1, f"region {region} differs and is not intended"
        for disk in self.disks.values():
            intended = _intended(disk)
            now, durable = disk.inodes["data"].content, disk.durable_names["data"].durable
            for region in range(-(-SIZE_BYTES // REGION_BYTES)):
                at = slice(region * REGION_BYTES, (region + 1) * REGION_BYTES)
                assert now[at] == durable[at] or intended >> region & 1, f"region {region} is not on disk"

    def _end(self) -> None:
        self._mend()
        pair = self.pair
        # A link that is up may be one whose loss is not known yet.
        pair.net.cut()
        pair.until(lambda: not pair.link.up)
        pair.until(lambda: pair.link.equal and not pair.primary.under_way and not self.freezing)
        now = self.history.tick()
        contents = [self._bytes_of(host) for host in (pair.a, pair.b)]
        assert contents[0] == contents[1], "the hosts differ"
        self._judge("at the end", 0, contents[0], now, now)
        assert not pair.link.in_doubt and not pair.a.store.in_doubt and not pair.b.store.in_doubt
        self._check_hosts()
        self._check_views()
        self._check_exports()
        pair.for_s(1.0)
        for _ in range(2):
            pair.finish(self._cleaned())
        assert not any(pair.a.store.intent.set_bits()), "regions stay intended for ever"
        self._check_hosts()
        for buffer in self.given_back:
            assert buffer == bytes([POISON]) * len(buffer), "memory was written to after it was given back"
        if self.source is not None:
            pair.hydrator.go_on()
            pair.until(lambda: not pair.a.store.missing.left)
            assert self._bytes_of(pair.a) == contents[0] == self._bytes_of(pair.b)

    def _cleaned(self) -> Steps[object]:
        assert self.pair.a.local is not None
        return (yield from clean(self.pair.primary))

    def _check_exports(self) -> None:
        """What NBD clients read is what the files say."""
        for host in (self.pair.a, self.pair.b):
            assert host.local is not None
            source = lambda: self.source  # noqa: E731
            replica = ReplicaExport(host.loop, host.local, source)
            assert self._read_export(replica) == self._bytes_of(host)
            for uid, (_generation, content) in self.frozen.items():
                view = host.local.views.usable(uid)
                if view is not None:
                    export = FrozenExport(host.loop, host.local, source, view, None)
                    assert self._read_export(export) == content

    def _read_export(self, export: ReplicaExport) -> bytes:
        content = bytearray(SIZE_BYTES)
        outcomes: list[Outcome] = []
        # An odd place to begin, and two buffers: nothing is aligned for good.
        middle = 5 * SECTOR_BYTES
        for start, end in ((0, middle), (middle, SIZE_BYTES)):
            buffers = [memoryview(content)[start : start + 700], memoryview(content)[start + 700 : end]]
            export.submit(Request(Op.READ, start, end - start, outcomes.append, buffers))
        self.pair.until(lambda: len(outcomes) == 2)
        assert outcomes == [Outcome.OK] * 2
        return bytes(content)


def _intended(disk: Disk) -> int:
    """Regions that are intended after a crash of any kind: on disk, and not about to be cleared there."""
    return int.from_bytes(disk.durable("intent"), "little") & int.from_bytes(disk.content("intent"), "little")
