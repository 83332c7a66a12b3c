"""The static bundle: read once, compressed once, and the same page for every path of the UI."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType

from starlette.requests import Request
from starlette.responses import Response

KINDS = MappingProxyType(
    {
        ".css": "text/css; charset=utf-8",
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".svg": "image/svg+xml",
    }
)
SHELL = "index.html"
PAGES = (
    "/",
    "/map",
    "/flows",
    "/denials",
    "/policy",
    "/hosts",
    "/suggestions",
    "/draft",
    "/readiness",
    "/history",
    "/signin",
)
"""Paths that the bundle draws itself."""


@dataclass(frozen=True, slots=True)
class Asset:
    kind: str
    body: bytes
    packed: bytes
    tag: str

    @classmethod
    def of(cls, name: str, body: bytes) -> Asset:
        packed = gzip.compress(body, 9, mtime=0)
        return cls(KINDS[name[name.rindex(".") :]], body, packed, f'"{hashlib.sha256(body).hexdigest()[:32]}"')

    def answer(self, request: Request) -> Response:
        """Asked for again at each use, which a tag makes cheap: an upgrade shows at once."""
        headers = {"etag": self.tag, "cache-control": "no-cache", "vary": "accept-encoding"}
        if request.headers.get("if-none-match") == self.tag:
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self.packed, headers={**headers, "content-encoding": "gzip"}, media_type=self.kind)
        return Response(self.body, headers=headers, media_type=self.kind)


def load_assets() -> Mapping[str, Asset]:
    """By name."""
    found = files("segctl_controller.web") / "static"
    return MappingProxyType(
        {
            one.name: Asset.of(one.name, one.read_bytes())
            for one in found.iterdir()
            if one.name[one.name.rindex(".") :] in KINDS
        }
    )
