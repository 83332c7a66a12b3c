"""The few HTTPS requests of OpenID Connect that segctl makes: bounded in size and time, and never redirected.

Certificates are checked against the system's authorities, or those of SSL_CERT_FILE (OpenSSL).
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from segctl.errors import SegctlError

SECONDS = 10.0
LARGEST = 512 * 1024
ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")


class WebError(SegctlError):
    """The provider could not be asked, or gave what is no answer. `code` is its OAuth error (RFC 6749, 5.2)."""

    def __init__(self, message: str, code: str = "") -> None:
        self.code = code
        super().__init__(message)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: object) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One sign-in by authorization code with PKCE (RFC 7636), until the browser is back."""

    state: str
    nonce: str
    verifier: str = field(repr=False)

    @classmethod
    def new(cls) -> Attempt:
        return cls(secrets.token_urlsafe(16), secrets.token_urlsafe(16), secrets.token_urlsafe(48))

    def address(self, provider: Mapping[str, Any], client_id: str, redirect_uri: str, scopes: tuple[str, ...]) -> str:
        """Where the browser goes, at a provider with this metadata."""
        digest = hashlib.sha256(self.verifier.encode()).digest()
        asked = {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(scopes),
            "state": self.state,
            "nonce": self.nonce,
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        endpoint = str(provider["authorization_endpoint"])
        joint = "&" if urllib.parse.urlsplit(endpoint).query else "?"
        return f"{endpoint}{joint}{urllib.parse.urlencode(asked)}"

    def redeem(self, provider: Mapping[str, Any], client_id: str, redirect_uri: str, code: str) -> dict[str, Any]:
        """The answer of the token endpoint. Raises WebError."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "client_id": client_id,
            "code_verifier": self.verifier,
        }
        return fetch_json(provider["token_endpoint"], form)


def token_claims(token: str) -> dict[str, Any]:
    """What a JWT says, unverified: for our own planning, never to believe it."""
    try:
        body = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (ValueError, IndexError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def discover(issuer: str) -> dict[str, Any]:
    """The provider's metadata (OpenID Connect Discovery 1.0), whose endpoints are all https. Raises WebError."""
    found = fetch_json(issuer.rstrip("/") + "/.well-known/openid-configuration")
    if found.get("issuer") != issuer:
        raise WebError(f"{issuer}: the provider calls itself {str(found.get('issuer'))[:200]!r}; write just that")
    for name in ENDPOINTS:
        checked_url(str(found.get(name, "")))
    return found


def checked_url(url: str) -> str:
    """Raises WebError for what is not https."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.username:
        raise WebError(f"{url[:200]!r} is no https address")
    return url


def fetch_json(url: str, form: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The JSON object at `url`, or the answer to `form`. Raises WebError."""
    return _object(_fetch(url, form), url)


def post_form(url: str, form: Mapping[str, str]) -> None:
    """Where the answer says nothing (RFC 7009). Raises WebError."""
    _fetch(url, form)


def _fetch(url: str, form: Mapping[str, str] | None) -> bytes:
    data = urllib.parse.urlencode(form).encode() if form is not None else None
    request = urllib.request.Request(checked_url(url), data, {"Accept": "application/json"})  # noqa: S310 - checked
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(request, timeout=SECONDS) as answer:
            found: bytes = answer.read(LARGEST + 1)
            return found
    except urllib.error.HTTPError as error:
        with error:
            told = error.read(LARGEST + 1)
        try:
            code = str(_object(told, url).get("error", ""))[:100]
        except WebError:
            code = ""
        raise WebError(f"{url}: HTTP {error.code} {code}".rstrip(), code) from error
    except (OSError, ValueError) as error:
        raise WebError(f"{url}: {getattr(error, 'reason', None) or error}") from error


def _object(data: bytes, url: str) -> dict[str, Any]:
    if len(data) > LARGEST:
        raise WebError(f"{url}: the answer is larger than {LARGEST} bytes")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WebError(f"{url}: the answer is no JSON") from error
    if not isinstance(found, dict):
        raise WebError(f"{url}: the answer is no JSON object")
    return found
