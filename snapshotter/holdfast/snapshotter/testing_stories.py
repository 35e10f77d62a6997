"""Random stories of the whole cycle, and mistakes that they must find.

    python -m holdfast.snapshotter.testing_stories --seeds 1000
    python -m holdfast.snapshotter.testing_stories --mistakes

A story is a seed. Users write, freeze, delete, restore, make volumes; snapshotters upload, are killed at any
step, fail, or are paused for as long as it pleases and wake up; so do collectors, several at a time; one of
the clocks may jump. Whatever is deleted is judged before it is (testing_cycle.py), everything that must be
readable is read now and then, and in the end what is left over must be needed.
"""

import argparse
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from random import Random
from unittest import mock

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import HoldfastError
from holdfast.metadata import cas, collection_changes, snapshot_changes
from holdfast.metadata.collection_changes import Moment
from holdfast.snapshotter import collect_roots, collector, patient, task
from holdfast.snapshotter.collect_cut import Cut
from holdfast.snapshotter.objects_faults import Killed
from holdfast.snapshotter.testing_cycle import GRACE_S, PLACES, Cycle, ModelDisk, Process
from holdfast.snapshotter.testing_steps import How

STEPS = 60
STEP_WAIT_S = 60.0
_STANDS = (r.SNAPSHOT_STATE_COMPLETED, r.SNAPSHOT_STATE_RECYCLED)


@dataclass
class _Paused:
    """A process that is held in the middle of something."""

    process: Process
    thread: threading.Thread
    errors: list[BaseException] = field(default_factory=list)


