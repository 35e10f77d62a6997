"""A freeze, stopped at every step on either host; and the views that it makes."""

import errno
from random import Random

import pytest

from holdfast.base.device import Op, Outcome, Request
from holdfast.base.errors import HoldfastError, Unavailable
from holdfast.base.limits import EXTENT_BYTES, REGION_BYTES
from holdfast.base.steps import run
from holdfast.replicator.clean import clean
from holdfast.replicator.exports import FrozenExport
from holdfast.replicator.freeze import DRAIN_MAX_S, freeze
from holdfast.replicator.store import Store, create
from holdfast.replicator.testing import Host
from holdfast.replicator.testing_disk import Disk, PowerCut
from holdfast.replicator.testing_rig import MakeRig, Rig

SIZE = 6 * EXTENT_BYTES + 4096


def freeze_now(rig: Rig, uid: str) -> None:
    pair = rig.pair
    pair.until_up()
    pair.finish(freeze(pair.a.loop, pair.primary, uid))


def view_of(rig: Rig, host: Host, uid: str) -> bytes:
    view = host.store.views[uid]
    assert host.local is not None
    export = FrozenExport(host.loop, host.local, lambda: None, view, None)
    content, outcomes = bytearray(rig.pair.size_bytes), list[Outcome]()
    export.submit(Request(Op.READ, 0, len(content), outcomes.append, [memoryview(content)]))
    rig.pair.until(lambda: bool(outcomes))
    assert outcomes == [Outcome.OK]
    return bytes(content)


def test_a_view_stays_what_it_was_on_both_hosts(rig: Rig) -> None:
    pair = rig.pair
    pair.do(Op.WRITE, 1000 * 512, b"a" * 3000)
    before = rig.disks["a"].content("data")
    freeze_now(rig, "s1")
    pair.do(Op.WRITE, 1000 * 512, b"b" * 3000)
    pair.do(Op.ZERO, 0, pair.size_bytes)
    pair.do(Op.WRITE, pair.size_bytes - 512, b"c" * 512)
    for host in (pair.a, pair.b):
        assert view_of(rig, host, "s1") == before
        assert host.store.state.views["s1"].generation == 1
        assert host.store.changed_between(0, 1) == [(3, 4)]


def test_a_freeze_counts_steps() -> None:
    assert len(_steps_of_a_freeze("a")) > 8


def _steps_of_a_freeze(host: str) -> list[tuple[str, str]]:
    rig = Rig(size_bytes=SIZE)
    rig.pair.until_up()
    steps: list[tuple[str, str]] = []
    rig.disks[host].on_step = lambda kind, name: steps.append((kind, name))
    freeze_now(rig, "s1")
    return steps


STEPS = {host: _steps_of_a_freeze(host) for host in ("a", "b")}
CASES = [
    (host, n, how) for host, steps in STEPS.items() for n in range(len(steps)) for how in ("fail", "kill")
]


@pytest.mark.parametrize(("host", "number", "how"), CASES)
def test_a_freeze_interrupted_at_any_step_can_be_made_again(host: str, number: int, how: str) -> None:
    """`number` operations of the host's disk succeed; at the next it fails, or its process is killed."""
    rig = Rig(number, size_bytes=SIZE)
    pair, left = rig.pair, number
    pair.until_up()
    pair.do(Op.WRITE, 0, b"a" * 512)
    stopped = False

    def stop(kind: str, name: str) -> None:
        nonlocal left, stopped
        left -= 1
        if left < 0 and not stopped:
            stopped = True
            raise PowerCut if how == "kill" else OSError(errno.ENOSPC, "injected")

    ended: list[object] = []
    run(freeze(pair.a.loop, pair.primary, "s1"), ended.append, ended.append)
    rig.disks[host].on_step = stop
    try:
        pair.until(lambda: bool(ended))
    except PowerCut:
        rig.mend()
        if host == "a":
            pair.kill_primary()
            pair.start_primary()
        else:
            pair.kill_mirror()
            pair.start_mirror()
            pair.until(lambda: bool(ended))
    rig.mend()
    if any(isinstance(step, str) for step in pair.a.suspicions + pair.b.suspicions):
        return  # A sync failed: the host is out of the set.
    pair.until_up()
    assert pair.a.store.generation == pair.b.store.generation
    # Recorded on a primary that died before it told the mirror: a good view, on one host.
    assert set(pair.b.store.views) == set(pair.b.store.state.views) <= set(pair.a.store.views)
    assert set(pair.a.store.views) == set(pair.a.store.state.views)
    assert how == "kill" or not pair.a.store.views
    pair.do(Op.WRITE, EXTENT_BYTES, b"b" * 512)
    frozen = rig.disks["a"].content("data")
    freeze_now(rig, "s1")
    pair.do(Op.WRITE, 2 * EXTENT_BYTES, b"c" * 512)
    generation = pair.a.store.generation
    for one in (pair.a, pair.b):
        assert view_of(rig, one, "s1") == frozen
        assert one.store.generation == one.store.state.generation == generation
        assert one.store.state.views["s1"].generation == generation
        counted = {e for first, end in one.store.changed_between(0, generation) for e in range(first, end)}
        assert counted >= {0, 1}
        after = one.store.changed_between(generation, generation + 1)
        assert (2, 3) in after or (0, 7) in after
    assert rig.same()


