"""Volumes judged by what others wrote: iscsi-test-cu, sg3-utils, file systems.

    python tests/conformance/run.py                  everything
    python tests/conformance/run.py --only GLOB      some of: suite, sg3, reservations, attentions, ext4,
                                                     xfs, btrfs
    python tests/conformance/run.py --no-peer        without LIO's fileio beside the suite

As root, after `holdfast-lab install`. docs/conformance.md says what may be skipped, and why.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatch

from attentions import judge as judge_attentions
from fileio import export_fileio
from filesystems import KINDS, judge
from hosts import Volume, World
from reasons import TABLE, read_reasons, reason_for
from reservations import judge as judge_reservations
from sg3 import run_checks
from suite import FAILED, PASSED, SKIPPED, Verdict, run_suite

from holdfast.base import ids
from holdfast.lab import initiator
from holdfast.lab.cluster import STORAGE_NAMES
from holdfast.lab.fixtures import run_folder
from holdfast.lab.lab import Lab

MIB = 1 << 20
SUITE_MIB = 1024
SG3_MIB = 64
FILESYSTEM_MIB = 512


class Report:
    """Prints as it goes, and counts."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.accepted_failures = 0
        self._reasons = read_reasons(TABLE.read_text())

    def add(self, verdict: Verdict, beside: str = "") -> None:
        outcome, why = verdict.outcome, verdict.why
        if outcome != PASSED:
            reason = reason_for(verdict.name, self._reasons)
            if reason:
                self.accepted_failures += outcome == FAILED
                why = reason if outcome == SKIPPED else f"FAILED: {why}; {reason}"
                outcome = SKIPPED
            else:
                outcome, why = FAILED, why or "skipped without a reason in docs/conformance.md"
        self.counts[outcome] += 1
        print(f"{outcome:8}{verdict.name:44}{beside:18}{why}".rstrip(), flush=True)

    def end(self) -> int:
        passed, failed, skipped = (self.counts[each] for each in (PASSED, FAILED, SKIPPED))
        print(f"Of those skipped {self.accepted_failures} failed, for a reason in docs/conformance.md.")
        print(f"{passed} passed, {failed} failed, {skipped} skipped")
        return 1 if failed or not passed else 0


def iscsi_test_cu(world: World, report: Report, with_peer: bool) -> None:
    volume = Volume(world, "suite", f"{SUITE_MIB}MiB")
    beside: dict[str, str] = {}
    if with_peer:
        storage = world.lab.guest(STORAGE_NAMES[1])
        peer = export_fileio(storage, world.compute.initiator, SUITE_MIB * MIB)
        beside = {one.name: f"fileio: {one.outcome}" for one in run_suite(world.compute, peer)}
    for verdict in run_suite(world.compute, volume.active_login()):
        report.add(verdict, beside.get(verdict.name, ""))
    report.add(volume.equal_verdict("suite.replicas-equal"))
    volume.remove()


def sg3(world: World, report: Report) -> None:
    volume = Volume(world, "sg3", f"{SG3_MIB}MiB")
    disk = volume.log_in()
    for verdict in run_checks(world.compute, disk, volume.uid, ids.naa(volume.uid), SG3_MIB * MIB // 512):
        report.add(verdict)
    initiator.log_out(world.compute, volume.active_login())
    report.add(volume.equal_verdict("sg3.replicas-equal"))
    volume.remove()


def reservations(world: World, report: Report) -> None:
    volume = Volume(world, "reserved", f"{SG3_MIB}MiB")
    for verdict in judge_reservations(world, volume):
        report.add(verdict)
    volume.remove()


def attentions(world: World, report: Report) -> None:
    for verdict in judge_attentions(world):
        report.add(verdict)


def file_system(world: World, report: Report, kind: str) -> None:
    volume = Volume(world, kind, f"{FILESYSTEM_MIB}MiB")
    for verdict in judge(world, volume, kind):
        report.add(verdict)
    volume.remove()


def chosen(options: argparse.Namespace) -> dict[str, Callable[[World, Report], None]]:
    parts: dict[str, Callable[[World, Report], None]] = {
        "suite": lambda world, report: iscsi_test_cu(world, report, not options.no_peer),
        "sg3": sg3,
        "reservations": reservations,
        "attentions": attentions,
    }
    for kind in KINDS:
        parts[kind] = lambda world, report, kind=kind: file_system(world, report, kind)
    return {name: part for name, part in parts.items() if fnmatch(name, options.only)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", metavar="GLOB", default="*")
    parser.add_argument("--no-peer", action="store_true")
    options = parser.parse_args()
    report = Report()
    with run_folder("holdfast-conformance-", lambda path: Lab.leftover(path / "lab").down()) as folder:
        world = World(folder / "lab", folder / "disks")
        try:
            world.up()
            for name, part in chosen(options).items():
                try:
                    part(world, report)
                except Exception as error:  # whatever it is, it is this part's failure
                    report.add(Verdict(f"{name}.went-through", FAILED, f"{type(error).__name__}: {error}"))
        finally:
            world.down()
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
