"""`make sim`: many runs, each a function of its seed."""

import argparse
import gc
import logging
import multiprocessing
import os
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

from . import altering, story
from .checks import Violation

COLLECT_RUNS = 40


@dataclass
class Told:
    """What a batch of runs came to."""

    runs: int
    steps: int
    failed: list[tuple[int, str]]


def tell_some(seeds: range) -> Told:
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda _what: None
    told = Told(0, 0, [])
    gc.collect()
    gc.freeze()
    for seed in seeds:
        steps, failure = tell(seed)
        told.runs += 1
        told.steps += steps
        if failure:
            told.failed.append((seed, failure))
        if seed % COLLECT_RUNS == 0:
            gc.collect()
    return told


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
    if arguments.trace or arguments.digest or os.environ.get("TRACE"):
        logging.disable(logging.CRITICAL)
        sys.unraisablehook = lambda _what: None
        return max([trace(seed, arguments.digest) for seed in seeds], default=0)
    return campaign(seeds, arguments.jobs, arguments.failures)


def campaign(seeds: range, jobs: int, failures: int) -> int:
    began = time.monotonic()
    size = max(1, min(100, len(seeds) // (jobs * 4) or 1))
    batches = [seeds[at : at + size] for at in range(0, len(seeds), size)]
    runs = steps = violations = 0
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(jobs, context) as pool:
        for future in as_completed([pool.submit(tell_some, batch) for batch in batches]):
            told = future.result()
            runs += told.runs
            steps += told.steps
            for seed, failure in told.failed:
                violations += 1
                print(f"seed {seed}: {failure}", flush=True)
                print(f"  again: make sim SEED={seed} SEEDS=1 TRACE=1", flush=True)
            if violations >= failures:
                # What is cancelled never completes: nobody may wait for it.
                pool.shutdown(wait=True, cancel_futures=True)
                break
    took_s = time.monotonic() - began
    if altering.planted:
        print(f"a mistake was planted: {altering.planted}")
    print(f"{took_s:.0f} s, {1000 * took_s / max(runs, 1):.1f} ms a run, {jobs} processes")
    print(f"{runs} runs, {steps} steps, {violations} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
