"""The campaign of faults of the object store: whole cycles through a proxy that goes wrong by chance.

    python tests/store_faults/run.py --seeds 50 --first 0

Each cycle: a snapshot, an incremental one, both read over NBD, a grant, a volume made from it, read while it
is filled and after; snapshotters killed meanwhile. It passes if no byte is wrong and all that is COMPLETED
is whole. As root, after `holdfast-lab install`.
"""

import argparse
import sys

from cycle import play
from store_stage import Stage, set_up

from holdfast.lab.fixtures import run_folder
from holdfast.lab.servers import LocalHost

RATES = (0.02, 0.1, 0.25)
KILLS = (0, 2, 6)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30, help="how many cycles")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    words = parser.parse_args()
    failed = []
    with (
        run_folder("holdfast-store-faults-", lambda path: LocalHost(path / "processes").down()) as folder,
        set_up(folder) as stage,
    ):
        stage.start_hosts()
        for seed in range(words.first, words.first + words.seeds):
            if not run_one(stage, seed):
                failed.append(seed)
    print(f"{words.seeds - len(failed)} of {words.seeds} held" + (f"; failed: {failed}" if failed else ""))
    return 1 if failed else 0


def run_one(stage: Stage, seed: int) -> bool:
    """Whether the cycle of this seed held; says so."""
    rate, kills = RATES[seed % 3], KILLS[seed // 3 % 3]
    label = f"seed {seed:4}: {rate:4.0%} of requests, {kills} kills"
    try:
        told = play(stage, seed, rate, kills, f"seed-{seed}")
    except AssertionError as error:
        print(f"{label}: FAILED: {error}", flush=True)
        stage.proxy.mend()
        stage.kill_all()
        return False
    lost = ", ".join(f"{where} {count}" for where, count in told.lost.items() if count)
    print(
        f"{label}: {told.faults:4} faults, {told.kills} killed, {told.seconds:5.1f} s"
        f"{', errors told: ' + lost if lost else ''}",
        flush=True,
    )
    return True


if __name__ == "__main__":
    sys.exit(main())