@pytest.mark.parametrize("word", ["settle", "prepare_view", "flip", "record_view"])
def test_a_session_lost_at_any_word(rig: Rig, word: str) -> None:
    pair = rig.pair
    pair.net.delay_max_s = 0.0
    session = pair.net.sessions[-1]
    control = session.control

    def cutting(payload: bytes, done: object) -> None:
        control(payload, done)  # type: ignore[arg-type]
        if f'"{word}"'.encode() in payload:
            pair.net.cut()

    session.control = cutting  # type: ignore[method-assign, assignment]
    with pytest.raises(Unavailable):
        freeze_now(rig, "s1")
    pair.until_up()
    assert pair.a.store.generation == pair.b.store.generation
    assert not pair.a.store.views and not pair.b.store.state.views
    freeze_now(rig, "s1")
    assert view_of(rig, pair.a, "s1") == view_of(rig, pair.b, "s1")


def test_writes_wait_at_the_gate_and_one_that_does_not_end_ends_the_freeze(rig: Rig) -> None:
    pair = rig.pair
    assert pair.b.local is not None
    turn = pair.b.local.order.take(0, 512, True, lambda _turn: None)
    slow = pair.submit(Op.WRITE, 0, b"x" * 512)
    pair.for_s(0.1)
    ended: list[object] = []
    run(freeze(pair.a.loop, pair.primary, "s1"), ended.append, ended.append)
    pair.for_s(1)
    gated = pair.submit(Op.WRITE, 4096, b"y" * 512)
    pair.for_s(1)
    assert not gated and not ended
    pair.for_s(DRAIN_MAX_S)
    assert isinstance(ended[0], Unavailable) and gated == [Outcome.OK]
    pair.b.local.order.give_back(turn)
    pair.until(lambda: bool(slow))
    freeze_now(rig, "s1")


def test_one_freeze_at_a_time(rig: Rig) -> None:
    pair = rig.pair
    ended: list[object] = []
    run(freeze(pair.a.loop, pair.primary, "s1"), ended.append, ended.append)
    with pytest.raises(Unavailable, match="already"):
        pair.finish(freeze(pair.a.loop, pair.primary, "s2"))
    pair.until(lambda: bool(ended))
    assert ended == [("b",)]


@pytest.mark.parametrize("host", ["a", "b"])
def test_no_room_for_a_copy_costs_the_view_and_not_the_write(rig: Rig, host: str) -> None:
    pair = rig.pair
    freeze_now(rig, "s1")
    pair.do(Op.WRITE, 0, b"x" * 512)
    freeze_now(rig, "s2")

    def full(kind: str, name: str) -> None:
        if kind in ("write", "write record") and not name.startswith("data"):
            raise OSError(errno.ENOSPC, "no room")

    rig.disks[host].on_step = full
    assert pair.do(Op.WRITE, 0, b"y" * 512) is Outcome.OK
    one, other = (pair.a, pair.b) if host == "a" else (pair.b, pair.a)
    assert one.local is not None and other.local is not None
    assert set(one.local.views.lost()) == {"s2"} and not other.local.views.lost()
    # The process dies before the loss could be written down.
    (pair.kill_primary if host == "a" else pair.kill_mirror)()
    rig.mend()
    (pair.start_primary if host == "a" else pair.start_mirror)()
    assert set(one.store.state.lost_views) == {"s2"} and set(one.store.views) == {"s1"}
    assert view_of(rig, other, "s2")[:512] == b"x" * 512


def test_content_that_cannot_be_read_before_a_write_ends_all_trust_in_the_disk(rig: Rig) -> None:
    freeze_now(rig, "s1")
    rig.fail("a", errno.EIO, "read", under="data")
    assert rig.pair.do(Op.WRITE, 0, b"x" * 512) is Outcome.BUSY
    assert rig.pair.a.suspicions and rig.disks["a"].content("data")[:512] == bytes(512)


