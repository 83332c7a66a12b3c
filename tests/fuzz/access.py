"""What strangers show as a token, what a provider publishes as keys, and lines that call themselves an audit log."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from joserfc import jwk, jwt
from segctl.auditchain import GENESIS, ChainError, Link, link_hash, parse_line
from segctl.cli.bearer import token_claims
from segctl_controller.bearers import LONGEST
from segctl_controller.clock import Clock
from segctl_controller.config import Oidc
from segctl_controller.errors import ProviderError, UnauthenticatedError
from segctl_controller.oidc import Keys, OidcVerifier

from tests.fuzz.target import Target

_KEY = jwk.ECKey.generate_key("P-256", {"kid": "one"})
_ISSUER = "https://idp.example"


def _keys(published: Any) -> Keys:
    return Keys(_ISSUER, lambda _issuer: published)


def _id_token(data: bytes) -> None:
    verifier = OidcVerifier(Oidc(_ISSUER, "segctl"), Clock(), _keys({"keys": [_KEY.as_dict(private=False)]}))
    text = data[:LONGEST].decode("latin-1")
    token_claims(text)
    assert asyncio.run(verifier.verify(text)).subject == "alice"


def _published(data: bytes) -> None:
    """As `fetch_json` gives them: an object, whatever is in it."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProviderError("no JSON") from error
    if not isinstance(found, dict):
        raise ProviderError("no object")
    asyncio.run(_keys(found).of("one"))


def _line(data: bytes) -> None:
    link = parse_line(data.decode("utf-8", "replace"), "export:1")
    assert parse_line(link.line(), "export:1") == link


def _token() -> bytes:
    now = int(time.time())
    claims = {"iss": _ISSUER, "aud": "segctl", "sub": "alice", "iat": now, "exp": now + 86_400, "groups": ["a"]}
    return jwt.encode({"alg": "ES256", "kid": "one"}, claims, _KEY, algorithms=["ES256"]).encode()


_TEXTS = ("root", "push", "generation 1", "why", "certificate ab", "10.0.0.1")
_LINK = Link(1, 2, *_TEXTS, previous=GENESIS, hash=link_hash(GENESIS, 1, 2, *_TEXTS))

TARGETS = (
    Target("id-token", _id_token, (_token(),), (UnauthenticatedError,)),
    Target("oidc-keys", _published, (json.dumps({"keys": [_KEY.as_dict(private=False)]}).encode(),), (ProviderError,)),
    Target("audit-line", _line, (_LINK.line().encode(),), (ChainError,)),
)
