"""What an initiator is told of its paths: the settings are those that the lab shows to work."""

from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.cli import failures
from holdfast.cli.multipath import iscsid_settings, multipath_conf
from holdfast.lab import multipath as shown_to_work
from holdfast.metadata.testing import StandInHost

from .conftest import IQN, Person

ISCSIADM = """#!/bin/sh
echo "$@" >> {log}
read status < {status}
case "$*" in *--login) exit $status ;; esac
"""


@pytest.fixture
def alice(person: Callable[..., Person], two_hosts: list[StandInHost]) -> Person:
    """Has a volume `disk`."""
    one = person("alice")
    one.types("volume", "create", "disk", "--size", "8192")
    return one


@pytest.fixture
def compute(alice: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an iscsiadm that writes down its words in `log`; `status` is its --login's."""
    alice.types("attachment", "create", "a1", "--volume", "disk", "--initiator", IQN)
    folder = tmp_path / "bin"
    folder.mkdir()
    tool = folder / "iscsiadm"
    tool.write_text(ISCSIADM.format(log=folder / "log", status=folder / "status"))
    tool.chmod(0o755)
    (folder / "status").write_text("0\n")
    # Nothing else: the machine's own iscsiadm would make real nodes.
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_paths_are_printed(alice: Person) -> None:
    shown = alice.types("attachment", "create", "a1", "--volume", "disk", "--initiator", IQN).stdout
    assert shown.count("--login") == 2 and multipath_conf() in shown
    assert all(shown.count(f"{name}' -v {value}") + shown.count(f"{name} -v {value}") == 2
               for name, value in iscsid_settings().items())  # fmt: skip
    assert len([line for line in shown.splitlines() if line.startswith("Portal")]) == 2
    assert alice.types("attachment", "show", "a1", "--multipath-conf").stdout == multipath_conf()


def test_the_stanza_is_for_our_disks_and_one_setting_a_line() -> None:
    """multipathd's parser stops at a second one in a line without a word."""
    conf = multipath_conf()
    assert 'vendor "HOLDFAST"' in conf and 'product "VOLUME"' in conf
    assert conf.count("{") == conf.count("}") == 3
    assert all(len(line.split()) in (1, 2) for line in conf.replace('"service-time 0"', "one").splitlines())


def test_the_lab_uses_the_same() -> None:
    def settings(conf: str) -> list[str]:
        lines = (line.strip() for line in conf.splitlines())
        return sorted(line for line in lines if not line.startswith(("vendor", "product")))

    assert settings(multipath_conf()) == settings(shown_to_work.MULTIPATH_CONF)
    assert iscsid_settings() == shown_to_work.ISCSID_SETTINGS


def test_login_by_every_path(alice: Person, compute: Path) -> None:
    assert alice.types("attachment", "login", "a1").stdout.count("Logged in at") == 2
    said = (compute / "log").read_text()
    assert said.count("-o new") == said.count("--login") == 2
    assert said.count("replacement_timeout -v 2") == 2
    (compute / "status").write_text("15\n")
    alice.types("attachment", "login", "a1")


def test_a_path_that_fails(alice: Person, compute: Path) -> None:
    (compute / "status").write_text("8\n")
    failed = alice.types("attachment", "login", "a1", status=failures.REFUSED).stderr
    assert "[PATHS_FAILED]" in failed and failed.count("ended with 8") == 2, "each is tried"
    secret = str(alice.json("attachment", "show", "a1")["chap_secret"])
    assert secret not in failed
    (compute / "iscsiadm").unlink()
    assert "[NO_ISCSIADM]" in alice.types("attachment", "login", "a1", status=failures.REFUSED).stderr
