"""The warden: its brake and drains over random histories, what it says, and the thread on a real etcd."""

import contextlib
import random
from collections.abc import Callable, Iterator

import pytest

from holdfast.api.attachment.v1 import attachment_pb2 as ab
from holdfast.api.host.v1 import host_pb2 as hb
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.volume.v1 import volume_pb2 as vb
from holdfast.base.errors import HoldfastError
from holdfast.metadata import cas, host_decisions, keys, replica_changes, volume_changes
from holdfast.metadata import warden_decisions as due
from holdfast.metadata.records import decode
from holdfast.metadata.testing import RunningMetadata, StandInHost, until
from holdfast.metadata.testing_cluster import SERVICE_KEY, Cluster
from holdfast.metadata.warden import Warden, carry_out

HOSTS = tuple(f"h{number}" for number in range(8))
SETTINGS = due.Settings(replace_after_s=100.0, max_replacements=3)


class World(Cluster):
    """Several volumes, agents that do their part sooner or later, and two copies of the warden."""

    def __init__(self, volumes: int, hosts: tuple[str, ...] = HOSTS, room: int = 12) -> None:
        super().__init__(hosts, room)
        self.uids = [self.make_volume(volume_id=f"v{number}") for number in range(volumes)]

    def sight(self) -> due.Sight:
        warden = self.store.get(keys.WARDEN)
        return due.Sight(
            now_s=self.now_s,
            hosts={one.host_id: one for one in self.all(keys.HOSTS, r.HostRecord)},
            leases={one.host_id: one.boot_id for one in self.all(keys.HOST_LEASES, r.HostLease)},
            volumes={one.uid: one for one in self.all(keys.VOLUMES, r.VolumeRecord)},
            replicas={one.volume_uid: one for one in self.all(keys.REPLICAS, r.ReplicaRecord)},
            warden=decode(r.WardenRecord, warden.value) if warden else r.WardenRecord(),
        )

    def act(self, sight: due.Sight, settings: due.Settings = SETTINGS) -> list[due.Action]:
        """Decide on what was seen, perhaps a while ago, and do it now."""
        done = []
        for action in due.decide(sight, settings):
            try:
                if carry_out(self.store, action, settings, SERVICE_KEY, self.now_s):
                    done.append(action)
            except HoldfastError:
                pass
            self.brake_holds(settings)
        return done

    def quietly(self, change: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(HoldfastError):
            self.do(change, *arguments)

    def agents(self, uid: str, joins: bool = True) -> None:
        """What the volume's hosts do next; a joiner has everything only if `joins`."""
        self.uid = uid
        replica, c = self.replica(), replica_changes
        primary, epoch = replica.primary_host_id, replica.epoch
        boots = {one.host_id: one.boot_id for one in replica.in_sync}
        for host_id in self.boots:
            key = keys.assignment(host_id, uid)
            if self.store.get(key) and self.assignment(host_id).deleting and self.live(host_id):
                self.quietly(volume_changes.store_removed, host_id)
        if self.live(primary) != boots[primary]:
            for host_id, boot_id in boots.items():
                if self.live(host_id) == boot_id:
                    return self.quietly(c.take_over, host_id, boot_id, epoch)
                self.quietly(c.cold_start, host_id, self.live(host_id), epoch)
            return None
        lost = [host_id for host_id, boot_id in boots.items() if self.live(host_id) != boot_id]
        if lost:
            return self.quietly(c.leave_out, primary, epoch, lost)
        if replica.wanted_primary_host_id:
            return self.quietly(c.hand_over, primary, epoch, replica.wanted_primary_host_id)
        for joiner in replica.joining:
            if joins and self.live(joiner.host_id):
                return self.quietly(c.join, primary, epoch, joiner.host_id, self.live(joiner.host_id))
        return None

    def brake_holds(self, settings: due.Settings) -> None:
        sight = self.sight()
        pairs = [(one.from_host_id, one.new_host_id) for one in due.ongoing(sight)]
        assert len(pairs) <= settings.max_replacements
        for host_id in self.boots:
            assert sum(host_id in pair for pair in pairs) <= due.HOST_REPLACEMENTS_MAX
        # Whoever is being filled for the first time has had a turn.
        turns = {(one.volume_uid, one.new_host_id) for one in sight.warden.replacements}
        for replica in sight.replicas.values():
            self.uid = replica.volume_uid
            for one in replica.joining:
                if not self.assignment(one.host_id).initialized and one.host_id in sight.leases:
                    assert (replica.volume_uid, one.host_id) in turns

    def good(self) -> dict[str, int]:
        return {uid: len(one.in_sync) for uid, one in self.sight().replicas.items()}

    def check_all(self) -> None:
        for uid in self.uids:
            self.uid = uid
            self.check()

    def drain(self, host_id: str, draining: bool = True) -> None:
        cas.run(self.store, lambda draft: host_decisions.set_draining(draft, host_id, draining))

    def settle(self, settings: due.Settings = SETTINGS, rounds: int = 60) -> None:
        for _ in range(rounds):
            self.now_s += 30
            self.act(self.sight(), settings)
            for uid in self.uids:
                self.agents(uid)

    def on(self, host_id: str) -> list[str]:
        return [uid for uid, one in self.sight().replicas.items() if host_id in one.host_ids]

    def on_hosts(self, uid: str) -> list[str]:
        return list(self.sight().replicas[uid].host_ids)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cas, "PAUSE_MAX_S", 0.0)


