"""The authority's files: modes, subjects, what is never overwritten."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from holdfast.base.errors import AlreadyExists, BadInput, NotFound
from holdfast.metadata import pki
from holdfast.metadata.seal import read_private_key


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    pki.init(tmp_path / "pki")
    return tmp_path / "pki"


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_files(directory: Path) -> None:
    assert pki.issue(directory, "user", "alice")
    assert pki.issue(directory, "host", "host-a.rack1", ["10.0.0.1", "a.example"])
    modes = {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}
    assert modes == {
        "ca.crt": 0o644,
        "ca.key": 0o600,
        "alice.crt": 0o644,
        "alice.key": 0o600,
        "host-a.rack1.crt": 0o644,
        "host-a.rack1.key": 0o600,
        "host-a.rack1.seal": 0o600,
    }
    pem = pki.Identity(directory, "host-a.rack1").tls.certificate.read_bytes()
    assert pki.subject_of(pem) == ("host-a.rack1", "host")
    authority = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes())
    certificate = x509.load_pem_x509_certificate(pem)
    certificate.verify_directly_issued_by(authority)
    assert len(read_private_key(pki.Identity(directory, "host-a.rack1").seal)) == 32


def test_nothing_is_overwritten(directory: Path) -> None:
    pki.issue(directory, "host", "a", ["10.0.0.1"])
    before = contents(directory)
    assert not pki.init(directory)
    assert not pki.issue(directory, "host", "a", ["10.0.0.1"])
    with pytest.raises(AlreadyExists):
        pki.issue(directory, "host", "a", ["10.0.0.2"])
    with pytest.raises(AlreadyExists):
        pki.issue(directory, "user", "a")
    assert contents(directory) == before


def test_refusals(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        pki.issue(tmp_path / "nothing", "user", "a")
    for role, name in (("king", "a"), ("user", "A"), ("user", "../a"), ("user", "ca"), ("user", "")):
        with pytest.raises(BadInput):
            pki.issue(directory, role, name)


def test_expired(directory: Path) -> None:
    pki.issue(directory, "user", "late", valid_days=0)
    pem = pki.Identity(directory, "late").tls.certificate.read_bytes()
    certificate = x509.load_pem_x509_certificate(pem)
    assert certificate.not_valid_before_utc < certificate.not_valid_after_utc < datetime.now(UTC)


@pytest.mark.parametrize("killed_before", ["a.key", "a.seal", "a.crt"])
def test_a_killed_run_is_repeated(
    directory: Path, monkeypatch: pytest.MonkeyPatch, killed_before: str
) -> None:
    write = pki._write_new

    def dying(path: Path, content: bytes, mode: int) -> None:
        if path.name == killed_before:
            raise KeyboardInterrupt
        write(path, content, mode)

    monkeypatch.setattr(pki, "_write_new", dying)
    with pytest.raises(KeyboardInterrupt):
        pki.issue(directory, "host", "a", ["10.0.0.1"])
    monkeypatch.undo()
    assert pki.issue(directory, "host", "a", ["10.0.0.1"])
    assert not pki.issue(directory, "host", "a", ["10.0.0.1"])
