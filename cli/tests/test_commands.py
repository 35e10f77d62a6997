"""What people type, against a real service: the commands of the main job, and how they fail."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.base.tls import TlsFiles
from holdfast.cli import failures
from holdfast.metadata import pki
from holdfast.metadata.testing import RunningMetadata, StandInHost

from .conftest import IQN, Person

PROGRAM = [sys.executable, "-m", "holdfast.cli.main"]


def test_volume_and_attachment(person: Callable[..., Person], two_hosts: list[StandInHost]) -> None:
    alice = person("alice")
    assert "AVAILABLE" in alice.types("volume", "create", "disk", "--size", "1GiB").stdout
    volume = alice.json("volume", "show", "disk")
    assert volume["size_bytes"] == str(1 << 30)
    assert "1 GiB" in alice.types("volume", "list").stdout
    shown = alice.types("attachment", "create", "a1", "--volume", "disk", "--initiator", IQN).stdout
    attachment = alice.json("attachment", "show", "a1")
    assert str(attachment["chap_secret"]) in shown and str(volume["target_iqn"]) in shown
    for step in ("-o new", "node.session.auth.password", "--login", "--logout"):
        assert step in shown
    assert "chap_secret" not in alice.types("attachment", "list", "--output", "json").stdout
    refused = alice.types("volume", "delete", "disk", status=failures.REFUSED)
    assert "[ATTACHED]" in refused.stderr and not refused.stdout
    alice.types("attachment", "delete", "a1")
    alice.types("volume", "delete", "disk")
    assert alice.json("volume", "list") == {}
    assert "Make one" in alice.types("volume", "list").stdout


def test_snapshot_and_grant(person: Callable[..., Person], two_hosts: list[StandInHost]) -> None:
    alice, bob = person("alice"), person("bob")
    alice.types("volume", "create", "disk", "--size", "8192")
    frozen = alice.json("snapshot", "create", "s1", "--volume", "disk")
    assert frozen["snapshot_id"] == "s1"
    late = alice.types("snapshot", "wait", "s1", "--timeout", "0.2", status=failures.WAITED_IN_VAIN)
    assert "[TIMEOUT]" in late.stderr
    assert "bob" in alice.types("grant", "create", "s1", "bob").stdout
    listed = alice.types("grant", "list", "s1").stdout
    assert "bob" in listed and "make-volumes" in listed and "read-blocks" not in listed
    alice.types("grant", "create", "s1", "*", "--permit", "read-blocks")
    assert "read-blocks" in alice.types("grant", "list", "s1").stdout
    alice.types("grant", "delete", "s1", "*")
    assert "alice/s1" in bob.types("snapshot", "list", "--granted").stdout
    refused = bob.types("volume", "create", "copy", "--from", "alice/s1", status=failures.NOT_FOUND)
    assert "[NOT_FOUND]" in refused.stderr
    alice.types("grant", "delete", "s1", "bob")
    bob.types("snapshot", "show", "s1", "--owner", "alice", status=failures.NOT_FOUND)
    alice.types("snapshot", "delete", "s1")
    assert "There are none" in alice.types("snapshot", "list").stdout


def test_hosts_are_for_operators(person: Callable[..., Person], two_hosts: list[StandInHost]) -> None:
    operator = person("root-olga", "operator")
    assert "host-a" in operator.types("host", "list").stdout
    assert operator.json("host", "show", "host-a")["live"] is True
    assert "[ALIVE]" in operator.types("host", "delete", "host-a", status=failures.REFUSED).stderr
    assert "[OPERATOR_ONLY]" in person("alice").types("host", "list", status=failures.REFUSED).stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["volume", "create", "x", "--size", "0"], "BAD_SIZE"),
        (["volume", "create", "x", "--size=-4096"], "BAD_SIZE"),
        (["volume", "create", "x", "--size", "4097"], "BAD_SIZE"),
        (["volume", "create", "x", "--size", "17TiB"], "SIZE_TOO_LARGE"),
        (["volume", "create", "Bad/Id", "--size", "1GiB"], "BAD_ID"),
        (["volume", "create", "x", "--size", "1GiB"], "NO_SECOND_HOST"),
        (["attachment", "create", "a", "--volume", "x", "--initiator", "nonsense"], "BAD_IQN"),
        (["grant", "create", "s", "No One"], "BAD_USER"),
        (["volume", "create", "x", "--from", "alice/"], "BAD_ID"),
    ],
)
def test_refusals_say_why(person: Callable[..., Person], words: list[str], reason: str) -> None:
    done = person("alice").types(*words, status=failures.REFUSED)
    assert f"[{reason}]" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_wrong_usage(person: Callable[..., Person]) -> None:
    alice = person("alice")
    assert "not a size" in alice.types("volume", "create", "x", "--size", "big", status=2).stderr
    alice.server = ""
    assert "HOLDFAST_SERVER" in alice.types("volume", "list", status=2).stderr


def test_unusable_certificates(metadata: RunningMetadata, tmp_path: Path) -> None:
    expired = Person(metadata.address, metadata.tls("late-larry", valid_days=0), tmp_path)
    assert "expired" in expired.types("volume", "list", status=failures.UNREACHABLE).stderr
    pki.init(tmp_path / "other")
    pki.issue(tmp_path / "other", "user", "alice")
    stranger = Person(metadata.address, pki.Identity(tmp_path / "other", "alice").tls, tmp_path)
    assert "authority" in stranger.types("volume", "list", status=failures.UNREACHABLE).stderr


def test_login_keeps_the_connection(person: Callable[..., Person], tmp_path: Path) -> None:
    alice = person("alice")
    alice.types("login")
    kept = tmp_path / ".config/holdfast/config.toml"
    assert kept.stat().st_mode & 0o777 == 0o600
    bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run([*PROGRAM, "volume", "list"], env=bare, capture_output=True, text=True, check=True)
    assert "no volumes" in done.stdout


def test_interrupted(person: Callable[..., Person], make_host: Callable[..., StandInHost]) -> None:
    """Ctrl-C while it waits: says so, exits with 130, and what was asked for is there."""
    make_host("host-a", hold=frozenset({"available"}))
    make_host("host-b", hold=frozenset({"available"}))
    alice = person("alice")
    words = [*PROGRAM, "volume", "create", "slow", "--size", "1GiB"]
    # A job that a shell put in the background is deaf to ^C, and so would be what it starts.
    with subprocess.Popen(
        words,
        env=alice.environment(),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:
        assert running.stderr is not None
        assert "is being made" in running.stderr.readline()
        running.send_signal(2)
        assert "interrupted" in running.stderr.read()
        assert running.wait() == 130
    assert alice.json("volume", "show", "slow")["state"] == "VOLUME_STATE_CREATING"


def test_pki(tmp_path: Path) -> None:
    none = tmp_path / "none"
    alice = Person("", TlsFiles(none, none, none), tmp_path)
    directory = str(tmp_path / "pki")
    assert "pki init" in alice.types("pki", "user", directory, "bob", status=failures.NOT_FOUND).stderr
    assert "Made" in alice.types("pki", "init", directory).stdout
    assert "There is" in alice.types("pki", "init", directory).stdout
    alice.types("pki", "host", directory, "host-a", "--address", "10.0.0.1", "--address", "localhost")
    assert "There is" in alice.types("pki", "host", directory, "host-a", "--address", "localhost",
                                     "--address", "10.0.0.1").stdout  # fmt: skip
    taken = alice.types("pki", "user", directory, "host-a", status=failures.REFUSED)
    assert "[ALREADY_EXISTS]" in taken.stderr


def test_encryption(person: Callable[..., Person], two_hosts: list[StandInHost]) -> None:
    alice = person("alice")
    shown = alice.types("volume", "create", "disk", "--size", "8192", "--key", "main").stdout
    assert "encrypted with key main" in shown
    assert "with key main" in alice.types("snapshot", "create", "s1", "--volume", "disk").stdout
    other = alice.json("snapshot", "create", "s2", "--volume", "disk", "--key", "other")
    assert other["encryption_key"] == "other"
    refused = alice.types("grant", "create", "s1", "*", status=failures.REFUSED)
    assert "[ENCRYPTED]" in refused.stderr
    assert "[KEY_PENDING]" in alice.types("grant", "create", "s1", "bob", status=failures.REFUSED).stderr
    assert "[KEY_PENDING]" in alice.types("snapshot", "rekey", "s1", status=failures.REFUSED).stderr
    assert "not encrypted" in alice.types("volume", "encrypt", "disk", "--off").stdout
    assert "encrypted" not in alice.types("volume", "show", "disk").stdout
    assert "key second" in alice.types("volume", "encrypt", "disk", "--key", "second").stdout
    for words in ([], ["--off", "--key", "x"]):
        assert "either" in alice.types("volume", "encrypt", "disk", *words, status=2).stderr
