"""The session between two hosts: lost, silent, slow, answered with errors; and what the initiator is told."""

import errno
from random import Random
from typing import Any

import pytest

from holdfast.base.device import Op, Outcome, Request
from holdfast.base.errors import Unavailable
from holdfast.base.limits import (
    DRAIN_WAIT_MAX_S,
    EXTENT_BYTES,
    HELD_COMMAND_MAX_S,
    LINK_LOST_S,
    MIB,
    REGION_BYTES,
)
from holdfast.replicator.clean import clean
from holdfast.replicator.following import Role
from holdfast.replicator.freeze import freeze
from holdfast.replicator.generations import open_generation
from holdfast.replicator.mirror import Drain, MirrorExport
from holdfast.replicator.order import Turn
from holdfast.replicator.resync import sleep
from holdfast.replicator.testing import POISON, FakeSource, Pair, poison
from holdfast.replicator.testing_disk import Disk
from holdfast.replicator.testing_rig import MakeRig, Rig

BLOCK = 4096


def test_a_write_is_on_both_hosts_when_it_is_acknowledged(rig: Rig) -> None:
    assert rig.pair.do(Op.WRITE, BLOCK, b"x" * BLOCK) is Outcome.OK
    for disk in rig.disks.values():
        assert disk.content("data")[BLOCK : 2 * BLOCK] == b"x" * BLOCK
        assert disk.durable("data")[BLOCK : 2 * BLOCK] == bytes(BLOCK)
    assert rig.pair.do(Op.FLUSH) is Outcome.OK
    assert all(disk.durable("data")[BLOCK : 2 * BLOCK] == b"x" * BLOCK for disk in rig.disks.values())
    assert rig.pair.do(Op.WRITE, 0, b"y" * BLOCK, fua=True) is Outcome.OK
    assert all(disk.durable("data")[:BLOCK] == b"y" * BLOCK for disk in rig.disks.values())


def test_of_many_compare_and_writes_that_expect_the_same_one_wins_on_both_hosts(rig: Rig) -> None:
    """Under way all at once: each compares with what the one before it left."""
    won: list[int] = []
    for turn in range(8):
        old, new = bytes([turn]) * BLOCK, bytes([turn + 1]) * BLOCK
        racers = [rig.pair.submit(Op.COMPARE_AND_WRITE, BLOCK, new, expected=old) for _ in range(6)]
        partial = rig.pair.submit(Op.COMPARE_AND_WRITE, BLOCK + 512, new[:512], expected=old[:512])
        rig.pair.until(lambda racers=racers, partial=partial: all([*racers, partial]))  # type: ignore[misc]
        outcomes = [one[0] for one in racers]
        won.append(outcomes.count(Outcome.OK))
        assert outcomes.count(Outcome.MISCOMPARE) == 5 and partial == [Outcome.MISCOMPARE]
        assert rig.pair.read(BLOCK, BLOCK) == new and rig.same()
    assert won == [1] * 8


def test_compare_and_write(rig: Rig) -> None:
    rig.pair.do(Op.WRITE, 0, b"a" * 512)
    assert rig.pair.do(Op.COMPARE_AND_WRITE, 0, b"b" * 512, expected=b"a" * 512) is Outcome.OK
    assert rig.pair.do(Op.COMPARE_AND_WRITE, 0, b"c" * 512, expected=b"a" * 512) is Outcome.MISCOMPARE
    assert rig.pair.read(0, 512) == b"b" * 512 and rig.same()


def test_requests_outside_and_of_no_length(rig: Rig) -> None:
    assert rig.pair.do(Op.WRITE, rig.pair.size_bytes - 512, b"x" * 1024) is Outcome.INVALID
    assert rig.pair.do(Op.ZERO, 0, 0) is Outcome.OK


def test_a_lost_session_costs_time_and_no_write(rig: Rig) -> None:
    outcomes = [rig.pair.submit(Op.WRITE, i * BLOCK, bytes([i + 1]) * BLOCK) for i in range(20)]
    rig.pair.net.cut()
    rig.pair.until(lambda: all(outcomes))
    assert all(outcome == [Outcome.OK] for outcome in outcomes) and rig.same()


