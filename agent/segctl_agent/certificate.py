"""Certificates that someone else sent, before anything of them is trusted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

MOST_CAS = 4
"""That a host trusts: two while the fleet's CA is rotated."""
LARGEST_CA = 8192


def read_certificate(der: bytes) -> x509.Certificate:
    """Raises ValueError for what is no certificate: cryptography has another error for a strange version."""
    try:
        return x509.load_der_x509_certificate(der)
    except x509.InvalidVersion as error:
        raise ValueError(str(error)) from error


def read_cas(ders: Sequence[bytes]) -> tuple[x509.Certificate, ...]:
    """The CAs that a controller has this host trust. Raises ValueError."""
    if len(ders) > MOST_CAS or any(len(der) > LARGEST_CA for der in ders):
        raise ValueError(f"more than {MOST_CAS} CAs, or one that is larger than {LARGEST_CA} bytes")
    cas = tuple(read_certificate(der) for der in ders)
    for ca in cas:
        try:
            authority = ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except x509.ExtensionNotFound:
            authority = False
        if not authority:
            raise ValueError(f"{ca.subject.rfc4514_string()} is no CA")
    return cas


def pem_of(certificates: Iterable[x509.Certificate]) -> bytes:
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)


def is_issued_by(certificate: x509.Certificate, cas: Iterable[x509.Certificate]) -> bool:
    """Whether one of `cas` itself signed it."""
    for ca in cas:
        try:
            certificate.verify_directly_issued_by(ca)
        except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
            continue
        return True
    return False
