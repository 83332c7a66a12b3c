"""The join token: one line of base64url over JSON {"c": [...], "e": [...], "ca": ..., "cas": [...], "s": ...}."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field

from cryptography import x509
from segctl.errors import EnrolmentError

from segctl_agent.certificate import read_cas

_MAX_BYTES = 16384
_ADDRESS = re.compile(r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})$")
_MEND = "copy the whole line that `segctl token create` printed"


@dataclass(frozen=True, slots=True)
class JoinToken:
    """`controllers` and `enrolment` are HOST:PORT; `ca` is the fleet's CA certificate (DER), `cas` others that the
    controller's certificate may be of, while its CA is rotated; `secret` proves the right to enrol: it is never shown.
    """

    controllers: tuple[str, ...]
    enrolment: tuple[str, ...]
    ca: bytes
    secret: bytes = field(repr=False)
    cas: tuple[bytes, ...] = ()

    def ca_certificates(self) -> tuple[x509.Certificate, ...]:
        """Raises ValueError."""
        return read_cas((self.ca, *self.cas))


def parse_join_token(text: str) -> JoinToken:
    """Raises EnrolmentError that says what is wrong, never the secret."""
    line = text.strip()
    if not line:
        raise EnrolmentError(f"the join token is empty: {_MEND}")
    if len(line) > _MAX_BYTES:
        raise EnrolmentError(f"the join token is {len(line)} bytes long, the limit is {_MAX_BYTES}: {_MEND}")
    if any(c.isspace() for c in line):
        raise EnrolmentError(f"the join token is more than one word: {_MEND}, and nothing else")
    try:
        fields = json.loads(_from_base64(line))
    except (ValueError, RecursionError) as error:
        raise EnrolmentError(f"the join token is malformed or cut off: {_MEND}") from error
    if not isinstance(fields, dict):
        raise EnrolmentError(f"the join token is malformed: {_MEND}")
    token = JoinToken(
        controllers=_addresses(fields, "c"),
        enrolment=_addresses(fields, "e"),
        ca=_bytes(fields, "ca"),
        secret=_bytes(fields, "s"),
        cas=_list(fields, "cas"),
    )
    try:
        token.ca_certificates()
    except ValueError as error:
        raise EnrolmentError(f"the join token holds no valid CA certificate: {_MEND}") from error
    return token


def _from_base64(text: str) -> bytes:
    """base64url or base64, padded or not: tokens travel through chat windows and shells."""
    plain = text.replace("-", "+").replace("_", "/").rstrip("=")
    return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)


def _bytes(fields: dict[str, object], name: str) -> bytes:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise EnrolmentError(f"the join token lacks its field {name!r}: {_MEND}")
    try:
        return _from_base64(value)
    except (binascii.Error, ValueError) as error:
        raise EnrolmentError(f"the join token's field {name!r} is malformed: {_MEND}") from error


def _list(fields: dict[str, object], name: str) -> tuple[bytes, ...]:
    """Empty where the token does not have it."""
    value = fields.get(name, [])
    if not isinstance(value, list):
        raise EnrolmentError(f"the join token's field {name!r} is malformed: {_MEND}")
    return tuple(_bytes({name: one}, name) for one in value)


def _addresses(fields: dict[str, object], name: str) -> tuple[str, ...]:
    value = fields.get(name)
    if not isinstance(value, list) or not value or len(value) > 16:
        raise EnrolmentError(f"the join token lacks its field {name!r}: {_MEND}")
    for address in value:
        match = _ADDRESS.match(address) if isinstance(address, str) else None
        if match is None or not 0 < int(match[2]) < 65536:
            raise EnrolmentError(f"the join token names no usable address in its field {name!r}: {_MEND}")
    return tuple(value)
