"""The judge of what may be lost with the memory of all members: what it takes, and what it does not."""

import json
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from world.checks import Checks, Violation
from world.history import SECTOR_BYTES, History, Write, fill
from world.initiator import GOOD, Io, Op, Try
from world.time import Timeline

from holdfast.replicator.testing_disk import Disk
from holdfast.target.testing import Completion

KEY, SIZE_BYTES = "/holdfast/v1/replicas/v1", 64 * SECTOR_BYTES


class Scene:
    """Two hosts, of which b leads alone, and a judge. Nothing happens but what a test says."""

    def __init__(self) -> None:
        self.history = History(SIZE_BYTES // SECTOR_BYTES)
        self.checks = Checks(Timeline(), self.history, "v1", SIZE_BYTES)
        self.hosts: dict[str, Any] = {}
        for name in ("a", "b"):
            host = SimpleNamespace(name=name, disk=Disk(Random(0)), on=True, boot_id=f"{name}1")
            host.died_s = host.steady_since_s = 0.0
            files = host.disk.files()
            files.make()
            host.data = files.data("data", SIZE_BYTES, make=True)
            files.replace_record("state.json", b'{"consistent": true}')
            files.sync_names()
            self.hosts[name] = host
        self.checks.hosts = self.hosts
        self._value = b""
        self.checks.entry = lambda key: self._value if key == KEY else None
        self.record(1, "b", "b")

    def record(self, epoch: int, primary: str, in_sync: str) -> None:
        members = [{"host_id": name, "boot_id": self.hosts[name].boot_id} for name in in_sync]
        record = {"epoch": epoch, "primary_host_id": primary, "in_sync": members}
        self._value = json.dumps(record).encode()
        self.checks.committed([KEY])

    def write(self, sector: int, held: str, forced: str, by: str = "b", fua: bool = False) -> Write:
        """Acknowledged by one, in the memory of some, and on some disks."""
        value = sector + 100
        write = self.history.begin(sector, 1, value)
        for name in held:
            content = memoryview(bytearray(fill(value, SECTOR_BYTES)))
            self.hosts[name].data.write([content], sector * SECTOR_BYTES, SECTOR_BYTES)
        for name in forced:
            self.hosts[name].data.sync()
        self.answer(Try(Io(Op.WRITE, sector, 1, fua), value, write.began, write, b""), by)
        self.history.end(write, True)
        return write

    def read(self, sector: int, by: str) -> None:
        """Of zeros."""
        command = Try(Io(Op.READ, sector, 1, False), 0, self.history.tick(), None, b"")
        self.answer(command, by, bytes(SECTOR_BYTES))

    def answer(self, command: Try, by: str, data: bytes = b"") -> None:
        self.checks.completed(by, command, Completion(GOOD, b"", data), False, False)

    def session(self, epoch: int) -> Any:
        return SimpleNamespace(hosts=("b", "a"), epoch=epoch)

    def whole(self) -> None:
        """The joiner is told that it lacks nothing."""
        self.checks.session_heard(self.session(1), b'{"do": "whole"}')

    def all_lose_their_memory(self) -> None:
        for host in self.hosts.values():
            host.on = False
        for host in self.hosts.values():
            self.checks.power_is_lost(host)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_alone_what_is_in_memory_only_is_a_violation(scene: Scene) -> None:
    with pytest.raises(Violation, match="forced, acknowledged by b"):
        scene.write(1, held="b", forced="")


def test_alone_what_was_acknowledged_is_never_lost(scene: Scene) -> None:
    write = scene.write(1, held="b", forced="b")
    scene.all_lose_their_memory()
    assert not write.lost


def test_what_came_after_whole_may_be_lost_once_the_joiner_is_recorded(scene: Scene) -> None:
    before = scene.write(1, held="ab", forced="ab")
    scene.whole()
    after = scene.write(2, held="ab", forced="b")
    through = scene.write(3, held="ab", forced="ab", fua=True)
    late = scene.write(4, held="ab", forced="b")
    scene.record(2, "b", "ab")
    scene.record(3, "a", "a")
    scene.all_lose_their_memory()
    assert late.lost and not (before.lost or after.lost or through.lost)


def test_what_came_before_whole_is_on_the_disk_of_who_joins(scene: Scene) -> None:
    scene.write(1, held="ab", forced="b")
    scene.whole()
    with pytest.raises(Violation, match="forced, a joins: a holds 0 in sector 1 on its disk"):
        scene.record(2, "b", "ab")


def test_what_was_flushed_is_on_the_disk_of_who_joins(scene: Scene) -> None:
    scene.whole()
    scene.write(1, held="ab", forced="b", fua=True)
    with pytest.raises(Violation, match="flushed, a joins"):
        scene.record(2, "b", "ab")


def test_the_first_session_to_a_new_member_puts_it_on_both_disks(scene: Scene) -> None:
    scene.whole()
    write = scene.write(1, held="ab", forced="b")
    scene.record(2, "b", "ab")
    scene.checks.session_said(scene.session(1), b'{"do": "synced"}', b"{}")  # Of another epoch: not that one.
    with pytest.raises(Violation, match="forced, aligned: a holds 0"):
        scene.checks.session_said(scene.session(2), b'{"do": "synced"}', b"{}")
    scene.hosts["a"].data.sync()
    scene.checks.session_said(scene.session(2), b'{"do": "synced"}', b"{}")
    scene.all_lose_their_memory()
    assert not write.lost


def test_who_took_over_alone_has_it_all_on_its_disk_before_it_serves(scene: Scene) -> None:
    scene.record(2, "b", "ab")
    write = scene.write(1, held="ab", forced="")
    scene.record(3, "a", "a")
    with pytest.raises(Violation, match="kept by a, which serves alone, on the disk of a: sector 1 holds 0"):
        scene.read(9, by="a")
    assert not write.lost


def test_once_it_serves_alone_that_is_never_lost(scene: Scene) -> None:
    scene.record(2, "b", "ab")
    write = scene.write(1, held="ab", forced="")
    scene.record(3, "a", "a")
    scene.hosts["a"].data.sync()
    scene.read(9, by="a")
    scene.all_lose_their_memory()
    assert not write.lost


def test_what_two_had_in_memory_may_be_lost_with_it(scene: Scene) -> None:
    scene.record(2, "b", "ab")
    write = scene.write(1, held="ab", forced="")
    scene.all_lose_their_memory()
    assert write.lost
