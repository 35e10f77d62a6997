"""`make sim`: many runs, each a function of its seed.

They are made in short-lived processes, a few to each: what a run leaves behind ends with its process, which
costs less than collecting it.
"""

import argparse
import gc
import logging
import os
import sys
import time
import traceback
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkContext, ForkProcess

from . import altering, story
from .checks import Violation

BATCH_RUNS = 25
WARM_RUNS = 3


@dataclass
class Told:
    """What a batch of runs came to."""

    runs: int
    steps: int
    failed: list[tuple[int, str]]


def tell_some(seeds: range, answer: Connection) -> None:
    told = Told(0, 0, [])
    for seed in seeds:
        steps, failure = tell(seed)
        told.runs += 1
        told.steps += steps
        if failure:
            told.failed.append((seed, failure))
    answer.send(told)


def tell(seed: int) -> tuple[int, str]:
    """(steps, what was violated; empty if nothing was)."""
    gc.disable()
    run = story.Story(seed)
    try:
        run.tell()
    except Violation as violated:
        return run.timeline.steps, f"{type(violated).__name__}: {violated}"
    except Exception:
        return run.timeline.steps, traceback.format_exc(limit=-6)
    return run.timeline.steps, ""


def trace(seed: int, digest: bool) -> int:
    run = story.Story(seed, None if digest else print)
    try:
        run.tell()
    except Exception as error:
        if not digest:
            traceback.print_exc()
        print(f"seed {seed}: {type(error).__name__} {run.digest}")
        return 1
    print(f"seed {seed}: ok {run.digest}")
    return 0


class Campaign:
    """Batches of seeds in at most `jobs` processes at a time, until `failures` runs have failed."""

    def __init__(self, seeds: range, jobs: int, failures: int) -> None:
        self._batches = [seeds[at : at + BATCH_RUNS] for at in range(0, len(seeds), BATCH_RUNS)]
        self._jobs = jobs
        self._failures = failures
        self._context: ForkContext = get_context("fork")
        self._running: dict[Connection, tuple[ForkProcess, range]] = {}
        self.told = Told(0, 0, [])

    def run(self) -> Told:
        waiting = iter(self._batches)
        while True:
            while len(self._running) < self._jobs and len(self.told.failed) < self._failures:
                batch = next(waiting, None)
                if batch is None:
                    break
                self._start(batch)
            if not self._running:
                return self.told
            for answer in wait(list(self._running)):
                assert isinstance(answer, Connection)
                self._take(answer)

    def _start(self, batch: range) -> None:
        here, there = self._context.Pipe(duplex=False)
        process = self._context.Process(target=tell_some, args=(batch, there))
        process.start()
        there.close()
        self._running[here] = (process, batch)

    def _take(self, answer: Connection) -> None:
        process, batch = self._running.pop(answer)
        try:
            told = answer.recv()
        except EOFError:
            told = Told(0, 0, [(batch.start, f"the process of seeds {batch} has died")])
        process.join()
        answer.close()
        self.told.runs += told.runs
        self.told.steps += told.steps
        self.told.failed += told.failed
        for seed, failure in told.failed:
            print(f"seed {seed}: {failure}", flush=True)
            print(f"  again: make sim SEED={seed} SEEDS=1 TRACE=1", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="run.py", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--failures", type=int, default=20, help="stop after so many")
    parser.add_argument("--trace", action="store_true", help="say what happens")
    parser.add_argument("--digest", action="store_true", help="one line for each run: to compare two")
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    logging.disable(logging.CRITICAL)
    # What is left of killed processes may complain while it is collected.
    sys.unraisablehook = lambda _what: None
    if arguments.trace or arguments.digest or os.environ.get("TRACE"):
        return max([trace(seed, arguments.digest) for seed in seeds], default=0)
    began = time.monotonic()
    for seed in range(WARM_RUNS if len(seeds) > BATCH_RUNS else 0):
        tell(seed)
    gc.collect()
    gc.freeze()
    told = Campaign(seeds, arguments.jobs, arguments.failures).run()
    took_s = time.monotonic() - began
    if altering.planted:
        print(f"a mistake was planted: {altering.planted}")
    print(f"{took_s:.0f} s, {1000 * took_s / max(told.runs, 1):.1f} ms a run, {arguments.jobs} processes")
    print(f"{told.runs} runs, {told.steps} steps, {len(told.failed)} violations")
    return 1 if told.failed else 0


if __name__ == "__main__":
    sys.exit(main())
