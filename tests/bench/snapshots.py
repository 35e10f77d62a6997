"""What snapshots cost, beside plain transfers of the same bytes and beside restic, on one real S3 server.

    python tests/bench/snapshots.py [--mib 512] [--rounds 3] [--folder DIRECTORY]

Rounds interleave the peers, since the machine's speed varies; each figure is the median of the rounds,
with the lowest and the highest. `steal` is what other guests of this processor took meanwhile. Where others
use the processors too, seconds depend on them; the processor time of all that take part depends less.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import mkdtemp
from typing import TypeVar

from first_byte import first_byte
from images import Image
from peers import Restic, get_all, put_all
from world import BUCKET, World, running

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.limits import EXTENT_BYTES, MIB
from holdfast.lab.folders import fast_dir
from holdfast.lab.install import install
from holdfast.lab.packages import install_packages

PLAIN, RESTIC = "plain", "restic"
_Result = TypeVar("_Result")
ROOM = 16
"""Images, copies and objects, in images."""


class Bench:
    def __init__(self, world: World, folder: Path, size_bytes: int, rounds: int) -> None:
        self.world = world
        self.folder = folder
        self.size_bytes = size_bytes
        self.rounds = rounds
        self.client = world.swift.client()
        self.seconds: dict[str, list[float]] = {}
        self.processor_s: dict[str, list[float]] = {}

    def run(self) -> None:
        for kind in ("random", "text"):
            image = Image(self.folder / kind, self.size_bytes).fill(1, compressible=kind == "text")
            for number in range(self.rounds):
                self._round(kind, image, number)
            image.close()
            self._speed_table(kind)
        self._cost_table()
        print(f"\npeak memory of the snapshotter: {self.world.peak_mib()} MiB")
        first_byte(self.world, self.folder)

    def _round(self, kind: str, image: Image, number: int) -> None:
        """Every peer once, with its own bytes at the server, taken away afterwards."""
        copy = self.folder / "copy"
        make_bucket = self.world.swift.make_bucket
        bucket = make_bucket(f"{PLAIN}-{kind}-{number}")
        self._timed(f"{kind} up plain boto3", lambda: put_all(self.client, bucket, image.path))
        view = image.freeze()
        made: list[r.SnapshotRecord] = []
        name = f"{kind}{number}"
        self._timed(f"{kind} up holdfast", lambda: made.append(self.world.snapshot(name, view)))
        restic = Restic(self.world.swift, make_bucket(f"{RESTIC}-{kind}-{number}"), self.folder)
        restic.init()
        self._timed(f"{kind} up restic", lambda: restic.backup(image.path))
        self._timed(f"{kind} down plain boto3", lambda: get_all(self.client, bucket, image.path, copy))
        self._timed(f"{kind} down holdfast", lambda: self.world.nbdcopy(made[0], copy))
        if copy.read_bytes() != image.path.read_bytes():
            raise SystemExit("the snapshot's image is not the volume's")
        copy.unlink()
        self._timed(f"{kind} down restic", lambda: restic.restore(self.folder / "restored"))
        for one in (bucket, restic.bucket, BUCKET):
            self._empty(one)

    def _timed(self, name: str, work: Callable[[], object]) -> None:
        stolen, used_s, began = _stolen_ticks(), self.world.processor_s(), time.monotonic()
        work()
        took_s = time.monotonic() - began
        self.processor_s.setdefault(name, []).append(self.world.processor_s() - used_s)
        self.seconds.setdefault(name, []).append(took_s)
        share = (_stolen_ticks() - stolen) / max(1, took_s * 200)
        print(f"  {name}: {took_s:.1f} s, steal {share:.0%}", file=sys.stderr, flush=True)

    def _speed_table(self, kind: str) -> None:
        print(f"\n{kind}, {self.size_bytes // MIB} MiB: MB/s, median of {self.rounds} (lowest to highest)")
        for way in ("up", "down"):
            plain = self.seconds[f"{kind} {way} plain boto3"]
            for who in ("plain boto3", "holdfast", "restic"):
                took = self.seconds[f"{kind} {way} {who}"]
                rates = sorted(self.size_bytes / 1e6 / one for one in took)
                ratios = sorted(p / t for p, t in zip(plain, took, strict=True))
                used_s = median(self.processor_s[f"{kind} {way} {who}"])
                print(
                    f"  {way:4} {who:12} {median(rates):7.0f} ({rates[0]:.0f} to {rates[-1]:.0f})"
                    f"   {median(ratios):.2f} of plain ({ratios[0]:.2f} to {ratios[-1]:.2f});"
                    f" {used_s:.2f} s of processors"
                )

    def _cost_table(self) -> None:
        """Bytes and requests: a full snapshot, an increment, and a second volume with the same content."""
        image = Image(self.folder / "cost", self.size_bytes).fill(2, compressible=False)
        restic = Restic(self.world.swift, self.world.swift.make_bucket(f"{RESTIC}-cost"), self.folder)
        restic.init()
        self.world.requests.take()
        self._empty(BUCKET)
        print("\nbytes stored and requests")
        full = self._cost("full", lambda: self.world.snapshot("full", image.freeze()), BUCKET)
        self._cost("full, restic", lambda: restic.backup(image.path), restic.bucket)
        image.scatter(3, self.size_bytes // 4096 // 100)
        view = image.freeze()
        self._cost(
            f"1 % random 4 KiB written ({view.changed_bytes / MIB:.1f} MiB of extents changed)",
            lambda: self.world.snapshot("increment", view, base=full),
            BUCKET,
        )
        self._cost("the same, restic", lambda: restic.backup(image.path), restic.bucket)
        again = self.folder / "again"
        shutil.copyfile(image.path, again)
        self._cost("a second volume of that content", lambda: self.world.snapshot("second", view), BUCKET)
        self._cost("the same, restic", lambda: restic.backup(again), restic.bucket)
        again.unlink()
        image.close()

    def _cost(self, name: str, work: Callable[[], _Result], bucket: str) -> _Result:
        before = self._objects(bucket)
        self.world.requests.take()
        result = work()
        requests = self.world.requests.take()
        new = {key: size for key, size in self._objects(bucket).items() if key not in before}
        packs = -(-sum(new.values()) // (32 * MIB))
        print(
            f"  {name:55} {sum(new.values()) / MIB:8.1f} MiB in {len(new):3} objects;"
            f" {sum(requests.values()):4} requests {requests} ({packs} packs' worth)"
        )
        return result

    def _objects(self, bucket: str) -> dict[str, int]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", ())}

    def _empty(self, bucket: str) -> None:
        for key in self._objects(bucket):
            self.client.delete_object(Bucket=bucket, Key=key)


def _stolen_ticks() -> int:
    """Hundredths of a second, of all processors."""
    return int(Path("/proc/stat").read_text().split()[8])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--mib", type=int, default=512, help="size of an image")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where images, objects and copies are kept meanwhile")
    arguments = parser.parse_args()
    install()
    install_packages(print, ["restic"])
    parent = arguments.folder or fast_dir(arguments.mib * ROOM)
    folder = Path(mkdtemp(prefix="holdfast-bench-", dir=parent))
    try:
        with running(folder) as world:
            Bench(world, folder, arguments.mib * MIB // EXTENT_BYTES * EXTENT_BYTES, arguments.rounds).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
