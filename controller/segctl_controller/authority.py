"""A certificate authority of one fleet: embedded (ECDSA P-256), or an intermediate that a company's CA signed. Names
are SPIFFE URIs (spiffe://FLEET/host/NAME).

The first bits of a serial number tell which CA gave it: by them a rotation knows who still holds a certificate of the
CA that ends, also when that is a host that is away, or an operator.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from segctl.errors import StateError

from segctl_controller.errors import InvalidRequestError

CA_LIFE = timedelta(days=3653)
SERVER_LIFE = timedelta(days=90)
HOST_LIFE = timedelta(days=1)
OPERATOR_LIFE = timedelta(days=365)
BACKDATED = timedelta(minutes=5)
"""A host whose clock is a little behind must not refuse its own certificate."""
CURVES = (ec.SECP256R1, ec.SECP384R1)
"""BoringSSL, which grpc brings, offers no Ed25519 in a handshake: such a certificate could never be used."""
CaKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
RANDOM_BITS = 120
"""Of a serial number, below the 31 bits that name its CA; 64 would do (CA/Browser Forum BR 7.1)."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate (DER) and its serial number in hexadecimal."""

    certificate: bytes
    serial: str


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate with the key made for it, both PEM, and the serial number in hexadecimal."""

    certificate: bytes
    key: bytes
    serial: str


def new_fleet_id() -> str:
    return f"seg-{secrets.token_hex(4)}"


def serial_text(certificate: x509.Certificate) -> str:
    return f"{certificate.serial_number:x}"


def certificate_end(certificate: bytes) -> datetime:
    """Of a PEM certificate."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def public_bytes(key: CertificatePublicKeyTypes) -> bytes:
    """By which two keys are compared: DER SubjectPublicKeyInfo."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def key_pem(key: CaKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read; raises FileExistsError when it is there already."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


class Authority:
    """Signs for one fleet. Holds the CA key in memory. `above` are the certificates from an intermediate to its root,
    which a handshake shows for those who know the root alone; our own agents trust this CA itself and nothing above."""

    def __init__(
        self, fleet: str, certificate: x509.Certificate, key: CaKey, above: tuple[x509.Certificate, ...] = ()
    ) -> None:
        self.fleet = fleet
        self.certificate = certificate
        self._key = key
        self._above = above
        self._tag = int.from_bytes(hashlib.sha256(public_bytes(key.public_key())).digest()[:4]) >> 1
        self._hash = hashes.SHA384() if key.key_size == 384 else hashes.SHA256()

    @classmethod
    def create(cls, fleet: str, now: datetime) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        # A name of its own: two CAs of one fleet are trusted at once while it is rotated.
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"segctl CA {fleet} {secrets.token_hex(4)}")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATED)
            .not_valid_after(now + CA_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{fleet}")]), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        return cls(fleet, certificate, key)

    @classmethod
    def load(cls, directory: Path, fleet: str, stem: str = "ca") -> Authority:
        """Read STEM.pem and STEM.key; raises StateError naming the file."""
        certificate_file, key_file = directory / f"{stem}.pem", directory / f"{stem}.key"
        mend = f"restore a backup: segctl-controller restore --from BACKUP --state {directory} --replace"
        try:
            certificate, *above = x509.load_pem_x509_certificates(certificate_file.read_bytes())
        except (OSError, ValueError) as error:
            raise StateError(f"{certificate_file}: the CA certificate cannot be read: {error}; {mend}") from error
        try:
            key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise StateError(f"{key_file}: the CA key cannot be read: {error}; {mend}") from error
        if not isinstance(key, CaKey) or key.public_key() != certificate.public_key():
            raise StateError(f"{key_file}: this key does not belong to {certificate_file}; {mend}")
        if key_file.stat().st_mode & 0o077:
            raise StateError(f"{key_file}: others can read the CA key; run: chmod 600 {key_file}")
        return cls(fleet, certificate, key, tuple(above))

    def save(self, directory: Path, stem: str = "ca") -> None:
        """Writes STEM.key and STEM.pem, which must not be there. Raises OSError."""
        write_private(directory / f"{stem}.key", key_pem(self._key))
        chain = b"".join(c.public_bytes(serialization.Encoding.PEM) for c in (self.certificate, *self._above))
        write_private(directory / f"{stem}.pem", chain)

    @property
    def name(self) -> str:
        return self.certificate.subject.rfc4514_string()

    @property
    def ca_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def ends(self) -> datetime:
        return self.certificate.not_valid_after_utc

    @property
    def ca_der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def gave(self, serial: str) -> bool:
        """Whether this CA gave the certificate with this serial number (hexadecimal). One that was given before the
        serial numbers of this fleet told is nobody's."""
        return int(serial or "0", 16) >> RANDOM_BITS == self._tag

    def issue_server(self, names: tuple[str, ...], now: datetime) -> Credential:
        """The controller's own certificate: each name as an IP or a DNS name, and spiffe://FLEET/controller."""
        alternatives: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"spiffe://{self.fleet}/controller")]
        for name in names:
            try:
                alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
            except ValueError:
                alternatives.append(x509.DNSName(name))
        key = ec.generate_private_key(ec.SECP256R1())
        issued = self._sign(key.public_key(), "controller", alternatives, now, SERVER_LIFE, server=True)
        shown = [issued, *(c for c in (self.certificate, *self._above) if c.subject != c.issuer)]
        chain = b"".join(c.public_bytes(serialization.Encoding.PEM) for c in shown)
        return Credential(chain, key_pem(key), serial_text(issued))

    def issue_operator(self, name: str, now: datetime) -> Credential:
        key = ec.generate_private_key(ec.SECP256R1())
        uri = x509.UniformResourceIdentifier(f"spiffe://{self.fleet}/admin/{name}")
        issued = self._sign(key.public_key(), name, [uri], now, OPERATOR_LIFE, server=False)
        return Credential(issued.public_bytes(serialization.Encoding.PEM), key_pem(key), serial_text(issued))

    def issue_host(self, csr: bytes, name: str, now: datetime, life: timedelta = HOST_LIFE) -> Issued:
        """Sign the key of a DER request for host `name`; its subject and extensions are ignored.

        Raises InvalidRequestError for a request that does not parse, is not signed by its own key, or whose key is
        not on the curve P-256 or P-384.
        """
        key = requested_key(csr)
        uri = x509.UniformResourceIdentifier(f"spiffe://{self.fleet}/host/{name}")
        issued = self._sign(key, name, [uri], now, life, server=False)
        return Issued(issued.public_bytes(serialization.Encoding.DER), serial_text(issued))

    def _sign(
        self,
        key: ec.EllipticCurvePublicKey,
        common_name: str,
        alternatives: list[x509.GeneralName],
        now: datetime,
        life: timedelta,
        *,
        server: bool,
    ) -> x509.Certificate:
        if self.ends <= now:
            raise StateError(f"the CA {self.name} expired at {self.ends:%Y-%m-%d %H:%M} UTC: it can sign nothing now")
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])]))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(self._tag << RANDOM_BITS | secrets.randbits(RANDOM_BITS))
            .not_valid_before(now - BACKDATED)
            .not_valid_after(min(now + life, self.ends))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(self._key_identifier(), critical=False)
            .sign(self._key, self._hash)
        )

    def _key_identifier(self) -> x509.AuthorityKeyIdentifier:
        """As the CA's own certificate has it, which need not be made as ours are (RFC 5280 4.2.1.2)."""
        try:
            own = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        except x509.ExtensionNotFound:
            return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def requested_key(csr: bytes) -> ec.EllipticCurvePublicKey:
    """The key of a DER certificate request. Raises InvalidRequestError; see `Authority.issue_host`."""
    try:
        request = x509.load_der_x509_csr(csr)
        key = request.public_key()
        valid = request.is_signature_valid
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm, InvalidSignature, TypeError) as error:
        raise InvalidRequestError(f"the certificate request does not parse: {error}; send a DER PKCS#10") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, CURVES):
        raise InvalidRequestError("the key of the certificate request must be ECDSA on P-256 or P-384")
    if not valid:
        raise InvalidRequestError("the certificate request is not signed by its own key")
    return key


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
