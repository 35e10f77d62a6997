"""Where data is: asked of the primary, answered from its file, without fetching anything."""

from pathlib import Path

from holdfast.base.device import LookRequest, Op, Outcome, Runs
from holdfast.base.limits import EXTENT_BYTES, MIB
from holdfast.replicator.files import DataFile
from holdfast.replicator.look import PIECES_MAX
from holdfast.replicator.testing import FakeSource
from holdfast.replicator.testing_rig import MakeRig, Rig

PAGE = 4096


def look(rig: Rig, offset: int, length: int, at: str = "a") -> tuple[Outcome, Runs]:
    replica = rig.pair.hosts[at].replica
    assert replica is not None
    outcomes: list[Outcome] = []
    request = LookRequest(offset, length, outcomes.append)
    replica.device.submit(request)
    rig.pair.until(lambda: bool(outcomes))
    return outcomes[0], request.runs


def test_what_was_written_and_what_was_given_back(make_rig: MakeRig) -> None:
    rig = make_rig(size_bytes=2 * MIB)
    pair = rig.pair
    pair.until_up()
    assert look(rig, 0, 2 * MIB) == (Outcome.OK, [(2 * MIB, False)])
    assert pair.do(Op.WRITE, MIB, b"x" * (3 * PAGE)) is Outcome.OK
    assert pair.do(Op.ZERO, MIB + PAGE, PAGE) is Outcome.OK
    wanted = [(MIB, False), (PAGE, True), (PAGE, False), (PAGE, True), (MIB - 3 * PAGE, False)]
    assert look(rig, 0, 2 * MIB) == (Outcome.OK, wanted)
    assert look(rig, MIB + 512, PAGE) == (Outcome.OK, [(PAGE - 512, True), (512, False)])
    assert look(rig, MIB, PAGE, at="b")[0] is Outcome.STANDBY


def test_many_pieces_are_answered_in_part(make_rig: MakeRig) -> None:
    rig = make_rig(size_bytes=2 * MIB)
    rig.pair.until_up()
    for at in range(0, 2 * (PIECES_MAX + 3), 2):
        assert rig.pair.do(Op.WRITE, at * PAGE, b"y" * PAGE) is Outcome.OK
    outcome, runs = look(rig, 0, 2 * MIB)
    assert outcome is Outcome.OK
    assert runs == [(PAGE, at % 2 == 0) for at in range(2 * PIECES_MAX - 1)]


def test_what_only_the_origin_holds_is_data_and_stays_there(make_rig: MakeRig) -> None:
    size = 4 * EXTENT_BYTES
    rig = make_rig(origin=FakeSource(b"z" * size), size_bytes=size)
    rig.pair.hydrates = False
    rig.pair.until_up()
    assert look(rig, 512, size - 512) == (Outcome.OK, [(size - 512, True)])
    assert rig.pair.hydrator.remaining_bytes == size
    assert rig.pair.do(Op.ZERO, EXTENT_BYTES, EXTENT_BYTES) is Outcome.OK
    wanted = [(EXTENT_BYTES, True), (EXTENT_BYTES, False), (2 * EXTENT_BYTES, True)]
    assert look(rig, 0, size) == (Outcome.OK, wanted)


def test_a_real_file_says_what_it_stores_before_anything_is_synced(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"")
    path.open("r+b").truncate(MIB)
    data = DataFile(path, MIB, make=False)
    data.write([memoryview(b"x" * PAGE)], MIB // 2, PAGE)
    assert list(data.allocated(0, MIB)) == [(MIB // 2, MIB // 2 + PAGE)]
    data.close()
