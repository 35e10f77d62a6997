"""What every key service must do, and what each does in its own way."""

import base64
import contextlib
import os
import select
import stat
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.base.errors import BadInput
from holdfast.snapshotter import keys
from holdfast.snapshotter.key_errors import KeyUnavailable
from holdfast.snapshotter.keys import KeyService, context_of
from holdfast.snapshotter.keys_command import CommandKeys
from holdfast.snapshotter.keys_file import FileKeys
from holdfast.snapshotter.keys_url import open_keys

UID, OTHER_UID = "a" * 24, "b" * 24
SECRET = bytes(range(32))
CONTEXT = context_of(UID, "alice", "main")


def write_key(directory: Path, user: str, name: str, key: bytes | None = None) -> Path:
    path = directory / user / f"{name}.key"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(base64.b64encode(key or os.urandom(32)) + b"\n")
    path.chmod(0o600)
    return path


def write_command(folder: Path, body: str) -> Path:
    path = folder / "key-command"
    path.write_text(f"#!{sys.executable}\n{textwrap.dedent(body)}")
    path.chmod(0o700)
    return path


AGENT = """
import base64, hashlib, hmac, json, sys
asked = json.load(sys.stdin)
users = {("alice", "main"): b"1", ("alice", "other"): b"2", ("bob", "main"): b"3"}
root = users.get((asked["user"], asked["key"]))
if root is None:
    print("no such key here", file=sys.stderr)
    sys.exit(3)
data = base64.b64decode(asked["data"])
key = hashlib.sha256(root + asked["context"].encode()).digest()
if asked["operation"] == "wrap":
    answer = bytes(a ^ b for a, b in zip(data, key)) + hmac.digest(key, data, "sha256")
else:
    answer = bytes(a ^ b for a, b in zip(data[:-32], key))
    if not hmac.compare_digest(hmac.digest(key, answer, "sha256"), data[-32:]):
        print("it does not open that", file=sys.stderr)
        sys.exit(3)
print(json.dumps({"data": base64.b64encode(answer).decode()}))
"""


@pytest.fixture(params=["file", "command"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> KeyService:
    """A service with the keys main and other of alice, and main of bob."""
    if request.param == "file":
        for user, name in (("alice", "main"), ("alice", "other"), ("bob", "main")):
            write_key(tmp_path / "keys", user, name)
        return open_keys(f"file://{tmp_path}/keys")
    return open_keys(f"command://{write_command(tmp_path, AGENT)}?timeout_s=30")


def test_what_is_wrapped_opens_with_the_same_words_only(service: KeyService) -> None:
    wrapped = service.wrap("alice", "main", CONTEXT, SECRET)
    assert SECRET not in wrapped and len(wrapped) < 1000
    assert service.unwrap("alice", "main", CONTEXT, wrapped) == SECRET
    others = [
        ("alice", "other", CONTEXT, wrapped),
        ("bob", "main", CONTEXT, wrapped),
        ("alice", "main", context_of(OTHER_UID, "alice", "main"), wrapped),
        ("alice", "main", CONTEXT, wrapped[:-1]),
        ("alice", "main", CONTEXT, wrapped[:-1] + bytes([wrapped[-1] ^ 1])),
        ("alice", "main", CONTEXT, b"nonsense"),
    ]
    for words in others:
        with pytest.raises(KeyUnavailable) as raised:
            service.unwrap(*words)
        assert raised.value.lost and raised.value.reason == "KEY_UNAVAILABLE" and raised.value.retryable


def test_a_key_that_is_not_there(service: KeyService) -> None:
    for user, name in (("alice", "none"), ("carol", "main")):
        with pytest.raises(KeyUnavailable) as raised:
            service.wrap(user, name, CONTEXT, SECRET)
        assert raised.value.lost
        with pytest.raises(KeyUnavailable) as raised:
            service.unwrap(user, name, CONTEXT, b"whatever")
        assert raised.value.lost


def test_a_snapshots_data_key(service: KeyService) -> None:
    wrapped = keys.new_data_key(service, UID, "alice", "main")
    key = keys.open_data_key(service, UID, wrapped)
    assert key.secret == keys.unwrap(service, UID, wrapped)
    again = keys.open_data_key(service, UID, keys.new_data_key(service, UID, "alice", "main"))
    assert again.secret != key.secret
    with pytest.raises(KeyUnavailable):
        keys.unwrap(service, OTHER_UID, wrapped)
    with pytest.raises(KeyUnavailable):
        keys.unwrap(service, UID, wrapped._replace(user="bob"))


# Files.


def test_a_replaced_key_still_opens(tmp_path: Path) -> None:
    path, service = write_key(tmp_path, "alice", "main"), FileKeys(tmp_path)
    first = service.wrap("alice", "main", CONTEXT, SECRET)
    path.rename(path.with_name("main.key.1"))
    assert service.unwrap("alice", "main", CONTEXT, first) == SECRET
    with pytest.raises(KeyUnavailable):
        service.wrap("alice", "main", CONTEXT, SECRET)
    write_key(tmp_path, "alice", "main")
    second = service.wrap("alice", "main", CONTEXT, SECRET)
    path.with_name("main.key.1").unlink()
    assert service.unwrap("alice", "main", CONTEXT, second) == SECRET
    with pytest.raises(KeyUnavailable, match=r"main\.key\.1") as raised:
        service.unwrap("alice", "main", CONTEXT, first)
    assert raised.value.lost


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660])
def test_a_key_that_others_can_use_is_not_used(tmp_path: Path, mode: int) -> None:
    path, service = write_key(tmp_path, "alice", "main"), FileKeys(tmp_path)
    path.chmod(mode)
    with pytest.raises(KeyUnavailable, match="chmod") as raised:
        service.wrap("alice", "main", CONTEXT, SECRET)
    assert not raised.value.lost, "it is there, and can be mended"


