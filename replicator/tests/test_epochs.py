"""Who is in sync changes: hosts are left out, take over, come back, are compared, and hand over."""

import errno
from collections.abc import Callable
from functools import partial

import pytest

from holdfast.base.device import Op, Outcome
from holdfast.base.errors import Unavailable
from holdfast.base.limits import (
    BEACON_LEASE_S,
    BEACON_MARGIN_S,
    EXTENT_BYTES,
    HELD_COMMAND_MAX_S,
    LINK_LOST_S,
    LINK_REFUSED_S,
    MIB,
    REGION_BYTES,
)
from holdfast.base.steps import Resume, Starter, all_of, run
from holdfast.replicator import clean as cleaning
from holdfast.replicator import intent
from holdfast.replicator.budget import ADAPT_S
from holdfast.replicator.chores import Snapshots
from holdfast.replicator.clean import CLEAN_INTERVAL_S, clean
from holdfast.replicator.following import Role
from holdfast.replicator.partner import Standing
from holdfast.replicator.testing import FakeSource, Host, Pair
from holdfast.replicator.testing_disk import Disk
from holdfast.replicator.testing_rig import MakeRig, Rig
from holdfast.replicator.verify import Verification

BLOCK = 4096


def leave_out_b(rig: Rig) -> None:
    """The mirror's process is killed, and the primary goes on alone in epoch 2."""
    pair = rig.pair
    pair.kill("b")
    pair.until(lambda: pair.leading.wants_leave_out == ("b",))
    pair.epoch(2, "a", "a")
    pair.until(lambda: pair.primary.writes)


def bring_back(pair: Pair, name: str, primary: str, epoch: int) -> None:
    """A joiner until it lacks nothing, then in sync."""
    leading = pair.leading_of(primary)
    pair.until(lambda: leading.wants_join[0] == name)
    assert leading.wants_join[1] == pair.hosts[name].boot_id
    pair.epoch(epoch, primary, "ab")
    pair.until(lambda: leading.primary.writes)


def sent_to(pair: Pair, name: str) -> list[int]:
    """Lengths of the writes and zeros that host `name` is sent from here on."""
    lengths: list[int] = []
    pair.net.fail = lambda request: lengths.append(request.length) if request.op is not Op.FLUSH else None  # type: ignore[func-returns-value]
    return lengths


def test_a_lost_mirror_is_left_out_and_what_it_lacks_is_all_that_is_copied(rig: Rig) -> None:
    pair = rig.pair
    pair.do(Op.WRITE, REGION_BYTES, b"o" * BLOCK)
    outcomes = [pair.submit(Op.WRITE, i * EXTENT_BYTES, b"x" * BLOCK) for i in range(2)]
    pair.kill("b")
    began = pair.clock.now_s
    pair.until(lambda: pair.leading.wants_leave_out == ("b",))
    assert pair.clock.now_s - began <= LINK_LOST_S + 1 and not any(outcomes)
    pair.epoch(2, "a", "a")
    pair.until(lambda: all(outcomes))
    assert outcomes == [[Outcome.OK]] * 2
    assert pair.do(Op.WRITE, 5 * EXTENT_BYTES, b"y" * BLOCK) is Outcome.OK
    assert rig.disks["a"].durable("data")[5 * EXTENT_BYTES : 5 * EXTENT_BYTES + BLOCK] == b"y" * BLOCK
    assert not rig.same()
    pair.start("b", Role.JOINER, 2, "a")
    lengths = sent_to(pair, "b")
    bring_back(pair, "b", "a", 3)
    assert rig.same() and not pair.a.store.absent and not pair.a.store.state.absent
    # What was written alone, and the regions that the mirror had intended.
    assert sum(lengths) <= 2 * REGION_BYTES
    assert pair.do(Op.WRITE, 0, b"z" * BLOCK) is Outcome.OK and rig.same()


def test_without_an_epoch_nothing_is_acknowledged(rig: Rig) -> None:
    pair = rig.pair
    pair.kill("b")
    outcome = pair.submit(Op.WRITE, 0, b"x" * BLOCK)
    pair.until(lambda: bool(outcome))
    assert outcome == [Outcome.BUSY] and pair.clock.now_s >= HELD_COMMAND_MAX_S
    assert pair.do(Op.READ, 0, BLOCK) is Outcome.BUSY


def test_what_needs_a_mirror_waits_for_one(rig: Rig) -> None:
    pair = rig.pair
    pair.kill("b")
    pair.until(lambda: bool(pair.leading.wants_leave_out))
    pair.tell("a", Role.PRIMARY, 2, "a", needs_mirror=True)
    pair.until(lambda: pair.primary.reads)
    assert pair.read(0, BLOCK) == bytes(BLOCK) and pair.do(Op.WRITE, 0, b"x" * BLOCK) is Outcome.BUSY


def test_the_mirror_takes_over_and_the_old_primary_comes_back(rig: Rig) -> None:
    pair = rig.pair
    pair.do(Op.WRITE, 0, b"x" * BLOCK)
    pair.for_s(1)
    mirror = pair.following
    assert not mirror.may_take_over
    pair.kill("a")
    died = pair.clock.now_s
    pair.until(lambda: mirror.may_take_over)
    assert pair.clock.now_s - died >= BEACON_LEASE_S + BEACON_MARGIN_S - 1
    pair.epoch(2, "b", "b")
    pair.until(lambda: pair.b.replica is not None and pair.b.replica.report().serving)
    assert pair.do(Op.WRITE, BLOCK, b"y" * BLOCK, at="b") is Outcome.OK
    assert pair.read(0, BLOCK, at="b") == b"x" * BLOCK
    pair.start("a", Role.JOINER, 2, "b")
    bring_back(pair, "a", "b", 3)
    assert rig.same()


def test_a_mirror_that_was_promised_to_does_not_serve_before_the_promise_is_over(rig: Rig) -> None:
    """The old primary is cut off, and its mirror is told at once that it is the primary."""
    pair = rig.pair
    pair.for_s(1)
    pair.net.refuse_dial = True
    pair.net.cut()
    now = pair.clock.now_s
    pair.tell("b", Role.PRIMARY, 2, "b")
    outcome = pair.submit(Op.WRITE, 0, b"new" * 1024, at="b")
    reads = [pair.submit(Op.READ, 0, BLOCK)]
    pair.until(lambda: bool(outcome))
    assert outcome == [Outcome.OK] and pair.clock.now_s - now >= BEACON_LEASE_S - 1
    reads.append(pair.submit(Op.READ, 0, BLOCK))
    write = pair.submit(Op.WRITE, 0, b"old" * 1024)
    pair.until(lambda: all(reads) and bool(write))
    assert reads[1] == [Outcome.BUSY] and write == [Outcome.BUSY]
    pair.tell("a", Role.JOINER, 2, "b")
    pair.net.refuse_dial = False
    bring_back(pair, "a", "b", 3)
    assert rig.same() and rig.disks["a"].content("data")[:9] == b"new" * 3


