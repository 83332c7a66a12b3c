"""Does an identity on disk fit together? Asked of OpenSSL by a TLS handshake in memory: the same question a controller
asks. The agent so needs no certificate library at run time, which would cost it 10 MB for good."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME (openssl/x509_vfy.h): an expired certificate is no wrong one, its dates tell."""
_STEPS = 10


@dataclass(frozen=True, slots=True)
class Checked:
    """What a certificate of the fleet's CA says."""

    uris: tuple[str, ...]
    valid_from: datetime
    valid_until: datetime


def check_files(certificate: Path, key: Path, ca: str) -> Checked:
    """Raises ValueError that says what does not fit. `ca` is PEM, of one CA or several, which need not be roots."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    server.verify_mode = ssl.CERT_REQUIRED
    server.verify_flags |= _NO_CHECK_TIME | ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        server.load_verify_locations(cadata=ca)
        for context in (server, client):
            context.load_cert_chain(certificate, key)
        shown = _handshake(server, client)
    except ssl.SSLCertVerificationError as error:
        raise ValueError(f"the certificate was not issued by the fleet's CA ({error.verify_message})") from error
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError("the certificate is for another key") from error
        raise ValueError(f"certificate, key or CA cannot be read ({error.reason or error})") from error
    names = shown.get("subjectAltName", ())
    return Checked(
        uris=tuple(value for kind, value in names if kind == "URI"),
        valid_from=_date(shown["notBefore"]),
        valid_until=_date(shown["notAfter"]),
    )


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, Any]:
    """The client's certificate, as the server verified it."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    left = client.wrap_bio(down, up, server_side=False)
    right = server.wrap_bio(up, down, server_side=True)
    for _ in range(_STEPS):
        for side in (left, right):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            if side is right and (shown := right.getpeercert()) is not None:
                return dict(shown)
    raise ValueError("the certificate could not be verified")


def _date(text: object) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(text)), UTC)
