"""The process that loads a worker, or a bare loop (bare.py), and says how much was done in how long.

    ring_load.py PLAN    a JSON object on the command line; a JSON object on standard output

A bare loop is told a count where a worker is shown commands; the wake-ups are the same.
"""

import json
import os
import random
import sys
import time

from shared_ring import LoadKernel, take_attentions


def main() -> None:
    plan = json.loads(sys.argv[1])
    memory_fd, event_fd, signal_fd = plan["fds"]
    depth, seconds = plan["depth"], plan["seconds"]
    if plan["bare"]:
        count, elapsed_s = _bare(event_fd, signal_fd, depth, seconds)
    else:
        kernel = LoadKernel(memory_fd, plan["size"], plan["reading"])
        take_attentions(kernel, event_fd, signal_fd)
        count, elapsed_s = _ring(kernel, event_fd, signal_fd, depth, seconds, _offsets(plan))
    print(json.dumps({"count": count, "elapsed_s": elapsed_s}))


def _offsets(plan: dict[str, int]) -> list[int]:
    pieces = plan["span"] // plan["size"]
    if plan["sequential"]:
        return [index * plan["size"] for index in range(pieces)]
    rng = random.Random(plan["seed"])
    return [rng.randrange(pieces) * plan["size"] for _ in range(50_000)]


def _ring(
    kernel: LoadKernel, event_fd: int, signal_fd: int, depth: int, seconds: float, offsets: list[int]
) -> tuple[int, float]:
    ready, in_flight, count, at = list(range(1, depth + 1)), 0, 0, 0
    began_s = now_s = time.perf_counter()
    while ready or in_flight:
        if now_s - began_s < seconds:
            for cmd_id in ready:
                kernel.queue(cmd_id, offsets[at])
                at = (at + 1) % len(offsets)
            in_flight += len(ready)
            kernel.publish()
            os.eventfd_write(event_fd, 1)
        elif not in_flight:
            break
        os.eventfd_read(signal_fd)
        ready = kernel.ended()
        in_flight -= len(ready)
        count += len(ready)
        now_s = time.perf_counter()
    return count, now_s - began_s


def _bare(event_fd: int, signal_fd: int, depth: int, seconds: float) -> tuple[int, float]:
    ready, in_flight, count = depth, 0, 0
    began_s = now_s = time.perf_counter()
    while ready or in_flight:
        if now_s - began_s < seconds:
            os.eventfd_write(event_fd, ready)
            in_flight += ready
        elif not in_flight:
            break
        ready = os.eventfd_read(signal_fd)
        in_flight -= ready
        count += ready
        now_s = time.perf_counter()
    return count, now_s - began_s


main()
