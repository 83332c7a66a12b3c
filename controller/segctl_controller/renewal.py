"""Agent.Renew, and the controller's own certificate: nothing ends because nobody was there to renew it."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import replace
from datetime import timedelta

import grpc
from cryptography import x509
from segctl.proto.v1 import agent_pb2

from segctl_controller.authority import SERVER_LIFE, Authority, Credential, public_bytes, requested_key
from segctl_controller.clock import Clock
from segctl_controller.enrolment import LONGEST_REQUEST, Quota
from segctl_controller.errors import InvalidRequestError, LimitError, UnauthenticatedError
from segctl_controller.registry import Registry
from segctl_controller.rpc import Caller, Context, Refusing, caller_of, source_address
from segctl_controller.store.records import Entry, HostRecord
from segctl_controller.store_thread import StoreThread

MOST_RENEWALS = 12
WINDOW = 3600.0
"""New certificates of one host in so many seconds; each is an entry in the audit log."""
log = logging.getLogger(__name__)


class RenewalService:
    """A host with a good certificate gets another one, for another key."""

    def __init__(self, authority: Authority, registry: Registry, db: StoreThread, clock: Clock) -> None:
        self._authority, self._registry, self._db, self._clock = authority, registry, db, clock
        self._quotas: dict[str, Quota] = {}
        self._one = asyncio.Lock()

    async def serve(self, request: agent_pb2.RenewRequest, context: Context) -> agent_pb2.RenewReply:
        """The handler of Agent.Renew."""
        async with Refusing(context):
            caller = caller_of(context, self._authority.fleet, "host")
            peer = str(source_address(context) or "unknown")
            certificate = await self._db.whole(self._renew(caller, request.csr, peer))
        return agent_pb2.RenewReply(certificate=certificate)

    async def _renew(self, caller: Caller, csr: bytes, peer: str) -> bytes:
        if len(csr) > LONGEST_REQUEST:
            raise InvalidRequestError(f"the certificate request is larger than {LONGEST_REQUEST} bytes")
        key = public_bytes(requested_key(csr))
        if key == caller.key:
            raise InvalidRequestError("a renewal needs a key of its own: this one is that of the present certificate")
        async with self._one:
            record = self._registry.verify(caller.name, caller.serial, caller.issued_us)
            given = self._given(record, key)
            return given if given is not None else await self._give(record, csr, peer)

    async def _give(self, record: HostRecord, csr: bytes, peer: str) -> bytes:
        """Stored before it is answered: what an agent holds must be known here after a restart."""
        host, now = record.name, self._clock.now()
        if not self._quotas.setdefault(host, Quota(MOST_RENEWALS, WINDOW)).take():
            raise LimitError(f"host {host} had {MOST_RENEWALS} certificates within an hour; wait, and look why")
        issued = self._authority.issue_host(csr, host, now)
        until = now + self._authority.host_life
        detail = f"certificate until {until:%Y-%m-%d %H:%M} UTC, asked for from {peer}; the old one holds until its use"
        entry = Entry(self._clock.now_us(), f"host {host}", "renew", f"host {host}", detail)
        give = self._db.store.set_certificate
        if not await self._db.call(give, host, record.serial, record.serial, issued.certificate, entry):
            raise UnauthenticatedError(f"host {host!r} was removed or enrolled anew meanwhile")
        current = self._registry.fleet.hosts.get(host)
        if current is not None and current.serial == record.serial:
            self._registry.fleet.hosts[host] = replace(current, renewal=issued.certificate)
        log.info("renewed host=%s until=%s peer=%s", host, until, peer)
        return issued.certificate

    def _given(self, record: HostRecord, key: bytes) -> bytes | None:
        """The same answer again, while it is fresh: a request that comes late must not replace what was answered."""
        if not record.renewal:
            return None
        certificate = x509.load_der_x509_certificate(record.renewal)
        fresh = certificate.not_valid_after_utc - self._clock.now() > self._authority.host_life / 2
        return record.renewal if fresh and public_bytes(certificate.public_key()) == key else None


class ServerCertificate:
    """The controller's own: made at start, and anew at the first handshake after half of its life. grpc asks at each
    handshake, on threads of its own; streams that are open go on."""

    def __init__(self, authority: Authority, names: tuple[str, ...], clock: Clock) -> None:
        self._authority, self._names, self._clock = authority, names, clock
        self._lock = threading.Lock()
        self._made = clock.now()
        self._credential = authority.issue_server(names, self._made)

    def current(self) -> Credential:
        with self._lock:
            now = self._clock.now()
            # A clock that was set back makes one too: the old one may not hold yet.
            if not timedelta() <= now - self._made < SERVER_LIFE / 2:
                self._credential, self._made = self._authority.issue_server(self._names, now), now
                log.info("the controller's certificate was renewed serial=%s", self._credential.serial)
            return self._credential

    def credentials(self, *, mutual: bool) -> grpc.ServerCredentials:
        shown = self.current().serial

        def configuration(credential: Credential) -> grpc.ServerCertificateConfiguration:
            return grpc.ssl_server_certificate_configuration(
                [(credential.key, credential.certificate)], self._authority.ca_pem if mutual else None
            )

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            """None: what was shown last still holds."""
            nonlocal shown
            credential = self.current()
            if credential.serial == shown:
                return None
            shown = credential.serial
            return configuration(credential)

        return grpc.dynamic_ssl_server_credentials(
            configuration(self.current()),
            fetch,  # type: ignore[arg-type]  # the stubs leave out that None says "as before"
            mutual,
        )