@pytest.mark.parametrize("seed", range(12))
def test_histories(seed: int) -> None:
    """Hosts die, return, reboot and are drained; two wardens act on what they saw a while ago."""
    chance = random.Random(seed)
    world = World(8)
    sights = [world.sight(), world.sight()]
    replaced = 0
    for _ in range(150):
        what = chance.random()
        world.now_s += chance.choice([1, 5, 60])
        if what < 0.12:
            chance.choice([world.go, world.reboot])(chance.choice(HOSTS))
        elif what < 0.35:
            world.come(chance.choice(HOSTS))
        elif what < 0.4:
            world.drain(chance.choice(HOSTS), chance.random() < 0.5)
        elif what < 0.7:
            world.agents(chance.choice(world.uids), joins=chance.random() < 0.5)
        else:
            copy = chance.randrange(2)
            before = world.good()
            done = world.act(sights[copy])
            replaced += sum(isinstance(one, due.Replace) for one in done)
            for uid, count in world.good().items():
                assert count >= min(2, before[uid]), "a good copy is given up only for another"
        sights[chance.randrange(2)] = world.sight()
        world.check_all()
    assert replaced, "the history goes somewhere"
    for host_id in HOSTS:
        world.come(host_id)
        world.drain(host_id, host_id in ("h0", "h1"))
    world.settle()
    world.check_all()
    assert not world.on("h0") and not world.on("h1"), "what is drained is empty"
    for uid, replica in world.sight().replicas.items():
        assert len(replica.in_sync) == len(replica.host_ids) == 2, uid
    for host_id in HOSTS:
        assert not world.host(host_id).drain_reason and not world.host(host_id).HasField("lost_time")


def test_a_host_gone_for_good_is_replaced_within_the_brake() -> None:
    world = World(8)
    world.go("h0")
    held = world.on("h0")
    assert held
    world.act(world.sight())
    assert world.host("h0").HasField("lost_time")
    for uid in world.uids:
        world.agents(uid)
    world.now_s += 90
    assert not [one for one in world.act(world.sight()) if isinstance(one, due.Replace)], "not yet"
    world.now_s += 30
    begun = [one for one in world.act(world.sight()) if isinstance(one, due.Replace)]
    assert 1 <= len(begun) <= SETTINGS.max_replacements
    waiting = [one for one in world.sight().volumes.values() if one.repair_reason]
    assert len(waiting) == len(held) - len(begun)
    world.settle()
    assert not world.on("h0") and not any(one.repair_reason for one in world.sight().volumes.values())
    assert all(count == 2 for count in world.good().values())
    world.come("h0")
    assert not world.host("h0").HasField("lost_time"), "it registered"


