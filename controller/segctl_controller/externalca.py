"""A CA that a company's own CA signed, instead of an embedded one: is it fit to be a fleet's?

Its root's key never comes near the controller. What the fleet trusts is this certificate itself: nothing else that the
company's CA signed can be a controller, a host or an operator.
"""

from __future__ import annotations

import ssl
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from segctl.errors import StateError

from segctl_controller.authority import CURVES, Authority, CaKey, key_pem

SHORTEST_RSA = 2048
SHORTEST_LIFE = timedelta(days=30)
LONGEST_CHAIN = 8
STEPS = 10
_NAME = "segctl-check"


def external_authority(
    fleet: str, certificate_file: Path, key_file: Path, names: tuple[str, ...], now: datetime
) -> Authority:
    """From PEM files. The certificate's may hold those above it too, in order, up to the root. `names` are those of the
    controller. Raises StateError that says what is wrong with which file."""
    try:
        chain = x509.load_pem_x509_certificates(certificate_file.read_bytes())
    except OSError as error:
        raise StateError(f"{certificate_file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise StateError(f"{certificate_file}: holds no certificate in PEM: {error}") from error
    key = _key(key_file)
    certificate, *above = chain
    if key.public_key() != certificate.public_key():
        raise StateError(f"{key_file}: is not the key of the first certificate in {certificate_file}")
    for problem in (_unfit(certificate, now), _broken(chain, now)):
        if problem:
            raise StateError(f"{certificate_file}: {problem}")
    authority = Authority(fleet, certificate, key, tuple(above))
    try:
        _prove(authority, names, now)
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", "") or error.reason or str(error)
        raise StateError(
            f"{certificate_file}: certificates that this CA signs are refused ({why}): look at its name constraints, "
            "its extended key usage and its critical extensions"
        ) from error
    return authority


def _key(path: Path) -> CaKey:
    try:
        content, mode = path.read_bytes(), path.stat().st_mode
        key = serialization.load_pem_private_key(content, password=None)
    except OSError as error:
        raise StateError(f"{path}: cannot be read: {error.strerror}") from error
    except TypeError as error:
        raise StateError(f"{path}: is encrypted; decrypt it first: openssl pkey -in {path} -out CA.KEY") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise StateError(f"{path}: holds no private key in PEM: {error}") from error
    if mode & 0o077:
        raise StateError(f"{path}: others can read the CA key; run: chmod 600 {path}")
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, CURVES):
        return key
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= SHORTEST_RSA:
        return key
    raise StateError(f"{path}: the key must be ECDSA on P-256 or P-384, or RSA of {SHORTEST_RSA} bits or more")


def _unfit(certificate: x509.Certificate, now: datetime) -> str:
    """Why this certificate cannot be a fleet's CA; empty when it can."""
    extensions = certificate.extensions
    try:
        if not extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return "is no CA (basicConstraints CA:FALSE)"
        if not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign:
            return "may sign no certificates (keyUsage without keyCertSign)"
    except x509.ExtensionNotFound as error:
        return f"is no CA: it lacks the extension {error.oid._name}"
    if now < certificate.not_valid_before_utc:
        return f"is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    if certificate.not_valid_after_utc - now < SHORTEST_LIFE:
        return f"ends {certificate.not_valid_after_utc:%Y-%m-%d}; it has to hold for {SHORTEST_LIFE.days} days at least"
    return ""


def _broken(chain: list[x509.Certificate], now: datetime) -> str:
    """What is wrong with the path from the CA to the last certificate that was given; empty when nothing is."""
    if len(chain) > LONGEST_CHAIN:
        return f"holds {len(chain)} certificates; at most {LONGEST_CHAIN} make a path"
    for depth, (below, above) in enumerate(pairwise(chain)):
        name = above.subject.rfc4514_string()
        try:
            below.verify_directly_issued_by(above)
            constraints = above.extensions.get_extension_for_class(x509.BasicConstraints).value
        except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
            return f"{below.subject.rfc4514_string()} is not signed by {name}, which follows it: put them in order"
        except x509.ExtensionNotFound:
            return f"{name} is no CA"
        # Below it, beside the certificates that the fleet's CA signs, lie `depth` + 1 CAs (RFC 5280 4.2.1.9).
        if not constraints.ca or (constraints.path_length is not None and constraints.path_length <= depth):
            return f"{name} permits no CA so far below it (basicConstraints pathlen)"
        if not above.not_valid_before_utc <= now < above.not_valid_after_utc:
            return f"{name} is valid from {above.not_valid_before_utc:%Y-%m-%d} to {above.not_valid_after_utc:%Y-%m-%d}"
    return ""


def _prove(authority: Authority, names: tuple[str, ...], now: datetime) -> None:
    """A handshake in memory, with a controller's certificate and a host's, both of this CA. Raises ssl.SSLError."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    issued = authority.issue_host(request.public_bytes(serialization.Encoding.DER), _NAME, now)
    host = x509.load_der_x509_certificate(issued.certificate).public_bytes(serialization.Encoding.PEM)
    controller = authority.issue_server(names, now)
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with TemporaryDirectory() as scratch:
        for context, parts in ((server, controller.certificate + controller.key), (client, host + key_pem(key))):
            pair = Path(scratch) / "pair.pem"
            pair.touch(0o600)
            pair.write_bytes(parts)
            context.load_cert_chain(pair)
            context.load_verify_locations(cadata=authority.ca_pem.decode())
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    server.verify_mode = ssl.CERT_REQUIRED
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    left = client.wrap_bio(down, up, server_hostname=names[0])
    right = server.wrap_bio(up, down, server_side=True)
    for _ in range(STEPS):
        for side in (left, right):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    if not right.getpeercert():
        raise ssl.SSLError("the handshake does not end")
