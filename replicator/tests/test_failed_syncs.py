"""A sync that failed takes its replica out, whoever asked for it: what it lost, no other sync finds."""

import errno
from collections.abc import Callable
from contextlib import suppress
from random import Random

import pytest

from holdfast.base.device import Op
from holdfast.base.errors import HoldfastError
from holdfast.base.limits import EXTENT_BYTES, REGION_BYTES
from holdfast.replicator.bitmap import Bitmap
from holdfast.replicator.clean import clean
from holdfast.replicator.following import Role
from holdfast.replicator.freeze import freeze
from holdfast.replicator.testing_disk import Disk
from holdfast.replicator.testing_rig import Rig
from holdfast.replicator.verify import Verification

BLOCK = 4096


class Hit(Exception):
    """The sync at hand has failed: nobody waits for the rest."""


def story(rig: Rig) -> None:
    """All that syncs bitmaps: writes, a freeze, a comparison that repairs, cleans, an absence and its end."""
    pair = rig.pair
    pair.do(Op.WRITE, 0, b"x" * BLOCK)
    pair.finish(freeze(pair.a.loop, pair.primary, "s1"))
    pair.do(Op.WRITE, 0, b"y" * BLOCK)
    for _ in range(2):
        pair.finish(clean(pair.primary))
    pair.b.store.data.write([memoryview(bytearray(b"!" * BLOCK))], 0, BLOCK)
    verification = Verification(pair.a.loop, pair.primary, 1, 1 << 40, lambda: None)
    verification.tick()
    pair.until(lambda: not verification.running)
    assert verification.repaired_bytes
    pair.kill("b")
    pair.until(lambda: pair.leading.wants_leave_out == ("b",))
    pair.epoch(2, "a", "a")
    pair.until(lambda: pair.primary.writes)
    pair.do(Op.WRITE, EXTENT_BYTES, b"z" * BLOCK)
    pair.start("b", Role.JOINER, 2, "a")
    pair.until(lambda: pair.leading.wants_join[0] == "b")
    pair.epoch(3, "a", "ab")
    pair.until(lambda: pair.primary.writes)


def begun() -> Rig:
    rig = Rig(size_bytes=2 * REGION_BYTES)
    rig.pair.until_up()
    return rig


def syncs_of(host: str) -> list[str]:
    """The files that are synced on it, one after the other."""
    rig, names = begun(), list[str]()
    rig.disks[host].on_step = lambda kind, name: names.append(name) if kind == "sync" else None
    story(rig)
    return names


CASES = [(host, number, name) for host in "ab" for number, name in enumerate(syncs_of(host))]


def test_all_of_them_are_here() -> None:
    files = {(host, name) for host, _number, name in CASES}
    assert files >= {
        ("a", "data"),
        ("a", "intent"),
        ("a", "changed/0"),
        ("a", "changed/1"),
        ("a", "absent/b"),
    }
    assert files >= {("b", "data"), ("b", "intent"), ("b", "changed/0"), ("b", "changed/1")}


@pytest.mark.parametrize(("host", "number", "name"), CASES)
def test_whoever_asked_for_a_sync_that_failed_its_replica_is_suspect(
    host: str, number: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = begun()
    pair, left, until = rig.pair, number, rig.pair.until

    def fail(kind: str, _name: str) -> None:
        nonlocal left
        left -= kind == "sync"
        if kind == "sync" and left == -1:
            raise OSError(errno.EIO, f"injected at {name}")

    def until_hit(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
        until(lambda: left < 0 or condition(), limit_s)
        if left < 0:
            raise Hit

    rig.disks[host].on_step = fail
    monkeypatch.setattr(pair, "until", until_hit)
    with suppress(Hit, HoldfastError, OSError):
        story(rig)
    assert left < 0
    if pair.hosts[host].replica is None:
        # Its store could not be opened: it is tried again.
        pair.start(host, Role.JOINER, 2, "a")
    until(lambda: bool(pair.hosts[host].store.state.suspect))


def test_what_a_failed_sync_dropped_no_other_sync_writes() -> None:
    """The disk of these tests does as Linux does."""
    disk = Disk(Random(0))
    bitmap = Bitmap(disk.files().bits("some", 2 * BLOCK, make=True), 16 * BLOCK)
    disk.sync_names("")
    bitmap.set(1)
    bitmap.set(8 * BLOCK)
    disk.on_step = lambda kind, _name: (_ for _ in ()).throw(OSError(errno.EIO, "injected"))
    with pytest.raises(OSError, match="injected"):
        bitmap.sync()
    disk.on_step = lambda _kind, _name: None
    bitmap.set(8 * BLOCK + 1)
    bitmap.sync()
    assert disk.durable("some")[0] == 0 and disk.durable("some")[BLOCK] == 3
    assert bitmap.get(1)
    disk.power_cut()
    assert disk.content("some")[0] == 0 and disk.content("some")[BLOCK] == 3
