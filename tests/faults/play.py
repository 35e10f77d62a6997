"""Plays one case: a sound volume, the load, the fault, redundancy again, and then the judgement."""

import itertools
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from cases import Case
from faults import AFTERWARDS_S, GO_ON_LIMIT_S, Scene
from load import Load
from outcome import Outcome
from stage import Stage
from volume import Volume
from watch import Watch

from holdfast.base.limits import MIB, PATH_MOVE_MIN_S

_HELD_SHARE = 0.8


def play(stage: Stage, volume: Volume, case: Case, label: str, hold_s: float, patience: float) -> Outcome:
    """Raises whatever stops it in the middle; the outcome judges what was measured."""
    if case.made is None:
        return _play(stage, volume, case, label, hold_s, patience)
    own = Volume(stage, label, case.made)
    outcome = _play(stage, own, case, label, hold_s, patience)
    if outcome.passed:
        own.remove()
    return outcome


def _play(stage: Stage, volume: Volume, case: Case, label: str, hold_s: float, patience: float) -> Outcome:
    limit_s = case.pause_limit_s * patience + (hold_s if case.holds_io else 0)
    outcome = Outcome(label)
    began_s = time.monotonic()
    stage.set_lease_ttl(case.lease_ttl_s)
    volume.await_in_sync()
    if case.needs_room:
        volume.discard_all()
    _await_path_move_allowed(case, volume)
    watches = [_watch(volume, kind, label) for kind in ("replicas", "volumes")]
    primary, mirror = volume.roles()
    load = Load(volume, label, fio_mib=case.fio_mib)
    scene = Scene(stage, volume, load, primary, mirror, hold_s, watches[1])
    case.fault(scene)
    outcome.pause_limit_ms = round((limit_s + scene.election_s) * 1000)
    outcome.notes += scene.notes
    scene.load.await_going(GO_ON_LIMIT_S)
    volume.await_in_sync()
    scene.hold(AFTERWARDS_S)
    scene.load.end(outcome)
    outcome.wrong_bytes += volume.differing_bytes()
    outcome.resynced_bytes = watches[1].marked_bytes()
    replicas = watches[0].end()
    watches[1].end()
    outcome.troubles += [*scene.troubles, *_moves(case, scene, replicas, volume.roles()[0])]
    outcome.troubles += bounds(case, hold_s, outcome)
    outcome.took_s = time.monotonic() - began_s
    outcome.judge()
    return outcome


def bounds(case: Case, hold_s: float, outcome: Outcome) -> list[str]:
    """What must not have been less, or more, beside the pause."""
    troubles = []
    if case.must_hold and (outcome.pause_ms or 0) < _HELD_SHARE * hold_s * 1000:
        troubles.append(f"writes were acknowledged while they must not be: held for {outcome.pause_ms} ms")
    limit_mib = case.resync_limit_mib
    if limit_mib is not None and not 0 < (outcome.resynced_bytes or 0) <= limit_mib * MIB:
        troubles.append(f"{outcome.resynced_bytes} bytes were resynced, {limit_mib} MiB at most")
    return troubles


def _await_path_move_allowed(case: Case, volume: Volume) -> None:
    """A volume moves for its initiator's sake only once in a while: in a row of cases, wait for that."""
    moved = volume.replica().get("path_move_time")
    if case.moves_for_path and moved:
        moved_s = datetime.fromisoformat(moved).timestamp()
        time.sleep(max(0.0, moved_s + PATH_MOVE_MIN_S + 1 - time.time()))


def _watch(volume: Volume, kind: str, label: str) -> Watch:
    log: Path = volume.cluster.logs / f"watch-{kind}-{label}.log"
    return Watch(volume.cluster, f"{kind}/{volume.uid}", log)


def _moves(case: Case, scene: Scene, replicas: list[dict[str, Any]], primary: str) -> list[str]:
    """What is wrong with how often, and where to, the volume moved."""
    order = [scene.primary, *(one["primary_host_id"] for one in replicas)]
    moves = sum(a != b for a, b in itertools.pairwise(order))
    troubles = []
    if case.moves is True and not moves:
        troubles.append("the volume did not move to the other host")
    if case.moves is False and primary != scene.primary:
        troubles.append(f"the volume moved to {primary} without need")
    if moves > case.most_moves:
        troubles.append(f"the volume moved {moves} times, {case.most_moves} at most")
    return troubles
