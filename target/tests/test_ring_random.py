"""A few random rings and stories of each kind; `make ring-fuzz` plays many. A failure names its seed."""

import random
from typing import Any

import pytest

from holdfast.target import executor, testing_fuzz, testing_model
from holdfast.target.scsi import provisioning

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
    def lenient(server: executor.RingServer, command: Any, plan: Any) -> None:
        plan.length = min(plan.length, command.length)
        strict(server, command, plan)

    strict = executor.RingServer._transfer
    monkeypatch.setattr(executor.RingServer, "_transfer", lenient)
    with pytest.raises(AssertionError):
        testing_model.run(1, STORIES, print)
