"""As ring_load.py, of many rings at once by one process: ring_load_many.py PLAN; says the count of each."""

import json
import os
import random
import select
import sys
import time

from shared_ring import LoadKernel, take_attentions


def main() -> None:
    plan = json.loads(sys.argv[1])
    depth, size, pieces = plan["depth"], plan["size"], plan["span"] // plan["size"]
    rng, epoll = random.Random(plan["seed"]), select.epoll()
    rings: dict[int, tuple[LoadKernel, int]] = {}
    for memory_fd, event_fd, signal_fd in plan["rings"]:
        kernel = LoadKernel(memory_fd, size, plan["reading"])
        take_attentions(kernel, event_fd, signal_fd)
        rings[signal_fd] = kernel, event_fd
        epoll.register(signal_fd, select.EPOLLIN)
    counts, in_flight = dict.fromkeys(rings, 0), 0

    def queue(signal_fd: int, ready: list[int]) -> int:
        kernel, event_fd = rings[signal_fd]
        for cmd_id in ready:
            kernel.queue(cmd_id, rng.randrange(pieces) * size)
        kernel.publish()
        os.eventfd_write(event_fd, 1)
        return len(ready)

    began_s = time.perf_counter()
    for signal_fd in rings:
        in_flight += queue(signal_fd, list(range(1, depth + 1)))
    while in_flight:
        for signal_fd, _events in epoll.poll():
            os.eventfd_read(signal_fd)
            ready = rings[signal_fd][0].ended()
            counts[signal_fd] += len(ready)
            in_flight -= len(ready)
            if ready and time.perf_counter() - began_s < plan["seconds"]:
                in_flight += queue(signal_fd, ready)
    print(json.dumps({"counts": list(counts.values()), "elapsed_s": time.perf_counter() - began_s}))


main()
