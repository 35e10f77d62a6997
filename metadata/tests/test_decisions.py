"""Random histories of users, hosts and snapshotters over a store that loses answers: invariants hold.

Every step is a decision carried out as the service, an agent or a snapshotter does it, in any order and
with any delay; after every step the records must agree with each other.
"""

import random
from collections.abc import Callable
from functools import lru_cache, partial
from typing import TypeVar

import pytest

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import HoldfastError
from holdfast.metadata import (
    attachment_changes,
    attachment_decisions,
    cas,
    host_actions,
    keeping_decisions,
    keys,
    snapshot_changes,
    snapshot_decisions,
    volume_changes,
    volume_decisions,
)
from holdfast.metadata.cas import run
from holdfast.metadata.memory_store import MemoryStore
from holdfast.metadata.permissions import MAKE_VOLUMES
from holdfast.metadata.records import M, decode
from holdfast.metadata.seal import public_key
from holdfast.metadata.snapshot_changes import Claimant, Uploaded

T = TypeVar("T")
HOSTS = ("h1", "h2", "h3")
USERS = ("alice", "bob")
VOLUME_IDS, OWN_IDS = ("v",), ("x", "y", "z")
IQNS = ("iqn.2026-01.io.e:1", "iqn.2026-01.io.e:2")
SNAPSHOTTERS = [Claimant("s1", 101), Claimant("s2", 102)]
SIZE = 1 << 20
EPOCH = 1
SEEDS, STEPS = 20, 250


@lru_cache(maxsize=10_000)
def decoded(message_type: type[M], value: bytes) -> M:
    """As `decode`, once for each value; nobody here changes what it returns."""
    return decode(message_type, value)