def test_what_cannot_be_acknowledged_is_answered_busy_in_time_and_never_done(rig: Rig) -> None:
    pair = rig.pair
    pair.for_s(1)
    pair.net.refuse_dial = True
    pair.net.cut()
    pair.until(lambda: not pair.link.up)
    began = pair.clock.now_s
    outcomes = [pair.submit(Op.WRITE, 0, b"x" * BLOCK), pair.submit(Op.FLUSH)]
    assert pair.read(0, BLOCK) == bytes(BLOCK)
    pair.for_s(HELD_COMMAND_MAX_S - 1)
    assert not any(outcomes)
    pair.until(lambda: all(outcomes))
    assert outcomes == [[Outcome.BUSY]] * 2
    assert HELD_COMMAND_MAX_S <= pair.clock.now_s - began <= HELD_COMMAND_MAX_S + 2
    pair.net.refuse_dial = False
    pair.until_up()
    pair.for_s(5)
    assert pair.read(0, BLOCK) == bytes(BLOCK) and rig.same()


def test_a_write_that_had_begun_is_the_same_on_both_hosts_after_it_was_given_up(rig: Rig) -> None:
    pair = rig.pair
    pair.net.silent = True
    outcome = pair.submit(Op.WRITE, 0, b"x" * BLOCK)
    pair.for_s(0.5)
    pair.net.refuse_dial = True
    pair.until(lambda: bool(outcome))
    assert outcome == [Outcome.BUSY]
    pair.net.silent = pair.net.refuse_dial = False
    pair.until_up()
    assert rig.same() and POISON not in rig.disks["a"].content("data")


def test_a_write_that_was_given_up_ends_when_the_mirror_has_drained(rig: Rig) -> None:
    """Its initiator may have aborted it: until then a copy could still be applied (I-11)."""
    pair = rig.pair
    pair.b.loop.hold_work = True
    outcome = pair.submit(Op.WRITE, 0, b"x" * BLOCK)
    pair.for_s(HELD_COMMAND_MAX_S + 1.2)
    assert not outcome and not pair.link.up
    pair.b.loop.hold_work = False
    pair.until(lambda: bool(outcome), 0.5)
    assert outcome == [Outcome.BUSY]
    pair.until_up()
    assert rig.same()


def test_a_write_that_was_given_up_ends_in_time_all_the_same(rig: Rig) -> None:
    pair = rig.pair
    pair.b.loop.hold_work = True
    began = pair.clock.now_s
    outcome = pair.submit(Op.WRITE, 0, b"x" * BLOCK)
    pair.until(lambda: bool(outcome))
    held_s = pair.clock.now_s - began - HELD_COMMAND_MAX_S - DRAIN_WAIT_MAX_S
    assert outcome == [Outcome.BUSY] and 0 <= held_s <= 1.5


def test_a_write_that_was_given_up_ends_when_its_host_is_left_out(rig: Rig) -> None:
    pair = rig.pair
    pair.b.loop.hold_work = True
    outcome = pair.submit(Op.WRITE, 0, b"x" * BLOCK)
    pair.for_s(HELD_COMMAND_MAX_S + 1.2)
    assert not outcome
    pair.tell("a", Role.PRIMARY, 2, "a")
    pair.until(lambda: bool(outcome), 0.5)
    assert outcome == [Outcome.BUSY]


def test_nothing_is_read_where_the_hosts_may_differ(rig: Rig) -> None:
    """What the process before this one wrote may be here alone: who took over now would not show it. So the
    other host has it before it is shown.
    """
    pair, seen = rig.pair, list[bytes]()
    assert pair.do(Op.WRITE, 0, b"x" * BLOCK) is Outcome.OK
    pair.kill_primary()
    rig.disks["a"].inodes["data"].content[:3] = b"new"
    pair.start_primary()
    turn = hold(pair, BLOCK)
    content = memoryview(bytearray(BLOCK))
    read = Request(
        Op.READ, 0, BLOCK, lambda _: seen.append(rig.disks["b"].content("data")[:BLOCK]), [content]
    )
    pair.primary.submit(read)
    pair.until(lambda: bool(seen), 5.0)
    assert seen == [bytes(content)] == [b"new" + b"x" * (BLOCK - 3)] and not pair.link.equal
    assert pair.a.local is not None
    pair.a.local.order.give_back(turn)
    pair.until_up()


