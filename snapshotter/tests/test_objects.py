"""One suite that every object store passes, and what is particular to each."""

import errno
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.base.errors import AlreadyExists, BadInput, DataLoss, NotFound, Unavailable
from holdfast.lab.swift import SwiftServer
from holdfast.snapshotter import objects_directory
from holdfast.snapshotter.objects import ObjectStore
from holdfast.snapshotter.objects_directory import DirectoryStore
from holdfast.snapshotter.objects_s3 import S3Settings
from holdfast.snapshotter.objects_url import open_store, s3_settings
from holdfast.snapshotter.testing import directory_names


def test_what_was_put_is_there(store: ObjectStore) -> None:
    store.put("a/b/c-1", b"hello")
    assert store.get("a/b/c-1") == b"hello"
    assert store.size("a/b/c-1") == 5


def test_an_empty_object(store: ObjectStore) -> None:
    store.put("empty", b"")
    assert store.get("empty") == b""
    assert store.size("empty") == 0


def test_a_large_object_in_ranges(store: ObjectStore) -> None:
    data = bytes(range(256)) * (5 << 12)
    store.put("large", data)
    assert store.get("large") == data
    assert store.get_range("large", 0, 1) == data[:1]
    assert store.get_range("large", 1_000_001, 70_000) == data[1_000_001:1_070_001]
    assert store.get_range("large", len(data) - 3, 3) == data[-3:]


def test_pieces_of_a_range(store: ObjectStore) -> None:
    data = bytes(range(256)) * (5 << 12)
    store.put("pieces", data)
    lengths = [1, 300_000, 65_536, 7]
    pieces = list(store.get_pieces("pieces", 1_000_001, lengths))
    assert [len(piece) for piece in pieces] == lengths
    assert b"".join(pieces) == data[1_000_001:][: sum(lengths)]
    first = next(store.get_pieces("pieces", 5, [10, 1_000_000]))
    assert first == data[5:15], "who has enough may stop"


def test_pieces_past_the_end_are_loss_and_those_before_are_right(store: ObjectStore) -> None:
    store.put("cut", b"0123456789" * 1000)
    pieces: list[bytes] = []
    with pytest.raises(DataLoss, match="cut") as raised:
        list(store.get_pieces("cut", 10_000, [1]))
    assert raised.value.reason == "OBJECT_TRUNCATED"
    with pytest.raises(DataLoss, match="cut") as raised:
        pieces.extend(store.get_pieces("cut", 9_950, [50, 100]))
    assert raised.value.reason == "OBJECT_TRUNCATED"
    assert pieces == [b"0123456789" * 5]


def test_a_range_past_the_end_is_loss(store: ObjectStore) -> None:
    store.put("short", b"12345")
    for offset, length in ((3, 10), (5, 1), (100, 1)):
        with pytest.raises(DataLoss, match="short") as raised:
            store.get_range("short", offset, length)
        assert raised.value.reason == "OBJECT_TRUNCATED"


def test_what_is_missing_is_named(store: ObjectStore) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.get("not/there"),
        lambda: store.get_range("not/there", 0, 1),
        lambda: list(store.get_pieces("not/there", 0, [1])),
        lambda: store.size("not/there"),
    ]
    for call in calls:
        with pytest.raises(NotFound, match="not/there") as raised:
            call()
        assert raised.value.reason == "OBJECT_MISSING"


def test_putting_the_same_again_changes_nothing(store: ObjectStore) -> None:
    store.put("twice", b"same")
    store.put("twice", b"same")
    assert store.get("twice") == b"same"


def test_deleting_is_idempotent(store: ObjectStore) -> None:
    store.put("gone", b"x")
    store.delete("gone")
    store.delete("gone")
    with pytest.raises(NotFound):
        store.size("gone")