class History:
    def __init__(self) -> None:
        self.store = MemoryStore()
        self.count = 0
        self.now_s = 1000.0
        self.locked_until_s: dict[str, int] = {}
        self.generations: dict[str, int] = {}
        self.keep: dict[tuple[str, str], int] = {}
        self.completed: dict[str, tuple[str, str]] = {}
        self.seen_volumes: set[str] = set()
        self.seen_snapshots: set[str] = set()
        for host_id in HOSTS:
            host = r.HostRecord(
                host_id=host_id,
                boot_id="b-" + host_id,
                address=host_id,
                portal=host_id + ":3260",
                capacity_bytes=20 * SIZE,
                seal_public_key=public_key(bytes(range(32))),
                exports=True,
            )
            run(self.store, lambda draft, host=host: host_actions.register(draft, host, 7))  # type: ignore[misc]

    def sleep(self, for_s: int) -> None:
        self.now_s += for_s

    def uid(self) -> str:
        self.count += 1
        return f"{self.count:024x}"

    def all(self, prefix: str, message_type: type[M]) -> dict[str, M]:
        return {
            entry.key.removeprefix(prefix): decoded(message_type, entry.value)
            for entry in self.store.range(prefix)[0]
        }

    def attempt(self, decide: object, fallback: T) -> T:
        """Carry out a decision; a refusal changes nothing, and is no failure of the history."""
        before = dict(self.store.entries)
        lost = self.store.lose_answer
        try:
            return run(self.store, decide)  # type: ignore[arg-type]
        except HoldfastError:
            assert lost or self.store.entries == before
            return fallback
        finally:
            self.store.lose_answer = False

    def create_volume(self, owner: str, volume_id: str, source: tuple[str, str] | None, multi: bool) -> None:
        source_owner, source_id = source or (owner, "")
        new = volume_decisions.NewVolume(
            owner, volume_id, 0 if source else SIZE, source_owner, source_id, multi, self.uid(), 1.0, 1.0
        )
        self.seen_volumes.add(self.attempt(lambda draft: volume_decisions.create(draft, new)[0].uid, ""))

    def delete_volume(self, owner: str, volume_id: str) -> None:
        self.attempt(lambda draft: volume_decisions.delete(draft, owner, volume_id), False)

    def host_makes_it(self, uid: str, host_id: str) -> None:
        self.attempt(lambda draft: volume_changes.became_available(draft, uid, host_id, EPOCH), False)

    def host_removes_it(self, uid: str, host_id: str) -> None:
        self.attempt(lambda draft: volume_changes.store_removed(draft, uid, host_id), False)

    def attach(self, owner: str, own_id: str, volume_id: str, iqn: str) -> None:
        new = attachment_decisions.NewAttachment(
            owner, own_id, volume_id, iqn, self.uid(), "secret", public_key(bytes(range(32))), 1.0
        )
        self.attempt(lambda draft: attachment_decisions.create(draft, new)[1], False)

    def detach(self, owner: str, own_id: str) -> None:
        self.attempt(lambda draft: attachment_decisions.delete(draft, owner, own_id), False)

    def host_attaches_or_detaches(self, uids: tuple[str, str], ready: bool) -> None:
        replica = self.all(keys.REPLICAS, r.ReplicaRecord).get(uids[0])
        if replica is not None:
            act = attachment_changes.became_ready if ready else attachment_changes.detached
            self.attempt(lambda draft: act(draft, *uids, replica.primary_host_id, EPOCH), False)

    def take_snapshot(self, owner: str, own_id: str, volume_id: str) -> None:
        new = snapshot_decisions.NewSnapshot(owner, own_id, volume_id, self.uid(), 1.0)
        made, created = self.attempt(
            lambda draft: snapshot_decisions.create(draft, new), (r.SnapshotRecord(), False)
        )
        self.seen_snapshots.add(made.uid)
        if created and made.base_snapshot_uid:
            base = self.all(keys.SNAPSHOTS, r.SnapshotRecord)[made.base_snapshot_uid]
            kept = (r.SNAPSHOT_STATE_COMPLETED, r.SNAPSHOT_STATE_RECYCLED)
            assert base.state in kept, "the objects of any other may go"

    def delete_snapshot(self, owner: str, own_id: str, at_once: bool) -> None:
        self.attempt(
            lambda draft: keeping_decisions.delete(draft, owner, own_id, at_once, self.now_s),
            r.SnapshotRecord(),
        )

    def lock_snapshot(self, owner: str, own_id: str, for_s: int) -> None:
        until_s = int(self.now_s) + for_s
        self.attempt(
            lambda draft: keeping_decisions.lock(draft, owner, own_id, until_s), (r.SnapshotRecord(), False)
        )

    def restore_snapshot(self, owner: str, uid: str, own_id: str) -> None:
        self.attempt(
            lambda draft: keeping_decisions.restore(draft, owner, uid, own_id, self.now_s),
            (r.SnapshotRecord(), False),
        )

    def purge_snapshot(self, owner: str, uid: str, by_time: bool) -> None:
        if by_time:
            self.attempt(lambda draft: keeping_decisions.purge_due(draft, uid, self.now_s), False)
        else:
            self.attempt(lambda draft: keeping_decisions.purge(draft, owner, uid), False)

    def host_freezes(self, uid: str) -> None:
        snapshot = self.all(keys.SNAPSHOTS, r.SnapshotRecord).get(uid)
        if snapshot is None or snapshot.state != r.SNAPSHOT_STATE_PENDING:
            return
        replica = self.all(keys.REPLICAS, r.ReplicaRecord)[snapshot.volume_uid]
        generation = self.generations[snapshot.volume_uid] = self.generations.get(snapshot.volume_uid, 0) + 1
        primary = replica.primary_host_id
        self.attempt(
            lambda draft: snapshot_changes.frozen(
                draft, snapshot.volume_uid, uid, primary, EPOCH, generation, 2.0, HOSTS
            ),
            False,
        )

    def claim(self, uid: str, by: Claimant) -> None:
        self.attempt(lambda draft: snapshot_changes.claim(draft, uid, by), False)

    def release(self, uid: str, by: Claimant) -> None:
        self.attempt(lambda draft: snapshot_changes.release(draft, uid, by), False)

    def complete(self, uid: str, by: Claimant) -> None:
        uploaded = Uploaded(f"manifest-{uid}-{self.count}", "ab", 1, 2)
        self.attempt(lambda draft: snapshot_changes.complete(draft, uid, by, uploaded, 3.0), False)

    def complete_out_of_turn(self, chance: random.Random) -> None:
        """Some frozen snapshot is claimed and uploaded, perhaps before an older one."""
        frozen = [
            uid
            for uid, one in sorted(self.all(keys.SNAPSHOTS, r.SnapshotRecord).items())
            if one.state == r.SNAPSHOT_STATE_FROZEN and self.store.get(keys.claim(uid)) is None
        ]
        if frozen:
            uid = chance.choice(frozen)
            self.claim(uid, SNAPSHOTTERS[0])
            self.complete(uid, SNAPSHOTTERS[0])

    def view_is_lost(self, uid: str, host_id: str) -> None:
        self.attempt(lambda draft: snapshot_changes.strike_off(draft, uid, host_id, "Lost."), False)

    def steps_of_volumes(self) -> list[Callable[[], None]]:
        primaries = {
            uid: one.primary_host_id for uid, one in self.all(keys.REPLICAS, r.ReplicaRecord).items()
        }
        steps: list[Callable[[], None]] = []
        for uid, volume in self.all(keys.VOLUMES, r.VolumeRecord).items():
            if volume.state == r.VOLUME_STATE_CREATING:
                steps.append(partial(self.host_makes_it, uid, primaries[uid]))
        for (host_id, uid), one in self.assignments().items():
            if one.deleting:
                steps.append(partial(self.host_removes_it, uid, host_id))
        for one in self.all(keys.PREFIX + "attachments/", r.AttachmentRecord).values():
            ready = one.state == r.ATTACHMENT_STATE_PENDING
            if one.state != r.ATTACHMENT_STATE_READY:
                steps.append(partial(self.host_attaches_or_detaches, (one.volume_uid, one.uid), ready))
        return steps

    def steps_of_snapshots(self, by: Claimant) -> list[Callable[[], None]]:
        steps: list[Callable[[], None]] = []
        for uid, one in self.all(keys.SNAPSHOTS, r.SnapshotRecord).items():
            entry = self.store.get(keys.claim(uid))
            if one.state == r.SNAPSHOT_STATE_PENDING:
                steps.append(partial(self.host_freezes, uid))
            elif one.state == r.SNAPSHOT_STATE_FROZEN and entry is None:
                steps.append(partial(self.claim, uid, by))
            elif one.state == r.SNAPSHOT_STATE_FROZEN and entry is not None:
                holder = next(each for each in SNAPSHOTTERS if each.lease_id == entry.lease_id)
                steps.append(partial(self.complete, uid, holder))
        return steps

    def grant(self, owner: str, own_id: str, user: str, give: bool) -> None:
        if give:
            new = snapshot_decisions.NewGrant(owner, own_id, user, (MAKE_VOLUMES,), 1.0)
            self.attempt(lambda draft: snapshot_decisions.create_grant(draft, new)[1], False)
        else:
            self.attempt(lambda draft: snapshot_decisions.delete_grant(draft, owner, own_id, user), False)

    def assignments(self) -> dict[tuple[str, str], r.Assignment]:
        found = self.all(keys.PREFIX + "assignments/", r.Assignment)
        return {(key.split("/")[0], key.split("/")[1]): value for key, value in found.items()}

    def names_lead_to_their_records(self) -> None:
        names = self.all(keys.PREFIX + "names/", r.NameRecord)
        volumes = self.all(keys.VOLUMES, r.VolumeRecord)
        snapshots = self.all(keys.SNAPSHOTS, r.SnapshotRecord)
        attachments = self.all(keys.PREFIX + "attachments/", r.AttachmentRecord)
        wanted = {f"volumes/{one.owner}/{one.volume_id}": one.uid for one in volumes.values()}
        wanted |= {
            f"snapshots/{one.owner}/{one.snapshot_id}": one.uid
            for one in snapshots.values()
            if one.state not in (r.SNAPSHOT_STATE_DELETED, r.SNAPSHOT_STATE_RECYCLED)
        }
        wanted |= {
            f"recycled/{one.owner}/{one.uid}": one.uid
            for one in snapshots.values()
            if one.state == r.SNAPSHOT_STATE_RECYCLED
        }
        wanted |= {f"attachments/{one.owner}/{one.attachment_id}": one.uid for one in attachments.values()}
        assert {key: name.uid for key, name in names.items()} == wanted

    def hosts_promise_what_they_are_assigned(self) -> None:
        assignments = self.assignments()
        for host_id, host in self.all(keys.HOSTS, r.HostRecord).items():
            own = [one for (at, _), one in assignments.items() if at == host_id]
            assert host.allocated_bytes == sum(one.size_bytes for one in own) <= host.capacity_bytes
            assert len({one.nbd_port for one in own}) == len(own)

    def assignments_say_what_the_records_say(self) -> None:
        volumes = self.all(keys.VOLUMES, r.VolumeRecord)
        replicas = self.all(keys.REPLICAS, r.ReplicaRecord)
        assert volumes.keys() == replicas.keys()
        snapshots = self.all(keys.SNAPSHOTS, r.SnapshotRecord).values()
        attachments = self.all(keys.PREFIX + "attachments/", r.AttachmentRecord).values()
        for (host_id, uid), one in self.assignments().items():
            volume = volumes[uid]
            assert one.deleting == (volume.state == r.VOLUME_STATE_DELETING)
            assert one.initialized or volume.state != r.VOLUME_STATE_AVAILABLE
            assert (one.role == r.ROLE_PRIMARY) == (replicas[uid].primary_host_id == host_id)
            under_way = {
                (snapshot.uid, snapshot.state)
                for snapshot in snapshots
                if snapshot.volume_uid == uid and snapshot.state in snapshot_changes.UNDER_WAY
            }
            assert {(snapshot.uid, snapshot.state) for snapshot in one.snapshots} == under_way
            attached = {
                (item.uid, item.state == r.ATTACHMENT_STATE_DETACHING)
                for item in attachments
                if item.volume_uid == uid
            }
            assert {(item.uid, item.detaching) for item in one.attachments} == attached
            assert not one.deleting or not (under_way or attached)

    def needed_generations_are_kept(self) -> None:
        """No host is told to forget what a snapshot under way, or the next one, is incremental from."""
        volumes = self.all(keys.VOLUMES, r.VolumeRecord)
        for place, one in self.assignments().items():
            needed = [snapshot.base_generation for snapshot in one.snapshots if snapshot.incremental]
            assert one.keep_generation <= min([*needed, volumes[place[1]].base_generation])
            assert one.keep_generation >= self.keep.get(place, 0), "it only grows"
            self.keep[place] = one.keep_generation

    def completed_snapshots_never_change(self) -> None:
        snapshots = self.all(keys.SNAPSHOTS, r.SnapshotRecord)
        for uid, one in snapshots.items():
            if one.state == r.SNAPSHOT_STATE_COMPLETED:
                assert self.completed.setdefault(uid, (one.manifest, one.base_manifest)) == (
                    one.manifest,
                    one.base_manifest,
                )
            if one.base_snapshot_uid:
                assert snapshots[one.base_snapshot_uid].manifest == one.base_manifest != ""
        for uid in self.all(keys.CLAIMS, r.SnapshotClaim):
            assert snapshots[uid].state == r.SNAPSHOT_STATE_FROZEN, "nothing else is claimed"

    def locks_hold(self) -> None:
        snapshots = self.all(keys.SNAPSHOTS, r.SnapshotRecord)
        for uid, until_s in self.locked_until_s.items():
            assert snapshots[uid].lock_until_time.seconds >= until_s, "it only grows"
            assert until_s <= self.now_s or snapshots[uid].state == r.SNAPSHOT_STATE_COMPLETED
        self.locked_until_s = {uid: one.lock_until_time.seconds for uid, one in snapshots.items()}
        self.locked_until_s = {uid: until_s for uid, until_s in self.locked_until_s.items() if until_s}

    def what_is_deleted_is_granted_to_nobody(self) -> None:
        snapshots = self.all(keys.SNAPSHOTS, r.SnapshotRecord)
        for key in self.all(keys.PREFIX + "grants/", r.GrantRecord):
            state = snapshots[key.split("/")[0]].state
            assert state not in (r.SNAPSHOT_STATE_DELETED, r.SNAPSHOT_STATE_RECYCLED)

    def agrees(self) -> None:
        self.locks_hold()
        self.what_is_deleted_is_granted_to_nobody()
        self.names_lead_to_their_records()
        self.hosts_promise_what_they_are_assigned()
        self.assignments_say_what_the_records_say()
        self.needed_generations_are_kept()
        self.completed_snapshots_never_change()


