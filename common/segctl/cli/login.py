"""Signing in with a browser: the authorization code grant with PKCE and a redirect to the loopback (RFC 7636, 8252)."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

from segctl.cli.bearer import Session
from segctl.cli.exits import CliError, Exit
from segctl.oidcweb import Attempt, WebError, discover, token_claims

SECONDS = 300.0
"""How long a person has in the browser."""
DONE = b"<!doctype html><title>segctl</title><p>You are signed in. This window can be closed."
REFUSED = b"<!doctype html><title>segctl</title><p>You are not signed in. The terminal says why."


class Redirect(HTTPServer):
    """Waits on the loopback for the one answer that carries our `state`; everything else gets 404."""

    def __init__(self, port: int, state: str) -> None:
        self.state = state
        self.answer: dict[str, str] | None = None
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def wait(self, seconds: float) -> dict[str, str]:
        """The parameters of the answer. Raises CliError when none comes in time."""
        deadline = time.monotonic() + seconds
        while self.answer is None:
            self.timeout = deadline - time.monotonic()
            if self.timeout <= 0:
                raise CliError(f"nobody signed in within {seconds:.0f} s", "segctl login", Exit.NOT_PERMITTED)
            self.handle_request()
        return self.answer

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Redirect
    timeout = 5

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        try:
            told = {key: values[0] for key, values in parse_qs(parts.query, max_num_fields=20).items()}
        except ValueError:
            told = {}
        ours = parts.path == "/" and secrets.compare_digest(told.get("state", "").encode(), self.server.state.encode())
        if not ours or self.server.answer is not None:
            self.send_error(404)
            return
        self.server.answer = told
        body = DONE if "code" in told else REFUSED
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Nothing: the request holds the code."""


def sign_in(
    issuer: str,
    client_id: str,
    scopes: tuple[str, ...],
    port: int,
    show: Callable[[str], None],
    seconds: float = SECONDS,
) -> Session:
    """`show` brings the address to a browser. Raises CliError when nobody signs in, or the provider refuses."""
    try:
        provider = discover(issuer)
        attempt = Attempt.new()
        with Redirect(port, attempt.state) as redirect:
            show(attempt.address(provider, client_id, redirect.uri, scopes))
            told = redirect.wait(seconds)
            if "code" not in told or told.get("iss", issuer) != issuer:  # RFC 9207
                why = told.get("error_description") or told.get("error") or "the answer is of another provider"
                raise CliError(f"{issuer} did not sign you in: {why[:300]}", "segctl login", Exit.NOT_PERMITTED)
            answer = attempt.redeem(provider, client_id, redirect.uri, told["code"])
    except WebError as error:
        raise CliError(f"the sign-in failed: {error}", "segctl login", Exit.UNREACHABLE) from error
    except OSError as error:
        raise CliError(
            f"cannot listen on 127.0.0.1:{port}: {error.strerror}", "Choose another --port.", Exit.USAGE
        ) from error
    revocation = provider.get("revocation_endpoint")
    revocation = revocation if isinstance(revocation, str) else ""
    session = Session(issuer, client_id, provider["token_endpoint"], revocation).answered(answer)
    if token_claims(session.id_token).get("nonce") != attempt.nonce:
        raise CliError(
            f"the ID token of {issuer} is not the one that was asked for", "segctl login", Exit.NOT_PERMITTED
        )
    return session
