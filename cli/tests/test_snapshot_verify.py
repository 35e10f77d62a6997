"""Verifying snapshots, as people type it, on a real snapshotter whose objects are damaged."""

from collections.abc import Callable
from pathlib import Path
from random import Random

from holdfast.base.limits import MIB
from holdfast.cli import failures
from holdfast.lab.snapshotters import Running
from holdfast.metadata.testing import RunningMetadata

from .conftest import Person


def test_verify(
    person: Callable[..., Person], metadata: RunningMetadata, running: Running, tmp_path: Path
) -> None:
    alice, olga, bob = person("alice"), person("olga", "operator"), person("bob")
    image = tmp_path / "disk.raw"
    image.write_bytes(Random(1).randbytes(6 * MIB))
    alice.types("snapshot", "import", "s", str(image))
    assert "Health" not in alice.types("snapshot", "show", "s").stdout
    whole = alice.types("snapshot", "verify", "s", "--wait").stdout
    assert "6 MiB verified" in whole and "nothing is wrong" in whole
    shown = alice.types("snapshot", "show", "s").stdout
    assert "GOOD" in shown and "All verified" in shown
    sample = olga.types("snapshot", "verify", "s", "--owner", "alice", "--sample", "5", "--wait").stdout
    assert "5 % of" in sample

    alice.types("grant", "create", "s", "bob")
    for words in (["s"], ["s", "--owner", "alice"], ["none"]):
        bob.types("snapshot", "verify", *words, status=failures.NOT_FOUND)
    alice.types("snapshot", "verify", "s", "--sample", "0", status=2)

    pack = min((tmp_path / "objects").rglob("pack-*"))
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    bad = alice.types("snapshot", "verify", "s", "--wait", status=failures.DIFFERED)
    assert f"{pack.name} is damaged: bytes" in bad.stdout
    assert "128 KiB in 1 objects cannot be read" in bad.stdout
    assert "[DAMAGED]" in bad.stderr
    shown = alice.types("snapshot", "show", "s").stdout
    assert "DAMAGED" in shown and pack.name in shown
    assert "COMPLETED, DAMAGED" in alice.types("snapshot", "list").stdout
    granted = bob.types("snapshot", "show", "s", "--owner", "alice").stdout
    assert "DAMAGED" in granted and pack.name not in granted
