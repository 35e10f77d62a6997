"""The fault campaign: real hosts, real initiators, real faults; what each cost.

    python tests/faults/run.py                  every case, then fifty random ones in a row
    python tests/faults/run.py --quick          the four most telling ones, in under three minutes
    python tests/faults/run.py --only GLOB      the cases of that name
    python tests/faults/run.py --only '' --random 20 --seed 7

As root, after `holdfast-lab install`. A case passes if no initiator saw an error, no byte was wrong (each
read while it went on, and all of both replicas afterwards), I/O never paused for longer than the case's
limit, and the volume was redundant again by itself. README.md has more.
"""

import argparse
import random
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from blackout import BLACKOUTS, play_blackout
from cases import CASES, LONG_HOLD_S, SABOTAGE, Case
from detached import DETACHED, play_detached
from forced import FORCED, play_forced
from outcome import Outcome, header
from play import play
from replacement import REPLACEMENT, play_replacement
from stage import THREE, Stage
from volume import Stuck, Volume

from holdfast.lab.cluster import STORAGE_NAMES
from holdfast.lab.fixtures import run_folder
from holdfast.lab.lab import Lab

_RANDOM_CASES = 50
_QUICK_BLACKOUT = "both-power-off"
_HOLD_S, _QUICK_HOLD_S = 20.0, 5.0
_RANDOM_HOLD_S = (0.5, 20.0)

Play = Callable[[Stage, Volume], Outcome]


@dataclass(frozen=True)
class Turn:
    label: str
    play: Play
    storage: tuple[str, ...] = STORAGE_NAMES


class Campaign:
    """Plays cases one after the other on one stage; a case that fails costs a new one."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder = folder
        self.options = options
        self.stage: Stage | None = None
        self.volume: Volume | None = None
        self.outcomes: list[Outcome] = []

    def run(self, todo: list[Turn]) -> None:
        print(header(), flush=True)
        for turn in todo:
            outcome = self._run_one(turn)
            self.outcomes.append(outcome)
            print(outcome.row(), flush=True)

    def _run_one(self, turn: Turn) -> Outcome:
        try:
            stage, volume = self._ready(turn.storage)
            outcome = turn.play(stage, volume)
            if outcome.passed:
                stage.make_sound()
        except Exception as error:  # whatever it is, it is this case's failure and not the campaign's end
            outcome = Outcome(turn.label, troubles=[_sentence(error)])
        if not outcome.passed:
            self._give_up_stage(turn.label)
        return outcome

    def _ready(self, storage: tuple[str, ...]) -> tuple[Stage, Volume]:
        if self.stage is not None and self.stage.storage_names != storage:
            self.stage.down()
            self.stage = self.volume = None
        if self.stage is None:
            self.stage = Stage(self.folder / "lab", self.folder / "disks", storage)
            self.stage.up()
        if self.volume is None:
            self.volume = Volume(self.stage, "faults")
        return self.stage, self.volume

    def _give_up_stage(self, label: str) -> None:
        """What a failed case leaves behind would fail the next one too."""
        if self.stage is None:
            return
        if self.options.logs:
            try:
                self.stage.keep_logs(Path(self.options.logs) / label)
            except Exception:
                traceback.print_exc()
        self.stage.down()
        self.stage = self.volume = None


def chosen(options: argparse.Namespace) -> list[Turn]:
    """What is to be played, in order."""
    pattern = "*" if options.only is None else options.only
    turns = [_turn(case, case.name, _hold_s(case, options), options.patience) for case in CASES]
    turns += [Turn(name, partial(play_blackout, name=name, label=name)) for name in BLACKOUTS]
    turns.append(Turn(FORCED, play_forced))
    turns.append(Turn(DETACHED, play_detached))
    turns.append(Turn(REPLACEMENT, play_replacement, THREE))
    turns.sort(key=lambda turn: len(turn.storage))
    quick = {case.name for case in CASES if case.quick} | {_QUICK_BLACKOUT}
    turns = [t for t in turns if _named(t.label, pattern) and (t.label in quick or not options.quick)]
    if pattern == SABOTAGE.name:
        turns.append(_turn(SABOTAGE, SABOTAGE.name, _hold_s(SABOTAGE, options), options.patience))
    count = options.random
    if count is None:
        count = 0 if options.quick or options.only is not None else _RANDOM_CASES
    return turns + _random_ones(count, options)


def _named(label: str, patterns: str) -> bool:
    return any(fnmatch(label, pattern) for pattern in patterns.split(","))


def _random_ones(count: int, options: argparse.Namespace) -> list[Turn]:
    chance = random.Random(options.seed)
    # Those that need another lease would make all agents start again: not in the middle of a row.
    cases = [case for case in CASES if case.plain]
    turns = []
    for number in range(1, count + 1):
        case = chance.choice(cases)
        if case.once:
            cases.remove(case)
        # The fault may be over before anybody has noticed.
        case = replace(case, moves=None if case.moves else case.moves, must_hold=False)
        hold_s = chance.uniform(*_RANDOM_HOLD_S)
        turns.append(_turn(case, f"random-{number}-{case.name}", hold_s, options.patience))
    return turns


def _turn(case: Case, label: str, hold_s: float, patience: float) -> Turn:
    played = partial(play, case=case, label=label, hold_s=hold_s, patience=patience)
    return Turn(label, played, case.storage)


def _hold_s(case: Case, options: argparse.Namespace) -> float:
    if options.hold:
        return float(options.hold)
    if options.quick:
        return _QUICK_HOLD_S
    return LONG_HOLD_S if case.long else _HOLD_S


def _sentence(error: Exception) -> str:
    kind = "" if isinstance(error, Stuck) else f"{type(error).__name__}: "
    return f"{kind}{error}".replace("\n", "\n    ")[-1500:]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only the most telling cases, with short holds")
    parser.add_argument("--only", metavar="GLOB,GLOB…", help="only the cases whose name matches")
    parser.add_argument("--random", type=int, metavar="K", help="so many random ones, after the others")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="of the random ones")
    parser.add_argument(
        "--hold", type=float, metavar="S", help=f"how long a fault lasts ({_HOLD_S:g}; some {LONG_HOLD_S:g})"
    )
    parser.add_argument("--patience", type=float, default=1.0, help="multiplies the limits of pauses")
    parser.add_argument("--logs", metavar="DIR", help="where the logs of failed cases are kept")
    parser.add_argument("--list", action="store_true", help="print what would be played")
    return parser.parse_args()


def main() -> int:
    chosen_options = options()
    todo = chosen(chosen_options)
    if chosen_options.list:
        print("\n".join(turn.label for turn in todo))
        return 0
    print(f"{len(todo)} cases, seed {chosen_options.seed}", flush=True)
    with run_folder("holdfast-faults-", lambda path: Lab.leftover(path / "lab").down()) as folder:
        campaign = Campaign(folder, chosen_options)
        campaign.run(todo)
    failed = sum(not outcome.passed for outcome in campaign.outcomes)
    print(f"{len(todo) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
