"""What a session holds, as the database has it: sealed with a key that only the browser's cookie gives.

The cookie's secret has 256 random bits, so a hash finds the row, and HKDF (RFC 5869) needs no salt. Who reads the
database, or a backup of it, has neither the bearer nor the refresh token.
"""

from __future__ import annotations

import hashlib
import secrets
from functools import cached_property

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PURPOSE = b"segctl web session"
NONCE = 12


class Seal:
    """Of one session. `id` is what the row is found by; `secret` itself is not kept."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode("utf-8", "replace")
        self.id = hashlib.sha256(self._secret).digest()

    @cached_property
    def _cipher(self) -> AESGCM:
        key, self._secret = HKDF(SHA256(), 32, None, PURPOSE).derive(self._secret), b""
        return AESGCM(key)

    def close(self, plain: bytes) -> bytes:
        """It names the row: in another one it cannot be opened."""
        nonce = secrets.token_bytes(NONCE)
        return nonce + self._cipher.encrypt(nonce, plain, self.id)

    def open(self, sealed: bytes) -> bytes:
        """Raises ValueError for what was not closed with this."""
        try:
            return self._cipher.decrypt(sealed[:NONCE], sealed[NONCE:], self.id)
        except (InvalidTag, ValueError) as error:  # ValueError: too short for a nonce
            raise ValueError("the row was not sealed for this session") from error
