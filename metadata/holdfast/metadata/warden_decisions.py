"""What the control plane does by itself, as a pure function of what it sees: values in, actions out.

    hosts      lost (its lease is gone) and back
    replicas   a host that was lost for long is replaced, or lives and cannot use its copy for as long; one
               that is drained is emptied; and none of this ever lowers the number of good copies
    health     a volume whose last good copy is away says so

The storm brake (the lesson of EBS in 2011: a re-mirroring storm): a full copy begins only while fewer than
`max_replacements` are under way in the cluster and `HOST_REPLACEMENTS_MAX` at either of its two hosts, and
none while more than a third of the hosts that matter are lost at once: then it is the network or the power,
and they will be back. Volumes become due at different moments.

An action is carried out by warden_changes.py, which looks at the records again: what is decided here on old
news is refused there.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.metadata.placement import candidate_of, place_another
from holdfast.metadata.replica_record import boot_of, in_sync_ids, keeps_memory, may_start_cold

HOST_REPLACEMENTS_MAX = 2
"""Full copies that one host takes part in at a time, as source or destination."""
STORM_SHARE = 3
"""More than one in so many hosts lost at once is a storm."""
JITTER_SHARE = 0.1
"""Volumes of one host become due over so much of `replace_after_s`, each at its own moment."""
LAST_COPY_AWAY = "LAST_COPY_AWAY"
UNUSABLE = frozenset(("DISK_FAILED", "NO_SPACE", "STORE_ABSENT", "STORE_DAMAGED", "STORE_UNUSABLE"))
"""What ails a copy whose host lives, and is replaced as if it were lost. Not WRONG_STORE: what a replaced
host has in that place it removes, and that would be another volume's.
"""


@dataclass(frozen=True)
class Settings:
    replace_after_s: float = 900.0
    max_replacements: int = 4
    overcommit: float = 1.0


@dataclass(frozen=True)
class Sight:
    """What was seen at `now_s`. `leases`: the boot whose agent holds each host's lease."""

    now_s: float
    hosts: Mapping[str, r.HostRecord]
    leases: Mapping[str, str]
    volumes: Mapping[str, r.VolumeRecord]
    replicas: Mapping[str, r.ReplicaRecord]
    warden: r.WardenRecord


@dataclass(frozen=True)
class SetLost:
    """Record that a host's lease is gone, or is there again."""

    host_id: str
    lost: bool


@dataclass(frozen=True)
class Replace:
    volume_uid: str
    gone_host_id: str
    new_host_id: str
    must_be_lost: bool
    """Only if the host that goes still holds no lease."""


@dataclass(frozen=True)
class Drop:
    """A host of three is lost and lacks writes: it is not waited for."""

    volume_uid: str
    host_id: str


@dataclass(frozen=True)
class Switch:
    volume_uid: str
    to_host_id: str


@dataclass(frozen=True)
class LetGo:
    volume_uid: str


@dataclass(frozen=True)
class Stay:
    volume_uid: str
    host_id: str


@dataclass(frozen=True)
class SetDrainReason:
    host_id: str
    reason: str


@dataclass(frozen=True)
class SetRepairReason:
    volume_uid: str
    reason: str


@dataclass(frozen=True)
class LookAtHealth:
    """Its last good copy went away, or is back."""

    volume_uid: str


Action = SetLost | Replace | Drop | Switch | LetGo | Stay | SetDrainReason | SetRepairReason | LookAtHealth


@dataclass
class Brake:
    """How many full copies may begin. `begun` grows with those that this very look decides on."""

    settings: Settings
    storm: str
    begun: list[r.Replacement] = field(default_factory=list)

    @classmethod
    def of(cls, sight: Sight, settings: Settings) -> "Brake":
        return cls(settings, storm(sight), ongoing(sight))

    def begin(self, wanted: r.Replacement) -> bool:
        """Whether `wanted` may begin; then it has, for the rest of this look."""
        if self.storm or not has_turn(wanted, self.begun, self.settings):
            return False
        self.begun.append(wanted)
        return True

    def full_hosts(self) -> set[str]:
        """Where nothing more may begin now."""
        named = {host_id for one in self.begun for host_id in hosts_of(one)}
        return {host_id for host_id in named if count_at(host_id, self.begun) >= HOST_REPLACEMENTS_MAX}


