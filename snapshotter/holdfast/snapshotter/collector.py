"""One collection of objects: list, cut, mark, condemn, sweep, forget, count, repack.

docs/collection.md has the order of these steps, what a crash between any two leaves, and why the listing
comes before the cut. Nothing here rests on there being one collector, or on a clock.
"""

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import DataLoss, HoldfastError, NotFound, Unavailable
from holdfast.base.ids import new_uid
from holdfast.metadata import collection_changes as changes
from holdfast.metadata import verify_changes
from holdfast.metadata.assigned import timestamp
from holdfast.metadata.cas import Store, run
from holdfast.metadata.collection_changes import Moment
from holdfast.metadata.etcd import Compacted
from holdfast.metadata.snapshot_changes import Claimant
from holdfast.snapshotter import collect_clock, collect_owner, collect_roots
from holdfast.snapshotter.collect_candidates import Candidates
from holdfast.snapshotter.collect_cut import Cut, read_cut
from holdfast.snapshotter.collect_damaged import DamagedNames
from holdfast.snapshotter.collect_mark import Marks, mark
from holdfast.snapshotter.collect_repack import Repacker
from holdfast.snapshotter.collect_roots import Verdict
from holdfast.snapshotter.collect_sweep import Fate, Fated, Judge, fates
from holdfast.snapshotter.keys import NO_KEYS, KeyService
from holdfast.snapshotter.names import ALL, parts_of, snapshot_of
from holdfast.snapshotter.objects import ObjectInfo, ObjectStore
from holdfast.snapshotter.patient import PatientStore, Stopped
from holdfast.snapshotter.sorted_rows import SortedRows

_LOG = logging.getLogger(__name__)
GRACE_S = 24 * 3600.0
COUNT_AGAIN_S = 24 * 3600.0
"""Sizes that have not changed are written anew after this, for the time of the count."""
CUT_ATTEMPTS = 5
MISSING_SAID_MAX = 20
SUSPECT_AGAIN_S = 24 * 3600.0


