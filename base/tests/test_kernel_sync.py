"""Syncs by the kernel: told once each, with what the file says, and by the pool where the kernel will not."""

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from holdfast.base.kernel_sync import DEPTH, KernelSync
from holdfast.base.loop import Loop

PATIENCE_S = 60.0


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture(params=["disk", "memory"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    with TemporaryDirectory(dir="/dev/shm") as memory:
        folder = tmp_path if request.param == "disk" else Path(memory)
        fd = os.open(folder / "file", os.O_RDWR | os.O_CREAT)
        yield fd
        os.close(fd)


def _until(loop: Loop, told: list[object], count: int = 1) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while len(told) < count:
        assert time.monotonic() < deadline_s
        loop.run_once(1)


def test_each_is_told_once(loop: Loop, file: int) -> None:
    told: list[object] = []
    for number in range(3):
        os.pwrite(file, b"x" * 4096, number * 4096)
        loop.sync_file(file, told.append, told.append)
        _until(loop, told, number + 1)
    loop.run_once(0)
    assert told == [None] * 3


def test_more_at_once_than_the_kernel_takes(loop: Loop, file: int) -> None:
    told: list[object] = []
    for _ in range(2 * DEPTH):
        loop.sync_file(file, told.append, told.append)
    _until(loop, told, 2 * DEPTH)
    loop.run_once(0)
    assert told == [None] * (2 * DEPTH)


def test_what_cannot_be_synced_fails(loop: Loop) -> None:
    reader, writer = os.pipe()
    told: list[object] = []
    loop.sync_file(writer, lambda _none: told.append("done"), told.append)
    _until(loop, told)
    assert isinstance(told[0], OSError) and told[0].errno == errno.EINVAL
    os.close(reader)
    os.close(writer)


def test_the_pool_does_it_where_the_kernel_has_it_not(
    loop: Loop, file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.base.kernel_sync._CALLS", {})
    told: list[object] = []
    for number in range(2):
        loop.sync_file(file, told.append, told.append)
        _until(loop, told, number + 1)
    assert told == [None, None] and loop._syncs is None


def test_the_kernel_is_asked_where_it_has_it(loop: Loop, file: int) -> None:
    try:
        KernelSync().close()
    except OSError:
        pytest.skip("not on this kernel")
    told: list[object] = []
    loop.sync_file(file, told.append, told.append)
    assert loop._syncs is not None and len(loop._syncs._waiting) == 1
    _until(loop, told)
    assert not loop._syncs._waiting


def test_an_error_is_told_as_one(loop: Loop, file: int) -> None:
    """The kernel gives it as a negative number; no file here can be made to fail."""
    told: list[object] = []
    loop.sync_file(file, lambda _none: told.append("done"), told.append)
    if loop._syncs is None:
        pytest.skip("not on this kernel")
    (ended,) = loop._syncs._waiting.values()
    ended(errno.EIO)
    assert isinstance(told[0], OSError) and told[0].errno == errno.EIO
