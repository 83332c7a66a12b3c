"""A small OpenID provider on the loopback over TLS: oidc-provider-mock, which insists on PKCE and renews ID tokens
here, as providers in the field do. `browse` is the person at the browser."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flask
from joserfc import jwk, jwt
from oidc_provider_mock import User, _app, app
from werkzeug.serving import make_server

from tests.unit.segctl.cli.pki import Authority

CLIENT = "segctl"
for grant in (_app.AuthorizationCodeGrant, _app.RefreshTokenGrant):
    grant.TOKEN_ENDPOINT_AUTH_METHODS = ["none"]  # a program on everybody's machine keeps no secret (RFC 8252, 8.4)


@dataclass
class Provider:
    """`key` is the provider's, also for tokens that it would not give; `published` are further ones."""

    issuer: str = ""
    key: jwk.RSAKey = field(default_factory=lambda: jwk.RSAKey.generate_key(2048, {"kid": "made", "use": "sig"}))
    published: list[dict[str, Any]] = field(default_factory=list)
    asked_for_keys: int = 0
    refreshing: bool = True
    renewed: int = 0
    lasts: int = 600
    """Seconds of an ID token."""
    away: bool = False
    """Its token endpoint fails, and says nothing of why."""
    revokes: bool = False
    revoked: list[dict[str, str]] = field(default_factory=list)
    """What was asked of its revocation endpoint (RFC 7009)."""

    def settings(self) -> dict[str, Any]:
        """Of controller.json."""
        return {"api_port": 0, "oidc": {"issuer": self.issuer, "client_id": CLIENT, "scopes": ["openid", "profile"]}}

    def token(self, key: jwk.Key | None = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """An ID token of `alice` with these claims; None leaves one out."""
        now = int(time.time())
        usual: dict[str, Any] = {
            "iss": self.issuer,
            "aud": CLIENT,
            "sub": "alice",
            "iat": now,
            "exp": now + self.lasts,
            "groups": ["web-team"],
        }
        said = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        head = {"alg": "RS256", "kid": "made", **(header or {})}
        return jwt.encode(head, said, key or self.key, algorithms=[head["alg"]])


def browse(address: str, who: str = "alice", action: str = "") -> None:
    """Sign in, and follow the redirect to the loopback."""
    form = urllib.parse.urlencode({"sub": who, **({"action": action} if action else {})}).encode()
    with urllib.request.urlopen(address, form) as page:
        page.read()


@contextmanager
def provider(directory: Path) -> Iterator[tuple[Provider, Path]]:
    """The provider, and the file of the authority that signed its certificate."""
    authority, made = Authority(), Provider()
    certificate, key = authority.issue("https://provider")
    for name, content in (("idp-ca.pem", authority.pem), ("idp.pem", certificate), ("idp.key", key)):
        (directory / name).write_bytes(content)
    context = (str(directory / "idp.pem"), str(directory / "idp.key"))
    server = make_server("127.0.0.1", 0, _mended(made), threaded=True, ssl_context=context)
    made.issuer = f"https://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made, directory / "idp-ca.pem"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _mended(made: Provider) -> flask.Flask:
    """What the mock lacks."""
    served = app(
        user_claims=[
            User(sub="alice", claims={"groups": ["web-team"], "preferred_username": "alice@example.net"}),
            User(sub="mallory", claims={"groups": ["cooks"]}),
        ]
    )
    _add_moods(served, made)
    challenges: dict[str, str] = {}

    @served.before_request
    def insist_on_pkce() -> flask.Response | None:
        storage = flask.g.oidc_provider_mock_storage
        storage.jwk = _app.jose.RSAKey.import_key(made.key.as_pem(private=True))
        if flask.request.path == "/jwks":
            made.asked_for_keys += 1
        form = flask.request.form
        if flask.request.path == "/oauth2/token" and form.get("grant_type") == "authorization_code":
            shown = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
            if challenges.pop(form.get("code", ""), None) != shown.rstrip(b"=").decode():
                return flask.Response('{"error": "invalid_grant"}', 400, content_type="application/json")
        return None

    @served.after_request
    def add(response: flask.Response) -> flask.Response:
        path, form = flask.request.path, flask.request.form
        if path == "/oauth2/authorize" and response.status_code == 302:
            told = urllib.parse.parse_qs(urllib.parse.urlsplit(response.headers["Location"]).query)
            if "state" not in told:  # the mock forgets it when it refuses (RFC 6749, 4.1.2.1)
                response.headers["Location"] += "&" + urllib.parse.urlencode({"state": flask.request.args["state"]})
            for code in told.get("code", ()):
                assert flask.request.args["code_challenge_method"] == "S256"
                challenges[code] = flask.request.args["code_challenge"]
        if path == "/oauth2/token" and form.get("grant_type") == "refresh_token" and response.status_code == 200:
            if not made.refreshing:
                return flask.Response('{"error": "invalid_grant"}', 400, content_type="application/json")
            made.renewed += 1
            response.set_data(json.dumps({**response.get_json(), "id_token": made.token()}))
        if path == "/jwks":
            response.set_data(json.dumps({"keys": [made.key.as_dict(private=False), *made.published]}))
        return response

    return served


def _add_moods(served: flask.Flask, made: Provider) -> None:
    """A provider that revokes, and one that is away."""

    @served.before_request
    def answer() -> flask.Response | None:
        if flask.request.path == "/oauth2/revoke" and made.revokes:
            made.revoked.append(flask.request.form.to_dict())
            return flask.Response()
        if flask.request.path == "/oauth2/token" and made.away:
            return flask.Response("down for maintenance", 503)
        return None

    @served.after_request
    def publish(response: flask.Response) -> flask.Response:
        if flask.request.path == "/.well-known/openid-configuration" and made.revokes:
            revoking = {"revocation_endpoint": f"{made.issuer}/oauth2/revoke"}
            response.set_data(json.dumps({**response.get_json(), **revoking}))
        return response
