"""Hydration: on demand, in the background, and from a source that fails."""

import threading

import pytest

from holdfast.base.device import Op, Outcome, Request
from holdfast.base.errors import Denied, Unavailable
from holdfast.base.limits import EXTENT_BYTES, MIB
from holdfast.replicator.exports import FrozenExport
from holdfast.replicator.freeze import freeze
from holdfast.replicator.hydrate import (
    ORIGIN_LOST,
    ORIGIN_UNREADABLE,
    SNAPSHOTTER_UNREACHABLE,
    TROUBLE_AFTER_S,
    trouble_of,
)
from holdfast.replicator.rate import STALE_S
from holdfast.replicator.testing import FakeSource
from holdfast.replicator.testing_rig import MakeRig, Rig

SIZE = 3 * MIB + EXTENT_BYTES + 4096
CONTENT = bytes(i // 4096 % 251 for i in range(0, SIZE, 4096) for _ in range(4096))


def a_rig(make_rig: MakeRig, background: bool, content: bytes = CONTENT) -> Rig:
    rig = make_rig(origin=FakeSource(content), size_bytes=len(content))
    rig.pair.hydrates = background
    rig.pair.until_up()
    return rig


def test_everything_comes_in_the_background(make_rig: MakeRig) -> None:
    rig = a_rig(make_rig, background=True)
    pair = rig.pair
    assert pair.hydrator.total_bytes == SIZE
    pair.until(lambda: not pair.b.store.missing.left)
    assert rig.same() and rig.disks["a"].content("data") == CONTENT
    assert pair.hydrator.remaining_bytes == 0
    assert not pair.a.store.changed.any()


def test_a_read_brings_what_it_needs_and_its_neighbours(make_rig: MakeRig) -> None:
    rig = a_rig(make_rig, background=False)
    pair = rig.pair
    assert pair.hydrator.remaining_bytes == SIZE
    assert pair.read(MIB + 512, 1024) == CONTENT[MIB + 512 : MIB + 1536]
    assert pair.hydrator.remaining_bytes == (26 - 8) * EXTENT_BYTES
    assert pair.origin is not None and pair.origin.reads == 1


def test_the_background_keeps_to_its_rate_and_reads_do_not_wait_for_it(make_rig: MakeRig) -> None:
    content = CONTENT[: 2 * MIB] * 3
    rig = a_rig(make_rig, background=False, content=content)
    pair = rig.pair
    pair.hydrator.limit(MIB)
    began_s = pair.clock.now_s
    pair.hydrator.go_on()
    assert pair.read(len(content) - 4096, 4096) == content[-4096:]
    assert pair.clock.now_s - began_s < 0.5
    pair.until(lambda: not pair.a.store.missing.left and not pair.b.store.missing.left)
    # Six stretches of a MiB: one was brought by the read, three are begun at once, the others one a second.
    assert pair.clock.now_s - began_s > 1.5
    assert rig.same() and rig.disks["a"].content("data") == content


def test_how_fast_it_comes_is_told(make_rig: MakeRig) -> None:
    pair = a_rig(make_rig, background=False, content=CONTENT[: 2 * MIB] * 12).pair
    assert pair.hydrator.rate_bytes_s == 0, "not known yet"
    pair.hydrator.limit(MIB)
    pair.hydrator.go_on()
    pair.for_s(9)
    assert 0.7 * MIB <= pair.hydrator.rate_bytes_s <= 1.6 * MIB
    pair.hydrator.use(None)
    pair.for_s(STALE_S + 4)
    assert pair.hydrator.rate_bytes_s == 0 < pair.hydrator.remaining_bytes
    pair.hydrator.use(pair.origin)
    pair.hydrator.go_on()
    pair.for_s(6)
    assert pair.hydrator.rate_bytes_s
    pair.until(lambda: not pair.a.store.missing.left)
    assert pair.hydrator.rate_bytes_s == 0, "it is all there"


def test_a_users_write_wins(make_rig: MakeRig) -> None:
    rig = a_rig(make_rig, background=False)
    pair = rig.pair
    outcomes = [
        pair.submit(Op.WRITE, EXTENT_BYTES, b"u" * EXTENT_BYTES),
        pair.submit(Op.WRITE, 512, b"v" * 512),
        pair.submit(Op.ZERO, 2 * EXTENT_BYTES, EXTENT_BYTES),
        pair.submit(Op.WRITE, SIZE - 4096, b"w" * 4096),
    ]
    pair.until(lambda: all(outcomes))
    pair.hydrator.go_on()
    pair.until(lambda: not pair.a.store.missing.left and not pair.b.store.missing.left)
    expected = bytearray(CONTENT)
    expected[512:1024] = b"v" * 512
    expected[EXTENT_BYTES : 3 * EXTENT_BYTES] = b"u" * EXTENT_BYTES + bytes(EXTENT_BYTES)
    expected[-4096:] = b"w" * 4096
    assert rig.same() and rig.disks["a"].content("data") == expected


def test_a_source_that_fails_is_asked_again_with_a_pause(make_rig: MakeRig) -> None:
    rig = a_rig(make_rig, background=False)
    pair, source = rig.pair, rig.pair.origin
    assert source is not None
    source.fail = lambda _offset: Unavailable("GONE", "away")
    pair.hydrator.go_on()
    outcome = pair.submit(Op.READ, 0, 512)
    pair.for_s(TROUBLE_AFTER_S - 1)
    assert not any(pair.hydrator.trouble), "it may pass"
    pair.for_s(10 - TROUBLE_AFTER_S + 1)
    assert 10 <= source.reads <= 15 and pair.hydrator.trouble == (SNAPSHOTTER_UNREACHABLE, "away")
    pair.until(lambda: bool(outcome))
    assert outcome == [Outcome.BUSY]
    source.fail = lambda _offset: None
    pair.until(lambda: not pair.a.store.missing.left and not pair.b.store.missing.left)
    assert not any(pair.hydrator.trouble) and rig.disks["b"].content("data") == CONTENT


def test_short_answers_are_no_answers(make_rig: MakeRig) -> None:
    rig = a_rig(make_rig, background=False)
    pair, source = rig.pair, rig.pair.origin
    assert source is not None
    source.content = CONTENT[: MIB // 2]
    assert pair.do(Op.READ, 0, 512) is Outcome.BUSY
    assert pair.a.store.missing.left == 26
    source.content = CONTENT
    assert pair.read(0, 512) == CONTENT[:512]


def test_what_the_origin_has_lost_is_lost_and_the_rest_comes(make_rig: MakeRig) -> None:
    rig = a_rig(make_rig, background=False)
    pair, source = rig.pair, rig.pair.origin
    assert source is not None
    lost = MIB + EXTENT_BYTES
    source.lose(lost)
    assert pair.do(Op.READ, lost, 512) is Outcome.MEDIUM_ERROR
    assert pair.do(Op.READ, lost - 512, 1024) is Outcome.MEDIUM_ERROR
    assert pair.read(MIB, EXTENT_BYTES) == CONTENT[MIB : MIB + EXTENT_BYTES], "its neighbours are there"
    assert pair.read(lost + EXTENT_BYTES, 512) == CONTENT[lost + EXTENT_BYTES :][:512]
    pair.hydrator.go_on()
    pair.until(lambda: pair.a.store.missing.left == 1)
    reads = source.reads
    pair.for_s(10)
    assert source.reads - reads <= 12 * (1 + MIB // EXTENT_BYTES), "it is looked for once a second"
    reason, message = pair.hydrator.trouble
    assert reason == ORIGIN_LOST and "1 of its pieces of 128 KiB" in message and str(lost) in message
    assert pair.do(Op.READ, lost, 512) is Outcome.MEDIUM_ERROR
    assert pair.do(Op.WRITE, lost, b"x" * EXTENT_BYTES) is Outcome.OK
    assert pair.a.store.missing.left == 0 and not any(pair.hydrator.trouble)
    content = CONTENT[:lost] + b"x" * EXTENT_BYTES + CONTENT[lost + EXTENT_BYTES :]
    pair.until(lambda: rig.same())
    assert rig.disks["a"].content("data") == content


def test_what_was_lost_and_is_there_again_is_no_trouble(make_rig: MakeRig) -> None:
    rig = a_rig(make_rig, background=False)
    pair, source = rig.pair, rig.pair.origin
    assert source is not None
    source.lose(MIB)
    pair.hydrator.go_on()
    pair.until(lambda: pair.hydrator.trouble[0] == ORIGIN_LOST)
    source.mend()
    pair.until(lambda: not pair.a.store.missing.left and not pair.b.store.missing.left)
    assert not any(pair.hydrator.trouble) and rig.disks["b"].content("data") == CONTENT


def test_holes_of_the_origin_are_not_fetched_and_stay_holes(make_rig: MakeRig) -> None:
    content = bytearray(SIZE)
    content[MIB + 512 : MIB + 1024] = b"o" * 512
    rig = make_rig(origin=FakeSource(bytes(content)), size_bytes=SIZE)
    pair, source = rig.pair, rig.pair.origin
    pair.hydrates = False
    pair.until_up()
    assert source is not None
    written = pair.submit(Op.WRITE, 2 * MIB, b"u" * EXTENT_BYTES)
    pair.hydrator.go_on()
    pair.until(lambda: not pair.b.store.missing.left)
    content[2 * MIB : 2 * MIB + EXTENT_BYTES] = b"u" * EXTENT_BYTES
    assert written == [Outcome.OK] and rig.same() and rig.disks["a"].content("data") == content
    assert source.reads <= 2


def test_no_source_for_a_while(make_rig: MakeRig) -> None:
    rig = a_rig(make_rig, background=False)
    pair = rig.pair
    pair.hydrator.use(None)
    outcome = pair.submit(Op.READ, 0, 512)
    pair.for_s(TROUBLE_AFTER_S)
    assert not outcome and pair.hydrator.trouble == (SNAPSHOTTER_UNREACHABLE, "no snapshotter is running.")
    pair.hydrator.use(pair.origin)
    pair.until(lambda: bool(outcome))
    assert outcome == [Outcome.OK] and not any(pair.hydrator.trouble)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Unavailable("NBD_UNREACHABLE", "x"), SNAPSHOTTER_UNREACHABLE),
        (ConnectionResetError(), SNAPSHOTTER_UNREACHABLE),
        (Unavailable("BUSY", "x"), ORIGIN_UNREADABLE),
        (Denied("NOT_GRANTED", "x"), ORIGIN_UNREADABLE),
    ],
)
def test_a_server_that_cannot_read_is_not_one_that_is_away(error: Exception, reason: str) -> None:
    assert trouble_of(error)[0] == reason


