"""What the keeper does next: decided from what etcd says, and nothing else. Pure.

Every copy of the service decides the same; `keeper.carry_out` looks again before anything is changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.metadata.keeping_decisions import is_due


@dataclass(frozen=True)
class Sight:
    """What there is: records by their uids; of snapshots all but those DELETED."""

    now_s: float
    snapshots: Mapping[str, r.SnapshotRecord]


@dataclass(frozen=True)
class Purge:
    """Its time in the recycle bin is over."""

    snapshot_uid: str


Action = Purge


def decide(sight: Sight) -> list[Action]:
    """What is due, in the order in which it is best done."""
    return _purges(sight)


def _purges(sight: Sight) -> list[Action]:
    due = [one for one in sight.snapshots.values() if is_due(one, sight.now_s)]
    return [Purge(one.uid) for one in sorted(due, key=lambda one: one.recycle_until_time.ToMilliseconds())]
