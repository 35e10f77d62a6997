"""The same replica on a real loop, with its threads, on real files."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from holdfast.base.device import Op, Outcome, Request
from holdfast.base.limits import EXTENT_BYTES, MIB
from holdfast.base.loop import Loop
from holdfast.base.steps import Steps, all_of, run
from holdfast.replicator.exports import FrozenExport
from holdfast.replicator.files import Files
from holdfast.replicator.local import LocalReplica
from holdfast.replicator.order import Turn
from holdfast.replicator.store import Store, create

SIZE = 4 * MIB + EXTENT_BYTES + 4096


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def until(loop: Loop, condition: Callable[[], bool]) -> None:
    for _ in range(20_000):
        if condition():
            return
        loop.run_once(1.0)
    raise AssertionError("it does not happen")


def opened(loop: Loop, directory: Path) -> LocalReplica:
    files = Files(directory / "v")
    create(files, "v", SIZE, "boot", "")
    return LocalReplica(loop, Store(files, "v", SIZE, "boot"), lambda why: pytest.fail(why))


def write(local: LocalReplica, op: Op, offset: int, content: bytes | int, done: list[Outcome]) -> None:
    length = content if isinstance(content, int) else len(content)
    buffers = [] if isinstance(content, int) else [memoryview(content)]

    def begin(turn: Turn) -> None:
        def end(outcome: Outcome) -> None:
            local.order.give_back(turn)
            done.append(outcome)

        request = Request(op, offset, length, end, buffers)
        local.prepare(offset, length, lambda: local.apply(request, end), end)

    local.order.take(offset, offset + length, True, begin)


def test_views_under_many_writers(loop: Loop, directory: Path) -> None:
    """Copies of many extents run in the pool at once, and their bits share bytes."""
    local, chance = opened(loop, directory), Random(0)
    store, model, done = local.store, bytearray(SIZE), list[Outcome]()
    views: dict[str, bytes] = {}
    for turn in range(4):
        for _ in range(100):
            value = chance.randrange(1, 256)
            offset = chance.randrange(SIZE // 512) * 512
            length = min(512 * chance.randrange(1, 700), SIZE - offset)
            if chance.random() < 0.2:
                write(local, Op.ZERO, offset, length, done)
                model[offset : offset + length] = bytes(length)
            else:
                write(local, Op.WRITE, offset, bytes([value]) * length, done)
                model[offset : offset + length] = bytes([value]) * length
        until(loop, lambda: len(done) == 100 * (turn + 1))  # noqa: B023
        uid = f"s{turn}"
        store.prepare_view(uid, store.generation + 1)
        store.flip(uid)
        store.record_view(uid, 1.0)
        views[uid] = bytes(model)
    write(local, Op.ZERO, 0, SIZE, done)
    until(loop, lambda: len(done) == 401)
    assert set(done) == {Outcome.OK}
    local.flush(done.append)
    until(loop, lambda: len(done) == 402)
    for uid, expected in views.items():
        export = FrozenExport(loop, local, lambda: None, store.views[uid], 0)
        content = bytearray(SIZE)
        export.submit(Request(Op.READ, 0, SIZE, done.append, [memoryview(content)]))
        answers: list[object] = []
        export.block_status("base:allocation", 0, SIZE, answers.append)
        until(loop, lambda: len(answers) == 1)  # noqa: B023
        until(loop, lambda: len(done) == 403 + list(views).index(uid))  # noqa: B023
        assert content == expected
        assert isinstance(answers[0], list) and sum(length for length, _flags in answers[0]) == SIZE
    store.close()
    again = Store(store.files, "v", SIZE, "boot")
    assert set(again.views) == set(views) and again.generations() == [0, 1, 2, 3, 4]
    again.close()


def test_reads_of_every_kind(loop: Loop, directory: Path) -> None:
    local, done = opened(loop, directory), list[Outcome]()
    write(local, Op.WRITE, 4096, b"x" * 8192, done)
    until(loop, lambda: len(done) == 1)
    content = bytearray(16384)
    halves = [memoryview(content)[:5000], memoryview(content)[5000:]]
    local.read(Request(Op.READ, 0, 16384, done.append, halves), done.append)
    until(loop, lambda: len(done) == 2)
    assert content == bytes(4096) + b"x" * 8192 + bytes(4096)
    local.store.close()


def test_a_loop_that_is_closed_hears_nothing_more() -> None:
    loop, seen = Loop(), list[int]()
    gate = threading.Event()
    loop.in_pool(gate.wait, lambda _nothing: seen.append(1), lambda _error: seen.append(2))
    gate.set()
    loop.close()
    loop.call_from_thread(lambda: seen.append(3))
    assert seen == []


def test_steps_join_and_fail() -> None:
    def steps() -> Steps[str]:
        answers = yield all_of(lambda resume: resume(1), lambda resume: resume(2))
        none = yield all_of()
        try:
            yield all_of(lambda resume: resume(OSError("one")), lambda resume: resume(2))
        except OSError as error:
            return f"{answers} {none} {error}"
        return ""

    ended: list[object] = []
    run(steps(), ended.append, ended.append)
    assert ended == ["[1, 2] [] one"]
