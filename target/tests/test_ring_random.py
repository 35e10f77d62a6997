"""A few random rings and stories of each kind; `make ring-fuzz` plays many. A failure names its seed."""

import random

import pytest

from holdfast.target import testing_fuzz, testing_model
from holdfast.target.scsi import provisioning, transfer

RINGS, STORIES = 150, 3


def test_spoilt_rings_are_served_or_called_broken() -> None:
    testing_fuzz.run(random.randrange(1 << 32), RINGS, print)


def test_stories_go_as_the_model_has_them() -> None:
    testing_model.run(random.randrange(1 << 32), STORIES, print)


def test_the_model_finds_a_block_that_was_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = provisioning._zeros
    monkeypatch.setattr(provisioning, "_zeros", lambda lba, blocks: zeros(lba, blocks - 1))
    with pytest.raises(AssertionError):
        testing_model.run(1, STORIES, print)


def test_the_model_finds_a_refusal_that_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "refuse_control", lambda _cdb, _control_at: None)
    with pytest.raises(AssertionError):
        testing_model.run(1, STORIES, print)
