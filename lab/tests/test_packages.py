"""Installing packages starts no service, and puts the machine's own policy back."""

from pathlib import Path

import pytest

from holdfast.lab import packages
from holdfast.lab.errors import LabError


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "policy-rc.d"
    monkeypatch.setattr(packages, "_POLICY", path)
    monkeypatch.setattr(packages, "_POLICY_SAVED", tmp_path / "saved")
    return path


def _install(monkeypatch: pytest.MonkeyPatch, policy: Path, error: Exception | None) -> list[str]:
    seen: list[str] = []

    def apt_get(*words: str) -> None:
        seen.append(policy.read_text())
        if error:
            raise error

    answers = iter([["etcd-server"], []])
    monkeypatch.setattr(packages, "missing_packages", lambda _names: next(answers))
    monkeypatch.setattr(packages, "_apt_get", apt_get)
    packages.install_packages(lambda _: None)
    return seen


@pytest.mark.parametrize("before", [None, "#!/bin/sh\nexit 104\n"])
def test_the_policy_is_put_back(before: str | None, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if before:
        policy.write_text(before)
    assert all("exit 101" in text for text in _install(monkeypatch, policy, None))
    assert (policy.read_text() if policy.exists() else None) == before


def test_the_policy_is_put_back_after_a_failure_and_after_a_kill(
    policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy.write_text("own")
    with pytest.raises(LabError, match="no network"):
        _install(monkeypatch, policy, LabError("no network"))
    assert policy.read_text() == "own"
    # As a kill in the middle leaves it:
    policy.rename(policy.with_name("saved"))
    policy.write_text(packages._POLICY_TEXT)
    _install(monkeypatch, policy, None)
    assert policy.read_text() == "own"


def test_nothing_missing_is_nothing_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "missing_packages", lambda _names: [])
    assert packages.install_packages(print) is False
