"""Which C twins are taken: those that were built from what lies beside them."""

import importlib
import logging
import sys
from pathlib import Path

import pytest

from holdfast.base import twins


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module `_loop_twin` that stands for a twin, and its source."""
    monkeypatch.delenv(twins.PLAIN_VARIABLE, raising=False)
    code = tmp_path / "_loop_twin.c"
    code.write_text("one source\n")
    (tmp_path / "_loop_twin.py").write_text(f"SOURCE = {twins.source_of(code)!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, "_loop_twin", raising=False)
    return tmp_path


def test_one_of_its_own_source_is_taken(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert twins.twin("_loop_twin") is not None
    (built / "_loop_twin.c").unlink()
    assert twins.twin("_loop_twin") is not None, "an installation without sources"
    monkeypatch.setenv(twins.PLAIN_VARIABLE, "1")
    assert twins.twin("_loop_twin") is None


def test_one_of_another_source_is_not(built: Path, caplog: pytest.LogCaptureFixture) -> None:
    (built / "_loop_twin.c").write_text("another source\n")
    with caplog.at_level(logging.WARNING):
        assert twins.twin("_loop_twin") is None
    assert "another source" in caplog.text


def test_one_that_does_not_say_its_source_is_not(built: Path) -> None:
    (built / "_loop_twin.py").write_text("")
    assert twins.twin("_loop_twin") is None


def test_one_that_cannot_be_loaded_is_told_of(built: Path, caplog: pytest.LogCaptureFixture) -> None:
    (built / "_loop_twin.py").write_text("raise ImportError('undefined symbol')\n")
    with caplog.at_level(logging.WARNING):
        assert twins.twin("_loop_twin") is None
        assert twins.twin("_no_such_twin") is None
    assert "undefined symbol" in caplog.text and "_no_such_twin" not in caplog.text
