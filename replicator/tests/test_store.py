"""A store on its own: made, opened, stopped at every step, and cut from its power."""

import errno
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.base.errors import DataLoss, HoldfastError, NotFound, Precondition, StaleEpoch, Unavailable
from holdfast.base.limits import EXTENT_BYTES, REGION_BYTES
from holdfast.replicator import state
from holdfast.replicator.bitmap import Bitmap
from holdfast.replicator.files import Files
from holdfast.replicator.frozen import FrozenView
from holdfast.replicator.missing import Missing
from holdfast.replicator.state import State, ViewState
from holdfast.replicator.store import Store, create, exists
from holdfast.replicator.testing_disk import Disk, PowerCut

SIZES = (4096, EXTENT_BYTES - 4096, EXTENT_BYTES, 3 * EXTENT_BYTES + 4096, REGION_BYTES + EXTENT_BYTES)
SIZE = 3 * EXTENT_BYTES + 4096


def made(size: int = SIZE, origin: str = "", seed: int = 0) -> Disk:
    disk = Disk(Random(seed))
    create(disk.files(), "v", size, "boot-1", origin)
    return disk


def stopping_at(disk: Disk, number: int, work: Callable[[], object]) -> bool:
    """Do `work`, up to its operation `number`; True if it was stopped there."""
    left = number

    def stop(_kind: str, _name: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise PowerCut

    disk.on_step = stop
    try:
        work()
    except PowerCut:
        return True
    finally:
        disk.on_step = lambda _kind, _name: None
    return False


def test_what_was_thrown_away_writes_nothing_down_in_its_successor(directory: Path) -> None:
    """A sequence that waited for a drain goes on after another copy was made in its place."""
    place = directory / "volume"
    create(Files(place), "v", SIZE, "boot", "")
    old = Store(Files(place), "v", SIZE, "boot")
    old.hear_of(7)
    old.close()
    old.throw_away()
    place.rename(directory / "gone")
    create(Files(place), "v", SIZE, "boot", "")
    with pytest.raises(Unavailable, match="thrown away"):
        old.hear_of(8)
    with pytest.raises(Unavailable, match="thrown away"):
        old.make_absent("b", (), [])
    new = Store(Files(place), "v", SIZE, "boot")
    assert new.state.epoch == 0 and not Files(place).names("absent")
    new.close()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("origin", ["", "s"])
def test_a_new_store_on_a_real_directory(directory: Path, size: int, origin: str) -> None:
    files = Files(directory / "volume")
    create(files, "v", size, "boot", origin)
    store = Store(files, "v", size, "boot")
    extents = -(-size // EXTENT_BYTES)
    assert store.missing.left == (extents if origin else 0)
    assert store.extent_range(extents - 1)[1] == size - (extents - 1) * EXTENT_BYTES
    assert (directory / "volume" / "data").stat().st_size == size
    assert (store.generation, store.state.epoch, store.in_doubt) == (0, 0, set())
    store.close()


def test_making_stopped_at_any_step() -> None:
    number, stopped = 0, True
    while stopped:
        for seed in range(3):
            disk = Disk(Random(seed))
            stopped = stopping_at(disk, number, lambda: create(disk.files(), "v", SIZE, "b", "origin"))  # noqa: B023
            disk.power_cut()
            if not exists(disk.files()):
                assert stopped
                create(disk.files(), "v", SIZE, "b", "origin")
            store = Store(disk.files(), "v", SIZE, "another")
            assert store.missing.left == 4 and not store.in_doubt
            assert store.data.read(0, SIZE) == bytes(SIZE)
        number += 1
    assert number > 10


@pytest.mark.parametrize("boot", ["boot-1", "boot-2"])
def test_opening_stopped_at_any_step(boot: str) -> None:
    number, stopped = 0, True
    while stopped:
        for seed in range(3):
            disk = made(seed=seed)
            store = Store(disk.files(), "v", SIZE, "boot-1")
            store.prepare_view("kept", 1)
            store.flip("kept")
            store.record_view("kept", 1.0)
            store.intent.set(0)
            store.intent.sync()
            store.changed.set(1)
            store.prepare_view("half", 2)
            store.flip("half")
            store.changed.set(2)
            stopped = stopping_at(disk, number, lambda: Store(disk.files(), "v", SIZE, boot))  # noqa: B023
            if boot != "boot-1":
                disk.power_cut()
            again = Store(disk.files(), "v", SIZE, boot)
            assert set(again.views) == ({"kept"} if boot == "boot-1" else set())
            assert again.in_doubt == {0}
            assert again.changed_between(1, again.generation + 1) == [(0, 4)]
            assert again.state.boot_id == boot and again.generation == 1
            assert {name.split(".")[0] for name in again.files.names("frozen")} == set(again.views)
        number += 1
    assert number > 4


def test_flushed_is_flushed_and_what_was_not_is_still_missing() -> None:
    for seed in range(20):
        disk = made(origin="s", seed=seed)
        store = Store(disk.files(), "v", SIZE, "boot-1")
        for extent in (0, 1):
            store.data.write([memoryview(b"x" * EXTENT_BYTES)], extent * EXTENT_BYTES, EXTENT_BYTES)
            store.missing.fill([extent])
            if extent == 0:
                taken = store.missing.take_unsettled()
                store.data.sync()
                store.missing.settle(taken)
        same = Store(disk.files(), "v", SIZE, "boot-1")
        assert list(same.missing.indexes()) == [2, 3] and same.missing.take_unsettled() == [1]
        disk.power_cut()
        again = Store(disk.files(), "v", SIZE, "boot-2")
        assert list(again.missing.indexes()) == [1, 2, 3]
        assert again.data.read(0, EXTENT_BYTES) == b"x" * EXTENT_BYTES


@pytest.mark.parametrize("name", ["data", "intent", "missing", "filled", "changed/0"])
def test_a_file_that_is_gone_is_not_taken_for_empty(name: str) -> None:
    disk = made()
    disk.files().remove(name)
    with pytest.raises(DataLoss, match=name):
        Store(disk.files(), "v", SIZE, "boot-1")


def test_a_view_that_lacks_a_file_is_lost() -> None:
    for name in ("copied", "missing", "data"):
        disk = made()
        store = Store(disk.files(), "v", SIZE, "boot-1")
        store.prepare_view("s", 1)
        store.flip("s")
        store.record_view("s", 1.0)
        disk.files().remove(f"frozen/s.{name}")
        again = Store(disk.files(), "v", SIZE, "boot-1")
        assert not again.views and "not there" in again.state.lost_views["s"]
        assert not again.files.names("frozen")


def test_a_store_is_opened_only_as_what_it_is() -> None:
    disk = made()
    with pytest.raises(Precondition, match="holds volume v"):
        Store(disk.files(), "w", SIZE, "boot-1")
    with pytest.raises(Precondition, match="holds volume v"):
        Store(disk.files(), "v", SIZE + 4096, "boot-1")
    with pytest.raises(NotFound):
        Store(Disk(Random(0)).files(), "v", SIZE, "boot-1")


def test_epochs_only_rise() -> None:
    store = Store(made().files(), "v", SIZE, "boot-1")
    store.hear_of(3)
    store.hear_of(3)
    with pytest.raises(StaleEpoch):
        store.hear_of(2)
    assert Store(store.files, "v", SIZE, "boot-1").state.epoch == 3


def test_a_state_that_cannot_be_written_is_not_believed() -> None:
    disk = made()
    store = Store(disk.files(), "v", SIZE, "boot-1")
    for failing in ("write record", "sync record"):
        disk.on_step = lambda kind, _name: _raise(OSError(errno.ENOSPC, "")) if kind == failing else None  # noqa: B023
        with pytest.raises(OSError):
            store.hear_of(5)
        assert store.state.epoch == 0


def _raise(error: Exception) -> None:
    raise error


def test_generations_that_are_done_with_are_dropped_and_a_delta_over_them_is_refused() -> None:
    store = Store(made().files(), "v", SIZE, "boot-1")
    for generation in (1, 2, 3):
        store.changed.set(generation)
        store.prepare_generation(generation)
        store.enter_generation(generation)
        store.record_generation()
    store.drop_generations_below(2)
    assert store.generations() == [2, 3]
    with pytest.raises(DataLoss, match=r"\[2, 3\], not all of \[1, 3\)"):
        store.changed_between(1, 3)
    assert store.generations() == [2, 3]
    store.drop_generations_below(99)
    assert store.generations() == [3]
    with pytest.raises(HoldfastError):
        store.prepare_view("s", 3)


def test_unfilled_is_missing_whatever_happens() -> None:
    disk = made(origin="s")
    missing = Store(disk.files(), "v", SIZE, "boot-1").missing
    missing.fill([0, 1, 2])
    missing.settle([0])
    missing.unfill([0, 1, 3])
    missing.sync()
    assert list(missing.indexes()) == [0, 1, 3] and missing.left == 3
    assert missing.take_unsettled() == [2]
    disk.power_cut()
    assert Store(disk.files(), "v", SIZE, "boot-2").missing.left >= 3


@given(st.integers(0, 1 << 30))
def test_missing_is_a_set(seed: int) -> None:
    chance, disk, extents = Random(seed), Disk(Random(seed)), 70
    Missing.create(disk.files(), extents, everything=True)
    missing, model = Missing(disk.files(), extents, True), set(range(extents))
    for _ in range(chance.randrange(30)):
        some = {chance.randrange(extents) for _ in range(5)}
        act = chance.randrange(4)
        if act == 0:
            missing.unfill(some)
            model |= some
        elif act == 1:
            missing.settle(missing.take_unsettled())
        elif act == 2:
            missing = Missing(disk.files(), extents, True)
        else:
            missing.fill(some)
            model -= some
        assert list(missing.indexes()) == sorted(model) and missing.left == len(model)
        assert missing.among(sorted(some)) == sorted(some & model)
    target = Bitmap.in_memory(extents)
    missing.copy_into(target)
    assert set(target.set_bits()) == model


def test_a_view_keeps_holes() -> None:
    disk = Disk(Random(0))
    view = FrozenView(disk.files(), "s", SIZE, 4, make=True)
    view.missing.set(3)
    assert view.needs_copy(range(4)) == [0, 1, 2]
    view.keep(0, bytearray(EXTENT_BYTES))
    view.keep(1, bytearray(b"x" * EXTENT_BYTES))
    view.copied.set(0)
    assert view.needs_copy(range(4)) == [1, 2]
    assert next(iter(view.data.allocated(0, SIZE)))[0] == EXTENT_BYTES


def test_a_state_is_read_as_it_was_written() -> None:
    full = State("v", 4096, 3, 2, "b", "o", {"s": ViewState(1, 1.5)}, {"t": "gone"}, "the disk failed")
    assert state.decode(state.encode(full)) == full


@given(st.binary(max_size=60))
def test_a_damaged_state_is_said_to_be(content: bytes) -> None:
    encoded = state.encode(State("v", 4096, 0, 0, "b"))
    for damaged in (content, encoded[: len(content)], encoded.replace(b"2", b"3")):
        with pytest.raises(DataLoss, match=r"state\.json"):
            state.decode(damaged)
