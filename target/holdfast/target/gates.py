"""Of a volume that is frozen together with others: between its worker's words and etcd's. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.metadata.group_changes import Word
from holdfast.target import reports as say
from holdfast.target.control import ObservedSnapshot

STEPS: Mapping[int, str] = {
    r.FREEZE_STEP_PREPARE: "prepare",
    r.FREEZE_STEP_CLOSE: "close",
    r.FREEZE_STEP_OPEN: "open",
}
_DONE: Mapping[str, int] = {
    "prepared": r.FREEZE_STEP_PREPARE,
    "closed": r.FREEZE_STEP_CLOSE,
    "frozen": r.FREEZE_STEP_OPEN,
}
"""Which step is done, by a gate's state."""


def gate_says(
    group: r.GroupFreeze, epoch: int, host_id: str, seen: ObservedSnapshot
) -> say.GateReport | None:
    """What there is to be told of a gate, if it is of the attempt that is wanted."""
    gate = seen.gate
    if gate is None or gate.attempt != group.attempt:
        return None
    if gate.state == "failed":
        return say.GateFailed(epoch, group.group_uid, gate.attempt, gate.reason)
    done = _DONE.get(gate.state)
    if done is None or (done == r.FREEZE_STEP_OPEN and not seen.frozen):
        return None
    word = Word(group.group_uid, gate.attempt, done, epoch, gate.token)
    if done != r.FREEZE_STEP_OPEN:
        return say.GateSays(word)
    on = (host_id, *seen.also_on)
    return say.GateSays(
        replace(word, generation=seen.generation, freeze_time_s=seen.freeze_time, frozen_on=on)
    )
