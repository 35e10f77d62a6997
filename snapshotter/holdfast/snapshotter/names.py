"""Names of objects. All that a snapshot wrote starts with `snapshots/<uid>/`; each name is used once.

`writer` is a random word for one run of one upload: a snapshotter that was paused, replaced, and woke up
again can only write beside what its successor writes, never over it.
"""

import itertools
import re
import secrets
from typing import NamedTuple

ALL = "snapshots/"
"""What every name starts with."""
_NAME = re.compile(r"snapshots/([0-9a-f]{24})/(pack|index|checkpoint|manifest|staged)-([0-9a-f]{12})-\d{8}")


class Namer:
    """Makes the names of one run of one upload. Not for use by several threads at once."""

    def __init__(self, snapshot_uid: str, writer: str = "") -> None:
        self._prefix = prefix(snapshot_uid)
        self._writer = writer or secrets.token_hex(6)
        self._numbers = itertools.count()

    def pack(self) -> str:
        return self._name("pack")

    def index(self) -> str:
        return self._name("index")

    def checkpoint(self) -> str:
        return self._name("checkpoint")

    def staged(self) -> str:
        return self._name("staged")

    @property
    def writer(self) -> str:
        return self._writer

    def manifest(self) -> str:
        return self._name("manifest")

    def _name(self, kind: str) -> str:
        return f"{self._prefix}{kind}-{self._writer}-{next(self._numbers):08d}"


def prefix(snapshot_uid: str) -> str:
    return f"snapshots/{snapshot_uid}/"


class Parts(NamedTuple):
    snapshot_uid: str
    kind: str
    writer: str


def parts_of(name: str) -> Parts | None:
    """What the name of an object says; None if it is not of an object of ours."""
    found = _NAME.fullmatch(name)
    return Parts(*found.groups()) if found else None


def snapshot_of(name: str) -> str:
    """The uid of the snapshot that wrote an object, or "" if the name is not of an object of ours."""
    found = _NAME.fullmatch(name)
    return found.group(1) if found else ""
