"""Leaving a host out, taking over and joining, stopped at every operation of either disk: by a kill of the
process, or by a power cut of the host. Whatever was acknowledged is there in the end, on both hosts.
"""

from collections.abc import Callable

import pytest

from holdfast.base.device import Op, Outcome
from holdfast.base.limits import EXTENT_BYTES, REGION_BYTES
from holdfast.replicator.following import Role
from holdfast.replicator.testing import Pair
from holdfast.replicator.testing_disk import PowerCut
from holdfast.replicator.testing_rig import Rig

SIZE = REGION_BYTES + 2 * EXTENT_BYTES
BLOCK = 4096


class Keeper:
    """Agents and etcd in a few lines: it records what replicas want, and starts processes that ended."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.number, self.primary, self.members = 1, "a", "ab"
        self.boots = {name: host.boot for name, host in pair.hosts.items()}
        self.died: Callable[[], None] = lambda: None
        """Somebody's disk has said that its process, or its host, ends here."""

    def _record(self, primary: str, members: str) -> None:
        self.number, self.primary, self.members = self.number + 1, primary, members
        for name in members:
            self.boots[name] = self.pair.hosts[name].boot
        self.pair.epoch(self.number, primary, members)

    def _in_sync(self, name: str) -> bool:
        return name in self.members and self.boots[name] == self.pair.hosts[name].boot

    def step(self) -> None:
        """One look at everything."""
        for name, host in self.pair.hosts.items():
            if host.replica is None:
                role = Role.MIRROR if self._in_sync(name) else Role.JOINER
                if name == self.primary and self._in_sync(name):
                    role = Role.PRIMARY
                self.pair.start(name, role, self.number, self.members)
        if not any(self._in_sync(name) for name in self.members):
            self._record(self.primary, self.primary)  # A cold start.
            return
        if not self._in_sync(self.primary):
            other = "b" if self.primary == "a" else "a"
            report = self.pair.hosts[other].replica.report()  # type: ignore[union-attr]
            if report.may_take_over:
                self._record(other, other)
            return
        report = self.pair.hosts[self.primary].replica.report()  # type: ignore[union-attr]
        if report.wants_leave_out:
            self._record(self.primary, self.primary)
        elif report.wants_join:
            self._record(self.primary, "ab")

    def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(4000):
            if condition():
                return
            try:
                self.step()
                self.pair.for_s(0.05)
            except PowerCut:
                self.died()
        raise AssertionError("it does not happen")

    def whole(self) -> bool:
        if self.members != "ab" or self.pair.hosts[self.primary].replica is None:
            return False
        replica = self.pair.hosts[self.primary].replica
        leading = replica.device.leading if replica else None
        return leading is not None and leading.primary.writes

    def write(self, offset: int, value: int, fua: bool = False) -> None:
        """Until it is acknowledged. Without `fua`, what two hosts had in memory may be lost with both: one
        that was left out, and one without power.
        """
        outcomes: list[Outcome] = []

        def acknowledged() -> bool:
            nonlocal outcomes
            if outcomes == [Outcome.OK]:
                return True
            replica = self.pair.hosts[self.primary].replica
            if replica is not None and (outcomes or self.asked != (replica, self.number)):
                self.asked = (replica, self.number)
                outcomes = []
                try:
                    content = bytes([value]) * BLOCK
                    outcomes = self.pair.submit(Op.WRITE, offset, content, at=self.primary, fua=fua)
                except PowerCut:
                    self.died()
            return outcomes == [Outcome.OK]

        self.asked: object = None
        self.until(acknowledged)


def leave_and_join(keeper: Keeper) -> None:
    pair = keeper.pair
    keeper.write(0, 1, fua=True)
    pair.net.refuse_dial = True
    pair.net.cut()
    keeper.write(BLOCK, 2)
    keeper.write(REGION_BYTES, 3)
    pair.net.refuse_dial = False
    keeper.until(keeper.whole)
    keeper.write(2 * BLOCK, 4)


def take_over_and_join(keeper: Keeper) -> None:
    pair = keeper.pair
    keeper.write(0, 1, fua=True)
    pair.hosts["a"].boot += 1
    pair.kill("a")
    keeper.write(BLOCK, 2)
    keeper.until(keeper.whole)
    keeper.write(REGION_BYTES, 3)
    keeper.write(2 * BLOCK, 4)


STORIES = {"leave out": leave_and_join, "take over": take_over_and_join}


def _begun(seed: int = 0) -> tuple[Rig, Keeper]:
    rig = Rig(seed, size_bytes=SIZE)
    rig.pair.until_up()
    return rig, Keeper(rig.pair)


def _steps(story: Callable[[Keeper], None], name: str) -> int:
    rig, keeper = _begun()
    count = 0

    def one(_kind: str, _name: str) -> None:
        nonlocal count
        count += 1

    rig.disks[name].on_step = one
    story(keeper)
    return count


CASES = [
    (what, name, number, how)
    for what, story in STORIES.items()
    for name in "ab"
    for number in range(_steps(story, name))
    for how in ("kill", "power")
]


def test_there_are_steps() -> None:
    assert len(CASES) > 200


@pytest.mark.parametrize(("what", "name", "number", "how"), CASES)
def test_stopped_anywhere_nothing_acknowledged_is_lost(what: str, name: str, number: int, how: str) -> None:
    """`number` operations of the host's disk succeed (another run may have a few more or less of them)."""
    rig, keeper = _begun(number)
    pair = rig.pair
    left = number

    def stop(_kind: str, _name: str) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            raise PowerCut

    rig.disks[name].on_step = stop

    def died() -> None:
        pair.kill(name)
        if how == "power":
            rig.disks[name].power_cut()
            pair.hosts[name].boot += 1

    keeper.died = died
    STORIES[what](keeper)
    rig.mend()
    keeper.until(keeper.whole)
    for offset, value in ((0, 1), (BLOCK, 2), (REGION_BYTES, 3), (2 * BLOCK, 4)):
        assert pair.read(offset, BLOCK, at=keeper.primary) == bytes([value]) * BLOCK
    assert rig.same()
