"""A volume, for people. Pure: what the service answered, as words."""

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.api.volume.v1 import volume_pb2 as pb
from holdfast.cli.show import duration, facts, moment, state_name
from holdfast.cli.sizes import show_size


def show_volume(volume: pb.Volume) -> None:
    """One fact a line. Those about hosts come with an operator's answer only."""
    facts([*_what_it_is(volume), *_how_it_is(volume), *_where_it_is(volume)])


def health_word(volume: pb.Volume) -> str:
    return state_name(r.HealthState.Name(volume.health.state)) if volume.health.state else "-"


def source_of(volume: pb.Volume) -> str:
    source = volume.source_snapshot
    return f"{source.owner}/{source.snapshot_id}" if source.snapshot_id else ""


def syncing(volume: pb.Volume) -> str:
    """How far the replica that is furthest behind is, and when it will be there; empty if none is behind."""
    left_bytes, rate_bytes_s = volume.sync_remaining_bytes, volume.sync_rate_bytes_s
    if not volume.sync_total_bytes:
        return ""
    to_go = f"{show_size(left_bytes)} of {show_size(volume.sync_total_bytes)} to go"
    return to_go + _expected(left_bytes, rate_bytes_s)


def copied(volume: pb.Volume) -> str:
    """How much of its source it has, and when it will have all; empty once it has."""
    left_bytes, total_bytes = volume.hydrate_remaining_bytes, volume.hydrate_total_bytes
    if not left_bytes:
        return ""
    has = f"{show_size(total_bytes - left_bytes)} of {show_size(total_bytes)}"
    return has + _expected(left_bytes, volume.hydrate_rate_bytes_s, " to go")


def _expected(left_bytes: int, rate_bytes_s: int, what: str = "") -> str:
    return f", about {duration(left_bytes / rate_bytes_s)}{what}" if rate_bytes_s else ""


def verified(verify: r.VerifyStatus) -> str:
    """The newest comparison: how far it is, what it found; empty if none was ever asked for."""
    if not verify.request:
        return ""
    state = state_name(r.VerifyState.Name(verify.state))
    done = f"{show_size(verify.done_bytes)} of {show_size(verify.total_bytes)}"
    when = moment(verify.end_time) or f"since {moment(verify.start_time)}"
    return f"{state} ({when}) {done}; {differences(verify)}. {verify.reason}".rstrip()


def differences(verify: r.VerifyStatus) -> str:
    return f"{verify.differing_bytes} bytes differed, {verify.repaired_bytes} repaired"


def limited(limits: r.VolumeLimits) -> str:
    """How fast it may be used; empty if nothing is set."""
    iops = f"{limits.iops} operations a second" if limits.iops else ""
    rate = f"{show_size(limits.bytes_s)} a second" if limits.bytes_s else ""
    return ", ".join(filter(None, (iops, rate)))


def _what_it_is(volume: pb.Volume) -> list[tuple[str, str]]:
    return [
        ("Volume", volume.volume_id),
        ("Owner", volume.owner),
        ("Uid", volume.uid),
        ("Size", f"{show_size(volume.size_bytes)} ({volume.size_bytes} bytes)"),
        ("Source", source_of(volume)),
        ("Target", volume.target_iqn),
        ("Attach", "several initiators" if volume.multi_attach else "one initiator"),
        ("Writes", "only to two hosts" if volume.needs_mirror else ""),
        ("Limits", limited(volume.limits)),
        ("Snapshots", f"encrypted with key {volume.encryption_key}" if volume.encryption_key else ""),
        ("Created", moment(volume.create_time)),
    ]


def _how_it_is(volume: pb.Volume) -> list[tuple[str, str]]:
    """`Why` says what happened, to what, and what to do: whoever found it out wrote it."""
    health = volume.health
    return [
        ("State", state_name(r.VolumeState.Name(volume.state))),
        ("Reason", volume.reason),
        ("Health", f"{health_word(volume)} {health.reason}".rstrip() if health.state else ""),
        ("Why", health.message),
        ("Since", moment(health.since_time) if health.state else ""),
        ("Syncing", syncing(volume)),
        ("Repair", volume.repair_reason),
        ("Verified", verified(volume.verify)),
        ("Copied", copied(volume)),
    ]


def _where_it_is(volume: pb.Volume) -> list[tuple[str, str]]:
    return [
        ("Epoch", str(volume.epoch) if volume.primary_host_id else ""),
        ("Primary", volume.primary_host_id),
        ("In sync", ", ".join(volume.in_sync_host_ids)),
        ("Joining", ", ".join(volume.joining_host_ids)),
        ("Moves to", volume.wanted_primary_host_id),
        ("Leaves", volume.leaving_host_id),
        *(("Trouble", _trouble(one)) for one in volume.replica_troubles),
        *(("Forced", _forced(one)) for one in volume.forced),
    ]


def _trouble(one: r.ReplicaTrouble) -> str:
    return f"{one.host_id} {one.reason} since {moment(one.since_time)}: {one.message}"


def _forced(one: r.ForcedStart) -> str:
    """Its owner is told when and what was given up; an operator also by whom and where."""
    who = f"by {one.by} on {one.host_id} " if one.host_id else ""
    return f"{moment(one.time)} {who}in epoch {one.epoch}: {one.loss}"