@pytest.mark.parametrize("reason", ["DISK_FAILED", "WRONG_STORE"])
def test_a_live_host_that_cannot_use_its_copy_is_replaced_as_if_it_were_lost(reason: str) -> None:
    """But for another volume's data, which its host would remove."""
    world = World(1)
    world.uid = uid = world.uids[0]
    primary = world.replica().primary_host_id
    (mirror,) = set(world.replica().host_ids) - {primary}
    world.do(replica_changes.leave_out, primary, world.replica().epoch, [mirror])

    def say(reason: str) -> None:
        world.do(volume_changes.report_replica_trouble, mirror, reason, "its disk", world.now_s)

    def replaced() -> bool:
        return any(isinstance(one, due.Replace) for one in world.act(world.sight()))

    say(reason)
    world.now_s += 90
    assert not replaced(), "not yet"
    say("")
    say(reason)
    world.now_s += 90
    assert not replaced(), "it was well in between"
    world.now_s += 30
    assert replaced() == (reason == "DISK_FAILED")
    world.settle()
    assert (mirror not in world.on_hosts(uid)) == (reason == "DISK_FAILED")


def test_due_at_different_moments() -> None:
    world = World(8)
    world.go("h0")
    world.act(world.sight())
    host = world.host("h0")
    moments = set()
    for after in range(120):
        now_s = world.now_s + after
        moments.add(sum(due._is_due(now_s, SETTINGS, host, uid) for uid in world.uids))
    assert len(moments) > 3 and max(moments) == len(world.uids)


def test_storm() -> None:
    world = World(8)
    for host_id in ("h0", "h1", "h2"):
        world.go(host_id)
    world.act(world.sight())
    world.settle()
    assert due.storm(world.sight()).startswith("3 of 8 storage hosts are away")
    assert not due.ongoing(world.sight())
    reasons = {one.repair_reason for one in world.sight().volumes.values()} - {""}
    assert reasons and all("more than a third" in one for one in reasons)
    world.come("h2")
    assert not due.storm(world.sight())
    world.settle()
    assert all(count == 2 for uid, count in world.good().items() if not away(world, uid))


def away(world: World, uid: str) -> bool:
    sight = world.sight()
    return due.is_away(sight.replicas[uid], sight.leases)


def test_hosts_that_hold_nothing_make_no_storm() -> None:
    world = World(1, ("h0", "h1", "h2", "h3", "h4", "h5"))
    idle = [host_id for host_id in world.boots if not world.on(host_id)]
    for host_id in idle[:3]:
        world.go(host_id)
    assert not due.storm(world.sight())


def test_drain_says_why_it_cannot() -> None:
    world = World(2, ("h0", "h1"))
    world.drain("h0")
    world.settle()
    assert "add hosts" in world.host("h0").drain_reason
    assert {one.primary_host_id for one in world.sight().replicas.values()} == {"h1"}, "I/O has moved"
    assert all(count == 2 for count in world.good().values())
    world.drain("h0", False)
    assert not world.host("h0").drain_reason
    world.drain("h0")
    world.drain("h1")
    world.settle()
    assert world.host("h0").drain_reason or world.host("h1").drain_reason


def test_two_hosts_of_a_volume_are_drained() -> None:
    world = World(3, ("h0", "h1", "h2", "h3"))
    for host_id in ("h0", "h1"):
        world.drain(host_id)
    world.settle()
    assert not world.on("h0") and not world.on("h1")
    assert all(count == 2 for count in world.good().values())


def test_undrain_cancels_what_has_not_happened() -> None:
    world = World(1, ("h0", "h1", "h2"))
    (uid,) = world.uids
    mirror = next(one for one in world.replica().host_ids if one != world.replica().primary_host_id)
    world.drain(mirror)
    world.act(world.sight())
    assert world.replica().leaving_host_id == mirror and len(world.replica().host_ids) == 3
    world.drain(mirror, False)
    world.act(world.sight())
    assert not world.replica().leaving_host_id and len(world.replica().host_ids) == 2
    assert mirror in world.replica().host_ids
    world.agents(uid)
    world.check_all()


def test_last_copy_away() -> None:
    world = World(1, ("h0", "h1", "h2"))
    (uid,) = world.uids
    primary, mirror = world.replica().host_ids
    said = r.VolumeHealth(state=r.HEALTH_STATE_DEGRADED, reason="MIRROR_LOST", message="The mirror is away.")
    world.go(mirror)
    world.agents(uid)
    world.do(volume_changes.report_health, primary, world.replica().epoch, said, 0, 0, 0, 1.0)
    world.come(mirror)
    world.go(primary)
    world.act(world.sight())
    assert world.volume().health.reason == "MIRROR_LOST", "a lease that is lost is noticed first"
    world.act(world.sight())
    health = world.volume().health
    assert (health.state, health.reason) == (r.HEALTH_STATE_UNAVAILABLE, "LAST_COPY_AWAY")
    assert f"host {primary} (since 1970" in health.message and "force-start v0" in health.message
    world.settle(rounds=20)
    assert list(world.replica().host_ids) == [primary, mirror], "nobody could copy from it"
    world.come(primary)
    world.act(world.sight())
    assert world.volume().health.reason == "MIRROR_LOST", "what the agent had said holds again"
    assert not world.volume().HasField("reported_health")
    world.go(primary)
    world.reboot(primary)
    world.act(world.sight())
    assert world.volume().health.reason != "LAST_COPY_AWAY", "it can start cold"