def test_a_switch_loses_no_request_and_no_redundancy(rig: Rig) -> None:
    pair = rig.pair
    outcomes = [pair.submit(Op.WRITE, i * BLOCK, bytes([i + 1]) * BLOCK) for i in range(10)]
    pair.tell("a", Role.PRIMARY, 1, "ab", yield_to="b")
    held = pair.submit(Op.WRITE, 0, b"h" * BLOCK)
    pair.until(lambda: pair.leading.yielded)
    assert outcomes == [[Outcome.OK]] * 10 and not held
    pair.epoch(2, "b", "ab")
    pair.until(lambda: pair.leading_of("b").primary.writes)
    assert held == [Outcome.BUSY] and rig.same()
    assert pair.do(Op.WRITE, 0, b"n" * BLOCK, at="b") is Outcome.OK and rig.same()
    assert pair.do(Op.READ, 0, BLOCK, at="b") is Outcome.OK
    front = pair.a.replica.device  # type: ignore[union-attr]
    assert front.leading is None


def test_a_switch_that_is_called_off_goes_on(rig: Rig) -> None:
    pair = rig.pair
    pair.tell("a", Role.PRIMARY, 1, "ab", yield_to="b")
    held = pair.submit(Op.WRITE, 0, b"h" * BLOCK)
    pair.until(lambda: pair.leading.yielded)
    pair.tell("a", Role.PRIMARY, 1, "ab")
    pair.until(lambda: bool(held))
    assert held == [Outcome.OK] and not pair.leading.yielded


def test_a_process_that_has_asked_for_a_joining_dies_and_its_successor_waits_for_the_outcome(
    rig: Rig,
) -> None:
    for joined in (True, False):
        rig = Rig()
        pair = rig.pair
        pair.until_up()
        leave_out_b(rig)
        pair.do(Op.WRITE, 0, b"x" * BLOCK)
        pair.start("b", Role.JOINER, 2, "a")
        pair.until(lambda: bool(pair.leading.wants_join[0]))  # noqa: B023
        pair.kill("a")
        pair.start("a", Role.PRIMARY, 2, "a")
        outcome = pair.submit(Op.WRITE, BLOCK, b"y" * BLOCK)
        pair.until(lambda: pair.leading.wants_leave_out == ("b",))  # noqa: B023
        pair.for_s(3)
        assert not outcome
        pair.epoch(3, "a", "ab" if joined else "a")
        pair.until(lambda: bool(outcome))  # noqa: B023
        assert outcome == [Outcome.OK] and rig.same() is joined
        if not joined:
            bring_back(pair, "b", "a", 4)
        assert rig.same()


def test_what_comes_after_whole_is_in_the_memory_of_who_joins_and_on_its_disk_before_it_serves_alone(
    rig: Rig,
) -> None:
    """Until it is recorded, on the disk of the lone primary; what is flushed or written through, on both."""
    pair, disk = rig.pair, rig.disks["b"]

    def on_disk(host: str) -> str:
        content = rig.disks[host].durable("data")
        return "".join(chr(content[at * BLOCK]) for at in range(4)).replace("\0", "-")

    pair.until_up()
    leave_out_b(rig)
    assert pair.do(Op.WRITE, 0, b"1" * BLOCK) is Outcome.OK
    pair.start("b", Role.JOINER, 2, "a")
    pair.until(lambda: pair.leading.wants_join[0] == "b")
    assert on_disk("a") == on_disk("b") == "1---"
    assert pair.do(Op.WRITE, BLOCK, b"2" * BLOCK) is Outcome.OK
    assert pair.do(Op.FLUSH, 0, 0) is Outcome.OK
    assert on_disk("a") == on_disk("b") == "12--"
    assert pair.do(Op.WRITE, 2 * BLOCK, b"3" * BLOCK, fua=True) is Outcome.OK
    assert on_disk("a") == on_disk("b") == "123-"
    assert pair.do(Op.WRITE, 3 * BLOCK, b"4" * BLOCK) is Outcome.OK
    assert on_disk("a") == "1234" and on_disk("b") == "123-" and rig.same()
    pair.epoch(3, "a", "ab")
    pair.until(lambda: pair.b.store.state.epoch == 3)
    pair.kill("a")
    assert on_disk("b") == "123-"
    pair.until(lambda: pair.following.may_take_over)
    pair.epoch(4, "b", "b")
    pair.until(lambda: pair.leading_of("b").primary.reads)
    assert on_disk("b") == "1234"
    disk.power_cut()
    assert disk.content("data")[3 * BLOCK : 4 * BLOCK] == b"4" * BLOCK


def test_a_host_of_another_history_is_compared(rig: Rig) -> None:
    pair = rig.pair
    pair.do(Op.WRITE, 0, b"x" * (3 * EXTENT_BYTES))
    leave_out_b(rig)
    pair.a.store.track_from("b", 0)
    rig.disks["b"].inodes["data"].content[2 * EXTENT_BYTES : 2 * EXTENT_BYTES + 3] = b"???"
    rig.disks["b"].inodes["data"].content[REGION_BYTES : REGION_BYTES + 3] = b"???"
    pair.start("b", Role.JOINER, 2, "a")
    lengths = sent_to(pair, "b")
    bring_back(pair, "b", "a", 3)
    assert rig.same() and sorted(lengths) == [EXTENT_BYTES, EXTENT_BYTES]


def test_a_new_disk_gets_what_is_allocated_and_no_more(make_rig: MakeRig) -> None:
    rig = make_rig(size_bytes=8 * REGION_BYTES)
    pair = rig.pair
    pair.until_up()
    for at in (0, 3 * REGION_BYTES, 8 * REGION_BYTES - BLOCK):
        pair.do(Op.WRITE, at, b"x" * BLOCK)
    leave_out_b(rig)
    rig.replace_disk("b")
    pair.start("b", Role.JOINER, 2, "a")
    lengths = sent_to(pair, "b")
    bring_back(pair, "b", "a", 3)
    assert rig.same() and sum(lengths) == 3 * EXTENT_BYTES


def test_a_joiner_gets_what_is_missing_and_what_has_changed(make_rig: MakeRig) -> None:
    size = 20 * EXTENT_BYTES
    rig = make_rig(origin=FakeSource(b"o" * size), size_bytes=size)
    pair = rig.pair
    pair.hydrates = False
    pair.until_up()
    pair.do(Op.WRITE, EXTENT_BYTES, b"x" * EXTENT_BYTES)
    leave_out_b(rig)
    pair.read(0, 512)
    pair.do(Op.WRITE, 10 * EXTENT_BYTES, b"y" * EXTENT_BYTES)
    pair.start("b", Role.JOINER, 2, "a")
    bring_back(pair, "b", "a", 3)
    missing = list(pair.a.store.missing.indexes())
    assert missing and missing == list(pair.b.store.missing.indexes())
    assert set(pair.a.store.changed.set_bits()) <= set(pair.b.store.changed.set_bits())
    pair.hydrates = True
    pair.hydrator.go_on()
    pair.until(lambda: not pair.a.store.missing.left and not pair.b.store.missing.left)
    assert rig.same()


