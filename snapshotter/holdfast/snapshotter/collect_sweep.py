"""Sweeping: the listing beside the marks, both by name; what is to become of each object."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from holdfast.metadata.collection_changes import Moment
from holdfast.snapshotter.collect_cut import Cut
from holdfast.snapshotter.collect_mark import Marked
from holdfast.snapshotter.collect_roots import Verdict
from holdfast.snapshotter.names import Parts, parts_of
from holdfast.snapshotter.objects import ObjectInfo


class Fate(Enum):
    KEPT = "kept"
    """A root leads to it, or its snapshot is open."""
    WAITING = "waiting"
    """Garbage; its grace is not over."""
    FREED = "freed"
    MISSING = "missing"
    """A root leads to it, and it was not in the listing."""


class Fated(NamedTuple):
    name: str
    size_bytes: int
    fate: Fate
    marked: Marked | None


@dataclass(frozen=True)
class Judge:
    """Decides about objects that no root leads to."""

    cut: Cut
    verdict: Verdict
    now: Moment
    grace_s: float

    def judge(self, found: ObjectInfo) -> Fate:
        parts = parts_of(found.name)
        assert parts is not None, "the listing leaves out what is not ours"
        if parts.snapshot_uid in self.verdict.open_uids or parts.writer in self.cut.writers:
            return Fate.KEPT
        if parts.snapshot_uid in self.verdict.over:
            return Fate.FREED
        return Fate.FREED if self._is_old(found, parts) else Fate.WAITING

    def _is_old(self, found: ObjectInfo, parts: Parts) -> bool:
        """By the store's own clock of the object, and by the collector's of its snapshot's completion, if
        there is a record of that."""
        snapshot = self.cut.snapshots.get(parts.snapshot_uid)
        return self.now.store_s - found.modified_s >= self.grace_s and (
            snapshot is None or self.now.collector_s - snapshot.complete_s >= self.grace_s
        )


def fates(listing: Iterable[ObjectInfo], marks: Iterable[Marked], judge: Judge) -> Iterator[Fated]:
    """Of every object in either; both ascend by name."""
    marked_ones = iter(marks)
    marked = next(marked_ones, None)
    for found in listing:
        while marked is not None and marked.name < found.name:
            yield Fated(marked.name, 0, Fate.MISSING, marked)
            marked = next(marked_ones, None)
        if marked is not None and marked.name == found.name:
            yield Fated(found.name, found.size_bytes, Fate.KEPT, marked)
            marked = next(marked_ones, None)
        else:
            yield Fated(found.name, found.size_bytes, judge.judge(found), None)
    while marked is not None:
        yield Fated(marked.name, 0, Fate.MISSING, marked)
        marked = next(marked_ones, None)
