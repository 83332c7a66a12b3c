"""What the web's listener shows in handshakes: TLS 1.3 alone, and a certificate that changes without a restart."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from segctl.errors import StateError

from segctl_controller.servercert import ServerCertificate

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate, with those between it and its CA, and its key: PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


def of_fleet(certificate: ServerCertificate) -> Callable[[], Pair]:
    """The one that the controller makes for itself."""

    def current() -> Pair:
        credential = certificate.current().credential
        return Pair(credential.certificate, credential.key)

    return current


class OfFiles:
    """A certificate of somebody else's CA, which browsers trust. Read again when a file has changed; what cannot be
    used is told, and what was there before is shown on."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises StateError."""
        self._paths = (certificate, key)
        self._seen = self._look()
        self._pair = self._read()

    def __call__(self) -> Pair:
        try:
            seen = self._look()
            if seen != self._seen:
                self._seen = seen
                self._pair = self._read()
                log.info("the web's certificate was read anew from %s", self._paths[0])
        except StateError as error:
            log.error("%s", error)
        return self._pair

    def _look(self) -> tuple[tuple[int, int], ...]:
        try:
            return tuple((found.st_mtime_ns, found.st_size) for found in (path.stat() for path in self._paths))
        except OSError as error:
            raise StateError(f"web: {error.filename}: {error.strerror}; see web in controller.json") from error

    def _read(self) -> Pair:
        try:
            pair = Pair(*(path.read_bytes() for path in self._paths))
            make_context(pair)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            names = " and ".join(map(str, self._paths))
            raise StateError(f"web: {names} are no certificate and its key (PEM): {error}; mend them") from error
        return pair


class Presented:
    """`context` of a listener, which asks `pair` at each handshake."""

    def __init__(self, pair: Callable[[], Pair]) -> None:
        self._fetch = pair
        self._pair = pair()
        self.context = self._now = make_context(self._pair)
        self.context.sni_callback = self._choose

    def _choose(self, link: ssl.SSLObject, _name: str | None, _first: ssl.SSLContext) -> None:
        """OpenSSL asks also where the client names nobody."""
        pair = self._fetch()
        if pair != self._pair:
            self._pair, self._now = pair, make_context(pair)
        link.context = self._now


def make_context(pair: Pair) -> ssl.SSLContext:
    """Raises ssl.SSLError for what is no pair."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    # OpenSSL reads files alone: one in memory, so that the key is on no disk.
    file = os.memfd_create("segctl-web", os.MFD_CLOEXEC)
    with os.fdopen(file, "wb") as both:
        both.write(pair.certificate + b"\n" + pair.key)
        both.flush()
        context.load_cert_chain(f"/proc/self/fd/{file}")
    return context
