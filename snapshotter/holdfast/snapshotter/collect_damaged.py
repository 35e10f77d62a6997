"""Which lost objects need not be known any more: those that nothing leads to.

`damaged/<uid>` names lost objects so that no upload uses them again. An upload uses what its base leads to, a
base is a root, and what no root leads to at a cut never will be led to again (docs/collection.md): so a name
goes when it is in the record at a cut and no root leads to it. That is the case after a repair, when the
manifest before it has had its grace, and when the snapshots that used it are gone.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.snapshotter.collect_cut import Cut
from holdfast.snapshotter.collect_roots import Verdict
from holdfast.snapshotter.names import parts_of, snapshot_of


class Over(NamedTuple):
    """What of one record is over."""

    names: frozenset[str]
    more: bool
    """Those that are not named as well."""


class DamagedNames:
    """Those of a cut. Told of each object that a root leads to; then `over` says what may go."""

    def __init__(self, cut: Cut, verdict: Verdict) -> None:
        self._records: Mapping[str, r.DamagedRecord] = cut.damaged
        self._left = {name for one in cut.damaged.values() for name in one.names}
        self._kept_uids = set(verdict.open_uids)
        for name in list(self._left):
            parts = parts_of(name)
            # Of what is still being written nobody knows yet what will lead to it.
            if parts is None or parts.snapshot_uid in verdict.open_uids or parts.writer in cut.writers:
                self._left.discard(name)

    def look(self, name: str) -> None:
        """A root leads to it."""
        self._left.discard(name)
        uid = snapshot_of(name)
        if uid in self._records:
            self._kept_uids.add(uid)

    def over(self) -> Iterable[tuple[str, Over]]:
        """By the uid of the record."""
        for uid, record in self._records.items():
            names = frozenset(record.names) & self._left
            more = record.more and uid not in self._kept_uids
            if names or more:
                yield uid, Over(names, more)
