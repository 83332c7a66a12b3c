"""What every request must be before it is looked at, and what every answer carries."""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = re.compile(
    r"(?:\[(?P<v6>[0-9a-f.]*:[0-9a-f:.]*)\]|(?P<name>[a-z0-9._-]+))(?::[0-9]{1,5})?", re.ASCII | re.IGNORECASE
)
LOOPBACK = ("localhost", "127.0.0.1", "::1")
MARK = "x-segctl"
"""A header that no form can send, and no other site without asking first (a CORS preflight, which nobody answers)."""
SECURITY = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
HSTS = "max-age=31536000"


class Guard:
    """Refuses a Host that is not ours (a name that was made to resolve to us), and a request that may change something
    unless our own page sent it."""

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        self._app = app
        self._names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)  # the lifespan: there are no WebSockets
            return
        headers = Headers(scope=scope)
        host = host_of(headers.get("host", ""))

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    added.setdefault(name, value)
                added.setdefault("cache-control", "no-store")
                # It would hold for every port of the name: harmful for localhost, meaningless for an address.
                if host not in LOOPBACK:
                    added["strict-transport-security"] = HSTS
            await send(message)

        why = self._refusal(scope["method"], host, headers)
        if why is not None:
            status, text = why
            await PlainTextResponse(text + "\n", status)(scope, receive, secured)
            return
        await self._app(scope, receive, secured)

    def _refusal(self, method: str, host: str, headers: Headers) -> tuple[int, str] | None:
        if host not in self._names:
            return 421, "this is no name of this controller; names are in controller.json, and more in web.names"
        if method in ("GET", "HEAD"):
            return None
        if headers.get("origin", "").lower() != f"https://{headers['host']}".lower():
            return 403, "the request comes from another site"
        if headers.get(MARK) != "1" or headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return 403, "the request was not made by this site's own page"
        return None


def host_of(header: str) -> str:
    """The name or address in a Host header, without the port; empty for what is not name[:digits] or [v6][:digits]."""
    found = HOST.fullmatch(header)
    return (found["v6"] or found["name"]).lower() if found else ""
