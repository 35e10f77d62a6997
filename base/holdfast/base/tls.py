"""Mutual TLS between the processes of one cluster, and who a certificate says that its holder is.

Every process trusts one authority and proves itself with a certificate whose subject names it: CN is
the id (of a host, service or user) and OU the role (`host`, `service`, `operator`, `user`). Host names
are not checked: hosts are known by their ids, which survive a change of address, so whoever connects
compares `peer_identity` with the id that it meant to reach. Certificates also carry their addresses
(subjectAltName), because clients that nobody here wrote do check them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.base.errors import Unauthenticated, Unavailable

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True)
class TlsFiles:
    """Where one process keeps its credentials, in PEM."""

    ca: Path
    """The authority's certificate: who is trusted."""
    certificate: Path
    key: Path
    """Readable by its owner alone."""


@dataclass(frozen=True)
class PeerIdentity:
    """Who the other end has proved to be."""

    name: str
    """CN of the certificate's subject."""
    role: str
    """OU of the certificate's subject; empty if it has none."""


def server_context(files: TlsFiles) -> "ssl.SSLContext":
    """For a server that talks only to holders of the authority's certificates."""
    context = _context(files, server_side=True)
    # Nobody here resumes sessions, and tickets would be writes that the protocol above did not ask for.
    context.num_tickets = 0
    return context


def client_context(files: TlsFiles) -> "ssl.SSLContext":
    """For a client. The server must hold a certificate of the authority; the caller checks which."""
    return _context(files, server_side=False)


def peer_identity(connection: "ssl.SSLObject | ssl.SSLSocket") -> PeerIdentity:
    """The verified identity of the other end of a finished handshake.

    Raises:
        Unauthenticated: it showed no certificate, or one whose subject has not exactly one CN, or has
            more than one OU.
    """
    certificate = connection.getpeercert()
    subject = (certificate or {}).get("subject", ())
    fields: dict[str, list[str]] = {"commonName": [], "organizationalUnitName": []}
    for relative_name in subject:
        for item in relative_name:
            if isinstance(item, tuple) and len(item) == 2 and item[0] in fields:
                fields[item[0]].append(str(item[1]))
    names, roles = fields["commonName"], fields["organizationalUnitName"]
    if len(names) != 1 or not names[0] or len(roles) > 1:
        raise Unauthenticated(
            "BAD_CERTIFICATE",
            "The other end's certificate must name it by exactly one CN and at most one OU.",
        )
    return PeerIdentity(names[0], roles[0] if roles else "")


def _context(files: TlsFiles, *, server_side: bool) -> "ssl.SSLContext":
    import ssl  # 4 MiB of a process: only one that makes a context has it.

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    # 1.2 is what the NBD protocol demands of those who offer TLS; ours speak 1.3.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(cafile=str(files.ca))
        context.load_cert_chain(str(files.certificate), str(files.key))
    except (OSError, ssl.SSLError) as error:
        raise Unavailable(
            "BAD_TLS_FILES",
            f"The TLS files {files.ca}, {files.certificate} and {files.key} cannot be used: {error}.",
        ) from error
    return context
