"""What has been found to be lost of one snapshot: all of it counted, some of it described, each object told
once to those who must not use it again.
"""

from collections.abc import Iterable, Sequence

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.extents import runs
from holdfast.metadata.verify_changes import DESCRIBED_MAX, Found
from holdfast.snapshotter.check import Bad
from holdfast.snapshotter.names import snapshot_of

RUNS_MAX = 32
"""Runs of extents described of one object."""


class Damage:
    """Args:
    found: to go on from.
    """

    def __init__(self, found: r.SnapshotVerify | None = None) -> None:
        self._described = {one.name: one for one in found.damaged} if found else {}
        self._objects = found.damaged_objects if found else 0
        self._extents = found.damaged_extents if found else 0
        self._known = set(self._described)
        self._untold: list[tuple[str, str]] = []

    def add(self, name: str, problem: str, extents: Iterable[tuple[int, int]]) -> None:
        """Extents, in half-open runs, that come after those of the object's that were said before."""
        pairs = list(extents)
        count = sum(end - first for first, end in pairs)
        self._extents += count
        if name not in self._known:
            self._known.add(name)
            self._objects += 1
            self._untold.append((snapshot_of(name), name))
            if len(self._described) < DESCRIBED_MAX:
                self._described[name] = r.DamagedObject(name=name, problem=problem)
        described = self._described.get(name)
        if described is not None:
            described.extents += count
            for first, end in pairs[: RUNS_MAX - len(described.runs) // 2]:
                described.runs.extend((first, end))

    def add_bad(self, bad: Sequence[Bad]) -> None:
        """What a check has found."""
        by_name: dict[str, list[Bad]] = {}
        for one in bad:
            by_name.setdefault(one.entry.pack.name, []).append(one)
        for name, those in by_name.items():
            self.add(name, those[0].why, runs(sorted({one.extent for one in those})))

    def found(self, done_bytes: int, read_bytes: int, next_shard: int) -> Found:
        """For the record; what was not told before is told by this."""
        told, self._untold = self._untold, []
        return Found(
            done_bytes,
            read_bytes,
            next_shard,
            [one for one in self._described.values() if one.extents],
            self._objects,
            self._extents,
            told,
        )
