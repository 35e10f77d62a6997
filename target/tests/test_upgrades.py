"""Which workers are replaced, when, and what tells one code from another."""

from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.target.control import Desired, DesiredRing, Observed, ObservedVerify
from holdfast.target.upgrades import Upgrades, code_id, digest, is_well

UID = "0123456789abcdef01234567"
TOLD = Desired(UID, 1 << 20, "primary", 3, ("a", "b"), "a", True, "::1", 20000, ring=DesiredRing("/x", "y"))
WELL = Observed(UID, "primary", 3, True, peer_connected=True, serving=True, ring_open=True)


def test_one_that_does_all_that_it_is_told_is_well() -> None:
    assert is_well(TOLD, WELL)
    assert is_well(replace(TOLD, members=("a",)), replace(WELL, peer_connected=False))
    assert is_well(replace(TOLD, role="joiner"), replace(WELL, role="joiner", serving=False))
    assert is_well(replace(TOLD, role="mirror"), replace(WELL, role="mirror", peer_connected=False))


@pytest.mark.parametrize(
    "observed",
    [
        None,
        replace(WELL, epoch=2),
        replace(WELL, role="mirror"),
        replace(WELL, serving=False),
        replace(WELL, peer_connected=False),
        replace(WELL, ring_open=False),
        replace(WELL, reason="DISK_FAILED"),
        replace(WELL, verify=ObservedVerify(1, True)),
    ],
)
def test_one_that_does_not_is_left_alone(observed: Observed | None) -> None:
    assert not is_well(TOLD, observed)
    assert not is_well(None, WELL)


def test_one_at_a_time() -> None:
    granted: list[None] = []
    upgrades = Upgrades(lambda: granted.append(None))
    assert upgrades.take("first") and upgrades.take("first") and not upgrades.take("second")
    upgrades.over("second")
    assert not granted and not upgrades.take("second")
    upgrades.over("first")
    upgrades.over("first")
    assert len(granted) == 1 and upgrades.take("second")


def test_code_is_told_apart_by_content_place_and_interpreter(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "module.py").write_text("x = 1")
    one = digest("python", [tmp_path / "one"])
    assert one == digest("python", [tmp_path / "one"])
    assert one not in (digest("python", [tmp_path / "two"]), digest("python3", [tmp_path / "one"]))
    (tmp_path / "one" / "module.pyc").write_text("compiled")
    assert one == digest("python", [tmp_path / "one"])
    (tmp_path / "one" / "fast.so").write_text("x = 1")
    assert one != digest("python", [tmp_path / "one"])
    assert code_id() == code_id() != one
