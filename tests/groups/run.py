"""`make sim-groups`: many stories of groups of snapshots, each a function of its seed."""

import argparse
import logging
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from group_play import play

from holdfast.api.records.v1 import records_pb2 as r


def story(seed: int) -> tuple[int, str, int, list[str]]:
    logging.disable()
    try:
        world, found = play(seed, seed % 4)
    except Exception as error:
        return seed, "broke", 0, [repr(error)]
    return seed, r.SnapshotGroupState.Name(world.group.state), world.group.attempt, found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    ends: Counter[tuple[str, int]] = Counter()
    bad = 0
    with ProcessPoolExecutor(asked.jobs) as pool:
        seeds = range(asked.first, asked.first + asked.seeds)
        for seed, state, attempts, found in pool.map(story, seeds, chunksize=4):
            ends[state.removeprefix("SNAPSHOT_GROUP_STATE_"), attempts] += 1
            bad += bool(found)
            for one in found:
                print(f"seed {seed}: {one}", flush=True)
    for (state, attempts), count in sorted(ends.items()):
        print(f"{state} after {attempts} attempts: {count}")
    print(f"{asked.seeds} runs, {bad} violations")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
