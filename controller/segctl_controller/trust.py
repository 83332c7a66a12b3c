"""The CAs of the fleet as a running controller sees them: what `segctl-controller ca` changes counts at once."""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timedelta
from pathlib import Path

from segctl.errors import StateError

from segctl_controller.authority import HOST_LIFE, Authority, Issued
from segctl_controller.rotation import CaSet, load_cas, stage_version

log = logging.getLogger(__name__)


class Trust:
    """Certificates of hosts hold for `host_life`; one that ended is exchanged for `grace` more. Thread-safe."""

    def __init__(
        self, directory: Path, fleet: str, host_life: timedelta = HOST_LIFE, grace: timedelta = timedelta()
    ) -> None:
        """Raises StateError for a CA that cannot be read."""
        self.fleet, self.host_life, self.grace = fleet, host_life, grace
        self._directory = directory
        self._lock = threading.Lock()
        self._version = stage_version(directory)
        self._cas = load_cas(directory, fleet)

    @property
    def cas(self) -> CaSet:
        """As the directory has them now. Should they be unreadable, those before stay."""
        with self._lock:
            version = stage_version(self._directory)
            if version != self._version:
                self._version = version
                try:
                    self._cas = load_cas(self._directory, self.fleet)
                    log.info("the rotation of the CA is %s", self._cas.stage)
                except StateError as error:
                    log.error("the CAs cannot be read, those before stay in use: %s", error)
            return self._cas

    def of_retired(self, serial: str) -> bool:
        """Whether a CA that was retired gave this certificate, as far as was looked last: for many at once."""
        return self._cas.giver(serial) is None

    def signer(self, *, takes_trust: bool) -> Authority:
        """Of a host's certificate. An agent that cannot take another CA to trust gets one of the current CA."""
        cas = self.cas
        return cas.signing if takes_trust else cas.current

    def issue_host(self, csr: bytes, name: str, now: datetime, *, takes_trust: bool) -> Issued:
        """Raises InvalidRequestError; see `Authority.issue_host`."""
        return self.signer(takes_trust=takes_trust).issue_host(csr, name, now, self.host_life)
