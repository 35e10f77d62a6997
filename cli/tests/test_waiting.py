"""Progress on a terminal and elsewhere, waiting through an outage, and commands ready to paste."""

import shlex
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from holdfast.api.attachment.v1.attachment_pb2 import Attachment
from holdfast.base.errors import NotFound, Unavailable
from holdfast.cli import waiting
from holdfast.cli.failures import WaitedInVain
from holdfast.cli.iscsi import commands
from holdfast.cli.waiting import Bar, until


def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    bar = Bar("snapshot s")
    for done in (0, 50, 50, 100):
        bar.show(done, 100, "FROZEN")
    bar.close()
    shown = capsys.readouterr().err
    assert shown.count("\r") == 3, "drawn again only when it differs"
    assert " 50% FROZEN" in shown and "100%" in shown and shown.endswith("\n")


def test_bar_elsewhere(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    bar = Bar("snapshot s")
    bar.show(0, 0, "PENDING")
    for done in range(1001):
        bar.show(done, 1000, "FROZEN")
    bar.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "snapshot s: PENDING"
    assert [line.split()[2] for line in lines[1:]] == [f"{tenth}0%" if tenth else "0%" for tenth in range(11)]


class Lost(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE


class Watched:
    """A session and a watch that answers what it is told, an error each time that a list ends."""

    def __init__(self, *streams: list[str]) -> None:
        self._streams = list(streams)

    def watch(self, request: str, timeout: float) -> Iterator[str]:
        assert timeout > 0
        yield from self._streams.pop(0)
        raise Lost

    def explain(self, error: Lost) -> Exception:
        return Unavailable("SERVER_UNREACHABLE", "Gone.") if self._streams else NotFound("NOT_FOUND", "No.")


def wait_for(watched: Any, timeout_s: float = 60.0) -> Any:
    return until(watched, watched.watch, "", lambda answer: answer == "done", lambda _: None, timeout_s, "It")


def test_reconnects(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(waiting, "RECONNECT_S", 0.0)
    assert wait_for(Watched(["begun"], [], ["begun", "done"])) == "done"
    assert "Trying again" in capsys.readouterr().err
    with pytest.raises(NotFound):
        wait_for(Watched(["begun"]))
    with pytest.raises(WaitedInVain):
        wait_for(Watched([], []), timeout_s=0.0)


def test_iscsi_commands() -> None:
    attachment = Attachment(target_iqn="iqn.2026-11.io.holdfast:0", chap_user="u", chap_secret="se cret")
    attachment.paths.add(portal="[::1]:3260")
    lines = commands(attachment, with_multipath=False)
    node = ["iscsiadm", "-m", "node", "-T", attachment.target_iqn, "-p", "[::1]:3260"]
    assert [shlex.split(line)[7:] for line in lines[:-1]] == [
        ["-o", "new"],
        ["-o", "update", "-n", "node.session.auth.authmethod", "-v", "CHAP"],
        ["-o", "update", "-n", "node.session.auth.username", "-v", "u"],
        ["-o", "update", "-n", "node.session.auth.password", "-v", "se cret"],
        ["--login"],
    ]
    assert all(shlex.split(line)[:7] == node for line in lines[:-1])
    assert lines[-1].startswith("# ") and "--logout" in lines[-1]
