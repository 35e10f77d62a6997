"""A throw-away authority and its certificates, for tests of anything that speaks TLS."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from holdfast.base.tls import TlsFiles

_LIFE = datetime.timedelta(days=1)


class TestAuthority:
    """Issues certificates below `folder`: EC P-256, CN = name, OU = role, for 127.0.0.1 and localhost."""

    __test__ = False  # Not a test class, whatever pytest makes of its name.

    def __init__(self, folder: Path, name: str = "Holdfast test authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        ca = self._builder(self._name, self._key, _LIFE).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self._certificate = ca.sign(self._key, hashes.SHA256())
        folder.mkdir(parents=True, exist_ok=True)
        self.ca = folder / "ca-cert.pem"
        self.ca.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, role: str, *, expired: bool = False) -> TlsFiles:
        """A certificate and key in a folder of their own, also under the names that libnbd and qemu use."""
        folder = self._folder / f"{role}-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, name),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
            ]
        )
        builder = self._builder(subject, key, -_LIFE / 2 if expired else _LIFE)
        builder = builder.add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            ),
            critical=False,
        ).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        certificate_pem = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / "ca-cert.pem").write_bytes(self.ca.read_bytes())
        for end in ("client", "server"):
            (folder / f"{end}-cert.pem").write_bytes(certificate_pem)
            (folder / f"{end}-key.pem").write_bytes(key_pem)
        return TlsFiles(folder / "ca-cert.pem", folder / "client-cert.pem", folder / "client-key.pem")

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, life: datetime.timedelta
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _LIFE)
            .not_valid_after(now + life)
        )
