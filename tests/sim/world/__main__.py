"""`make sim`: many runs, each a function of its seed.

Told in processes of their own, one for each core.
"""

import argparse
import gc
import logging
import os
import secrets
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkContext, ForkProcess

from . import altering, story
from .checks import Violation

BATCH_RUNS = 25
WARM_RUNS = 3
SAID_EVERY_S = 300.0


@dataclass
class Told:
    """What a batch of runs came to."""

    runs: int
    steps: int
    failed: list[tuple[int, str]]


def tell_batches(asked: Connection) -> None:
    """A process of its own: tells one range of seeds after another, until None comes."""
    while (seeds := asked.recv()) is not None:
        told = Told(0, 0, [])
        for seed in seeds:
            steps, failure = tell(seed)
            gc.collect()
            told.runs += 1
            told.steps += steps
            if failure:
                told.failed.append((seed, failure))
        # What is left is what codec.py remembers: more with every batch, and not to be looked through again.
        gc.freeze()
        asked.send(told)


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
    """Batches of seeds in `jobs` processes, until `failures` runs have failed. A process tells many batches,
    and collects after each run: cheaper than new pages for what runs leave behind.
    """

    def __init__(self, seeds: Sequence[int], jobs: int, failures: int) -> None:
        self._waiting = iter([seeds[at : at + BATCH_RUNS] for at in range(0, len(seeds), BATCH_RUNS)])
        self._jobs = jobs
        self._failures = failures
        self._context: ForkContext = get_context("fork")
        self._running: dict[Connection, tuple[ForkProcess, Sequence[int]]] = {}
        self._began_s = time.monotonic()
        self._said_s = self._began_s
        self.told = Told(0, 0, [])

    def run(self) -> Told:
        for _ in range(self._jobs):
            batch = self._next()
            if batch is not None:
                self._start(batch)
        while self._running:
            for there in wait(list(self._running)):
                assert isinstance(there, Connection)
                self._hear(there)
        return self.told

    def _next(self) -> Sequence[int] | None:
        return next(self._waiting, None) if len(self.told.failed) < self._failures else None

    def _start(self, batch: Sequence[int]) -> None:
        here, there = self._context.Pipe()
        process = self._context.Process(target=tell_batches, args=(there,))
        process.start()
        there.close()
        here.send(batch)
        self._running[here] = (process, batch)

    def _hear(self, there: Connection) -> None:
        process, batch = self._running.pop(there)
        try:
            self._take(there.recv())
        except EOFError:
            self._take(Told(0, 0, [(batch[0], f"the process of seeds {batch[0]} to {batch[-1]} has died")]))
            process.join()
            there.close()
            following = self._next()
            if following is not None:
                self._start(following)
            return
        following = self._next()
        there.send(following)
        if following is not None:
            self._running[there] = (process, following)
        else:
            process.join()
            there.close()

    def _take(self, told: Told) -> None:
        self.told.runs += told.runs
        self.told.steps += told.steps
        self.told.failed += told.failed
        for seed, failure in told.failed:
            print(f"seed {seed}: {failure}", flush=True)
            print(f"  again: make sim SEED={seed} SEEDS=1 TRACE=1", flush=True)
        now_s = time.monotonic()
        if now_s - self._said_s > SAID_EVERY_S:
            self._said_s = now_s
            print(f"... {self.told.runs} runs, {len(self.told.failed)} violations", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="run.py", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--fresh", type=int, default=0, help="so many more, from a seed of chance")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--failures", type=int, default=20, help="stop after so many")
    parser.add_argument("--trace", action="store_true", help="say what happens")
    parser.add_argument("--digest", action="store_true", help="one line for each run: to compare two")
    arguments = parser.parse_args()
    seeds = [*range(arguments.first, arguments.first + arguments.seeds)]
    if arguments.fresh:
        first = secrets.randbelow(1 << 40)
        print(f"and {arguments.fresh} runs from seed {first} on", flush=True)
        seeds += range(first, first + arguments.fresh)
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
