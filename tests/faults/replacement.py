"""A host is gone for good: the control plane puts a new mirror on a third one, while I/O goes on."""

import time
from typing import Any

from faults import AFTERWARDS_S, GO_ON_LIMIT_S
from load import Load
from outcome import Outcome
from stage import Stage
from volume import IN_SYNC_LIMIT_S, Volume
from watch import Watch

REPLACEMENT = "mirror-gone-for-good"


def play_replacement(stage: Stage, volume: Volume) -> Outcome:
    outcome = Outcome(REPLACEMENT)
    began_s = time.monotonic()
    volume.await_in_sync()
    watch = Watch(stage.cluster, f"volumes/{volume.uid}", stage.cluster.logs / "watch-replacement.log")
    primary, gone = volume.roles()
    load = Load(volume, REPLACEMENT)
    stage.guest(gone).power_off()
    (new,) = set(stage.storage_names) - {primary, gone}

    def replaced(record: dict[str, Any]) -> bool:
        return {one["host_id"] for one in record.get("in_sync", [])} == {primary, new}

    stage.cluster.await_record(f"replicas/{volume.uid}", replaced, IN_SYNC_LIMIT_S)
    load.await_going(GO_ON_LIMIT_S)
    time.sleep(AFTERWARDS_S)
    load.end(outcome)
    # The old host knows nothing of what became of its volumes.
    stage.start_again(gone)
    outcome.wrong_bytes += volume.differing_bytes()
    stage.cluster.await_gone(f"assignments/{gone}/{volume.uid}")
    outcome.resynced_bytes = watch.marked_bytes()
    watch.end()
    outcome.took_s = time.monotonic() - began_s
    outcome.judge()
    return outcome
