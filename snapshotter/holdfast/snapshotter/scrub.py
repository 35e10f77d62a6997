"""Verifying one snapshot: its index, and the stored bytes of its extents, all or a sample of them.

Memory: a shard, a fetch, and the numbers of what was found. It goes on from any shard.
"""

import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Mapping
from random import Random

from holdfast.base.errors import DataLoss, NotFound
from holdfast.base.extents import runs
from holdfast.base.limits import EXTENT_BYTES
from holdfast.metadata.verify_changes import Found
from holdfast.snapshotter.check import Checker, word_for
from holdfast.snapshotter.damage import Damage
from holdfast.snapshotter.index import Index
from holdfast.snapshotter.manifest import ShardRef, extents_of
from holdfast.snapshotter.patient import PatientStore, Stopped
from holdfast.snapshotter.shard import SHARD_EXTENTS, Entry, Shard

Report = Callable[[Found], None]


class GoodLately:
    """Stored extents that were found to be good a little while ago, by where they are: what several snapshots
    share need not be read for each. For one thread.

    Args:
        most: so many are remembered; those seen longest ago are forgotten.
    """

    def __init__(self, fresh_s: float, clock: Callable[[], float], most: int = 1 << 20) -> None:
        self._fresh_s = fresh_s
        self._clock = clock
        self._most = most
        self._count = 0
        self._offsets: OrderedDict[tuple[str, int], tuple[array[int], float]] = OrderedDict()

    def holds(self, shard: int, pack: str, entries: Mapping[int, Entry]) -> bool:
        """Whether all of `entries`, which are in `pack`, are known to be good."""
        known, since_s = self._offsets.get((pack, shard), (array("Q"), 0.0))
        if self._clock() - since_s > self._fresh_s:
            return False
        return set(known) >= {entry.offset for entry in entries.values()}

    def add(self, shard: int, pack: str, entries: Mapping[int, Entry]) -> None:
        before, _ = self._offsets.pop((pack, shard), (array("Q"), 0.0))
        offsets = array("Q", sorted({entry.offset for entry in entries.values()}))
        self._count += len(offsets) - len(before)
        self._offsets[pack, shard] = (offsets, self._clock())
        while self._count > self._most:
            _, (dropped, _) = self._offsets.popitem(last=False)
            self._count -= len(dropped)


class Scrub:
    """Of one snapshot that can be opened. `run` it once.

    Args:
        sample_percent: of the extents' bytes; with less than 100, the length of every pack is asked for too.
        before: called before so many bytes are read; may wait, or raise.
        damage: what an earlier run has found, below `first_shard`.
        lately: what need not be read again; None: everything is.
    """

    def __init__(
        self,
        index: Index,
        store: PatientStore,
        stop: threading.Event,
        sample_percent: int,
        before: Callable[[int], None],
        report: Report,
        damage: Damage,
        first_shard: int = 0,
        read_bytes: int = 0,
        lately: GoodLately | None = None,
    ) -> None:
        self._index = index
        self._store = store
        self._stop = stop
        self._share = sample_percent / 100
        self._before = before
        self._report = report
        self._damage = damage
        self._first_shard = first_shard
        self._lately = lately
        self._chance = Random()
        self._checker = Checker(store, index.keys, before)
        self._checker.read_bytes = read_bytes
        self._done_extents = sum(ref.entries for ref in index.manifest.shards if ref.shard < first_shard)

    def run(self) -> Found:
        """What was found in all. Raises Stopped, KeyUnavailable, and what `report` raises."""
        last = self._first_shard
        for ref in self._index.manifest.shards:
            if ref.shard < self._first_shard:
                continue
            if self._stop.is_set():
                raise Stopped
            self._before(ref.length)
            shard = self._load(ref)
            if shard is not None:
                self._check(ref.shard, shard.entries())
            self._done_extents += ref.entries
            last = ref.shard + 1
            self._report(self._found(last))
        return self._found(last)

    def _found(self, next_shard: int) -> Found:
        return self._damage.found(self._done_extents * EXTENT_BYTES, self._checker.read_bytes, next_shard)

    def _load(self, ref: ShardRef) -> Shard | None:
        """A shard; None if its index is lost, which is noted."""
        for look in (1, 2):
            try:
                return self._index.load(ref)
            except DataLoss as error:
                if look == 2:
                    total = extents_of(self._index.manifest.size_bytes)
                    first = ref.shard * SHARD_EXTENTS
                    end = min(total, first + SHARD_EXTENTS)
                    self._damage.add(ref.where.name, word_for(error), [(first, end)])
        return None

    def _check(self, number: int, entries: Mapping[int, Entry]) -> None:
        by_pack: dict[str, dict[int, Entry]] = {}
        for extent, entry in entries.items():
            by_pack.setdefault(entry.pack.name, {})[extent] = entry
        for pack, those in by_pack.items():
            if self._lately and self._lately.holds(number, pack, those):
                continue
            wanted = those if self._share >= 1 else self._sample(those)
            bad = [] if self._share < 1 and self._is_short(pack, those) else self._checker.bad_of(wanted)
            self._damage.add_bad(bad)
            if self._lately and not bad and self._share >= 1:
                self._lately.add(number, pack, those)

    def _sample(self, entries: Mapping[int, Entry]) -> dict[int, Entry]:
        """At least one."""
        chosen = {extent: entry for extent, entry in entries.items() if self._chance.random() < self._share}
        return chosen or dict([self._chance.choice(list(entries.items()))])

    def _is_short(self, pack: str, entries: Mapping[int, Entry]) -> bool:
        """Whether a pack is not there, or not whole; noted if so."""
        due = next(iter(entries.values())).pack.size_bytes
        try:
            problem = "" if self._store.size(pack) == due else "short"
        except NotFound:
            problem = "missing"
        if problem:
            self._damage.add(pack, problem, runs(sorted(entries)))
        return bool(problem)
