"""`make sim-mutants`: plants each known mistake, one at a time, and counts the runs until it is found.

Only a judge's verdict counts, and only of the kind that the mistake leads to: not an exception, nor another
violation, nor a run that fails without the mistake too.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from .altering import VARIABLE, check
from .mistakes import MISTAKES, Mistake

RUN = Path(__file__).resolve().parent.parent / "run.py"
_FOUND = re.compile(r"^seed (\d+): (.*)$", re.MULTILINE)
_RUNS = re.compile(r"^(\d+) runs, ", re.MULTILINE)


def runs(first: int, count: int, jobs: int, mistake: str) -> tuple[int, list[tuple[int, str]]]:
    """(runs, seeds that failed and why), with a mistake planted or (empty) without."""
    command = [sys.executable, str(RUN), "--first", str(first), "--seeds", str(count)]
    command += ["--jobs", str(jobs), "--failures", str(count + 1)]
    environment = {**os.environ, VARIABLE: mistake}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    made = _RUNS.search(done.stdout)
    if made is None:
        raise RuntimeError(f"{mistake or 'no mistake'}: {done.stdout[-500:]}{done.stderr[-1500:]}")
    return int(made[1]), [(int(seed), why) for seed, why in _FOUND.findall(done.stdout)]


def hunt(mistake: Mistake, limit: int, jobs: int) -> tuple[int, int, str] | None:
    """(runs it took, the seed, what was said), or None within `limit` runs."""
    made, batch = 0, 20
    verdict = re.compile(r"(Violation: at [\d.]+ s|Stuck): (" + "|".join(map(re.escape, mistake.shows)) + ")")
    while made < limit:
        batch = min(batch * 2, 160, limit - made)
        # All of a batch, so that the first that shows it is the first.
        _count, failed = runs(made, batch, jobs, mistake.name)
        for seed, why in sorted(failed):
            if verdict.match(why) and not runs(seed, 1, 1, "")[1]:
                return seed + 1, seed, why
        made += batch
    return None


def plant_all() -> int:
    for mistake in MISTAKES:
        check(mistake)
    print(f"{len(MISTAKES)} mistakes can be planted")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="mutants.py", description=__doc__)
    parser.add_argument("--limit", type=int, default=20_000, help="runs for each mistake")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="mistakes whose name contains this")
    parser.add_argument("--skip", type=int, default=0, help="so many of the first")
    parser.add_argument("--part", default="1/1", help="K/N: the Kth of N parts")
    parser.add_argument("--plant", action="store_true", help="only whether each can be planted")
    arguments = parser.parse_args()
    if arguments.plant:
        return plant_all()
    missed = 0
    part, parts = map(int, arguments.part.split("/"))
    chosen = [mistake for mistake in MISTAKES[arguments.skip :] if arguments.only in mistake.name]
    chosen = chosen[part - 1 :: parts]
    for mistake in chosen:
        try:
            found = hunt(mistake, arguments.limit, arguments.jobs)
        except RuntimeError as error:
            print(f"{mistake.name:52} NOT PLANTED: {error}", flush=True)
            missed += 1
            continue
        if found is None:
            print(f"{mistake.name:52} NOT FOUND in {arguments.limit} runs", flush=True)
            missed += 1
        else:
            took, seed, why = found
            print(f"{mistake.name:52} {took:6} runs  seed {seed}: {why[:90]}", flush=True)
    print(f"{len(chosen)} mistakes, {missed} not found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