def test_give_up_a_host() -> None:
    world = World(3, ("h0", "h1", "h2"))
    world.go("h0")

    def look(draft: cas.Draft) -> list[str]:
        return host_decisions.need_given_up(draft, "h0")

    with pytest.raises(HoldfastError) as refused:
        cas.run(world.store, look)
    assert refused.value.reason == "IN_USE"
    for _ in range(3):
        for uid in world.uids:
            world.agents(uid)
    uids = cas.run(world.store, look)
    assert uids == world.on("h0")
    for uid in uids:
        assert cas.run(world.store, lambda draft, uid=uid: host_decisions.give_up(draft, uid, "h0"))  # type: ignore[misc]
    assert cas.run(world.store, lambda draft: host_decisions.delete(draft, "h0"))
    world.boots.pop("h0")
    world.check_all()
    world.settle()
    assert all(count == 2 for count in world.good().values()), "those with one host were given another"


@pytest.fixture
def wardens(metadata: RunningMetadata) -> Iterator[list[Warden]]:
    """Two copies, in a hurry."""
    settings = due.Settings(replace_after_s=0.5, max_replacements=2)
    key = metadata.seal_key
    made = [Warden(metadata.etcd, key, settings, tick_s=0.1) for _ in range(2)]
    for one in made:
        one.start()
    yield made
    for one in made:
        one.stop()


def test_on_a_real_etcd(
    metadata: RunningMetadata, make_host: Callable[..., StandInHost], wardens: list[Warden]
) -> None:
    """A mirror is gone for good and replaced; a host is drained; attachments go along."""
    hosts = {one: make_host(one) for one in ("host-a", "host-b")}
    alice, olga = metadata.client("alice"), metadata.client("olga", "operator")
    alice.volumes.CreateVolume(vb.CreateVolumeRequest(volume_id="v", size_bytes=1 << 30))

    def volume() -> vb.Volume:
        return olga.volumes.GetVolume(vb.GetVolumeRequest(volume_id="v", owner="alice")).volume

    until(lambda: volume().state == r.VOLUME_STATE_AVAILABLE)
    attachment = ab.CreateAttachmentRequest(attachment_id="x", volume_id="v", initiator_iqn="iqn.2026-01.a:b")
    alice.attachments.CreateAttachment(attachment)
    hosts["host-c"] = make_host("host-c")
    hosts["host-d"] = make_host("host-d")
    first = volume()
    gone = next(one for one in first.in_sync_host_ids if one != first.primary_host_id)
    hosts[gone].stop()
    hosts[first.primary_host_id].actions.leave_out(first.uid, first.epoch, [gone])
    until(lambda: len(volume().in_sync_host_ids) == 2)
    assert gone not in volume().in_sync_host_ids
    assert olga.hosts.GetHost(hb.GetHostRequest(host_id=gone)).host.HasField("lost_time")
    assert olga.hosts.DeleteHost(hb.DeleteHostRequest(host_id=gone, gone=True)).changed

    drained = volume().primary_host_id
    assert olga.hosts.DrainHost(hb.DrainHostRequest(host_id=drained)).changed
    until(lambda: olga.hosts.GetHost(hb.GetHostRequest(host_id=drained)).host.volume_count == 1)
    make_host("host-e")
    until(lambda: olga.hosts.GetHost(hb.GetHostRequest(host_id=drained)).host.volume_count == 0)
    last = volume()
    assert len(last.in_sync_host_ids) == 2 and drained not in last.in_sync_host_ids
    shown = alice.attachments.GetAttachment(ab.GetAttachmentRequest(attachment_id="x")).attachment
    assert len(shown.paths) == 2 and shown.chap_secret