def hold(pair: Pair, offset: int) -> Turn:
    """A turn in which nothing is copied from there; the rest of its MiB waits, too."""
    assert pair.a.local is not None
    return pair.a.local.order.take(offset, offset + BLOCK, True, lambda _turn: None)


@pytest.mark.parametrize("expected", [b"o", b"x"])
def test_a_comparison_shows_what_both_hosts_hold(rig: Rig, expected: bytes) -> None:
    """Of a COMPARE AND WRITE that finds something else, what it found is known."""
    pair, seen = rig.pair, list[tuple[Outcome, bytes]]()
    at = slice(REGION_BYTES, REGION_BYTES + BLOCK)
    for offset in (0, REGION_BYTES):
        assert pair.do(Op.WRITE, offset, b"o" * BLOCK) is Outcome.OK
    pair.kill_primary()
    rig.disks["a"].inodes["data"].content[at] = b"x" * BLOCK
    pair.start_primary()
    turn = hold(pair, BLOCK)

    def done(outcome: Outcome) -> None:
        seen.append((outcome, rig.disks["b"].content("data")[at]))

    new, old = [memoryview(bytearray(b"n" * BLOCK))], expected * BLOCK
    pair.primary.submit(Request(Op.COMPARE_AND_WRITE, at.start, BLOCK, done, new, expected=old))
    pair.until(lambda: bool(seen), 5.0)
    equal = expected == b"x"
    assert seen == [(Outcome.OK, b"n" * BLOCK) if equal else (Outcome.MISCOMPARE, b"x" * BLOCK)]
    assert pair.a.local is not None
    pair.a.local.order.give_back(turn)
    pair.until_up()


def written_all_over(make_rig: MakeRig) -> Rig:
    """Forty regions, and the primary's process is killed."""
    rig = make_rig(size_bytes=40 * REGION_BYTES)
    pair = rig.pair
    pair.until_up()
    for region in range(40):
        pair.do(Op.WRITE, region * REGION_BYTES, b"x" * BLOCK)
    pair.kill_primary()
    return rig


def test_nobody_waits_until_all_that_is_in_doubt_was_copied(make_rig: MakeRig) -> None:
    """Writes go on as soon as both hosts take them; a snapshot waits, and a switch."""
    rig = written_all_over(make_rig)
    pair = rig.pair
    pair.start_primary()
    turn = hold(pair, 20 * REGION_BYTES)
    assert pair.do(Op.WRITE, 39 * REGION_BYTES + BLOCK, b"y" * BLOCK) is Outcome.OK
    assert pair.do(Op.WRITE, 3 * BLOCK, b"y" * BLOCK) is Outcome.OK and len(pair.link.in_doubt) > 10
    with pytest.raises(Unavailable, match="made equal"):
        pair.finish(freeze(pair.a.loop, pair.primary, "s1"))
    for _ in range(2):
        pair.finish(clean(pair.primary))
    assert pair.a.store.intent.get(39) and pair.b.store.intent.get(39)
    assert pair.a.local is not None
    pair.a.local.order.give_back(turn)
    pair.until_up()
    assert rig.same()
    pair.finish(freeze(pair.a.loop, pair.primary, "s1"))