class Story:
    def __init__(self, seed: int) -> None:
        self.cycle = Cycle(seed)
        self.chance = Random(seed + 1)
        self.paused: list[_Paused] = []
        self.told: list[str] = []
        self._jumps = self.chance.choice(("now_s", "store_s"))
        """Which clock may jump: two that do are more than is promised."""

    def play(self, steps: int = STEPS) -> None:
        """Raises AssertionError, or whatever did not keep a promise."""
        acts: list[tuple[int, Callable[[], None]]] = [
            (14, self._write), (10, self._freeze), (10, self._upload), (4, self._pause_upload),
            (8, self._delete), (2, self._restore), (3, self._purge), (9, self._collect),
            (3, self._pause_collect), (7, self._wake), (5, self._new_disk), (6, self._hydrate),
            (2, self._delete_disk), (3, self._direct), (8, self._time), (4, self._jump),
        ]  # fmt: skip
        self._new_disk()
        for _ in range(steps):
            act = self.chance.choices([act for _, act in acts], [weight for weight, _ in acts])[0]
            self.told.append(act.__name__)
            try:
                act()
            except HoldfastError as error:
                self.told[-1] += f" ({error.message[:60]})"
            if self.chance.random() < 0.15:
                self.cycle.check_readable()
        self._end()

    def _end(self) -> None:
        while self.paused:
            self._wake()
        for one in self.cycle.snapshots(*snapshot_changes.UNDER_WAY):
            if one.HasField("direct") and one.state == r.SNAPSHOT_STATE_PENDING:
                self.cycle.complete_direct(one.uid)
            assert self.cycle.upload(one.uid), f"snapshot {one.uid} does not complete"
        self.cycle.settle()

    def _disk(self) -> ModelDisk | None:
        disks = list(self.cycle.disks.values())
        return self.chance.choice(disks) if disks else None

    def _some(self, *states: int) -> r.SnapshotRecord | None:
        found = self.cycle.snapshots(*states)
        return self.chance.choice(found) if found else None

    def _write(self) -> None:
        disk = self._disk()
        for _ in range(self.chance.randrange(1, 8)):
            if disk is not None:
                disk.write(self.chance.choice(PLACES), self.cycle.data())

    def _freeze(self) -> None:
        disk = self._disk()
        if disk is not None:
            self.cycle.freeze(disk)

    def _upload(self) -> None:
        one = self._some(r.SNAPSHOT_STATE_FROZEN)
        if one is None:
            return
        process = self._process()
        try:
            self.cycle.upload(one.uid, process)
        except Killed:
            pass
        finally:
            self.cycle.expire(process)

    def _collect(self) -> None:
        process = self._process()
        try:
            self.cycle.collect(process)
        except Killed:
            self.cycle.expire(process)

    def _process(self) -> Process:
        """Half of them meet something."""
        process = self.cycle.process()
        if self.chance.random() < 0.5:
            process.steps.at = self.chance.randrange(40)
            process.steps.how = self.chance.choice(list(How))
        return process

    def _pause_upload(self) -> None:
        one = self._some(r.SNAPSHOT_STATE_FROZEN)
        if one is not None:
            uid = one.uid
            self._pause(lambda process: self.cycle.upload(uid, process), self.chance.randrange(12))

    def _pause_collect(self) -> None:
        self._pause(self.cycle.collect, self.chance.randrange(60))

    def _pause(self, what: Callable[[Process], object], at: int) -> None:
        process = self.cycle.process()
        process.steps.hold_at = at

        def work() -> None:
            try:
                what(process)
            except (HoldfastError, Killed):
                pass
            except BaseException as error:
                paused.errors.append(error)
            finally:
                process.steps.held.set()

        paused = _Paused(process, threading.Thread(target=work, daemon=True))
        paused.thread.start()
        assert process.steps.held.wait(STEP_WAIT_S), "it neither came there nor ended"
        self.paused.append(paused)

    def _wake(self) -> None:
        """One that was paused goes on, perhaps without its lease."""
        if not self.paused:
            return
        paused = self.paused.pop(self.chance.randrange(len(self.paused)))
        if self.chance.random() < 0.5:
            self.cycle.expire(paused.process)
        paused.process.steps.release.set()
        paused.thread.join(STEP_WAIT_S)
        assert not paused.thread.is_alive(), "it does not end"
        self.cycle.expire(paused.process)
        for error in paused.errors:
            raise error

    def _delete(self) -> None:
        one = self._some(r.SNAPSHOT_STATE_FROZEN, r.SNAPSHOT_STATE_COMPLETED, r.SNAPSHOT_STATE_COMPLETED)
        if one is not None:
            self.cycle.delete(one.uid, at_once=self.chance.random() < 0.6)

    def _restore(self) -> None:
        one = self._some(r.SNAPSHOT_STATE_RECYCLED)
        if one is not None:
            self.cycle.restore(one.uid)

    def _purge(self) -> None:
        one = self._some(r.SNAPSHOT_STATE_RECYCLED)
        if one is not None:
            self.cycle.purge(one.uid)

    def _new_disk(self) -> None:
        one = self._some(r.SNAPSHOT_STATE_COMPLETED)
        if len(self.cycle.disks) < 4:
            self.cycle.new_disk(one.uid if one else "")

    def _hydrate(self) -> None:
        disk = self._disk()
        if disk is not None and disk.origin:
            self.cycle.hydrate(disk, self.chance.choice((1, 4, 100)))

    def _delete_disk(self) -> None:
        disk = self._disk()
        if disk is not None:
            self.cycle.delete_disk(disk)

    def _direct(self) -> None:
        one = self._some(r.SNAPSHOT_STATE_PENDING)
        if one is None:
            parent = self._some(r.SNAPSHOT_STATE_COMPLETED)
            self.cycle.direct(parent.uid if parent and self.chance.random() < 0.7 else "")
        elif self.chance.random() < 0.3:
            self.cycle.put_blocks(one.uid, 1)
        else:
            self.cycle.complete_direct(one.uid)

    def _time(self) -> None:
        self.cycle.pass_time(self.chance.choice((1, GRACE_S / 3, GRACE_S, 5 * GRACE_S)))

    def _jump(self) -> None:
        by_s = self.chance.choice((-3, 2, 10)) * GRACE_S
        setattr(self.cycle, self._jumps, getattr(self.cycle, self._jumps) + by_s)
        if by_s > 0 and self.chance.random() < 0.5:
            self.cycle.collect()


@contextmanager
def quick() -> Iterator[None]:
    """Without the pauses that are for real servers."""
    with (
        mock.patch.object(patient, "BACKOFF_FIRST_S", 0.0),
        mock.patch.object(task, "COMPLETE_RETRY_S", 0.0),
        mock.patch.object(task, "HOSTS_RETRY_FIRST_S", 0.0),
        mock.patch.object(cas, "PAUSE_MAX_S", 0.0),
    ):
        yield


