"""A fleet's CA for tests: makes the certificates a controller would make."""

from __future__ import annotations

import base64
import json
import secrets
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from segctl_agent.credentials import Identity

DAY = timedelta(days=1)


def pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class Authority:
    def __init__(self, fleet: str = "fleet-1", now: datetime | None = None) -> None:
        self.fleet = fleet
        self.now = now or datetime.now(UTC)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"segctl {fleet} {secrets.token_hex(4)}")])
        self.certificate = (
            self._builder(self._name, self._key.public_key(), self.now - DAY, self.now + 3650 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

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

    def sign(
        self,
        key: ec.EllipticCurvePublicKey,
        uri: str,
        start: datetime | None = None,
        end: datetime | None = None,
        server: bool = False,
    ) -> x509.Certificate:
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
        if server:
            names += [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "segctl")])
        return (
            self._builder(subject, key, start or self.now - DAY, end or self.now + 30 * DAY)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def server(self, start: datetime | None = None, end: datetime | None = None) -> tuple[bytes, bytes]:
        """Key and certificate (PEM) of a controller on 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.sign(key.public_key(), f"spiffe://{self.fleet}/controller", start, end, server=True)
        return pem_key(key), certificate.public_bytes(serialization.Encoding.PEM)

    def identity(
        self, host: str, controllers: tuple[str, ...], start: datetime | None = None, end: datetime | None = None
    ) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.sign(key.public_key(), f"spiffe://{self.fleet}/host/{host}", start, end)
        return Identity(
            fleet=self.fleet,
            host=host,
            controllers=controllers,
            key=pem_key(key),
            certificate=certificate.public_bytes(serialization.Encoding.PEM),
            ca=self.pem,
            valid_from=certificate.not_valid_before_utc,
            valid_until=certificate.not_valid_after_utc,
        )

    def token(self, enrolment: tuple[str, ...], secret: bytes = b"s3cret", **changes: object) -> str:
        fields: dict[str, object] = {
            "c": ["127.0.0.1:7443"],
            "e": list(enrolment),
            "ca": base64.b64encode(self.der).decode(),
            "s": base64.b64encode(secret).decode(),
        }
        fields.update(changes)
        kept = {k: v for k, v in fields.items() if v is not None}
        return base64.urlsafe_b64encode(json.dumps(kept).encode()).decode().rstrip("=")
