"""What must be kept, from a cut of the records: a decision, without a clock of its own or a store.

docs/collection.md lists the roots, and proves that what they do not lead to stays garbage.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from holdfast.metadata.collection_changes import ENDED_UNWANTED, MANIFEST_STANDS, Moment
from holdfast.metadata.snapshot_changes import UNDER_WAY
from holdfast.snapshotter.collect_cut import Cut, SnapshotFacts


@dataclass
class Root:
    """A manifest that must stay readable."""

    manifest: str
    sha256: str
    snapshot_uid: str
    family: int
    """Snapshots of different families share no packs, but for families that have lost what linked them."""
    alone: bool = True
    """It is a root for being this snapshot's manifest, and for nothing else."""
    fixed: bool = False
    """It cannot be replaced by another manifest now."""


@dataclass
class Verdict:
    """What a cut means."""

    roots: list[Root] = field(default_factory=list)
    open_uids: set[str] = field(default_factory=set)
    """Everything of theirs is kept: of open snapshots, and of those in their grace that never completed."""
    to_condemn: list[str] = field(default_factory=list)
    over: set[str] = field(default_factory=set)
    """Condemned, their grace is over, and nothing relies on them."""
    forgettable: set[str] = field(default_factory=set)
    """Of these, those whose records nobody needs."""
    formers_due: list[str] = field(default_factory=list)
    """Snapshots with former manifests whose grace is over; these are roots until the next cut."""


def decide(cut: Cut, now: Moment, grace_s: float) -> Verdict:
    return _Decision(cut, now, grace_s).made()


class _Decision:
    def __init__(self, cut: Cut, now: Moment, grace_s: float) -> None:
        self._cut = cut
        self._now = now
        self._grace_s = grace_s
        self._families = _Families(cut)
        self._relied_on = _relied_on(cut)
        self._roots: dict[str, Root] = {}
        self._verdict = Verdict()

    def made(self) -> Verdict:
        verdict = self._verdict
        for snapshot in self._cut.snapshots.values():
            self._look(snapshot)
            for former in snapshot.former:
                self._root(former.manifest, "", snapshot, alone=False, fixed=True)
            if any(self._now.is_past(former.since, self._grace_s) for former in snapshot.former):
                verdict.formers_due.append(snapshot.uid)
        verdict.forgettable = verdict.over - {one.origin_uid for one in self._cut.origins}
        verdict.roots = [self._roots[manifest] for manifest in sorted(self._roots)]
        return verdict

    def _look(self, snapshot: SnapshotFacts) -> None:
        uid = snapshot.uid
        if snapshot.state in UNDER_WAY:
            self._verdict.open_uids.add(uid)
            if snapshot.base_manifest:
                self._root(snapshot.base_manifest, "", snapshot, alone=False, fixed=True)
        elif snapshot.state in MANIFEST_STANDS:
            self._own_root(snapshot, alone=uid not in self._relied_on, fixed=False)
        elif snapshot.state in ENDED_UNWANTED:
            self._ended(snapshot)
        else:
            raise AssertionError(f"snapshot {uid} is in state {snapshot.state}, of which nothing is known")

    def _ended(self, snapshot: SnapshotFacts) -> None:
        uid = snapshot.uid
        condemned = self._cut.condemned.get(uid)
        relied_on = uid in self._relied_on
        if condemned and not relied_on and self._now.is_past(condemned.since, self._grace_s):
            self._verdict.over.add(uid)
            return
        if snapshot.manifest:
            self._own_root(snapshot, alone=False, fixed=True)
        else:
            self._verdict.open_uids.add(uid)
        if condemned is None and not relied_on:
            self._verdict.to_condemn.append(uid)

    def _own_root(self, snapshot: SnapshotFacts, alone: bool, fixed: bool) -> None:
        self._root(snapshot.manifest, snapshot.manifest_sha256, snapshot, alone, fixed)

    def _root(self, manifest: str, sha256: str, snapshot: SnapshotFacts, alone: bool, fixed: bool) -> None:
        found = self._roots.get(manifest)
        if found is None:
            found = Root(manifest, sha256, snapshot.uid, self._families.number(snapshot.uid))
            self._roots[manifest] = found
        if sha256:
            # Others may have named it first, as their base.
            found.sha256, found.snapshot_uid = sha256, snapshot.uid
        found.alone = found.alone and alone
        found.fixed = found.fixed or fixed


def _relied_on(cut: Cut) -> set[str]:
    """Snapshots that something beside themselves needs to be readable."""
    under_way = [one for one in cut.snapshots.values() if one.state in UNDER_WAY]
    found = {one.base_uid for one in under_way if one.base_uid}
    freezing = {one.volume_uid for one in under_way}
    found |= {one.origin_uid for one in cut.origins if one.reads_it or one.volume_uid in freezing}
    return found


class _Families:
    """Snapshots that may share packs: of one volume, or linked by a base or an origin."""

    def __init__(self, cut: Cut) -> None:
        self._parent: dict[str, str] = {}
        self._numbers: dict[str, int] = defaultdict(lambda: len(self._numbers))
        for snapshot in cut.snapshots.values():
            self._join(snapshot.uid, "volume " + snapshot.volume_uid)
            if snapshot.base_uid:
                self._join(snapshot.uid, snapshot.base_uid)
        for one in cut.origins:
            self._join("volume " + one.volume_uid, one.origin_uid)

    def number(self, uid: str) -> int:
        return self._numbers[self._top(uid)]

    def _top(self, uid: str) -> str:
        path = []
        while (above := self._parent.setdefault(uid, uid)) != uid:
            path.append(uid)
            uid = above
        for one in path:
            self._parent[one] = uid
        return uid

    def _join(self, one: str, other: str) -> None:
        self._parent[self._top(one)] = self._top(other)
