"""What agents do to a group of snapshots that is to be frozen at one instant: decisions (see cas.py).

docs/group-snapshots.md says why this is right, and what a crash between any two of these leaves.

    say        a volume's primary has done a step: its gate's word
    advance    all have: the next step, to all of them; after the last one, the group counts
    attempt_failed    one gate did not hold: the next attempt, or the group's end

Nobody coordinates: whoever has said its word looks whether it was the last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.metadata import keys, snapshot_changes
from holdfast.metadata.assigned import Assignments, check_owner, timestamp
from holdfast.metadata.cas import Draft
from holdfast.metadata.group_record import all_frozen, give_up

ATTEMPTS_MAX = 5
"""Each waits ten seconds at most for the slowest volume: after a minute the owner had better hear of it."""


@dataclass(frozen=True)
class Word:
    """What a volume's primary says of its gate in one attempt; `done` is a FreezeStep."""

    group_uid: str
    attempt: int
    done: int
    epoch: int
    token: str = ""
    generation: int = 0
    freeze_time_s: float = 0.0
    frozen_on: tuple[str, ...] = ()


def say(draft: Draft, volume_uid: str, host_id: str, word: Word) -> bool:
    """Record a gate's word. False if it is known, or the group is past it. Raises StaleEpoch, NotFound."""
    key = keys.gate(word.group_uid, volume_uid)
    draft.fetch([keys.replica(volume_uid), keys.snapshot_group(word.group_uid), key])
    check_owner(draft, volume_uid, host_id, word.epoch)
    if _pending(draft, word.group_uid, word.attempt) is None:
        return False
    record = r.GateRecord(
        volume_uid=volume_uid,
        host_id=host_id,
        epoch=word.epoch,
        attempt=word.attempt,
        done=r.FreezeStep.ValueType(word.done),
        token=word.token,
        generation=word.generation,
        frozen_on=word.frozen_on,
    )
    if word.freeze_time_s:
        record.freeze_time.CopyFrom(timestamp(word.freeze_time_s))
    return draft.put(key, record)


def advance(draft: Draft, group_uid: str, attempt: int, now_s: float) -> bool:
    """Go on to the next step, if every volume has done this one, in the epoch that it is in now.

    The transaction compares all of it: at its moment every gate had said its word, and nobody but who said it
    could acknowledge a write to its volume.
    """
    gates = {gate.volume_uid: gate for gate in draft.under(keys.gates(group_uid), r.GateRecord)}
    # In few goes: writes are waiting.
    draft.fetch([keys.snapshot_group(group_uid), *(keys.replica(uid) for uid in gates)])
    group = _pending(draft, group_uid, attempt)
    if group is None:
        return False
    volumes = [member.volume_uid for member in group.members]
    if any(not _has_done(gates.get(uid), group) for uid in volumes):
        return False
    replicas = {uid: draft.get(keys.replica(uid), r.ReplicaRecord) for uid in volumes}
    for uid, replica in replicas.items():
        if replica is None or replica.epoch != gates[uid].epoch:
            return False
    _fetch_assignments(draft, replicas)
    if group.step == r.FREEZE_STEP_OPEN:
        return _count(draft, group, gates, now_s)
    group.step = r.FreezeStep.ValueType(group.step + 1)
    _tell(draft, group, gates)
    return draft.put(keys.snapshot_group(group_uid), group)


def attempt_failed(
    draft: Draft, volume_uid: str, host_id: str, epoch: int, group_uid: str, attempt: int, reason: str
) -> bool:
    """A gate did not hold: nothing of this attempt counts. False if it is over. Raises as `say`."""
    check_owner(draft, volume_uid, host_id, epoch)
    group = _pending(draft, group_uid, attempt)
    if group is None:
        return False
    name = next((one.volume_id for one in group.members if one.volume_uid == volume_uid), "")
    why = f"Volume {name!r}: {reason}"
    if attempt >= ATTEMPTS_MAX:
        sentence = f"Its volumes were not frozen at one instant in {attempt} attempts. {why}"
        for uid, because in give_up(draft, group, sentence):
            snapshot_changes.fail(draft, uid, because)
        return True
    group.attempt, group.step, group.attempt_reason = attempt + 1, r.FREEZE_STEP_PREPARE, why
    draft.delete_under(keys.gates(group_uid))
    _tell(draft, group, {})
    return draft.put(keys.snapshot_group(group_uid), group)


def _pending(draft: Draft, group_uid: str, attempt: int) -> r.SnapshotGroupRecord | None:
    group = draft.get(keys.snapshot_group(group_uid), r.SnapshotGroupRecord)
    if group is None or group.state != r.SNAPSHOT_GROUP_STATE_PENDING or group.attempt != attempt:
        return None
    return group


def _has_done(gate: r.GateRecord | None, group: r.SnapshotGroupRecord) -> bool:
    return gate is not None and gate.attempt == group.attempt and gate.done >= group.step


def _fetch_assignments(draft: Draft, replicas: Mapping[str, r.ReplicaRecord | None]) -> None:
    """All at once."""
    draft.fetch(
        [
            keys.assignment(host_id, uid)
            for uid, replica in replicas.items()
            if replica is not None
            for host_id in replica.host_ids
        ]
    )


def _tell(draft: Draft, group: r.SnapshotGroupRecord, gates: Mapping[str, r.GateRecord]) -> None:
    """The volumes' hosts hear of the step; with OPEN, of which closing it is for."""
    for member in group.members:
        gate = gates.get(member.volume_uid)
        token = gate.token if gate is not None and group.step == r.FREEZE_STEP_OPEN else ""
        freeze = r.GroupFreeze(group_uid=group.uid, attempt=group.attempt, step=group.step, token=token)
        assignments = Assignments.read(draft, member.volume_uid)
        for one in _of(assignments, member.snapshot_uid):
            one.group.CopyFrom(freeze)
        assignments.save(draft)


def _of(assignments: Assignments, snapshot_uid: str) -> Sequence[r.AssignedSnapshot]:
    return [one for own in assignments.each for one in own.snapshots if one.uid == snapshot_uid]


def _count(
    draft: Draft, group: r.SnapshotGroupRecord, gates: Mapping[str, r.GateRecord], now_s: float
) -> bool:
    """Every gate was still closed when it heard that all were, and every freeze is on disk."""
    draft.fetch([keys.snapshot(member.snapshot_uid) for member in group.members])
    for member in group.members:
        snapshot = draft.need(keys.snapshot(member.snapshot_uid), r.SnapshotRecord)
        gate = gates[member.volume_uid]
        snapshot_changes.content_is_fixed(
            draft, snapshot, gate.generation, gate.freeze_time, list(gate.frozen_on)
        )
    return all_frozen(draft, group, timestamp(now_s))