def test_listing(store: ObjectStore) -> None:
    names = [f"snapshots/{letter}/pack-{number}" for letter in "abc" for number in range(3)]
    for name in reversed(names):
        store.put(name, name.encode())
    listed = list(store.list("snapshots/b/"))
    assert [one.name for one in listed] == names[3:6]
    assert [one.size_bytes for one in listed] == [len(name) for name in names[3:6]]
    assert all(one.modified_s > 1_600_000_000 for one in listed)
    assert [one.name for one in store.list("snapshots/")] == names
    assert list(store.list("nothing")) == []


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "../a", "a/../b", ".hidden", "A", "a b", "a" * 600])
def test_names_that_could_lead_astray(store: ObjectStore, name: str) -> None:
    with pytest.raises(BadInput):
        store.put(name, b"")
    with pytest.raises(BadInput):
        store.get(name)


def test_many_threads(store: ObjectStore) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(5):
                name = f"thread-{number}/{turn}"
                store.put(name, name.encode() * 1000)
                assert store.get(name) == name.encode() * 1000
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# A directory.


def test_a_name_is_not_used_twice(directory: DirectoryStore) -> None:
    directory.put("once", b"first")
    with pytest.raises(AlreadyExists):
        directory.put("once", b"second")
    assert directory.get("once") == b"first"


def test_a_put_that_fails_leaves_nothing(
    directory: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(objects_directory.os, "fsync", no_room)
    with pytest.raises(Unavailable) as raised:
        directory.put("full", b"x")
    assert raised.value.reason == "OBJECT_STORE_FULL"
    assert directory_names(tmp_path) == set()


def test_leftovers_of_a_kill_are_not_listed(directory: DirectoryStore, tmp_path: Path) -> None:
    directory.put("a/b", b"x")
    (tmp_path / "objects" / "a" / ".tmp-0123").write_bytes(b"half")
    assert [one.name for one in directory.list("")] == ["a/b"]


def test_a_directory_whose_parent_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as raised:
        open_store(f"file://{tmp_path}/nowhere/objects")
    assert raised.value.reason == "OBJECT_STORE_UNREACHABLE"


# S3.


def test_a_server_that_is_gone(s3_url: str, swift_server: SwiftServer) -> None:
    store = open_store(s3_url)
    store.put("before", b"x")
    swift_server.stop()
    try:
        with pytest.raises(Unavailable) as raised:
            store.get("before")
        assert raised.value.reason == "OBJECT_STORE_UNREACHABLE"
    finally:
        swift_server.start()
    assert store.get("before") == b"x"


def test_a_bucket_that_is_not_there(s3_url: str) -> None:
    url = s3_url.replace("snapshotter-", "no-such-bucket-")
    with pytest.raises(Unavailable, match="bucket") as raised:
        open_store(url).put("a", b"x")
    assert raised.value.reason == "OBJECT_STORE_REFUSED"


def test_credentials_that_are_wrong(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(Unavailable, match="credentials") as raised:
        open_store(s3_url).get("a")
    assert raised.value.reason == "OBJECT_STORE_REFUSED"


def test_the_prefix_is_part_of_no_name(s3_url: str) -> None:
    store = open_store(s3_url)
    store.put("a", b"x")
    bare = open_store(s3_url.replace("/some/prefix", ""))
    assert [one.name for one in bare.list("")] == ["some/prefix/a"]
    assert [one.name for one in store.list("")] == ["a"]


# URLs.


def test_every_setting_can_be_given() -> None:
    settings = s3_settings(
        "s3://bucket/a/b?endpoint=http://127.0.0.1:1&region=eu-west-3&request_checksum=when_supported"
        "&response_checksum=when_required&attempts=7&connect_timeout_s=0.5&read_timeout_s=9&connections=3"
        "&profile=far"
    )
    assert settings == S3Settings(
        "bucket",
        "a/b",
        "http://127.0.0.1:1",
        "eu-west-3",
        "when_supported",
        "when_required",
        7,
        0.5,
        9.0,
        3,
        "far",
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/var/lib/objects",
        "file://host/dir",
        "file:relative",
        "http://bucket",
        "s3://",
        "s3://bucket?colour=red",
        "s3://bucket?bucket=other",
        "s3://bucket?attempts=many",
        "s3://bucket?request_checksum=never",
    ],
)
def test_urls_that_name_no_store(url: str) -> None:
    with pytest.raises(BadInput) as raised:
        open_store(url)
    assert raised.value.reason == "BAD_OBJECTS_URL"
