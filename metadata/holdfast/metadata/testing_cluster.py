"""A cluster's records in memory, for tests of decisions: hosts that come and go, one volume, its attachment.

Everything is done as agents, the service and users do it, through `cas.run` over a MemoryStore. What it
writes beside that is only leases: a host's lease that appears, changes its boot, or is gone.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import HoldfastError
from holdfast.metadata import (
    attachment_decisions,
    host_actions,
    keys,
    replica_changes,
    snapshot_decisions,
    volume_changes,
    volume_decisions,
)
from holdfast.metadata.cas import Draft, run
from holdfast.metadata.memory_store import MemoryStore
from holdfast.metadata.records import M, decode
from holdfast.metadata.seal import public_key

T = TypeVar("T")
SIZE_BYTES = 1 << 20
SERVICE_KEY = bytes(range(32))
HOST_KEY = bytes(range(1, 33))
OWNER, VOLUME, IQN = "alice", "v", "iqn.2026-01.io.e:1"


class Cluster:
    """Args:
    host_ids: all live, in boot "<id>.1", each with room for `room` volumes.
    """

    def __init__(self, host_ids: Sequence[str] = ("a", "b", "c", "d"), room: int = 10) -> None:
        self.store = MemoryStore()
        self.boots = dict.fromkeys(host_ids, 1)
        self.room = room
        self.now_s = 1000.0
        self.uid = ""
        self._count = 0
        for host_id in host_ids:
            self.come(host_id)

    # Hosts.

    def boot(self, host_id: str) -> str:
        return f"{host_id}.{self.boots[host_id]}"

    def come(self, host_id: str) -> None:
        """The agent registers, in the present boot."""
        host = r.HostRecord(
            host_id=host_id,
            boot_id=self.boot(host_id),
            address="10.0.0." + host_id,
            portal=host_id + ":3260",
            capacity_bytes=self.room * SIZE_BYTES,
            seal_public_key=public_key(HOST_KEY),
            exports=True,
        )
        run(self.store, lambda draft: host_actions.register(draft, host, 7))

    def go(self, host_id: str) -> None:
        """Its lease expires."""
        draft = Draft(self.store)
        draft.delete(keys.host_lease(host_id))
        assert draft.commit()

    def reboot(self, host_id: str) -> None:
        """Back in a new boot, perhaps before anybody saw it go."""
        self.boots[host_id] += 1
        self.come(host_id)

    def live(self, host_id: str) -> str:
        entry = self.store.get(keys.host_lease(host_id))
        return decode(r.HostLease, entry.value).boot_id if entry else ""

    def host(self, host_id: str) -> r.HostRecord:
        return self.read(keys.host(host_id), r.HostRecord)

    # Records.

    def read(self, key: str, message_type: type[M]) -> M:
        entry = self.store.get(key)
        assert entry is not None, key
        return decode(message_type, entry.value)

    def all(self, prefix: str, message_type: type[M]) -> list[M]:
        return [decode(message_type, entry.value) for entry in self.store.range(prefix)[0]]

    def replica(self) -> r.ReplicaRecord:
        return self.read(keys.replica(self.uid), r.ReplicaRecord)

    def volume(self) -> r.VolumeRecord:
        return self.read(keys.volume(self.uid), r.VolumeRecord)

    def assignment(self, host_id: str) -> r.Assignment:
        return self.read(keys.assignment(host_id, self.uid), r.Assignment)

    def edit(self, key: str, message_type: type[M], change: Callable[[M], object]) -> None:
        """Change a record behind everybody's back."""
        record = self.read(key, message_type)
        change(record)
        draft = Draft(self.store)
        draft.put(key, record)
        assert draft.commit()

    # What users do.

    def new_uid(self) -> str:
        self._count += 1
        return f"{self._count:024x}"

    def make_volume(self, available: bool = True, needs_mirror: bool = False, volume_id: str = VOLUME) -> str:
        """From now on it is the one that the rest is about; set `uid` to come back to another."""
        new = volume_decisions.NewVolume(
            OWNER, volume_id, SIZE_BYTES, OWNER, "", False, self.new_uid(), 1.0, 1.0, needs_mirror
        )
        self.uid = run(self.store, lambda draft: volume_decisions.create(draft, new)[0].uid)
        if available:
            self.do(volume_changes.became_available, self.replica().primary_host_id, self.replica().epoch)
        return self.uid

    def attach(self) -> str:
        new = attachment_decisions.NewAttachment(
            OWNER, "x", VOLUME, IQN, self.new_uid(), "secret", public_key(SERVICE_KEY), 1.0
        )
        return run(self.store, lambda draft: attachment_decisions.create(draft, new)[0].uid)

    def take_snapshot(self, snapshot_id: str) -> str:
        new = snapshot_decisions.NewSnapshot(OWNER, snapshot_id, VOLUME, self.new_uid(), 1.0)
        return run(self.store, lambda draft: snapshot_decisions.create(draft, new)[0].uid)

    # What hosts and the control plane do.

    def do(self, change: Callable[..., T], *arguments: object) -> T:
        """`change(draft, volume_uid, *arguments)`; a refusal must change nothing."""
        before, lost = dict(self.store.entries), self.store.lose_answer
        try:
            return run(self.store, lambda draft: change(draft, self.uid, *arguments))
        except HoldfastError:
            assert lost or self.store.entries == before
            raise

    def new_replica(self, host_id: str) -> replica_changes.NewReplica:
        return replica_changes.NewReplica(host_id, 1.0, SERVICE_KEY)

    def check(self) -> None:
        """The records of the volume agree with each other."""
        if self.store.get(keys.replica(self.uid)) is None:
            return
        replica = self.replica()
        boots = {one.host_id: one.boot_id for one in replica.in_sync}
        hosts = list(replica.host_ids)
        assert boots and replica.primary_host_id in boots and boots.keys() <= set(hosts)
        assert len(set(hosts)) == len(hosts) <= 3 and len(boots) == len(replica.in_sync)
        assert [one.host_id for one in replica.joining] == [one for one in hosts if one not in boots]
        there = self.all(keys.PREFIX + "assignments/", r.Assignment)
        assigned = {one.host_id: one for one in there if one.volume_uid == self.uid}
        deleting = self.volume().state == r.VOLUME_STATE_DELETING
        assert deleting or set(hosts) <= assigned.keys()
        for host_id in assigned.keys() - set(hosts):
            self._check_retired(assigned.pop(host_id))
        for own in assigned.values():
            self._check_assignment(replica, own, assigned, deleting)
        tags = [one.portal_group for one in assigned.values()]
        assert len(set(tags)) == len(tags) and set(tags) <= {1, 2, 3}
        self._check_attachments(replica, assigned)
        for host_id in self.boots:
            room = [one.size_bytes for one in there if one.host_id == host_id]
            assert self.host(host_id).allocated_bytes == sum(room)

    def _check_assignment(
        self, replica: r.ReplicaRecord, own: r.Assignment, assigned: dict[str, r.Assignment], deleting: bool
    ) -> None:
        boots = {one.host_id: one.boot_id for one in replica.in_sync}
        is_primary = own.host_id == replica.primary_host_id
        role = r.ROLE_PRIMARY if is_primary else r.ROLE_MIRROR if own.host_id in boots else r.ROLE_JOINER
        assert (own.role, own.epoch, own.deleting) == (role, replica.epoch, deleting)
        assert own.boot_id == boots.get(own.host_id, "")
        assert own.primary_host_id == replica.primary_host_id
        assert own.yield_to_host_id == (replica.wanted_primary_host_id if is_primary else "")
        assert own.released_epoch == replica.released_epoch <= replica.epoch
        assert own.cold_epoch == replica.cold_epoch and (is_primary or not own.accept_half_synced)
        assert own.initialized or role == r.ROLE_JOINER or self.volume().state != r.VOLUME_STATE_AVAILABLE
        peers = {one.host_id: one for one in own.peers}
        if not deleting:
            assert peers.keys() == set(replica.host_ids) - {own.host_id}
        for host_id, peer in peers.items():
            assert peer.boot_id == boots.get(host_id, "")
            if host_id in assigned:
                other = assigned[host_id]
                assert (peer.nbd_port, peer.portal_group) == (other.nbd_port, other.portal_group)
                assert peer.portal == host_id + ":3260"

    def _check_retired(self, retired: r.Assignment) -> None:
        assert retired.deleting and retired.role == r.ROLE_JOINER and not retired.boot_id
        assert not (retired.peers or retired.attachments or retired.snapshots)

    def _check_attachments(self, replica: r.ReplicaRecord, assigned: dict[str, r.Assignment]) -> None:
        primary, hosts = replica.primary_host_id, set(replica.host_ids)
        for one in self.all(keys.attachments(self.uid), r.AttachmentRecord):
            assert one.portals[0] == primary + ":3260"
            assert set(one.portals) == {host_id + ":3260" for host_id in hosts}
            assert {secret.recipient for secret in one.secrets} == {"service", *("host:" + h for h in hosts)}
            assert set(one.ready_host_ids) <= hosts
            assert one.state != r.ATTACHMENT_STATE_PENDING or primary not in one.ready_host_ids
            for own in assigned.values():
                (item,) = own.attachments
                assert item.uid == one.uid and item.secret.recipient == "host:" + own.host_id
                assert item.detaching == (one.state == r.ATTACHMENT_STATE_DETACHING)
