"""The whole life of a snapshot while the object store goes wrong: right, or told; never a wrong byte."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from store_stage import OTHER, OWNER, Stage, wrong_and_lost

from holdfast.api.grant.v1 import grant_pb2 as gb
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.snapshot.v1 import snapshot_pb2 as sb
from holdfast.api.volume.v1 import volume_pb2 as vb
from holdfast.base.limits import EXTENT_BYTES, MIB
from holdfast.lab.s3_chance import Chance
from holdfast.lab.s3_proxy import Asked, Fault
from holdfast.metadata import keys
from holdfast.snapshotter.testing import ModelView, ModelVolume

SIZE_BYTES = 600 * MIB
"""Two shards."""
WITHOUT = (Fault.VANISHED_LATER,)
"""Left out of the chance ones: nobody can do anything about an object that is there when it is asked for and
gone afterwards. It has cases of its own."""


@dataclass
class Told:
    """What a cycle came to."""

    faults: int = 0
    kills: int = 0
    seconds: float = 0.0
    lost: dict[str, int] = field(default_factory=dict)
    """Extents that were errors, by where they were read."""


class Killer:
    """Kills a snapshotter at set numbers of requests, and starts it again.

    A chooser of faults may be given, which decides about the requests.
    """

    def __init__(self, stage: Stage, at: Sequence[int], chance: Chance) -> None:
        self._stage = stage
        self._at = sorted(at, reverse=True)
        self._chance = chance
        self._asked = 0
        self._due = threading.Semaphore(0)
        self._over = False
        self.kills = 0
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def __call__(self, asked: Asked) -> Fault | None:
        self._asked += 1
        if self._at and self._asked >= self._at[-1]:
            self._at.pop()
            self._due.release()
        return self._chance(asked)

    def end(self) -> None:
        self._over = True
        self._due.release()
        self._thread.join()

    def _work(self) -> None:
        names = ("one", "two")
        while True:
            self._due.acquire()
            if self._over:
                return
            name = names[self.kills % 2]
            self.kills += 1
            self._stage.kill(name)
            self._stage.start(name)


def scribble(chance: Random, volume: ModelVolume, writes: int) -> None:
    for _ in range(writes):
        length = chance.choice([4096, 70_000, EXTENT_BYTES, MIB])
        offset = chance.randrange(0, (SIZE_BYTES - length) // 4096) * 4096
        noise = chance.random() < 0.7
        volume.write(offset, chance.randbytes(length) if noise else b"holdfast" * (length // 8))
    first = chance.randrange(0, SIZE_BYTES // EXTENT_BYTES - 16)
    volume.discard(first, first + chance.randrange(1, 16))


def play(stage: Stage, seed: int, rate: float, kills: int, name: str) -> Told:
    """One cycle under faults by chance. Raises AssertionError where something is not as it must be."""
    chance, told, began_s = Random(seed), Told(), time.monotonic()
    stage.new_bucket(f"cycle-{name}")
    stage.proxy.mend()
    stage.proxy.done.clear()
    for snapshotter in ("one", "two"):
        stage.start(snapshotter)
    killer = Killer(stage, [chance.randrange(3, 160) for _ in range(kills)], Chance(seed, rate, WITHOUT))
    stage.proxy.chooser = killer
    try:
        volume = ModelVolume(SIZE_BYTES)
        scribble(chance, volume, 16)
        first = volume.freeze()
        base = stage.completed(stage.freeze(f"{name}-first", first))
        scribble(chance, volume, 6)
        second = volume.freeze()
        record = stage.completed(stage.freeze(f"{name}-second", second, base))
        use(stage, name, record, second, told)
        check(stage, "first, over NBD", base, first, told)
    finally:
        killer.end()
        told.faults, told.kills = len(stage.proxy.done), killer.kills
        stage.proxy.mend()
    verify(stage, (base, record))
    told.seconds = time.monotonic() - began_s
    stage.kill_all()
    return told


def use(stage: Stage, name: str, record: r.SnapshotRecord, view: ModelView, told: Told) -> None:
    """Read it as its owner; grant it; read a volume that was made from it, while it is filled and after."""
    check(stage, "second, over NBD", record, view, told)
    uid = make_volume(stage, record.snapshot_id, f"{name}-volume")
    wrong, told.lost["volume"] = wrong_and_lost(lambda: stage.open_volume(uid), view)[0], 0
    assert not wrong, f"the volume differs in extents {wrong}"
    stage.await_record(
        keys.volume(uid),
        r.VolumeRecord,
        lambda one: bool(one.hydrate_total_bytes) and not one.hydrate_remaining_bytes,
    )
    for host in ("host-a", "host-b"):
        wrong, lost = wrong_and_lost(lambda host=host: stage.open_volume(uid, host), view)
        assert not wrong and not lost, f"{host} differs in extents {wrong}, and has lost {lost}"
    delete_volume(stage, f"{name}-volume")


def check(stage: Stage, where: str, record: r.SnapshotRecord, view: ModelView, told: Told) -> None:
    """Read a snapshot as its owner: every byte is right, or it is told. Nothing was damaged at rest here."""
    wrong, lost = wrong_and_lost(lambda: stage.open_snapshot(record.uid, OWNER), view)
    assert not wrong, f"{where}: extents {wrong} are wrong"
    told.lost[where] = len(lost)


def make_volume(stage: Stage, snapshot_id: str, volume_id: str) -> str:
    """OTHER's, from what they are granted; its uid when it is AVAILABLE."""
    stage.metadata.client(OWNER).grants.CreateGrant(
        gb.CreateGrantRequest(snapshot_id=snapshot_id, user=OTHER)
    )
    client = stage.metadata.client(OTHER)
    source = vb.SnapshotRef(owner=OWNER, snapshot_id=snapshot_id)
    request = vb.CreateVolumeRequest(volume_id=volume_id, source_snapshot=source)
    uid = client.volumes.CreateVolume(request).volume.uid
    stage.await_record(keys.volume(uid), r.VolumeRecord, lambda one: one.state == r.VOLUME_STATE_AVAILABLE)
    return uid  # type: ignore[no-any-return]


def delete_volume(stage: Stage, volume_id: str) -> None:
    client = stage.metadata.client(OTHER)
    client.volumes.DeleteVolume(vb.DeleteVolumeRequest(volume_id=volume_id))


def verify(stage: Stage, records: Sequence[r.SnapshotRecord]) -> None:
    """With an object store that is well again, everything that is COMPLETED is whole."""
    for record in records:
        now = verified(stage, record)
        assert now.health == r.SNAPSHOT_HEALTH_GOOD, f"{record.snapshot_id} is damaged: {now.verify}"


def verified(stage: Stage, record: r.SnapshotRecord) -> r.SnapshotRecord:
    """The record after a verification of all of it, asked for by its owner."""
    request = sb.VerifySnapshotRequest(snapshot_id=record.snapshot_id)
    number = stage.metadata.client(OWNER).snapshots.VerifySnapshot(request).snapshot.verify.request

    def is_done(one: r.SnapshotRecord) -> bool:
        return one.verify.request >= number and one.verify.state == r.SNAPSHOT_VERIFY_STATE_DONE

    return stage.snapshot(record.uid, is_done)
