"""Every C twin that was built for this Python is in use: none is left out unseen, with the tests of it."""

import importlib.machinery
import os
from pathlib import Path

import pytest

from holdfast.base.twins import PLAIN_VARIABLE, twin

ROOT = Path(__file__).parents[2]
SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]
SOURCES = [*ROOT.glob("*/holdfast/**/_*.c")]


@pytest.mark.skipif(bool(os.environ.get(PLAIN_VARIABLE)), reason="Python is to do all of the work")
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_what_was_built_is_used(source: Path) -> None:
    if not source.with_name(source.stem + SUFFIX).exists():
        pytest.skip("built without a compiler")
    name = ".".join(source.relative_to(ROOT).with_suffix("").parts[1:])
    assert twin(name) is not None, "its source has changed: make setup"


def test_there_are_twins() -> None:
    assert SOURCES
