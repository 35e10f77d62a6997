"""Contexts and identities: who gets through to whom."""

import ssl
from pathlib import Path

import pytest

from holdfast.base.errors import Unavailable
from holdfast.base.nbd.testing_pki import TestAuthority
from holdfast.base.tls import PeerIdentity, TlsFiles, client_context, peer_identity, server_context


def _shake(client: ssl.SSLContext, server: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends of a handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_side=False),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    for end in ends:
        try:
            end.read(1)
        except ssl.SSLWantReadError:
            continue
    return ends[0], ends[1]


def test_each_end_learns_who_the_other_is(authority: TestAuthority) -> None:
    client, server = _shake(
        client_context(authority.issue("ann", "user")), server_context(authority.issue("host-a", "host"))
    )
    assert peer_identity(client) == PeerIdentity("host-a", "host")
    assert peer_identity(server) == PeerIdentity("ann", "user")
    assert client.version() == "TLSv1.3"


def test_another_authoritys_certificate_is_refused_by_either_end(
    authority: TestAuthority, tmp_path: Path
) -> None:
    ours = authority.issue("host-a", "host")
    stranger = TestAuthority(tmp_path).issue("host-a", "host")
    for client, server in ((ours, stranger), (stranger, ours)):
        with pytest.raises(ssl.SSLError):
            _shake(client_context(client), server_context(server))


def test_an_expired_certificate_is_refused(authority: TestAuthority) -> None:
    good, expired = authority.issue("a", "host"), authority.issue("b", "host", expired=True)
    with pytest.raises(ssl.SSLError, match="expired"):
        _shake(client_context(expired), server_context(good))


def test_a_client_without_a_certificate_is_refused(authority: TestAuthority) -> None:
    good = authority.issue("a", "host")
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname = False
    bare.load_verify_locations(str(good.ca))
    with pytest.raises(ssl.SSLError, match="did not return a certificate"):
        _shake(bare, server_context(good))


def test_files_that_cannot_be_used_are_named(authority: TestAuthority, tmp_path: Path) -> None:
    good = authority.issue("a", "host")
    (tmp_path / "empty").write_text("")
    for files in (
        TlsFiles(tmp_path / "nothing", good.certificate, good.key),
        TlsFiles(good.ca, tmp_path / "empty", good.key),
        TlsFiles(good.ca, good.certificate, authority.issue("b", "host").key),
    ):
        with pytest.raises(Unavailable, match="cannot be used") as caught:
            server_context(files)
        assert str(files.certificate) in caught.value.message