@dataclass
class Collector:
    """Collects when `collect` is called.

    Args:
        clock: seconds since 1970.
    """

    etcd: Store
    store: ObjectStore
    by: Claimant
    stop: threading.Event
    grace_s: float = GRACE_S
    key_service: KeyService = NO_KEYS
    clock: Callable[[], float] = time.time
    _counts: r.CollectionCounts = field(default_factory=r.CollectionCounts)
    _said: str = ""

    def __post_init__(self) -> None:
        self._patient = PatientStore(self.store, self.stop, self._waits)
        """For the long part: what is garbage stays it, however long a store is away."""

    def collect(self) -> r.CollectionCounts:
        """Once, recorded in etcd. What was found and done; raises Stopped, or what etcd raises.

        An object store that cannot be reached, or that has lost what must be kept, is a reason in etcd.
        """
        self._counts = r.CollectionCounts()
        uid = new_uid()
        cluster_uid = run(
            self.etcd, lambda draft: changes.begin(draft, self.by.snapshotter_id, uid, self.clock())
        )
        reason = ""
        try:
            collect_owner.claim(self.store, cluster_uid)
            with tempfile.TemporaryDirectory(prefix="holdfast-collect-") as folder:
                self._collect(Path(folder))
        except DataLoss as error:
            reason = f"Nothing is deleted while something that is needed cannot be read. {error.message}"
        except Unavailable as error:
            reason = error.message
        run(self.etcd, lambda draft: changes.finish(draft, self._counts, reason, self.clock()))
        self._tell(reason)
        return self._counts

    def _collect(self, folder: Path) -> None:
        now = Moment(self.clock(), collect_clock.read(self.store))
        # The listing before the cut: see docs/collection.md.
        listing = self._list(folder)
        cut = self._cut()
        verdict = collect_roots.decide(cut, now, self.grace_s)
        # Before marking, which fails while a root is damaged: one that is deleted must not be that for ever.
        self._end_roots(verdict, now)
        marks = mark(verdict.roots, self._patient, folder, self.stop)
        judge = Judge(cut, verdict, now, self.grace_s)
        damaged = DamagedNames(cut, verdict)
        every = fates(_infos(listing), marks.objects(), judge)
        exclusive, candidates = self._sweep(every, verdict, damaged)
        for uid, over in damaged.over():
            self._check()
            run(self.etcd, partial(verify_changes.forget_lost, uid=uid, names=over.names, more=over.more))
        self._forget(verdict)
        self._count(cut, verdict, marks, exclusive)
        self._repack(verdict, candidates, now)

    def _list(self, folder: Path) -> SortedRows:
        """Sorted here, since not every store lists in order."""
        rows = SortedRows(folder, "listing")
        for found in self.store.list(ALL):
            self._check()
            if parts_of(found.name) is None:
                self._counts.foreign_objects += 1
                continue
            rows.add(f"{found.name}\t{found.size_bytes}\t{found.modified_s!r}".encode("ascii"))
        return rows

    def _cut(self) -> Cut:
        for _ in range(CUT_ATTEMPTS):
            try:
                return read_cut(self.etcd)
            except Compacted:
                continue
        raise Unavailable("ETCD_COMPACTS", "etcd discarded its history while it was read: try again.")

    def _end_roots(self, verdict: Verdict, now: Moment) -> None:
        """What is a root for its grace only from now on; it was one at the cut."""
        for uid in verdict.to_condemn:
            self._check()
            self._counts.condemned += run(self.etcd, partial(changes.condemn, snapshot_uid=uid, now=now))
        for uid in verdict.formers_due:
            self._check()
            drop = partial(changes.drop_former, snapshot_uid=uid, now=now, grace_s=self.grace_s)
            run(self.etcd, drop)

    def _sweep(
        self, every: Iterable[Fated], verdict: Verdict, damaged: DamagedNames
    ) -> tuple[list[int], Candidates]:
        """Exclusive bytes by the number of the root; and objects that are mostly dead."""
        exclusive = [0] * len(verdict.roots)
        candidates = Candidates()
        counts = self._counts
        for one in every:
            self._check()
            if one.marked is not None:
                damaged.look(one.name)
            if one.fate is Fate.KEPT:
                counts.kept_objects += 1
                counts.kept_bytes += one.size_bytes
                if one.marked is not None:
                    if one.marked.owner >= 0:
                        exclusive[one.marked.owner] += one.size_bytes
                    candidates.look(one.marked, one.size_bytes)
            elif one.fate is Fate.WAITING:
                counts.waiting_objects += 1
                counts.waiting_bytes += one.size_bytes
            elif one.fate is Fate.FREED:
                self._patient.delete(one.name)
                counts.freed_objects += 1
                counts.freed_bytes += one.size_bytes
                _LOG.debug("object %s is deleted: nothing leads to it", one.name)
            else:
                self._look_for(one, verdict)
        return exclusive, candidates

    def _look_for(self, one: Fated, verdict: Verdict) -> None:
        """It may have come after the listing, which is no loss. If it is one, who has it is verified."""
        try:
            self._patient.size(one.name)
            return
        except NotFound:
            self._counts.missing_objects += 1
        if self._counts.missing_objects > MISSING_SAID_MAX:
            return
        _LOG.error("object %s is lost: a snapshot leads to it, and it is not there", one.name)
        owner = one.marked.owner if one.marked else -1
        uid = verdict.roots[owner].snapshot_uid if owner >= 0 else snapshot_of(one.name)
        run(self.etcd, lambda draft: verify_changes.suspect(draft, uid, SUSPECT_AGAIN_S, self.clock()))

    def _forget(self, verdict: Verdict) -> None:
        for uid in sorted(verdict.forgettable):
            self._check()
            self._counts.forgotten += run(self.etcd, partial(changes.forget, snapshot_uid=uid))

    def _count(self, cut: Cut, verdict: Verdict, marks: Marks, exclusive: list[int]) -> None:
        now_s = self.clock()
        for root, counted, alone_bytes in zip(verdict.roots, marks.counted, exclusive, strict=True):
            snapshot = cut.snapshots[root.snapshot_uid]
            if snapshot.state not in changes.MANIFEST_STANDS or snapshot.manifest != root.manifest:
                continue
            sizes = r.SizesRecord(
                snapshot_uid=root.snapshot_uid,
                logical_bytes=counted.logical_bytes,
                stored_bytes=counted.stored_bytes,
                exclusive_bytes=alone_bytes if root.alone else 0,
                count_time=timestamp(now_s),
            )
            if _says_more(sizes, cut.sizes.get(root.snapshot_uid)):
                self._check()
                run(self.etcd, partial(changes.set_sizes, counted=sizes))

    def _repack(self, verdict: Verdict, candidates: Candidates, now: Moment) -> None:
        repacker = Repacker(self.etcd, self._patient, self.by, self.stop, self.key_service, now)
        for family, objects in candidates.by_family().items():
            self._check()
            roots = [root for root in verdict.roots if root.family == family and not root.fixed]
            try:
                done = repacker.repack(roots, objects)
            except Stopped:
                raise
            except HoldfastError as error:
                # What was written for it is garbage; whatever was recorded is right.
                _LOG.warning("packs were left as they are: %s", error.message)
                continue
            self._counts.repacked_objects += done.objects
            self._counts.repacked_written_bytes += done.written_bytes
            self._counts.repacked_dead_bytes += done.dead_bytes

    def _waits(self, reason: str) -> None:
        """From any thread. Each sentence is recorded once; if that cannot be, it is in the log."""
        if reason == self._said:
            return
        self._said = reason
        if reason:
            _LOG.warning("collection waits: %s", reason)
        with suppress(HoldfastError):
            run(self.etcd, lambda draft: changes.waits(draft, reason))

    def _check(self) -> None:
        if self.stop.is_set():
            raise Stopped

    def _tell(self, reason: str) -> None:
        counts = self._counts
        if reason:
            _LOG.error("collection failed, and will be tried again: %s", reason)
        _LOG.info(
            "collection: freed %d objects (%d bytes), kept %d (%d bytes), %d (%d bytes) wait for their "
            "grace; condemned %d snapshots, forgot %d; repacked %d (%d bytes written, %d dead); %d lost",
            counts.freed_objects, counts.freed_bytes, counts.kept_objects, counts.kept_bytes,
            counts.waiting_objects, counts.waiting_bytes, counts.condemned, counts.forgotten,
            counts.repacked_objects, counts.repacked_written_bytes, counts.repacked_dead_bytes,
            counts.missing_objects,
        )  # fmt: skip


def _infos(listing: SortedRows) -> Iterator[ObjectInfo]:
    for row in listing.sorted():
        name, size_bytes, modified_s = row.decode("ascii").split("\t")
        yield ObjectInfo(name, int(size_bytes), float(modified_s))


def _says_more(now: r.SizesRecord, before: r.SizesRecord | None) -> bool:
    if before is None:
        return True
    same = (now.logical_bytes, now.stored_bytes, now.exclusive_bytes) == (
        before.logical_bytes, before.stored_bytes, before.exclusive_bytes,
    )  # fmt: skip
    return not same or now.count_time.seconds - before.count_time.seconds >= COUNT_AGAIN_S