def hosts_of(one: r.Replacement) -> tuple[str, str]:
    return one.from_host_id, one.new_host_id


def count_at(host_id: str, under_way: Sequence[r.Replacement]) -> int:
    return sum(host_id in hosts_of(one) for one in under_way)


def has_turn(wanted: r.Replacement, under_way: Sequence[r.Replacement], settings: Settings) -> bool:
    """Whether one more may begin beside those under way. One of the same volume ends with it."""
    others = [one for one in under_way if one.volume_uid != wanted.volume_uid]
    if len(others) >= settings.max_replacements:
        return False
    return all(count_at(host_id, others) < HOST_REPLACEMENTS_MAX for host_id in hosts_of(wanted))


def decide(sight: Sight, settings: Settings) -> list[Action]:
    """Everything that is due now, the most urgent replacements first."""
    actions: list[Action] = [*_hosts(sight), *_healths(sight)]
    brake = Brake.of(sight, settings)
    waits: dict[str, str] = {}
    drains: dict[str, list[str]] = {host_id: [] for host_id, host in sight.hosts.items() if host.draining}
    for uid in sorted(sight.replicas, key=lambda uid: _urgency(sight.replicas[uid])):
        volume, replica = sight.volumes.get(uid), sight.replicas[uid]
        if volume is not None and volume.state in (r.VOLUME_STATE_CREATING, r.VOLUME_STATE_AVAILABLE):
            actions += _of_volume(sight, brake, volume, replica, waits, drains)
    actions += _reasons(sight, waits, drains)
    return actions


def ongoing(sight: Sight) -> list[r.Replacement]:
    """The full copies under way, of those recorded. One to a host that is away keeps its turn."""
    return [one for one in sight.warden.replacements if copying(one, sight.replicas.get(one.volume_uid))]


def copying(one: r.Replacement, replica: r.ReplicaRecord | None) -> bool:
    """Whether the new host is still to be filled."""
    if replica is None or one.new_host_id not in replica.host_ids:
        return False
    return not boot_of(replica, one.new_host_id)


def storm(sight: Sight) -> str:
    """Why no replacement begins, because so many hosts are lost at once; empty if that is not so.

    A lost host that holds nothing any more does not matter, and is not counted.
    """
    holders = {host_id for replica in sight.replicas.values() for host_id in replica.host_ids}
    lost = [host_id for host_id in sight.hosts if host_id not in sight.leases and host_id in holders]
    matter = [host_id for host_id in sight.hosts if host_id in sight.leases or host_id in holders]
    if len(lost) * STORM_SHARE <= len(matter):
        return ""
    return (
        f"{len(lost)} of {len(matter)} storage hosts are away at once, more than a third: nothing is copied "
        "until some are back; if they are gone for good, add hosts"
    )


def _hosts(sight: Sight) -> Iterator[Action]:
    for host_id, host in sight.hosts.items():
        lost = host_id not in sight.leases
        if lost != host.HasField("lost_time"):
            yield SetLost(host_id, lost)


def _healths(sight: Sight) -> Iterator[Action]:
    for uid, replica in sight.replicas.items():
        volume = sight.volumes.get(uid)
        if volume is None or volume.state != r.VOLUME_STATE_AVAILABLE:
            continue
        # Only what was noticed a while ago: an agent that restarts keeps its lease.
        noticed = all(
            host_id in sight.leases
            or host_id not in sight.hosts
            or sight.hosts[host_id].HasField("lost_time")
            for host_id in in_sync_ids(replica)
        )
        said = volume.health.reason == LAST_COPY_AWAY
        if is_away(replica, sight.leases) != said and (noticed or said):
            yield LookAtHealth(uid)


def is_away(replica: r.ReplicaRecord, leases: Mapping[str, str]) -> bool:
    """No member has kept its memory and lives, and they cannot start cold."""
    live = dict(leases)
    return not keeps_memory(replica, live) and not may_start_cold(replica, live)