def test_a_read_of_a_half_filled_volume_costs_no_mirror(make_rig: MakeRig) -> None:
    """A fill is here and not there, and the process is killed: part of that extent would be refused."""
    size = 20 * EXTENT_BYTES
    pair = make_rig(origin=FakeSource(b"o" * size), size_bytes=size).pair
    pair.hydrates = False
    pair.until_up()
    pair.submit(Op.READ, 0, 512)
    while pair.a.store.missing.get(0):
        pair.a.loop.run_once()
    assert pair.b.store.missing.get(0)
    pair.kill_primary()
    pair.start_primary()
    outcomes = pair.submit(Op.READ, 0, 512)
    pair.until(lambda: bool(outcomes) and pair.link.equal)
    assert outcomes == [Outcome.OK] and not pair.link.hopeless and not pair.leading.wants_leave_out


def test_reads_that_were_given_up_end_no_alignment(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where something is in doubt, of a mirror that takes its time to answer."""
    pair, hello = rig.pair, MirrorExport._hello

    def slow(export: MirrorExport, *words: Any) -> Any:
        yield sleep(pair.b.loop, 2.5)
        return (yield from hello(export, *words))

    pair.do(Op.WRITE, 0, b"x" * BLOCK)
    pair.kill_primary()
    pair.start_primary()
    pair.net.refuse_dial = True
    pair.net.cut()
    for _ in range(50):
        pair.submit(Op.READ, 0, BLOCK)
        pair.for_s(0.25)
    monkeypatch.setattr(MirrorExport, "_hello", slow)
    pair.net.refuse_dial = False
    began_s = pair.clock.now_s
    while not pair.link.up:
        pair.submit(Op.READ, 0, BLOCK)
        pair.for_s(0.25)
        assert pair.clock.now_s - began_s < 8


def test_what_is_in_doubt_after_a_crash_in_the_middle_still_is(make_rig: MakeRig) -> None:
    rig = written_all_over(make_rig)
    pair = rig.pair
    at = slice(39 * REGION_BYTES, 39 * REGION_BYTES + 3)
    rig.disks["a"].inodes["data"].content[at] = b"new"
    pair.start_primary()
    hold(pair, 20 * REGION_BYTES)
    pair.until(lambda: pair.link.up and len(pair.link.in_doubt) <= 20)
    for kill, start in ((pair.kill_mirror, pair.start_mirror), (pair.kill_primary, pair.start_primary)):
        kill()
        start()
        pair.until(lambda: pair.link.up)
    pair.until_up()
    assert rig.same()


def test_a_silent_mirror_is_dead_soon(rig: Rig) -> None:
    pair = rig.pair
    pair.net.silent = True
    began = pair.clock.now_s
    pair.until(lambda: not pair.link.up)
    assert pair.clock.now_s - began <= LINK_LOST_S + 2
    pair.net.silent = False
    pair.until_up()


def test_a_flush_that_takes_too_long_costs_no_session(rig: Rig) -> None:
    pair = rig.pair
    pair.b.loop.hold_work = True
    outcome = pair.submit(Op.FLUSH)
    pair.until(lambda: bool(outcome))
    assert outcome == [Outcome.BUSY] and pair.link.up
    pair.b.loop.hold_work = False
    assert pair.do(Op.FLUSH) is Outcome.OK


def test_memory_of_a_read_that_was_given_up_is_left_alone(rig: Rig) -> None:
    pair = rig.pair
    disk = rig.disks["a"]
    disk.cold_reads, disk.chance = True, Random(1)
    pair.a.loop.hold_work = True
    buffers = [memoryview(bytearray(BLOCK)) for _ in range(20)]
    outcomes: list[Outcome] = []

    def done(buffer: memoryview, outcome: Outcome) -> None:
        outcomes.append(outcome)
        poison([buffer])

    for buffer in buffers:
        pair.primary.submit(Request(Op.READ, 0, BLOCK, lambda o, b=buffer: done(b, o), [buffer]))  # type: ignore[misc]
    pair.until(lambda: len(outcomes) == 20)
    assert Outcome.BUSY in outcomes
    pair.a.loop.hold_work = False
    pair.for_s(1)
    assert all(buffer == bytes([POISON]) * BLOCK for buffer in buffers)


def test_many_writes_to_one_block(rig: Rig) -> None:
    outcomes = [rig.pair.submit(Op.WRITE, 0, bytes([i % 200 + 1]) * 512) for i in range(600)]
    rig.pair.until(lambda: all(outcomes))
    assert rig.same() and rig.pair.read(0, 512) == bytes([599 % 200 + 1]) * 512


def test_a_full_disk_here_is_no_error_while_the_mirror_has_room(rig: Rig) -> None:
    rig.fail("a", errno.ENOSPC, "write", under="data")
    assert rig.pair.do(Op.WRITE, 0, b"x" * BLOCK) is Outcome.BUSY
    assert not rig.pair.a.local.suspect  # type: ignore[union-attr]
    leading = rig.pair.leading
    rig.pair.until(lambda: leading.yielded)
    assert leading.wants_resign and not leading.wants_leave_out
    assert rig.pair.do(Op.READ, 0, BLOCK) is Outcome.BUSY


def test_a_full_disk_there_makes_writes_wait(rig: Rig) -> None:
    rig.fail("b", errno.ENOSPC, "write", under="data")
    outcome = rig.pair.submit(Op.WRITE, 0, b"x" * BLOCK)
    rig.pair.until(lambda: rig.pair.leading.wants_leave_out == ("b",))
    rig.pair.until(lambda: bool(outcome))
    assert outcome == [Outcome.BUSY]
    rig.mend()
    rig.pair.until_up()
    assert rig.same() and rig.pair.do(Op.WRITE, 0, b"y" * BLOCK) is Outcome.OK


@pytest.mark.parametrize("op", [Op.WRITE, Op.READ, Op.FLUSH, Op.ZERO])
def test_an_io_error_here_ends_all_trust_in_the_disk(rig: Rig, op: Op) -> None:
    pair, kind = rig.pair, {Op.FLUSH: "sync"}.get(op, op.value)
    pair.do(Op.WRITE, 0, b"x" * BLOCK)
    rig.fail("a", errno.EIO, kind, under="data")
    content = {Op.WRITE: b"y" * BLOCK, Op.FLUSH: b""}.get(op, BLOCK)
    assert pair.do(op, 0, content) is Outcome.BUSY and pair.leading.wants_resign
    rig.mend()
    steps: list[str] = []
    rig.disks["a"].on_step = lambda kind, name: steps.append(kind) if name == "data" else None
    for again in (Op.WRITE, Op.FLUSH, Op.READ):
        assert pair.do(again, 0, {Op.WRITE: b"z" * BLOCK, Op.READ: BLOCK}.get(again, b"")) is not Outcome.OK
    assert "sync" not in steps and "write" not in steps
    assert len(pair.a.suspicions) == 1
    pair.for_s(1)
    pair.kill_primary()
    pair.start_primary()
    assert pair.a.local is not None and pair.a.local.suspect
    pair.until(lambda: len(pair.a.suspicions) == 2)


def test_a_failed_flush_there_is_not_repeated(rig: Rig) -> None:
    pair = rig.pair
    syncs: list[str] = []

    def failing(kind: str, name: str) -> None:
        if (kind, name) == ("sync", "data"):
            syncs.append(name)
            raise OSError(errno.EIO, "injected")

    rig.disks["b"].on_step = failing
    assert pair.do(Op.FLUSH) is Outcome.BUSY
    assert len(syncs) == 1 and pair.b.suspicions and not pair.link.up


def test_fills_are_not_given_up(make_rig: MakeRig) -> None:
    """A write after a fill on the same extent relies on the fill at the mirror."""
    rig = make_rig(origin=FakeSource(b"o" * (6 * EXTENT_BYTES)), size_bytes=6 * EXTENT_BYTES)
    pair = rig.pair
    pair.hydrates = False
    pair.until_up()
    pair.b.loop.hold_work = True
    pair.submit(Op.READ, 0, 512)
    pair.until(lambda: not pair.a.store.missing.left)
    pair.for_s(3.5)
    outcome = pair.submit(Op.WRITE, 512, b"y" * 512)
    pair.net.refuse_dial = True
    pair.net.cut()
    pair.for_s(8)
    pair.b.loop.hold_work = pair.net.refuse_dial = False
    pair.until(lambda: bool(outcome))
    assert outcome == [Outcome.OK] and rig.same()


def zero_that_is_there_and_not_here(rig: Rig, offset: int) -> None:
    """A long one goes to the pool, so the mirror has it first; then this process is killed."""
    pair = rig.pair
    pair.a.loop.hold_work = True
    pair.submit(Op.ZERO, offset, MIB + EXTENT_BYTES)
    pair.for_s(1)
    assert rig.disks["b"].content("data")[offset : offset + MIB] == bytes(MIB)
    pair.a.loop._work.clear()
    pair.kill_primary()
    pair.start_primary()
    pair.until_up()


def test_what_was_not_done_here_is_undone_there(rig: Rig) -> None:
    rig.pair.do(Op.WRITE, MIB, b"x" * MIB)
    zero_that_is_there_and_not_here(rig, MIB)
    assert rig.same() and rig.pair.read(MIB, 512) == b"x" * 512


def test_what_the_primary_misses_the_mirror_misses_too(make_rig: MakeRig) -> None:
    """The mirror applied what the primary did not, over extents that are not here yet."""
    size = 20 * EXTENT_BYTES
    rig = make_rig(origin=FakeSource(b"o" * size), size_bytes=size)
    pair = rig.pair
    pair.hydrates = False
    pair.until_up()
    pair.read(0, 512)
    zero_that_is_there_and_not_here(rig, MIB)
    assert list(pair.a.store.missing.indexes()) == list(pair.b.store.missing.indexes()) == list(range(8, 20))
    pair.hydrates = True
    pair.hydrator.go_on()
    pair.until(lambda: not pair.a.store.missing.left and not pair.b.store.missing.left)
    assert rig.same() and pair.read(MIB, 512) == b"o" * 512


def test_regions_in_doubt_at_the_mirror_are_copied_and_intended_here(rig: Rig) -> None:
    pair = rig.pair
    pair.do(Op.WRITE, REGION_BYTES, b"x" * BLOCK)
    pair.b.store.intent.set(1)
    pair.a.local.intent.forget([1])  # type: ignore[union-attr]
    pair.a.store.intent.sync()
    pair.kill_mirror()
    rig.disks["b"].inodes["data"].content[REGION_BYTES : REGION_BYTES + BLOCK] = b"?" * BLOCK
    pair.kill_primary()
    pair.start_mirror()
    pair.start_primary()
    pair.until_up()
    assert rig.same()
    assert rig.disks["a"].durable("intent")[0] & 2
    pair.for_s(1)
    for _ in range(2):
        pair.finish(clean(pair.primary))
    assert not any(pair.b.store.intent.set_bits())


def test_an_alignment_that_waits_does_not_go_on_in_the_next_session(rig: Rig) -> None:
    pair = rig.pair
    assert pair.a.local is not None
    pair.do(Op.WRITE, REGION_BYTES, b"x" * BLOCK)
    pair.net.refuse_dial = True
    turn = pair.a.local.order.take(REGION_BYTES, REGION_BYTES + 512, True, lambda _turn: None)
    pair.link.doubt(REGION_BYTES, 512)
    pair.net.refuse_dial = False
    pair.for_s(1)
    assert not pair.link.equal
    pair.net.cut()
    pair.for_s(1)
    synced = []
    for session in pair.net.sessions:
        control = session.control
        session.control = lambda p, d, c=control: (synced.append(p), c(p, d))  # type: ignore[method-assign, assignment, misc, func-returns-value]
    rig.disks["b"].inodes["data"].content[REGION_BYTES : REGION_BYTES + BLOCK] = b"?" * BLOCK
    pair.a.local.order.give_back(turn)
    pair.until_up()
    pair.for_s(1)
    assert rig.same() and sum(b"synced" in payload for payload in synced) == 1


def test_generations_are_made_equal_whoever_is_ahead(rig: Rig) -> None:
    pair = rig.pair
    for ahead, behind in ((pair.a, pair.b), (pair.b, pair.a)):
        behind.store.changed.set(3)
        pair.finish(open_generation(ahead.local, ahead.store.generation + 2))  # type: ignore[arg-type]
        pair.net.cut()
        pair.until(lambda: not pair.link.up)
        pair.until_up()
        generation = ahead.store.generation
        assert behind.store.generation == behind.store.state.generation == generation
        assert (3, 4) in behind.store.changed_between(generation, generation + 1)
    assert pair.a.store.generations() == pair.b.store.generations() == [0, 1, 2, 3, 4]


class Connection:
    """A mirror's connection, as far as it needs one."""

    in_flight, peer = 0, None

    def __init__(self) -> None:
        self.export: MirrorExport | None = None

    def drain(self) -> None: ...

    def close(self, reason: str) -> None:
        assert self.export is not None and reason
        self.export.closed()


def test_sessions_wait_for_those_before_them_and_never_for_those_after(rig: Rig) -> None:
    drain = Drain()
    sessions = [MirrorExport(rig.pair.b.local, drain, rig.pair.following) for _ in range(3)]  # type: ignore[arg-type]
    entered: list[int] = []
    for number, session in enumerate(sessions):
        connection = Connection()
        connection.export = session
        session.opened(connection)
        drain.begin(session)
        drain.enter(session, lambda _nothing, n=number: entered.append(n))  # type: ignore[misc]
    assert entered == [0] and drain.current is sessions[2]
    drain.end(sessions[0])
    assert entered == [0, 1]
    drain.end(sessions[1])
    assert entered == [0, 1, 2]


def test_the_mirror_takes_nothing_before_hello_nor_after_its_end(rig: Rig) -> None:
    pair = rig.pair
    outcomes: list[Outcome] = []
    export = MirrorExport(pair.b.local, pair.following.drain, pair.following)  # type: ignore[arg-type]
    export.submit(Request(Op.ZERO, 0, 512, outcomes.append))
    for word in (b'{"do":"clean","regions":[0]}', b'{"do":"synced"}'):
        export.control(word, lambda outcome, _answer: outcomes.append(outcome))
    assert outcomes == [Outcome.STALE_EPOCH] * 3
    current = pair.following.drain.current
    assert current is not None
    current.end()
    current.submit(Request(Op.ZERO, 0, 512, outcomes.append))
    assert outcomes[-1] is Outcome.STALE_EPOCH
    pair.until(lambda: not pair.link.up)
    pair.until_up()


def test_a_new_session_waits_for_what_an_old_one_has_under_way(rig: Rig) -> None:
    """A long zeroing of the old session must not take place over a write of the new one."""
    pair = rig.pair
    assert pair.b.local is not None
    turn = pair.b.local.order.take(0, 512, True, lambda _turn: None)
    zeroed = pair.submit(Op.ZERO, 0, 2 * MIB)
    pair.for_s(0.5)
    pair.net.cut()
    pair.for_s(3)
    assert not pair.link.up and not zeroed
    pair.b.local.order.give_back(turn)
    pair.until(lambda: bool(zeroed))
    assert zeroed == [Outcome.OK] and rig.same()


def test_words_that_make_no_sense_are_answered(rig: Rig) -> None:
    session = rig.pair.following.drain.current
    assert session is not None
    answers: list[bytes] = []
    words = (
        b"[]",
        b'{"do":"dance"}',
        b'{"do":"clean","regions":[-1,99999,"x"]}',
        b'{"do":"clean","but":[[4096,"eJwDAAAAAAE="]]}',
        b'{"do":"flip","uid":"s"}',
    )
    for word in words:
        session.control(word, lambda _outcome, answer: answers.append(answer))
        rig.pair.until(lambda: len(answers) == words.index(word) + 1)  # noqa: B023
    assert [b"failed" in answer for answer in answers] == [True, True, False, True, True]


def test_a_disk_that_is_a_stranger() -> None:
    assert not Disk(Random(0)).files().names("changed")
