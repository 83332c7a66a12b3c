"""The few HTTPS requests of OpenID Connect that segctl makes: bounded in size and time, and never redirected.

Certificates are checked against the system's authorities, or those of SSL_CERT_FILE (OpenSSL).
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
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
