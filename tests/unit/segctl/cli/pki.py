"""Certificates of a fleet for the tests of the client: authority, controller, operator."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class Authority:
    def __init__(self, fleet: str = "shop") -> None:
        self.fleet = fleet
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"segctl {fleet}")])
        now = datetime.now(UTC)
        certificate = (
            self._builder(self._name, self._key.public_key(), now - DAY, now + DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, uri: str, expires: timedelta = DAY, host: str = "127.0.0.1") -> tuple[bytes, bytes]:
        """(certificate, key) in PEM, valid from two days ago for `expires` from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        names = [x509.UniformResourceIdentifier(uri), x509.IPAddress(IPv4Address(host))]
        certificate = (
            self._builder(x509.Name([]), key.public_key(), now - 2 * DAY, now + expires)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM), pem_of(key)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, start: datetime, end: datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )


def write_config(
    directory: Path, port: int, ca: Authority, signer: Authority | None = None, expires: timedelta = DAY
) -> Path:
    """A client configuration as `segctl-controller admin add` writes it."""
    directory.mkdir(parents=True, exist_ok=True)
    certificate, key = (signer or ca).issue(f"spiffe://{ca.fleet}/admin/alice", expires)
    client = {"controller": f"127.0.0.1:{port}", "fleet": ca.fleet, "name": "alice"}
    (directory / "client.json").write_text(json.dumps(client))
    (directory / "ca.pem").write_bytes(ca.pem)
    (directory / "cert.pem").write_bytes(certificate)
    (directory / "key.pem").write_bytes(key)
    (directory / "key.pem").chmod(0o600)
    return directory
