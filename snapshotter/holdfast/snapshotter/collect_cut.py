"""All records that a collection of objects decides on, as they were at one revision of etcd.

One revision for all pages of all prefixes: a snapshot that began between two pages, from a base that was
deleted then, would be overlooked.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.metadata import keys
from holdfast.metadata.cas import Store
from holdfast.metadata.records import M, decode

PAGE_RECORDS = 500


@dataclass(frozen=True)
class SnapshotFacts:
    """What counts of a snapshot's record."""

    uid: str
    volume_uid: str
    state: "r.SnapshotState.ValueType"
    manifest: str
    manifest_sha256: str
    base_uid: str
    base_manifest: str
    complete_s: float
    former: tuple[r.FormerManifest, ...] = ()

    @classmethod
    def of(cls, record: r.SnapshotRecord) -> "SnapshotFacts":
        return cls(
            record.uid,
            record.volume_uid,
            record.state,
            record.manifest,
            record.manifest_sha256,
            record.base_snapshot_uid,
            record.base_manifest,
            record.complete_time.ToMilliseconds() / 1000,
            tuple(record.former_manifests),
        )


@dataclass(frozen=True)
class OriginFacts:
    """What counts of a volume that was made from a snapshot."""

    volume_uid: str
    origin_uid: str
    reads_it: bool
    """It still misses extents, or is not known to miss none."""


@dataclass
class Cut:
    snapshots: dict[str, SnapshotFacts] = field(default_factory=dict)
    origins: list[OriginFacts] = field(default_factory=list)
    condemned: dict[str, r.CondemnedRecord] = field(default_factory=dict)
    writers: set[str] = field(default_factory=set)
    """Of objects that are being rewritten."""
    sizes: dict[str, r.SizesRecord] = field(default_factory=dict)
    damaged: dict[str, r.DamagedRecord] = field(default_factory=dict)


def read_cut(etcd: Store) -> Cut:
    """Raises Unavailable, Compacted (read it again), DataLoss if a record cannot be read."""
    cut = Cut()
    revision = etcd.range(keys.COLLECTION, limit=1)[1]
    for snapshot in _records(etcd, keys.SNAPSHOTS, r.SnapshotRecord, revision):
        cut.snapshots[snapshot.uid] = SnapshotFacts.of(snapshot)
    for volume in _records(etcd, keys.VOLUMES, r.VolumeRecord, revision):
        if volume.origin_snapshot_uid:
            cut.origins.append(OriginFacts(volume.uid, volume.origin_snapshot_uid, _reads_origin(volume)))
    for condemned in _records(etcd, keys.CONDEMNED, r.CondemnedRecord, revision):
        cut.condemned[condemned.snapshot_uid] = condemned
    for rewrite in _records(etcd, keys.REWRITES, r.RewriteRecord, revision):
        cut.writers.add(rewrite.writer)
    for damaged in _records(etcd, keys.DAMAGED, r.DamagedRecord, revision):
        cut.damaged[damaged.snapshot_uid] = damaged
    for counted in _records(etcd, keys.SIZES, r.SizesRecord, revision):
        cut.sizes[counted.snapshot_uid] = counted
    return cut


def _reads_origin(volume: r.VolumeRecord) -> bool:
    """A volume that is not served now may have lost what it had not flushed: it says so when it is again."""
    if volume.state == r.VOLUME_STATE_CREATING:
        return True
    if volume.state != r.VOLUME_STATE_AVAILABLE:
        return False
    served = volume.health.state in (r.HEALTH_STATE_HEALTHY, r.HEALTH_STATE_DEGRADED)
    return not served or volume.hydrate_remaining_bytes > 0


def _records(etcd: Store, prefix: str, message_type: type[M], revision: int) -> Iterator[M]:
    after = ""
    while True:
        entries, _ = etcd.range(prefix, PAGE_RECORDS, after, revision)
        for entry in entries:
            yield decode(message_type, entry.value)
        if len(entries) < PAGE_RECORDS:
            return
        after = entries[-1].key
