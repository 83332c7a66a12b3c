"""The certificate that the controller itself shows."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta

import grpc
from segctl.errors import StateError

from segctl_controller.authority import SERVER_LIFE, Credential
from segctl_controller.clock import Clock
from segctl_controller.rotation import CaSet
from segctl_controller.trust import Trust

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a handshake shows, and by which CAs it judges."""

    credential: Credential
    cas: CaSet
    made: datetime

    @property
    def half_life(self) -> timedelta:
        return min(SERVER_LIFE, self.cas.current.ends - self.made) / 2


class ServerCertificate:
    """Made at start, and anew at the first handshake after half of its life or after a step of the CA's rotation. grpc
    asks at each handshake, on threads of its own; streams that are open go on."""

    def __init__(self, trust: Trust, names: tuple[str, ...], clock: Clock) -> None:
        """Raises StateError for a CA that expired."""
        self._trust, self._names, self._clock = trust, names, clock
        self._lock = threading.Lock()
        self._shown = self._make(trust.cas)

    def _make(self, cas: CaSet) -> Shown:
        now = self._clock.now()
        return Shown(cas.current.issue_server(self._names, now), cas, now)

    def current(self) -> Shown:
        with self._lock:
            cas, shown = self._trust.cas, self._shown
            # A clock that was set back makes one too: the old one may not hold yet.
            if cas is not shown.cas or not timedelta() <= self._clock.now() - shown.made < shown.half_life:
                try:
                    self._shown = self._make(cas)
                    log.info("the controller's certificate was renewed serial=%s", self._shown.credential.serial)
                except StateError as error:
                    log.error("the controller's certificate cannot be renewed: %s", error)
            return self._shown

    def credentials(self, *, mutual: bool) -> grpc.ServerCredentials:
        last = self.current()

        def configuration(shown: Shown) -> grpc.ServerCertificateConfiguration:
            pair = (shown.credential.key, shown.credential.certificate)
            return grpc.ssl_server_certificate_configuration([pair], shown.cas.pem if mutual else None)

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            """None: what was shown last still holds."""
            nonlocal last
            shown = self.current()
            if shown is last:
                return None
            last = shown
            return configuration(shown)

        return grpc.dynamic_ssl_server_credentials(
            configuration(last),
            fetch,  # type: ignore[arg-type]  # the stubs leave out that None says "as before"
            mutual,
        )