def test_a_dropped_view_is_read_no_more_and_closed_when_nobody_does(rig: Rig) -> None:
    pair = rig.pair
    freeze_now(rig, "s1")
    local = pair.a.local
    assert local is not None
    view = pair.a.store.views["s1"]
    export = FrozenExport(pair.a.loop, local, lambda: None, view, None)
    outcomes: list[Outcome] = []
    # So many extents are read in the pool: under way when the view is dropped.
    length = 5 * EXTENT_BYTES
    export.submit(Request(Op.READ, 0, length, outcomes.append, [memoryview(bytearray(length))]))
    local.views.drop("s1")
    pair.until(lambda: bool(outcomes))
    export.submit(Request(Op.READ, 0, 512, outcomes.append, [memoryview(bytearray(512))]))
    assert outcomes == [Outcome.MEDIUM_ERROR] * 2
    pair.until(lambda: "s1" not in pair.a.store.state.views)
    assert not pair.a.store.files.names("frozen") and local.views.lost() == {}


def test_a_view_dropped_while_it_is_recorded_stays_dropped(rig: Rig) -> None:
    pair = rig.pair
    store, local = pair.a.store, pair.a.local
    assert local is not None
    store.prepare_view("s1", 1)
    store.flip("s1")
    results: list[object] = []
    local.in_pool(lambda: store.record_view("s1", 1.0), results.append)
    local.views.drop("s1")
    pair.until(lambda: len(results) == 1)
    pair.for_s(1)
    assert isinstance(results[0], HoldfastError) and "s1" not in store.state.views


def test_status_of_a_view(make_rig: MakeRig) -> None:
    rig = make_rig(size_bytes=SIZE)
    pair = rig.pair
    pair.until_up()
    pair.do(Op.WRITE, 0, b"a" * 512)
    freeze_now(rig, "s1")
    pair.do(Op.WRITE, 2 * EXTENT_BYTES, b"b" * 512)
    freeze_now(rig, "s2")
    pair.do(Op.ZERO, 0, EXTENT_BYTES)

    def status(context: str, base: int | None) -> object:
        view = pair.a.store.views["s2"]
        export = FrozenExport(pair.a.loop, pair.a.local, lambda: None, view, base)  # type: ignore[arg-type]
        answers: list[object] = []
        export.block_status(context, 512, SIZE - 512, answers.append)
        pair.until(lambda: bool(answers))
        return answers[0]

    first, rest = EXTENT_BYTES - 512, SIZE - 3 * EXTENT_BYTES
    hole, changed = [(EXTENT_BYTES, 3)], [(EXTENT_BYTES, 1)]
    assert status("base:allocation", None) == [(first, 0), *hole, (EXTENT_BYTES, 0), (rest, 3)]
    assert status("holdfast:changed", 1) == [(first + EXTENT_BYTES, 0), *changed, (rest, 0)]
    assert status("holdfast:changed", None) == [(SIZE - 512, 1)]
    pair.a.store.drop_generations_below(2)
    assert status("holdfast:changed", 1) == [(SIZE - 512, 1)]


def test_what_was_written_between_flip_and_record_is_counted_after_a_crash() -> None:
    disk = Disk(Random(0))
    create(disk.files(), "v", SIZE, "boot", "")
    store = Store(disk.files(), "v", SIZE, "boot")
    store.changed.set(1)
    store.prepare_view("s1", 1)
    store.flip("s1")
    store.changed.set(2)
    again = Store(disk.files(), "v", SIZE, "boot")
    assert again.generations() == [0] and not again.views and not again.files.names("frozen")
    assert again.changed_between(0, 1) == [(1, 3)]


def test_a_clean_between_flip_and_record_syncs_the_generation_that_is_over() -> None:
    disk = Disk(Random(0))
    create(disk.files(), "v", SIZE, "boot", "")
    store = Store(disk.files(), "v", SIZE, "boot")
    store.changed.set(1)
    store.prepare_view("s1", 1)
    store.flip("s1")
    store.sync_bitmaps()
    assert disk.durable("changed/0")[0] == 2


def test_a_view_that_the_primary_has_lost_stays_at_the_mirror(rig: Rig) -> None:
    pair = rig.pair
    pair.do(Op.WRITE, 0, b"a" * 512)
    freeze_now(rig, "s1")
    assert pair.a.local is not None
    pair.a.local.views.drop("s1", "its disk failed a write")
    pair.net.cut()
    pair.until(lambda: not pair.link.up)
    pair.until_up()
    pair.do(Op.WRITE, 0, b"b" * 512)
    assert view_of(rig, pair.b, "s1")[:512] == b"a" * 512


def test_cleaning_leaves_alone_what_is_written_meanwhile(rig: Rig) -> None:
    pair = rig.pair
    assert pair.a.local is not None
    for region in (0, 1):
        pair.do(Op.WRITE, region * REGION_BYTES, b"x" * 512)
    pair.a.local.intent.candidates([])
    cleared: list[object] = []
    run(clean(pair.primary), cleared.append, cleared.append)
    outcome = pair.submit(Op.WRITE, 512, b"y" * 512)
    pair.until(lambda: bool(cleared and outcome))
    for host in (pair.a, pair.b):
        assert host.store.intent.get(0) and not host.store.intent.get(1)