def away_message(
    replica: r.ReplicaRecord,
    leases: Mapping[str, str],
    hosts: Mapping[str, r.HostRecord],
    volume: r.VolumeRecord,
) -> str:
    """For people: who has the good copy, since when it is away, what can be done."""
    away = [host_id for host_id in in_sync_ids(replica) if not leases.get(host_id)]
    since = [
        f"{host_id} (since {hosts[host_id].lost_time.ToJsonString()})"
        if host_id in hosts and hosts[host_id].HasField("lost_time")
        else host_id
        for host_id in away
    ]
    hosts_hold, them = ("hosts {} hold", "them") if len(away) > 1 else ("host {} holds", "it")
    return (
        f"Every good copy is away: {hosts_hold.format(' and '.join(since))} writes that no other has. Bring "
        f"{them} back and the volume starts by itself; or an operator gives up those writes: holdfast volume "
        f"force-start {volume.volume_id}."
    )


def _urgency(replica: r.ReplicaRecord) -> tuple[int, str]:
    """The fewest good copies first."""
    return len(replica.in_sync), replica.volume_uid


def _of_volume(
    sight: Sight,
    brake: Brake,
    volume: r.VolumeRecord,
    replica: r.ReplicaRecord,
    waits: dict[str, str],
    drains: dict[str, list[str]],
) -> list[Action]:
    """At most one action for a volume; otherwise why there is none, in `waits` and `drains`."""
    primary = replica.primary_host_id
    if sight.leases.get(primary) != boot_of(replica, primary):
        # A mirror takes over, or nobody can: there is nobody to copy from.
        for host_id in set(replica.host_ids) & drains.keys():
            drains[host_id].append(f"no primary serves {_called(volume)} now")
        return []
    settled = _settle(sight, replica)
    if settled is not None:
        return [settled]
    gone = _gone(sight, brake.settings, volume, replica)
    if gone is not None:
        return _replace(sight, brake, volume, replica, gone, waits)
    return _drain(sight, brake, volume, replica, drains)


def _settle(sight: Sight, replica: r.ReplicaRecord) -> Action | None:
    """Go on with, or undo, what was begun: a host that is to leave."""
    leaving, primary = replica.leaving_host_id, replica.primary_host_id
    lost = [host_id for host_id in replica.host_ids if host_id not in sight.leases]
    may_stay = leaving in sight.leases and leaving in sight.hosts and not sight.hosts[leaving].draining
    # Of three in sync one must go: a mirror that is to leave does not get its place back.
    too_late = len(replica.in_sync) > 2 and leaving != primary
    if may_stay and boot_of(replica, leaving) and not too_late:
        return Stay(replica.volume_uid, leaving)
    if leaving and leaving != primary and len([one for one in in_sync_ids(replica) if one != leaving]) >= 2:
        return LetGo(replica.volume_uid)
    if len(replica.host_ids) > 2:
        for host_id in lost:
            if not boot_of(replica, host_id):
                return Drop(replica.volume_uid, host_id)
    return None


def _gone(sight: Sight, settings: Settings, volume: r.VolumeRecord, replica: r.ReplicaRecord) -> str | None:
    """The host to replace because it is gone, or as good as that; "" if the volume has only one; or None."""
    if len(replica.host_ids) == 1:
        return ""
    if len(replica.host_ids) > 2:
        return None
    for host_id in replica.host_ids:
        host = sight.hosts.get(host_id)
        if host_id == replica.primary_host_id:
            continue
        if host_id in sight.leases:
            if not boot_of(replica, host_id) and _unusable(sight.now_s, settings, volume, host_id):
                return host_id
            continue
        if host is None or host.draining or _is_due(sight.now_s, settings, host, replica.volume_uid):
            return host_id
    return None


def _is_due(now_s: float, settings: Settings, host: r.HostRecord, volume_uid: str) -> bool:
    return host.HasField("lost_time") and _is_over(now_s, settings, host.lost_time, volume_uid)


def _unusable(now_s: float, settings: Settings, volume: r.VolumeRecord, host_id: str) -> bool:
    """Its host has said for long enough that the copy there cannot be used."""
    return any(
        one.host_id == host_id
        and one.reason in UNUSABLE
        and _is_over(now_s, settings, one.since_time, volume.uid)
        for one in volume.replica_troubles
    )


def _is_over(now_s: float, settings: Settings, since: Timestamp, volume_uid: str) -> bool:
    """Whether `replace_after_s`, and this volume's own part of the jitter, have passed."""
    share = JITTER_SHARE * (zlib.crc32(volume_uid.encode()) % 1000) / 1000
    return now_s >= since.ToMilliseconds() / 1000 + settings.replace_after_s * (1 + share)