def one_step(history: History, chance: random.Random, diligence: float) -> None:
    """Somebody does what is due, `diligence` of the time; else anybody asks, or acts late or twice."""
    by = chance.choice(SNAPSHOTTERS)
    if chance.random() < 0.15:
        history.store.lose_answer = True
    if chance.random() < diligence:
        steps = [*history.steps_of_volumes(), *history.steps_of_snapshots(by)]
        if steps:
            chance.choice(steps)()
        return
    owner, other, own_id, volume_id = (chance.choice(pool) for pool in (USERS, USERS, OWN_IDS, VOLUME_IDS))
    source = (other, own_id) if chance.random() < 0.5 else None
    stray_volume = chance.choice(sorted(history.seen_volumes) or [""])
    stray_snapshot = chance.choice(sorted(history.seen_snapshots) or [""])
    stray_host = chance.choice(HOSTS)
    acts: list[Callable[[], object]] = [
        lambda: history.create_volume(owner, volume_id, source, chance.random() < 0.5),
        lambda: history.create_volume(owner, volume_id, source, False),
        *[lambda: history.take_snapshot(owner, own_id, volume_id)] * 4,
        lambda: history.attach(owner, own_id, volume_id, chance.choice(IQNS)),
        lambda: history.detach(owner, own_id),
        lambda: history.grant(owner, own_id, other, chance.random() < 0.8),
        lambda: history.delete_volume(owner, volume_id),
        lambda: history.delete_snapshot(owner, own_id, chance.random() < 0.4),
        lambda: history.lock_snapshot(owner, own_id, chance.choice([1, 50, 500])),
        lambda: history.restore_snapshot(owner, stray_snapshot, chance.choice(["", *OWN_IDS])),
        lambda: history.purge_snapshot(owner, stray_snapshot, chance.random() < 0.5),
        lambda: history.sleep(chance.choice([1, 100, 8 * 86_400])),
        lambda: history.complete_out_of_turn(chance),
        lambda: history.host_makes_it(stray_volume, stray_host),
        lambda: history.host_removes_it(stray_volume, stray_host),
        lambda: history.view_is_lost(stray_snapshot, stray_host),
        lambda: history.claim(stray_snapshot, by),
        lambda: history.release(stray_snapshot, by),
        lambda: history.complete(stray_snapshot, by),
    ]
    chance.choice(acts)()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_histories(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cas, "PAUSE_MAX_S", 0.0)
    chance = random.Random(seed)
    history = History()
    diligence = chance.choice([0.3, 0.5, 0.7])
    for _ in range(STEPS):
        one_step(history, chance, diligence)
        history.agrees()
    assert history.completed, "the history went somewhere"
