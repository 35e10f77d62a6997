"""A development authority: certificates that say who a process is, and the keys that secrets are sealed to.

Subject CN is the id, OU the role (user, operator, host, service). A user's certificate cannot serve; a
host's and a service's can do both, and name their addresses. Files in one directory: `ca.crt ca.key`, and
`<name>.crt <name>.key` each, with `<name>.seal` (X25519 private key) for hosts and services. Keys are
mode 0600. Nothing is ever overwritten; asking again for what is there changes nothing.

An organisation with an authority of its own issues the same subjects there and needs none of this.
"""

import base64
import contextlib
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from holdfast.base.errors import AlreadyExists, BadInput, NotFound
from holdfast.base.ids import check_name
from holdfast.base.tls import TlsFiles

ROLES = ("user", "operator", "host", "service")
SERVING_ROLES = ("host", "service")
CA_VALID_DAYS = 3650
VALID_DAYS = 365
_CLOCK_SKEW = timedelta(hours=1)


@dataclass(frozen=True)
class Identity:
    """What one name's files are, or would be."""

    directory: Path
    name: str

    @property
    def tls(self) -> TlsFiles:
        return TlsFiles(
            self.directory / "ca.crt",
            self.directory / f"{self.name}.crt",
            self.directory / f"{self.name}.key",
        )

    @property
    def seal(self) -> Path:
        return self.directory / f"{self.name}.seal"


def init(directory: Path, valid_days: int = CA_VALID_DAYS) -> bool:
    """Make the authority in `directory`. False if there is one."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    certificate_path, key_path = directory / "ca.crt", directory / "ca.key"
    if certificate_path.exists() and key_path.exists():
        return False
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Holdfast development authority")])
    builder = _builder(subject, subject, key.public_key(), valid_days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    _write_new(key_path, _private_pem(key), 0o600)
    _write_new(certificate_path, _pem(builder.sign(key, hashes.SHA256())), 0o644)
    return True


def issue(
    directory: Path, role: str, name: str, addresses: Sequence[str] = (), valid_days: int = VALID_DAYS
) -> bool:
    """Make the files of one identity. False if they are there, for the same role and addresses.

    Args:
        addresses: IP addresses or host names at which it serves (hosts and services only).
        valid_days: 0 or less makes a certificate that has expired already, for tests.

    Raises BadInput, NotFound NO_AUTHORITY, or AlreadyExists if the name is taken by something else.
    """
    if role not in ROLES:
        raise BadInput("BAD_ROLE", f"Role {role!r} is none of {', '.join(ROLES)}.")
    check_name(role, name)
    if name == "ca":
        raise BadInput("BAD_ID", "The name 'ca' is the authority's own: choose another.")
    identity = Identity(directory, name)
    if identity.tls.certificate.exists():
        _check_same(identity, role, addresses)
        return False
    authority, authority_key = _load_authority(directory)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    builder = _builder(authority.subject, subject, key.public_key(), valid_days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if role in SERVING_ROLES:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if addresses:
        alternative = x509.SubjectAlternativeName([_general_name(address) for address in addresses])
        builder = builder.add_extension(alternative, critical=False)
    # The certificate last: it is what says that the identity is complete.
    _write_new(identity.tls.key, _private_pem(key), 0o600)
    if role in SERVING_ROLES:
        _write_new(identity.seal, base64.b64encode(_new_seal_key()) + b"\n", 0o600)
    _write_new(identity.tls.certificate, _pem(builder.sign(authority_key, hashes.SHA256())), 0o644)
    return True


def subject_of(pem: bytes) -> tuple[str, str]:
    """(CN, OU) of a certificate; empty strings for what it has not exactly one of."""
    subject = x509.load_pem_x509_certificate(pem).subject

    def only(oid: x509.ObjectIdentifier) -> str:
        values = subject.get_attributes_for_oid(oid)
        return str(values[0].value) if len(values) == 1 else ""

    return only(NameOID.COMMON_NAME), only(NameOID.ORGANIZATIONAL_UNIT_NAME)


def _check_same(identity: Identity, role: str, addresses: Sequence[str]) -> None:
    certificate = x509.load_pem_x509_certificate(identity.tls.certificate.read_bytes())
    _, present_role = subject_of(identity.tls.certificate.read_bytes())
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        present = {str(name.value) for name in extension.value}
    except x509.ExtensionNotFound:
        present = set()
    wanted = {str(_general_name(address).value) for address in addresses}
    if present_role != role or (present != wanted and role in SERVING_ROLES):
        raise AlreadyExists(
            "ALREADY_EXISTS",
            f"{identity.tls.certificate} is there already, as {present_role} for "
            f"{', '.join(sorted(present)) or 'no address'}: remove its files first, or choose another name.",
        )


def _load_authority(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes())
        key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
    except FileNotFoundError as error:
        raise NotFound(
            "NO_AUTHORITY",
            f"There is no authority in {directory}: run `holdfast pki init {directory}` first.",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadInput("BAD_AUTHORITY", f"{directory / 'ca.key'} is not an elliptic curve key.")
    return certificate, key


def _builder(
    issuer: x509.Name, subject: x509.Name, public_key: ec.EllipticCurvePublicKey, valid_days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    end = now + timedelta(days=valid_days) - (timedelta(seconds=1) if valid_days <= 0 else timedelta())
    begin = min(now, end) - _CLOCK_SKEW
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _key_usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(address: str) -> x509.IPAddress | x509.DNSName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(address))
    return x509.DNSName(address)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _new_seal_key() -> bytes:
    return X25519PrivateKey.generate().private_bytes_raw()


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that must not be there. A key without its certificate is what a killed run left."""
    with contextlib.suppress(FileNotFoundError):
        certificate = path.parent / (path.name.removesuffix(path.suffix) + ".crt")
        if path.suffix in (".key", ".seal") and not certificate.exists():
            path.unlink()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