def play(seed: int, steps: int = STEPS) -> None:
    """Raises AssertionError with the seed, and what happened."""
    with quick():
        story = Story(seed)
        try:
            story.play(steps)
        except BaseException as error:
            told = "\n  ".join(story.told)
            raise AssertionError(f"seed {seed}: {error!r} after\n  {told}") from error
        finally:
            for paused in story.paused:
                paused.process.steps.release.set()


# Mistakes.


def _without_origins(cut: Cut) -> set[str]:
    return {one.base_uid for one in cut.snapshots.values() if one.state in snapshot_changes.UNDER_WAY}


def _without_bases(cut: Cut) -> set[str]:
    return {one.origin_uid for one in cut.origins if one.reads_it}


@contextmanager
def cut_first() -> Iterator[None]:
    """The cut before the listing. No story finds it: the age of objects, a second line, hides it."""
    listing, cutting = collector.Collector._list, collector.Collector._cut
    cuts: dict[int, Cut] = {}

    def list_after(self: collector.Collector, folder: object) -> object:
        cuts[id(self)] = cutting(self)
        return listing(self, folder)  # type: ignore[arg-type]

    with (
        mock.patch.object(collector.Collector, "_list", list_after),
        mock.patch.object(collector.Collector, "_cut", lambda self: cuts[id(self)]),
    ):
        yield


def _no_open_base(self: object, manifest: str, sha256: str, *rest: object, **how: object) -> None:
    if sha256:
        _ROOT(self, manifest, sha256, *rest, **how)  # type: ignore[arg-type]


_ROOT = collect_roots._Decision._root


def _one_clock(self: Moment, since: r.TwoTimes, grace_s: float) -> bool:
    return self.collector_s - since.collector_time.ToMilliseconds() / 1000 >= grace_s


@contextmanager
def _no_open_bases() -> Iterator[None]:
    with (
        mock.patch.object(collect_roots._Decision, "_root", _no_open_base),
        mock.patch.object(collect_roots, "_relied_on", _without_bases),
    ):
        yield


@contextmanager
def _recycled_is_gone() -> Iterator[None]:
    completed = (r.SNAPSHOT_STATE_COMPLETED,)
    gone = (*collection_changes.ENDED_UNWANTED, r.SNAPSHOT_STATE_RECYCLED)
    with (
        mock.patch.object(collect_roots, "MANIFEST_STANDS", completed),
        mock.patch.object(collect_roots, "ENDED_UNWANTED", gone),
        mock.patch.object(collection_changes, "ENDED_UNWANTED", gone),
    ):
        yield


MISTAKES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "origins of volumes are no roots": lambda: mock.patch.object(
        collect_roots, "_relied_on", _without_origins
    ),
    "bases of open snapshots are no roots": _no_open_bases,
    "what is open is swept": lambda: mock.patch.object(collect_roots, "UNDER_WAY", ()),
    "the recycle bin is no root": _recycled_is_gone,
    "the grace is ignored": lambda: mock.patch.object(Moment, "is_past", lambda *_: True),
    "one clock is trusted": lambda: mock.patch.object(Moment, "is_past", _one_clock),
    "tombstones stay": lambda: mock.patch.object(
        collection_changes, "forget", lambda draft, snapshot_uid: False
    ),
}


def finds(mistake: str, seeds: Iterable[int]) -> int:
    """The first seed whose story finds the mistake; -1 if none does."""
    with MISTAKES[mistake]():
        for seed in seeds:
            try:
                play(seed)
            except AssertionError:
                return seed
    return -1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--mistakes", action="store_true", help="Whether planted mistakes are found.")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    seeds = range(given.first, given.first + given.seeds)
    if given.mistakes:
        found = {mistake: finds(mistake, seeds) for mistake in MISTAKES}
        for mistake, seed in found.items():
            print(f"{mistake}: " + (f"found by seed {seed}" if seed >= 0 else "NOT FOUND"))
        return 1 if -1 in found.values() else 0
    for seed in seeds:
        play(seed)
    print(f"{len(seeds)} stories, from seed {given.first}: all right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