def _replace(
    sight: Sight,
    brake: Brake,
    volume: r.VolumeRecord,
    replica: r.ReplicaRecord,
    gone: str,
    waits: dict[str, str],
) -> list[Action]:
    new = _place(sight, brake, volume, replica)
    if brake.storm:
        waits[volume.uid] = f"Another replica is needed, but {brake.storm}."
        return []
    if new is None:
        waits[volume.uid] = f"Another replica is needed, but {_no_room(sight, brake, volume, replica)}."
        return []
    if not brake.begin(_replacement(replica, new)):
        waits[volume.uid] = "Another replica waits for its turn: enough others are being copied."
        return []
    return [Replace(volume.uid, gone, new, must_be_lost=gone not in ("", *sight.leases))]


def _replacement(replica: r.ReplicaRecord, new: str) -> r.Replacement:
    return r.Replacement(volume_uid=replica.volume_uid, from_host_id=replica.primary_host_id, new_host_id=new)


def _place(sight: Sight, brake: Brake, volume: r.VolumeRecord, replica: r.ReplicaRecord) -> str | None:
    """Where another replica goes: a host with a free turn, if there is one with room."""
    candidates = [candidate_of(host, sight.leases.get(host_id, "")) for host_id, host in sight.hosts.items()]
    size, overcommit = volume.size_bytes, brake.settings.overcommit
    holders = set(replica.host_ids)
    free = place_another(candidates, size, overcommit, holders | brake.full_hosts())
    return free or place_another(candidates, size, overcommit, holders)


def _no_room(sight: Sight, brake: Brake, volume: r.VolumeRecord, replica: r.ReplicaRecord) -> str:
    return (
        f"no other live host that is not being drained has room for the {volume.size_bytes} bytes of "
        f"{_called(volume)}: add hosts, or make room"
    )


def _drain(
    sight: Sight,
    brake: Brake,
    volume: r.VolumeRecord,
    replica: r.ReplicaRecord,
    drains: dict[str, list[str]],
) -> list[Action]:
    """Empty a draining host of this volume: hand over, then copy elsewhere, then go."""
    primary = replica.primary_host_id
    draining = [host_id for host_id in replica.host_ids if host_id in drains]
    if not draining:
        return []
    to_go = [host_id for host_id in draining if host_id != primary]
    # One that was to leave, and whose replacement was dropped, is begun with again.
    going = replica.leaving_host_id or (to_go[0] if to_go else "")
    if going in to_go and len(replica.host_ids) == 2:
        return _begin_drain(sight, brake, volume, replica, going, drains)
    if primary in draining and not replica.wanted_primary_host_id:
        heirs = [
            host_id
            for host_id in keeps_memory(replica, dict(sight.leases))
            if host_id != primary and host_id not in drains
        ]
        if heirs:
            return [Switch(volume.uid, heirs[0])]
        if not replica.leaving_host_id:
            drains[primary].append(f"no other host is in sync for {_called(volume)}")
    return []


def _begin_drain(
    sight: Sight,
    brake: Brake,
    volume: r.VolumeRecord,
    replica: r.ReplicaRecord,
    host_id: str,
    drains: dict[str, list[str]],
) -> list[Action]:
    if not boot_of(replica, host_id) and volume.sync_rate_bytes_s:
        return []  # It is being brought up to date: sooner a good copy there than none for longer.
    new = _place(sight, brake, volume, replica)
    if brake.storm:
        drains[host_id].append(brake.storm)
    elif new is None:
        drains[host_id].append(_no_room(sight, brake, volume, replica))
    elif brake.begin(_replacement(replica, new)):
        return [Replace(volume.uid, host_id, new, must_be_lost=False)]
    return []


def _reasons(sight: Sight, waits: Mapping[str, str], drains: Mapping[str, Sequence[str]]) -> Iterator[Action]:
    for uid, volume in sight.volumes.items():
        if volume.repair_reason != waits.get(uid, ""):
            yield SetRepairReason(uid, waits.get(uid, ""))
    for host_id, host in sight.hosts.items():
        why = drains.get(host_id, ())
        more = f" (and {len(why) - 1} more)" if len(why) > 1 else ""
        reason = f"{why[0][0].upper()}{why[0][1:]}{more}." if why else ""
        if host.drain_reason != reason:
            yield SetDrainReason(host_id, reason)


def _called(volume: r.VolumeRecord) -> str:
    return f"volume {volume.volume_id!r} of {volume.owner}"
