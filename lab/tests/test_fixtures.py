"""A run that was killed leaves things behind; the next one clears them."""

from pathlib import Path

import pytest

from holdfast.lab import fixtures


def test_folders_of_dead_runs_are_cleared_and_those_of_live_ones_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixtures, "fast_dir", lambda _: tmp_path)
    cleared: list[str] = []

    def clear(folder: Path) -> None:
        cleared.append(folder.name)

    (tmp_path / "run-dead").mkdir()
    (tmp_path / "run-dead" / "lock").touch()
    (tmp_path / "run-strange").mkdir()
    with fixtures.run_folder("run-", clear) as live:
        assert cleared == ["run-dead"]
        with fixtures.run_folder("run-", clear) as other:
            assert live.exists() and other.exists()
            assert cleared == ["run-dead"]
    assert cleared == ["run-dead", other.name, live.name]
    assert [path.name for path in tmp_path.iterdir()] == ["run-strange"]