def test_writes_go_on_while_a_host_is_made_equal(make_rig: MakeRig) -> None:
    rig = make_rig(size_bytes=4 * REGION_BYTES)
    pair = rig.pair
    pair.until_up()
    pair.do(Op.WRITE, 0, b"x" * REGION_BYTES)
    leave_out_b(rig)
    rig.replace_disk("b")
    pair.start("b", Role.JOINER, 2, "a", sync_max_bytes_s=EXTENT_BYTES * 8)
    pair.tell("a", Role.PRIMARY, 2, "a", sync_max_bytes_s=EXTENT_BYTES * 8)
    outcomes = []
    for i in range(64):
        outcomes.append(pair.submit(Op.WRITE, i * REGION_BYTES // 16 + 512, bytes([i + 1]) * BLOCK))
        pair.for_s(0.1)
    bring_back(pair, "b", "a", 3)
    pair.until(lambda: all(outcomes))
    assert all(outcome == [Outcome.OK] for outcome in outcomes) and rig.same()


def test_a_joiner_that_waits_for_its_turn_and_one_that_has_all_are_told_of(rig: Rig) -> None:
    pair = rig.pair
    leave_out_b(rig)
    pair.tell("a", Role.PRIMARY, 2, "a", may_sync=False)
    pair.start("b", Role.JOINER, 2, "a")
    replica = pair.a.replica
    assert replica is not None and not replica.report().joining
    pair.until(lambda: replica.report().joining == ("b",))
    assert not replica.report().syncs and not replica.report().bound
    pair.tell("a", Role.PRIMARY, 2, "a", may_sync=True)
    pair.until(lambda: bool(pair.leading.wants_join[0]))
    assert (replica.report().joining, replica.report().bound) == ((), ("b",))
    bring_back(pair, "b", "a", 3)
    assert not replica.report().bound


def test_a_joiner_is_not_made_equal_before_its_own_host_lets_it(rig: Rig) -> None:
    pair = rig.pair
    leave_out_b(rig)
    pair.do(Op.WRITE, 0, b"x" * BLOCK)
    pair.start("b", Role.JOINER, 2, "a", may_sync=False)
    primary = pair.a.replica
    assert primary is not None
    pair.until(lambda: primary.report().joining == ("b",))
    pair.for_s(5)
    assert not primary.report().syncable and not primary.report().syncs and not primary.report().bound
    # What it does not lack goes to it meanwhile.
    assert pair.do(Op.WRITE, 4 * EXTENT_BYTES, b"y" * BLOCK) is Outcome.OK
    pair.tell("b", Role.JOINER, 2, "a", may_sync=True)
    pair.until(lambda: primary.report().bound == ("b",))
    bring_back(pair, "b", "a", 3)
    assert rig.same()


def test_a_joiner_hears_how_much_is_left(rig: Rig) -> None:
    pair = rig.pair
    leave_out_b(rig)
    for at in range(64):
        pair.do(Op.WRITE, at * EXTENT_BYTES, bytes([at + 1]) * BLOCK)
    pair.tell("a", Role.PRIMARY, 2, "a", sync_max_bytes_s=EXTENT_BYTES * 4)
    pair.start("b", Role.JOINER, 2, "a")
    joiner, seen = pair.b.replica, list[int]()
    assert joiner is not None and pair.a.replica is not None

    def is_done() -> bool:
        left = joiner.report().left_bytes
        if not seen or seen[-1] != left:
            seen.append(left)
        return bool(pair.leading.wants_join[0])

    pair.until(is_done)
    assert seen[0] == -1 and seen[1] > 0 and sorted(seen[1:], reverse=True) == seen[1:]


def test_a_joiner_that_is_lost_on_the_way_costs_no_write(rig: Rig) -> None:
    pair = rig.pair
    leave_out_b(rig)
    pair.start("b", Role.JOINER, 2, "a")
    for i in range(20):
        outcome = pair.submit(Op.WRITE, i * BLOCK, bytes([i + 1]) * BLOCK)
        if i % 5 == 0:
            pair.net.cut()
        pair.until(lambda: bool(outcome))  # noqa: B023
        assert outcome == [Outcome.OK]
    bring_back(pair, "b", "a", 3)
    assert rig.same()


def test_the_last_copy_says_that_its_disk_is_full_and_is_read(rig: Rig) -> None:
    pair = rig.pair
    pair.do(Op.WRITE, 0, b"x" * BLOCK)
    leave_out_b(rig)
    rig.fail("a", errno.ENOSPC, "write", under="data")
    assert pair.do(Op.WRITE, 0, b"y" * BLOCK) is Outcome.NO_SPACE
    assert pair.read(0, BLOCK) == b"x" * BLOCK
    rig.mend()
    assert pair.do(Op.WRITE, 0, b"y" * BLOCK) is Outcome.OK


def test_the_last_copy_is_read_after_its_disk_failed_a_sync(rig: Rig) -> None:
    pair = rig.pair
    pair.do(Op.WRITE, 0, b"x" * BLOCK)
    leave_out_b(rig)
    rig.fail("a", errno.EIO, "sync", under="data")
    assert pair.do(Op.WRITE, BLOCK, b"y" * BLOCK) is Outcome.MEDIUM_ERROR
    rig.mend()
    assert pair.do(Op.WRITE, BLOCK, b"y" * BLOCK) is Outcome.MEDIUM_ERROR
    assert pair.read(0, BLOCK) == b"x" * BLOCK


def test_a_half_synced_copy_serves_nobody(rig: Rig) -> None:
    pair = rig.pair
    pair.do(Op.WRITE, 0, b"x" * BLOCK)
    leave_out_b(rig)
    pair.start("b", Role.JOINER, 2, "a", sync_max_bytes_s=1)
    pair.tell("a", Role.PRIMARY, 2, "a", may_sync=False)
    pair.until(lambda: not pair.b.store.state.consistent)
    pair.kill("a")
    pair.tell("b", Role.PRIMARY, 3, "b")
    pair.for_s(5)
    assert pair.b.replica is not None and pair.b.replica.report().reason == "HALF_SYNCED"
    assert pair.do(Op.READ, 0, BLOCK, at="b") is not Outcome.OK


def make_b_anew(rig: Rig) -> None:
    """The mirror's process is gone, and the store under it as well."""
    rig.pair.kill("b")
    rig.replace_disk("b")


def test_a_new_copy_of_a_volume_that_is_being_made_is_in_sync_in_any_epoch(rig: Rig) -> None:
    """Its process never heard of the first epoch, and the primary is gone: it is as good as any."""
    pair = rig.pair
    pair.kill("a")
    make_b_anew(rig)
    pair.start("b", Role.MIRROR, 2, "ab", may_be_new=True)
    pair.until(lambda: pair.hosts["b"].replica.report().may_take_over)  # type: ignore[union-attr]
    assert (pair.b.store.state.epoch, pair.b.store.state.synced_epoch) == (2, 2)
    pair.start("a", Role.JOINER, 3, "b")
    pair.tell("b", Role.PRIMARY, 3, "b")
    bring_back(pair, "a", "b", 4)
    assert pair.do(Op.WRITE, 0, b"x" * BLOCK, at="b") is Outcome.OK and rig.same()


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_copy_made_anew_is_not_the_one_that_was_in_sync(rig: Rig, epoch: int) -> None:
    """Nor in the first epoch, once the volume is made: what was acknowledged is not in it."""
    pair = rig.pair
    pair.do(Op.WRITE, 0, b"x" * BLOCK)
    pair.kill("a")
    make_b_anew(rig)
    pair.start("b", Role.MIRROR, epoch, "ab", may_be_new=False)
    pair.for_s(BEACON_LEASE_S + BEACON_MARGIN_S + 1)
    report = pair.hosts["b"].replica.report()  # type: ignore[union-attr]
    assert report.reason == "NOT_WHOLE" and not report.may_take_over
    assert pair.b.store.state.synced_epoch == 0


def test_both_lost_their_memory_and_what_was_in_flight_is_made_equal(rig: Rig) -> None:
    pair = rig.pair
    pair.do(Op.WRITE, 0, b"x" * BLOCK)
    pair.do(Op.FLUSH)
    for i in range(20):
        pair.submit(Op.WRITE, i * BLOCK, bytes([i + 1]) * BLOCK)
    pair.for_s(0.01)
    for name in "ab":
        pair.kill(name)
        rig.disks[name].power_cut()
        pair.hosts[name].boot += 1
    pair.start("b", Role.PRIMARY, 2, "b")
    pair.start("a", Role.JOINER, 2, "b")
    bring_back(pair, "a", "b", 3)
    assert rig.same()


def put_up_c(rig: Rig) -> None:
    """A third host, with nothing on it."""
    pair = rig.pair
    rig.disks["c"] = Disk(pair.chance)
    pair.hosts["c"] = Host("c", rig.disks["c"].files, pair.clock, pair.chance)


def add_c(rig: Rig) -> None:
    """A third host, which lacks nothing; in epoch 2."""
    pair = rig.pair
    put_up_c(rig)
    pair.start("c", Role.JOINER, 2, "ab")
    pair.epoch(2, "a", "ab")
    pair.until(lambda: pair.leading.wants_join[0] == "c")


def test_a_third_host_takes_the_place_of_another_without_a_moment_of_one_copy(rig: Rig) -> None:
    pair = rig.pair
    pair.do(Op.WRITE, 0, b"x" * BLOCK)
    add_c(rig)
    assert pair.do(Op.WRITE, BLOCK, b"y" * BLOCK) is Outcome.OK
    pair.kill("b")
    del pair.hosts["b"]
    pair.epoch(3, "a", "ac")
    pair.until(lambda: pair.primary.writes)
    assert pair.do(Op.WRITE, 2 * BLOCK, b"z" * BLOCK) is Outcome.OK
    assert rig.disks["a"].content("data") == rig.disks["c"].content("data")
    assert rig.disks["b"].content("data") != rig.disks["c"].content("data")


def two_joiners(rig: Rig) -> None:
    """In epoch 3, until the joining of one of them is asked for."""
    pair = rig.pair
    leave_out_b(rig)
    put_up_c(rig)
    pair.epoch(3, "a", "a")
    for name in ("b", "c"):
        pair.start(name, Role.JOINER, 3, "a")
    pair.until(lambda: bool(pair.leading.wants_join[0]))


def test_of_two_joiners_one_at_a_time_is_asked_for(rig: Rig) -> None:
    """A process that begins anew knows of one only; the other's joining may be recorded all the same."""
    pair = rig.pair
    two_joiners(rig)
    first = pair.leading.wants_join[0]
    pair.for_s(5)
    assert pair.leading.attached(Standing.BOUND) == (first,) == (pair.a.store.state.binding,)
    other = {"b": "c", "c": "b"}[first]
    pair.epoch(4, "a", "a" + first)
    pair.until(lambda: pair.leading.wants_join[0] == other)


def test_a_joining_that_nobody_records_gives_way_to_another(rig: Rig) -> None:
    """etcd does not hear of its host any more, whose worker lives on."""
    pair = rig.pair
    two_joiners(rig)
    first, epoch = pair.leading.wants_join[0], 3
    while pair.leading.wants_join[0] == first:
        pair.until(lambda: pair.leading.wants_leave_out == (first,))
        epoch += 1
        pair.epoch(epoch, "a", "a")
        pair.until(lambda: bool(pair.leading.wants_join[0]))
        assert epoch < 30, "it is always asked for first"
    assert pair.do(Op.WRITE, 0, b"x" * BLOCK) is Outcome.OK


def test_each_of_two_mirrors_is_made_equal_where_the_primary_may_differ(rig: Rig) -> None:
    """A write was applied by the primary alone when its process was killed; one mirror is reached late."""
    pair = rig.pair
    pair.do(Op.WRITE, 0, b"x" * BLOCK)
    add_c(rig)
    pair.epoch(3, "a", "abc")
    pair.until(lambda: pair.primary.writes)
    pair.kill("a")
    rig.disks["a"].inodes["data"].content[:3] = b"new"
    late, pair.hosts["c"].replica = pair.hosts["c"].replica, None
    pair.start("a", Role.PRIMARY, 3, "abc")
    pair.until(lambda: bool(pair.leading.partners) and pair.link.equal)
    assert rig.same() and not pair.primary.writes
    pair.hosts["c"].replica = late
    pair.until(lambda: all(partner.link.equal for partner in pair.leading.partners.values()))
    assert rig.disks["c"].content("data")[:BLOCK] == b"new" + b"x" * (BLOCK - 3)


def test_who_has_yielded_serves_no_more_in_that_epoch(make_rig: MakeRig) -> None:
    """Sessions that begin anew, with something in doubt, while the agent hands over: what was written then
    would be on one mirror, and not on the other.
    """
    rig = make_rig(size_bytes=6 * REGION_BYTES)
    pair = rig.pair
    pair.until_up()
    pair.do(Op.WRITE, 0, b"x" * BLOCK)
    add_c(rig)
    pair.epoch(3, "a", "abc")
    pair.until(lambda: pair.primary.writes and pair.primary.equal)
    for name in "ca":
        pair.kill(name)
    pair.start("c", Role.MIRROR, 3, "abc")
    pair.start("a", Role.PRIMARY, 3, "abc", yield_to="b")
    pair.until(lambda: pair.leading.yielded)
    assert not any(host.store.in_doubt for host in pair.hosts.values())
    links = [partner.link for partner in pair.leading.partners.values()]
    links[0].doubt(0, BLOCK)
    pair.net.cut()
    outcomes = pair.submit(Op.WRITE, 3 * REGION_BYTES, b"W" * BLOCK)
    served: list[bool] = []
    pair.until(lambda: served.append(pair.primary.reads or pair.primary.writes) or pair.leading.yielded)  # type: ignore[func-returns-value]
    assert not any(served) and not outcomes


def test_no_mirror_calls_a_region_clean_after_a_write_that_came_later(rig: Rig) -> None:
    """With two of them: the first is not waited for before the second is told."""
    pair = rig.pair
    add_c(rig)
    pair.epoch(3, "a", "abc")
    pair.until(lambda: pair.primary.writes)
    pair.do(Op.WRITE, 0, b"x" * BLOCK)
    pair.primary.local.intent.candidates([])
    cleared: list[object] = []
    run(clean(pair.primary), cleared.append, cleared.append)
    pair.until(lambda: not pair.a.store.intent.get(0))
    outcomes = pair.submit(Op.WRITE, 0, b"y" * BLOCK)
    pair.until(lambda: bool(cleared and outcomes))
    assert cleared == [1] and all(host.store.intent.get(0) for host in pair.hosts.values())


@pytest.mark.parametrize("seed", range(3))
def test_a_volume_in_use_leaves_no_bits_at_its_mirror(seed: int) -> None:
    """One region is written to every five seconds, as a journal is; streams come and go elsewhere, and each
    host looks ahead of them as it sees them.
    """
    pair = Rig(seed, size_bytes=200 * REGION_BYTES).pair
    pair.until_up()
    for _ in range(12):
        first, under_way = pair.chance.randrange(2, 180), []
        for region in range(first, first + pair.chance.randrange(2, 12)):
            under_way.append(pair.submit(Op.WRITE, region * REGION_BYTES, b"x" * BLOCK))
            pair.for_s(pair.chance.random() * 0.01)
        pair.until(lambda: all(under_way))  # noqa: B023
        pair.do(Op.WRITE, 0, b"j" * BLOCK)
        pair.for_s(3)
    for _ in range(8):
        pair.do(Op.WRITE, 0, b"j" * BLOCK)
        pair.for_s(5)
    assert list(pair.b.store.intent.set_bits()) == list(pair.a.store.intent.set_bits()) == [0]


def test_a_mirror_that_did_not_hear_what_is_clean_hears_it_later(rig: Rig) -> None:
    pair = rig.pair
    pair.until_up()
    pair.do(Op.WRITE, 0, b"x" * BLOCK)
    pair.primary.local.intent.candidates([])
    ended: list[object] = []
    run(clean(pair.primary), ended.append, ended.append)
    pair.until(lambda: not pair.a.store.intent.any())
    pair.link.renew("a test")
    pair.until(lambda: bool(ended))
    assert isinstance(ended[0], Unavailable) and pair.b.store.intent.any()
    pair.until_up()
    pair.for_s(2 * CLEAN_INTERVAL_S)
    assert not pair.a.store.intent.any() and not pair.b.store.intent.any()


def test_a_primary_whose_process_died_after_half_a_word_says_it_again(rig: Rig) -> None:
    pair = rig.pair
    pair.do(Op.WRITE, 0, b"x" * BLOCK)
    pair.primary.local.intent.candidates([])
    run(clean(pair.primary), lambda _cleared: None, lambda _error: None)
    pair.until(lambda: not pair.a.store.intent.any())
    assert pair.b.store.intent.any()
    pair.kill("a")
    pair.start_primary()
    pair.until_up()
    pair.for_s(2 * CLEAN_INTERVAL_S)
    assert not pair.b.store.intent.any()


def test_a_mirror_whose_process_began_anew_is_sent_what_it_has_not_confirmed(rig: Rig) -> None:
    """And no region that was written to before: the primary knows what it lacks."""
    pair = rig.pair
    pair.until_up()
    pair.do(Op.WRITE, 0, b"x" * BLOCK)
    lengths = sent_to(pair, "b")
    pair.kill("b")
    outcomes = pair.submit(Op.WRITE, REGION_BYTES, b"y" * BLOCK)
    pair.for_s(0.1)
    pair.start_mirror()
    pair.until(lambda: bool(outcomes))
    assert outcomes == [Outcome.OK] and set(lengths) == {BLOCK} and rig.same()
    pair.for_s(2 * CLEAN_INTERVAL_S)
    assert not pair.a.store.intent.any() and not pair.b.store.intent.any()


def test_what_a_mirrors_process_found_intended_is_cleaned_when_it_has_taken_over(rig: Rig) -> None:
    pair = rig.pair
    pair.until_up()
    pair.do(Op.WRITE, 0, b"x" * BLOCK)
    pair.kill("b")
    pair.start_mirror()
    pair.until_up()
    assert pair.b.store.intent.any()
    pair.kill("a")
    pair.until(lambda: pair.following.may_take_over)
    pair.epoch(2, "b", "b")
    pair.until(lambda: pair.leading_of("b").primary.writes)
    pair.for_s(3 * CLEAN_INTERVAL_S)
    assert not pair.b.store.intent.any()


def test_a_write_that_was_being_prepared_when_a_host_went_for_good_ends(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What that host lacks is kept no more."""
    pair, prepared = rig.pair, list[Callable[[], None]]()
    leave_out_b(rig)
    del pair.hosts["b"]
    pair.a.store.intent.set(1)
    assert pair.a.local is not None
    monkeypatch.setattr(pair.a.local, "prepare", lambda _at, _length, then, _failed: prepared.append(then))
    outcomes = pair.submit(Op.WRITE, 0, b"x" * BLOCK)
    pair.until(lambda: bool(prepared))
    pair.epoch(3, "a", "a")
    pair.until(lambda: "b" not in pair.a.store.absent)
    prepared[0]()
    pair.until(lambda: bool(outcomes))
    assert outcomes == [Outcome.OK]


def test_what_was_in_doubt_at_a_host_that_was_left_out_is_cleaned_later(rig: Rig) -> None:
    """The primary's process began anew, and found it intended."""
    pair = rig.pair
    pair.until_up()
    pair.do(Op.WRITE, 0, b"x" * BLOCK)
    for host in "ab":
        pair.kill(host)
    pair.start("a", Role.PRIMARY, 1, "ab")
    assert pair.a.store.in_doubt
    leave_out_b(rig)
    pair.start("b", Role.JOINER, 2, "a")
    bring_back(pair, "b", "a", 3)
    for _ in range(2):
        pair.finish(clean(pair.primary))
    assert not pair.a.store.intent.any() and not pair.b.store.intent.any()


@pytest.mark.parametrize("words", [1, 2])
def test_a_repair_is_intended_whatever_is_cleaned_meanwhile(
    words: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a host that has synced and is about to be told that a region is clean, a comparison repairs it: what
    it loses with its power then is copied when it is back.
    """
    monkeypatch.setattr(intent, "FORGET_REGIONS", words)
    rig = Rig(size_bytes=3 * REGION_BYTES)
    pair, last = rig.pair, 2 * REGION_BYTES
    pair.until_up()
    for region in range(3):
        pair.do(Op.WRITE, region * REGION_BYTES, b"x" * BLOCK)
    pair.finish(clean(pair.primary))
    pair.b.store.data.write([memoryview(bytearray(b"!" * BLOCK))], last, BLOCK)
    pair.b.store.data.sync()
    verification = Verification(pair.a.loop, pair.primary, 1, 1 << 40, lambda: None)

    def told(*words: Starter) -> Starter:
        """The answer to a word comes when all has been compared."""

        def start(resume: Resume) -> None:
            def look(value: object) -> None:
                verification.tick()
                if verification.running:
                    pair.a.loop.call_later(0.01, partial(look, value))
                else:
                    resume(value)

            all_of(*words)(look)

        return start

    monkeypatch.setattr(cleaning, "all_of", told)
    pair.finish(clean(pair.primary))
    assert verification.repaired_bytes and not verification.failed
    pair.kill("b")
    rig.disks["b"].power_cut()
    pair.b.boot += 1
    pair.until(lambda: pair.leading.wants_leave_out == ("b",))
    pair.epoch(2, "a", "a")
    pair.start("b", Role.JOINER, 2, "a")
    bring_back(pair, "b", "a", 3)
    assert rig.same()


def test_others_are_served_while_bits_are_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a primary that is alone, and by a joiner that has come to hold all."""
    monkeypatch.setattr(intent, "FORGET_REGIONS", 8)
    regions = 40
    rig = Rig(size_bytes=regions * REGION_BYTES)
    pair = rig.pair
    pair.until_up()
    leave_out_b(rig)

    def cleared_at_a_time(host: Host, until: Callable[[], bool]) -> int:
        most, left = 0, host.store.intent.count()
        while not until():
            pair.turn()
            pair.clock.now_s += 0.001
            most, left = max(most, left - host.store.intent.count()), host.store.intent.count()
        return most

    done: list[object] = []
    pair.a.store.intent.set_range(0, regions)
    assert pair.a.local is not None
    pair.a.local.intent.hot.set_range(0, regions)
    run(clean(pair.primary), done.append, done.append)
    assert cleared_at_a_time(pair.a, lambda: bool(done)) == 8 and done == [regions]
    pair.start("b", Role.JOINER, 2, "a")
    pair.b.store.intent.set_range(0, regions)
    assert cleared_at_a_time(pair.b, lambda: bool(pair.leading.wants_join[0])) == 8
    assert not pair.b.store.intent.any()


def test_a_clean_ends_when_another_epoch_begins_meanwhile(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone it asks nobody whose session could tell."""
    monkeypatch.setattr(cleaning, "FORGET_PAUSE_S", 60.0)
    monkeypatch.setattr(intent, "FORGET_REGIONS", 1)
    pair = rig.pair
    leave_out_b(rig)
    for region in range(2):
        pair.do(Op.WRITE, region * REGION_BYTES, b"x" * BLOCK)
    pair.primary.local.intent.candidates([])
    done: list[object] = []
    run(clean(pair.primary), done.append, done.append)
    pair.start("b", Role.JOINER, 2, "a")
    bring_back(pair, "b", "a", 3)
    pair.until(lambda: bool(done))
    assert isinstance(done[0], Unavailable) and pair.a.store.intent.get(1)


def test_a_comparison_finds_and_repairs(rig: Rig) -> None:
    pair = rig.pair
    pair.do(Op.WRITE, 0, b"x" * (3 * EXTENT_BYTES))
    rig.disks["b"].inodes["data"].content[EXTENT_BYTES : EXTENT_BYTES + 3] = b"???"
    pair.tell("a", Role.PRIMARY, 1, "ab", verify_request=1)
    outcomes = [pair.submit(Op.WRITE, i * BLOCK, bytes([i + 1]) * BLOCK) for i in range(10)]
    found = pair.leading.chores.verification
    assert found is not None
    pair.until(lambda: not found.running and all(outcomes))
    assert (found.failed, found.differing_bytes, found.repaired_bytes) == ("", EXTENT_BYTES, EXTENT_BYTES)
    assert found.done_bytes == pair.size_bytes and rig.same()
    pair.tell("a", Role.PRIMARY, 1, "ab", verify_request=1)
    assert pair.leading.chores.verification is found


def test_a_mirror_whose_disk_failed_is_left_out_also_after_its_process_began_anew(rig: Rig) -> None:
    pair = rig.pair
    rig.fail("b", errno.EIO, "sync", under="data")
    pair.submit(Op.FLUSH)
    pair.until(lambda: pair.leading.wants_leave_out == ("b",))
    rig.mend()
    pair.kill("b")
    pair.start("b", Role.MIRROR)
    pair.for_s(LINK_LOST_S)
    assert pair.leading.wants_leave_out == ("b",) and "takes no part" in pair.link.hopeless


def test_a_primary_that_began_anew_knows_whom_it_may_have_left_out(rig: Rig) -> None:
    """It may be recorded at any moment: what is acknowledged must be on this disk, whoever else has it."""
    pair = rig.pair
    pair.kill("b")
    pair.until(lambda: pair.leading.wants_leave_out == ("b",))
    pair.kill("a")
    pair.start("b", Role.MIRROR)
    pair.start("a", Role.PRIMARY)
    pair.until(lambda: pair.leading.serving)
    assert pair.leading.wants_leave_out == ("b",) and pair.leading.primary.hardens
    pair.tell("a", Role.PRIMARY, 2, "a")
    pair.until(lambda: pair.leading.serving)
    assert pair.leading.wants_leave_out == ()


def test_who_is_lost_is_told_once_it_is_written_down(rig: Rig) -> None:
    pair = rig.pair
    rig.fail("a", errno.EIO, "write record", under="state")
    pair.kill("b")
    pair.for_s(2 * LINK_LOST_S)
    assert pair.leading.wants_leave_out == () and pair.leading.primary.hardens
    rig.mend()
    pair.until(lambda: pair.leading.wants_leave_out == ("b",))


def test_a_mirror_whose_disk_failed_is_left_out_while_nobody_writes(rig: Rig) -> None:
    """A clean finds out: should the primary die later, nobody could take over, nor start cold."""
    pair = rig.pair
    assert pair.do(Op.WRITE, 0, b"x" * BLOCK) is Outcome.OK
    rig.fail("b", errno.EIO, "sync", under="data")
    pair.until(lambda: pair.b.local is not None and bool(pair.b.local.suspect))
    rig.mend()
    pair.until(lambda: pair.leading.wants_leave_out == ("b",), limit_s=LINK_LOST_S)


def test_a_primary_in_trouble_does_not_wait_for_an_heir_whose_disk_failed_it_too(rig: Rig) -> None:
    """Each would wait for the other for good."""
    pair = rig.pair
    rig.fail("b", errno.EIO, "sync", under="data")
    pair.submit(Op.FLUSH)
    pair.until(lambda: pair.leading.wants_leave_out == ("b",))
    assert pair.a.local is not None
    pair.a.local.distrust("it looks bad")
    pair.until(lambda: bool(pair.leading.trouble))
    pair.for_s(2 * LINK_LOST_S)
    assert pair.leading.wants_leave_out == ("b",)
    assert not pair.leading.wants_resign and not pair.leading.gives_up
    pair.tell("a", Role.PRIMARY, 2, "a")
    pair.until(lambda: pair.leading.serving)
    rig.mend()


def test_a_primary_in_trouble_leaves_out_no_mirror_that_is_only_full(rig: Rig) -> None:
    """It has the only sound copy: it may take over."""
    pair = rig.pair
    rig.fail("b", errno.ENOSPC, "write", under="data")
    pair.submit(Op.WRITE, 0, b"x" * BLOCK)
    pair.until(lambda: pair.leading.wants_leave_out == ("b",))
    assert pair.a.local is not None
    pair.a.local.distrust("it looks bad")
    pair.until(lambda: pair.leading.gives_up)
    assert pair.leading.wants_resign
    pair.until(lambda: pair.following.may_take_over)
    rig.mend()


def test_a_primary_whose_disk_is_not_to_be_trusted_gives_way_before_it_is_asked_anything(rig: Rig) -> None:
    pair = rig.pair
    assert pair.a.local is not None
    pair.a.local.distrust("it looks bad")
    pair.until(lambda: pair.leading.wants_resign and pair.leading.yielded)
    assert not pair.leading.gives_up
    pair.net.cut()
    pair.until(lambda: not pair.leading.yielded)  # who has not been heard for a while may be dead
    assert pair.leading.gives_up
    pair.for_s(2 * LINK_LOST_S)
    assert pair.leading.wants_resign
    assert pair.do(Op.READ, 0, BLOCK) is Outcome.BUSY


def test_a_primary_whose_disk_fails_names_no_heir_that_it_does_not_hear_from(rig: Rig) -> None:
    """It may have died a moment ago, and hold its lease in etcd for some time."""
    pair = rig.pair
    pair.net.refuse_dial = True
    pair.net.cut()
    pair.for_s(0.1)
    assert pair.a.local is not None
    pair.a.local.distrust("it looks bad")
    pair.until(lambda: pair.leading.wants_resign)
    assert not pair.leading.gives_up
    pair.until(lambda: pair.leading.gives_up)
    assert not pair.leading.yielded


def test_a_primary_whose_disk_fails_its_epoch_names_no_heir(rig: Rig) -> None:
    """Nor while it has just begun anew: it has no session yet over which it could hear of one."""
    pair = rig.pair
    pair.kill("a")
    rig.fail("a", errno.EIO, "write record", under="state")
    pair.start("a", Role.PRIMARY, 2)
    replica = pair.a.replica
    assert replica is not None
    pair.until(lambda: replica.report().gives_up)
    assert replica.report().wants_resign and not replica.report().yielded
    rig.mend()


def test_what_was_frozen_and_told_is_not_frozen_anew_by_the_next_process(rig: Rig) -> None:
    """That it is frozen may be recorded late: then others copy from this very view."""
    pair = rig.pair
    pair.do(Op.WRITE, 0, b"x" * BLOCK)
    pair.tell("a", Role.PRIMARY, 1, "ab", snapshots=Snapshots(freeze=("s",)))
    pair.until(lambda: "s" in pair.leading.chores.frozen)
    view = pair.a.store.state.views["s"]
    pair.kill("a")
    pair.start("a", Role.PRIMARY)
    pair.do(Op.WRITE, 0, b"y" * BLOCK)
    pair.tell("a", Role.PRIMARY, 1, "ab", snapshots=Snapshots(freeze=("s",)))
    assert pair.leading.chores.frozen == {"s": ()}
    pair.for_s(2)
    assert pair.a.store.state.views["s"] == view and view.counts


@pytest.mark.parametrize("reached, missed", ["bc", "cb"])
def test_two_mirrors_are_made_equal_when_their_primary_resigns(rig: Rig, reached: str, missed: str) -> None:
    """What came to one and not to the other only the old primary knew."""
    pair = rig.pair
    pair.do(Op.WRITE, 0, b"x" * BLOCK)
    add_c(rig)
    pair.epoch(3, "a", "abc")
    pair.until(lambda: pair.primary.writes)
    for session in pair.net.sessions:
        if session.server is pair.hosts[missed]:
            session.cut()
    pair.submit(Op.WRITE, 0, b"new" + b"y" * (BLOCK - 3))
    pair.until(lambda: rig.disks[reached].content("data")[:3] == b"new")
    assert rig.disks[missed].content("data")[:3] != b"new"
    pair.kill("a")
    pair.tell("c", Role.MIRROR, 4, "bc")
    pair.tell("b", Role.PRIMARY, 4, "bc")
    pair.until(lambda: pair.leading_of("b").primary.writes)
    assert rig.disks["c"].content("data") == rig.disks["b"].content("data")


def test_a_primary_whose_copy_is_new_serves_only_while_its_volume_is(rig: Rig) -> None:
    """Or when an operator has accepted that there is nothing better."""
    pair = rig.pair
    pair.do(Op.WRITE, 0, b"x" * BLOCK)
    pair.kill("a")
    make_b_anew(rig)
    pair.start("b", Role.JOINER, 2, "a")
    pair.tell("b", Role.PRIMARY, 3, "b", may_be_new=False)
    pair.for_s(5)
    replica = pair.b.replica
    assert replica is not None and replica.report().reason == "NOT_WHOLE"
    assert not replica.report().serving and not replica.report().gives_up
    pair.tell("b", Role.PRIMARY, 3, "b", may_be_new=False, accept_half_synced=True)
    pair.until(lambda: replica.report().serving)


def test_who_has_left_the_set_vouches_for_no_view_when_it_is_back(rig: Rig) -> None:
    """Its boot is another one, or its copy was made equal: views that it had are dropped."""
    pair = rig.pair
    pair.tell("a", Role.PRIMARY, 1, "ab", snapshots=Snapshots(freeze=("s1",)))
    chores = pair.leading.chores
    pair.until(lambda: chores.frozen == {"s1": ("b",)})
    pair.kill("b")
    pair.until(lambda: pair.leading.wants_leave_out == ("b",))
    pair.tell("a", Role.PRIMARY, 2, "a", snapshots=Snapshots(freeze=("s1",)))
    pair.start("b", Role.JOINER, 2, "a")
    pair.until(lambda: pair.leading.wants_join[0] == "b")
    pair.tell("b", Role.MIRROR, 3, "ab")
    pair.tell("a", Role.PRIMARY, 3, "ab", snapshots=Snapshots(freeze=("s1",)))
    pair.until(lambda: pair.primary.writes)
    assert chores.frozen == {"s1": ()} and "s1" not in pair.b.store.state.views


def test_a_mirror_that_refuses_to_be_made_equal_is_left_out(rig: Rig) -> None:
    """It lives, and answers; its disk has been full since before this session."""
    pair = rig.pair
    assert pair.do(Op.WRITE, 0, b"x" * BLOCK) is Outcome.OK
    rig.fail("b", errno.ENOSPC, "write", "zero", under="data")
    pair.kill("a")
    rig.disks["a"].inodes["data"].content[:3] = b"new"
    pair.start("a", Role.PRIMARY)
    pair.until(lambda: pair.leading.wants_leave_out == ("b",), limit_s=LINK_REFUSED_S + LINK_LOST_S)
    assert pair.b.local is not None and not pair.b.local.suspect and pair.link.sound
    rig.mend()
    pair.until(lambda: pair.link.up)


@pytest.mark.parametrize("error, suspect", [(errno.ENOSPC, False), (errno.EIO, True)])
def test_a_primary_that_cannot_write_down_what_an_alignment_takes_gives_way(
    rig: Rig, error: int, suspect: bool
) -> None:
    pair = rig.pair
    pair.do(Op.WRITE, 0, b"x" * BLOCK)
    # A freeze that had come so far there.
    pair.b.store.prepare_generation(1)
    pair.b.store.enter_generation(1)
    pair.b.store.record_generation()
    rig.fail("a", error, "make", under="changed/")
    pair.net.cut()
    pair.until(lambda: pair.leading.gives_up)
    assert bool(pair.a.local and pair.a.local.suspect) is suspect
    rig.mend()


def test_a_primary_in_trouble_keeps_nobody_from_taking_over(rig: Rig) -> None:
    """Its agent may be dead, and then nobody resigns for it."""
    pair = rig.pair
    assert pair.a.local is not None
    pair.a.local.distrust("it looks bad")
    pair.until(lambda: pair.leading.heirs == ("b",))
    pair.until(lambda: pair.following.may_take_over, limit_s=2 * BEACON_LEASE_S + BEACON_MARGIN_S)
    assert pair.leading.heirs == ("b",)


def test_a_full_disk_keeps_no_epoch_from_beginning(rig: Rig) -> None:
    """Who is alone needs room to track the others; without it, they are compared one day."""
    pair = rig.pair
    pair.do(Op.WRITE, 0, b"x" * BLOCK)
    rig.fail("a", errno.ENOSPC, "make", "write", under="")
    leave_out_b(rig)
    pair.do(Op.READ, 0, BLOCK)
    assert pair.a.local is not None and not pair.a.local.suspect
    rig.mend()
    assert pair.do(Op.WRITE, BLOCK, b"y" * BLOCK) is Outcome.OK
    pair.kill("a")
    pair.start("a", Role.PRIMARY, 2, "a")
    pair.until(lambda: pair.primary.writes)
    assert pair.a.store.state.absent == {"b": 0}
    pair.start("b", Role.JOINER, 2, "a")
    bring_back(pair, "b", "a", 3)
    assert rig.same()


def test_an_epoch_that_a_full_disk_cannot_write_down_begins_when_there_is_room(rig: Rig) -> None:
    pair = rig.pair
    pair.kill("b")
    pair.until(lambda: pair.leading.wants_leave_out == ("b",))
    rig.fail("a", errno.ENOSPC, "write record", under="state")
    pair.epoch(2, "a", "a")
    replica = pair.a.replica
    assert replica is not None
    pair.until(lambda: replica.report().reason == "NO_SPACE")
    assert not pair.a.store.state.suspect
    rig.mend()
    pair.until(lambda: replica.report().serving)


def test_a_volume_that_needs_a_mirror_acknowledges_nothing_alone(rig: Rig) -> None:
    """Nor what was under way when the mirror was left out."""
    pair = rig.pair
    pair.kill("b")
    outcomes = pair.submit(Op.WRITE, 0, b"x" * BLOCK)
    pair.until(lambda: pair.leading.wants_leave_out == ("b",))
    pair.tell("a", Role.PRIMARY, 2, "a", needs_mirror=True)
    pair.until(lambda: bool(outcomes))
    assert outcomes == [Outcome.BUSY]
    assert pair.do(Op.READ, 0, BLOCK) is Outcome.OK


def test_a_comparison_keeps_to_its_rate(make_rig: MakeRig) -> None:
    rig = make_rig(size_bytes=10 * MIB)
    pair = rig.pair
    pair.until_up()
    pair.tell("a", Role.PRIMARY, 1, "ab", verify_request=1, verify_rate_bytes_s=MIB)
    found, began_s = pair.leading.chores.verification, pair.clock.now_s
    assert found is not None
    while found.running:
        pair.for_s(0.5)
        took_s = pair.clock.now_s - began_s
        # It may have done the piece that it waits after, and not more.
        assert found.done_bytes <= (took_s + ADAPT_S + 1) * MIB
    assert found.failed == "" and found.done_bytes == pair.size_bytes
    assert 10 - ADAPT_S <= took_s <= 12


def test_a_process_that_ends_before_it_has_written_down_what_failed_leaves_word(rig: Rig) -> None:
    """What the failed sync has dropped is not on the disk, however well the next one goes."""
    pair = rig.pair
    assert pair.do(Op.WRITE, 0, b"x" * BLOCK) is Outcome.OK
    rig.fail("b", errno.EIO, "sync", "write record")
    pair.submit(Op.FLUSH)
    pair.until(lambda: pair.b.local is not None and bool(pair.b.local.suspect))
    pair.kill("b")
    rig.mend()
    pair.start("b", Role.MIRROR)
    assert pair.b.local is not None and pair.b.local.suspect
