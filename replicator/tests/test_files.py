"""The edge to the file system, on a real one: on a disk and in memory."""

import os
from pathlib import Path

import pytest

from holdfast.replicator.files import Files

SIZE = 1 << 20


def test_data_is_where_dd_would_look_for_it(directory: Path) -> None:
    files = Files(directory / "volume")
    files.make()
    data = files.data("data", SIZE, make=True)
    data.write([memoryview(b"ab"), memoryview(b"cd")], 4096, 4)
    data.sync()
    assert (directory / "volume" / "data").read_bytes()[4094:4102] == b"\0\0abcd\0\0"
    assert data.read(4095, 6) == b"\0abcd\0"
    data.close()
    data.close()
    with pytest.raises(OSError):
        data.read(0, 1)


def test_what_was_just_written_is_read_without_waiting(directory: Path) -> None:
    data = Files(directory).data("data", SIZE, make=True)
    data.write([memoryview(b"x" * 8192)], 0, 8192)
    one, two = bytearray(4096), bytearray(4096)
    assert data.read_cached([memoryview(one), memoryview(two)], 0, 8192)
    assert one == two == b"x" * 4096
    data.close()


def test_more_buffers_than_the_kernel_takes_at_once(directory: Path) -> None:
    data = Files(directory).data("data", SIZE, make=True)
    content = os.urandom(3000)
    data.write([memoryview(content)[i : i + 1] for i in range(3000)], 10, 3000)
    assert data.read(10, 3000) == content
    found = bytearray(3000)
    assert not data.read_cached([memoryview(found)[i : i + 1] for i in range(3000)], 10, 3000)
    data.close()


def test_zeroed_blocks_are_given_back(directory: Path) -> None:
    data = Files(directory).data("data", SIZE, make=True)
    data.write([memoryview(b"x" * 65536)], 0, 65536)
    data.sync()
    data.zero(1000, 40000)
    assert data.read(0, 65536) == b"x" * 1000 + bytes(40000) + b"x" * 24536
    data.sync()
    assert list(data.allocated(0, SIZE)) == [(0, 4096), (40960, 65536)]
    assert list(data.allocated(50000, 60000)) == [(50000, 60000)]
    assert list(data.allocated(1 << 18, SIZE)) == []
    data._write_zeros(0, 65536)
    assert data.read(0, 65536) == bytes(65536)
    data.close()


def test_what_is_not_there_is_not_taken_for_empty(directory: Path) -> None:
    files = Files(directory)
    for opening in (files.data, files.bits):
        with pytest.raises(FileNotFoundError):
            opening("folder/gone", 100)
        (directory / "short").write_bytes(b"x" * 99)
        with pytest.raises(OSError, match="short has 99 bytes, not 100"):
            opening("short", 100)


def test_records_are_replaced_whole(directory: Path) -> None:
    files = Files(directory)
    assert files.read_record("state.json") is None
    files.replace_record("state.json", b"the first")
    files.replace_record("state.json", b"two")
    assert files.read_record("state.json") == b"two"
    inodes = {path.stat().st_ino for path in directory.iterdir()}
    files.replace_record("state.json", b"three")
    files.replace_record("state.json", b"4")
    assert files.read_record("state.json") == b"4"
    # In the blocks that there were: a full disk has no others.
    assert inodes == {path.stat().st_ino for path in directory.iterdir()} and len(inodes) == 2


def test_names(directory: Path) -> None:
    files = Files(directory)
    assert files.names("changed") == []
    for name in ("changed/1", "changed/0"):
        files.bits(name, 1, make=True).close()
    assert files.names("changed") == ["0", "1"]
    files.remove("changed/0")
    files.remove("changed/0")
    files.sync_names("changed")
    files.sync_names("absent")
    assert files.names("changed") == ["1"]
