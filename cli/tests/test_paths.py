"""What an initiator is told of its paths: the settings are those that the lab shows to work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli import attachment_login, failures
from holdfast.cli.multipath import ISCSID, iscsid_settings, multipath_conf
from holdfast.lab import multipath as shown_to_work
from holdfast.metadata.testing import StandInHost

from .conftest import IQN, Person

PORTALS = {"host-a": "192.0.2.11:3260", "host-b": "192.0.2.12:3260"}
ISCSIADM = """#!/bin/sh
echo "$@" >> {log}
read status < {status}
case "$*" in *--login) exit $status ;; esac
"""


@pytest.fixture
def alice(person: Callable[..., Person], make_host: Callable[..., StandInHost]) -> Person:
    """Has a volume `disk`, on two hosts."""
    for name, portal in PORTALS.items():
        make_host(name, portal=portal)
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
    sockets = folder / "sockets"
    sockets.write_text("0: 00000002 0 10000 1 1 21 @/org/kernel/linux/storage/multipathd\n")
    monkeypatch.setattr(attachment_login, "SOCKETS", sockets)
    return folder


def test_both_ways_are_printed_and_not_mixed(alice: Person) -> None:
    shown = alice.types("attachment", "create", "a1", "--volume", "disk", "--initiator", IQN).stdout
    with_multipath, without = shown.split("WITHOUT multipath")
    assert "WITH multipath" in with_multipath
    settings = [name for name, _ in ISCSID]
    logins = [line for line in with_multipath.splitlines() if line.startswith("iscsiadm")]
    for portal in PORTALS.values():
        of_portal = [line for line in logins if portal in line]
        assert of_portal[-1].endswith("--login")
        assert all(any(name in line for line in of_portal) for name in settings)
    assert all(f"#     {line}" in with_multipath for line in multipath_conf().splitlines())
    assert without.count("--login") == 1 and not any(name in without for name in settings)
    assert all(line.startswith("#") for line in without.splitlines()[1:]), "it is not pasted by accident"
    assert alice.types("attachment", "show", "a1", "--multipath-conf").stdout == multipath_conf()


def test_each_path_says_whether_it_is_ready(
    person: Callable[..., Person], make_host: Callable[..., StandInHost]
) -> None:
    hosts = {
        name: make_host(name, portal=portal, hold=frozenset({"ready"})) for name, portal in PORTALS.items()
    }
    alice = person("alice")
    alice.types("volume", "create", "disk", "--size", "8192")
    words = ["attachment", "create", "a1", "--volume", "disk", "--initiator", IQN]
    attachment: Any = alice.json(*words, "--no-wait")
    assert {path["portal"] for path in attachment["paths"]} == set(PORTALS.values())
    assert not any(path.get("ready") for path in attachment["paths"])
    volume_uid = str(alice.json("volume", "show", "disk")["uid"])
    hosts["host-b"].actions.attachment_path_ready(volume_uid, attachment["uid"])
    shown = [line for line in alice.types("attachment", "show", "a1").stdout.splitlines() if "Path " in line]
    assert [PORTALS["host-b"] in line for line in shown] == ["not ready" not in line for line in shown]
    assert ["active" in line for line in shown] == [True, False]


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


def test_login_by_one_path_with_the_usual_patience(alice: Person, compute: Path) -> None:
    attachment_login.SOCKETS.write_text("")
    refused = alice.types("attachment", "login", "a1", status=failures.REFUSED).stderr
    assert "[NO_MULTIPATHD]" in refused and "--no-multipath" in refused
    assert alice.types("attachment", "login", "a1", "--no-multipath").stdout.count("Logged in at") == 1
    said = (compute / "log").read_text()
    assert said.count("--login") == 1 and "timeo" not in said


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