def test_nothing_is_begun_after_the_end(make_rig: MakeRig) -> None:
    rig = a_rig(make_rig, background=True)
    pair = rig.pair
    pair.hydrator.stop()
    pair.primary.close()
    left = pair.a.store.missing.left
    pair.for_s(5)
    assert pair.a.store.missing.left == left
    assert pair.do(Op.WRITE, 0, b"x" * 512) is Outcome.BUSY
    assert threading.active_count() < 50


def test_a_view_of_a_half_filled_volume_is_of_its_moment_on_both_hosts(make_rig: MakeRig) -> None:
    """What was missing at the freeze comes from the origin, whatever was written or filled there since."""
    rig = a_rig(make_rig, background=False)
    pair = rig.pair
    pair.do(Op.WRITE, 512, b"v" * 512)
    pair.do(Op.WRITE, 3 * EXTENT_BYTES, b"u" * EXTENT_BYTES)
    expected = bytearray(CONTENT)
    expected[512:1024] = b"v" * 512
    expected[3 * EXTENT_BYTES : 4 * EXTENT_BYTES] = b"u" * EXTENT_BYTES
    pair.until_up()
    assert pair.a.store.missing.left
    pair.finish(freeze(pair.a.loop, pair.primary, "s1"))
    # Over what was there, over what was missing in part and in whole; and the rest is filled.
    pair.do(Op.WRITE, 0, b"x" * 4096)
    pair.do(Op.WRITE, SIZE - 8192, b"y" * 512)
    pair.do(Op.WRITE, 5 * EXTENT_BYTES, b"z" * EXTENT_BYTES)
    pair.hydrator.go_on()
    pair.until(lambda: not pair.a.store.missing.left and not pair.b.store.missing.left)
    for host in (pair.a, pair.b):
        assert host.local is not None
        view = host.store.views["s1"]
        export = FrozenExport(host.loop, host.local, lambda: pair.origin, view, None)
        content, outcomes = bytearray(SIZE), list[Outcome]()
        export.submit(Request(Op.READ, 0, SIZE, outcomes.append, [memoryview(content)]))
        pair.until(lambda: bool(outcomes))  # noqa: B023
        assert outcomes == [Outcome.OK] and content == expected