def test_a_directory_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    path, service = write_key(tmp_path / "keys", "alice", "main"), FileKeys(tmp_path / "keys")
    for folder in (path.parent, path.parent.parent):
        before = stat.S_IMODE(folder.stat().st_mode)
        folder.chmod(0o777)
        with pytest.raises(KeyUnavailable, match="chmod go-w"):
            service.wrap("alice", "main", CONTEXT, SECRET)
        folder.chmod(before)
    service.wrap("alice", "main", CONTEXT, SECRET)


@pytest.mark.parametrize("text", [b"", b"short", base64.b64encode(bytes(31)), b"!" * 44])
def test_a_file_that_holds_no_key(tmp_path: Path, text: bytes) -> None:
    path = write_key(tmp_path, "alice", "main")
    path.write_bytes(text)
    with pytest.raises(KeyUnavailable, match="32 bytes"):
        FileKeys(tmp_path).wrap("alice", "main", CONTEXT, SECRET)


@pytest.mark.parametrize("name", ["../bob/main", "", "a/b", ".hidden", "Main"])
def test_a_name_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    write_key(tmp_path, "bob", "main")
    write_key(tmp_path, "alice", "main")
    for user, key in (("alice", name), (name, "main")):
        with pytest.raises(KeyUnavailable):
            FileKeys(tmp_path).wrap(user, key, CONTEXT, SECRET)


# Commands.


@pytest.mark.parametrize(
    ("body", "lost", "says"),
    [
        ("import sys; sys.exit('the vault is sealed')", False, "the vault is sealed"),
        ("import sys; sys.exit(3)", True, "exit status 3"),
        ("print('nonsense')", False, "its answer is not"),
        ("print('[]')", False, "its answer is not"),
        ("print('{\"data\": 7}')", False, "its answer is not"),
        ('print(\'{"data": ""}\')', False, "empty"),
        ("print('{\"data\": \"%s\"}' % ('a' * 1000000))", False, "bytes"),
        ("import os; os.kill(os.getpid(), 9)", False, "exit status -9"),
    ],
)
def test_a_command_that_fails(tmp_path: Path, body: str, lost: bool, says: str) -> None:
    service = CommandKeys(write_command(tmp_path, body), 30)
    with pytest.raises(KeyUnavailable) as raised:
        service.wrap("alice", "main", CONTEXT, SECRET)
    assert raised.value.lost == lost
    assert says in raised.value.message and len(raised.value.message) < 600
    assert base64.b64encode(SECRET).decode() not in raised.value.message


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyUnavailable, match="cannot be started") as raised:
        CommandKeys(tmp_path / "none").wrap("alice", "main", CONTEXT, SECRET)
    assert not raised.value.lost


def test_a_command_that_hangs_ends_with_its_children(tmp_path: Path) -> None:
    path = tmp_path / "key-command"
    path.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {tmp_path}/child\nwait\n")
    path.chmod(0o700)
    with pytest.raises(KeyUnavailable, match="within 3 s") as raised:
        CommandKeys(path, 3).wrap("alice", "main", CONTEXT, SECRET)
    assert not raised.value.lost
    with contextlib.suppress(ProcessLookupError):  # It has ended, or is just ending.
        child = os.pidfd_open(int((tmp_path / "child").read_text()))
        assert select.select([child], [], [], 60)[0]
        os.close(child)


def test_nothing_of_a_question_is_in_the_arguments_or_the_environment(tmp_path: Path) -> None:
    body = (
        AGENT
        + """
import os
with open(os.path.dirname(__file__) + "/seen", "wb") as file:
    file.write(open("/proc/self/cmdline", "rb").read() + open("/proc/self/environ", "rb").read())
"""
    )
    path = write_command(tmp_path, "")
    path.write_text(f"#!{sys.executable}\n{body}")
    CommandKeys(path, 30).wrap("alice", "main", CONTEXT, SECRET)
    seen = (tmp_path / "seen").read_bytes()
    assert b"key-command" in seen
    for secret in (SECRET, base64.b64encode(SECRET), SECRET.hex().encode()):
        assert secret not in seen


# Where they are.


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "file://host/path",
        "file:///no/such/directory",
        "command:///no/such/program",
        "command:///bin/true?timeout_s=soon",
        "command:///bin/true?colour=red",
        "file:///tmp?timeout_s=3",
        "vault:///x",
    ],
)
def test_a_bad_url(url: str) -> None:
    with pytest.raises(BadInput) as raised:
        open_keys(url)
    assert raised.value.reason == "BAD_KEYS"


@pytest.mark.parametrize("call", [lambda none: none.wrap, lambda none: none.unwrap])
def test_no_service(call: Callable[[KeyService], Callable[..., bytes]]) -> None:
    with pytest.raises(KeyUnavailable, match="--keys"):
        call(open_keys(""))("alice", "main", CONTEXT, SECRET)
