"""Agent.Renew: a host with a good certificate gets another one."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import UTC, datetime

from cryptography import x509
from segctl.proto.v1 import agent_pb2

from segctl_controller.authority import public_bytes, requested_key, serial_text
from segctl_controller.clock import Clock
from segctl_controller.enrolment import LONGEST_REQUEST, Quota
from segctl_controller.errors import InvalidRequestError, LimitError, UnauthenticatedError
from segctl_controller.registry import Registry
from segctl_controller.rpc import Caller, Context, Refusing, caller_of, source_address
from segctl_controller.store.records import Entry, HostRecord
from segctl_controller.store_thread import StoreThread
from segctl_controller.trust import Trust

MOST_RENEWALS = 12
WINDOW = 3600.0
"""New certificates of one host in so many seconds; each is an entry in the audit log."""
log = logging.getLogger(__name__)


class RenewalService:
    """The new certificate is for another key. With it come the CAs that the host is to trust."""

    def __init__(self, trust: Trust, registry: Registry, db: StoreThread, clock: Clock) -> None:
        self._trust, self._registry, self._db, self._clock = trust, registry, db, clock
        self._quotas: dict[str, Quota] = {}
        self._one = asyncio.Lock()

    async def serve(self, request: agent_pb2.RenewRequest, context: Context) -> agent_pb2.RenewReply:
        """The handler of Agent.Renew."""
        async with Refusing(context):
            caller = caller_of(context, self._trust.fleet, "host")
            peer = str(source_address(context) or "unknown")
            return await self.renew(caller, request.csr, peer, takes_trust=request.takes_trust)

    async def renew(self, caller: Caller, csr: bytes, peer: str, *, takes_trust: bool) -> agent_pb2.RenewReply:
        """For a caller that proved to have the key of its certificate. Raises InvalidRequestError, LimitError,
        UnauthenticatedError."""
        certificate = await self._db.whole(self._renew(caller, csr, peer, takes_trust=takes_trust))
        return agent_pb2.RenewReply(certificate=certificate, trust=self._trust.cas.der)

    async def _renew(self, caller: Caller, csr: bytes, peer: str, *, takes_trust: bool) -> bytes:
        if len(csr) > LONGEST_REQUEST:
            raise InvalidRequestError(f"the certificate request is larger than {LONGEST_REQUEST} bytes")
        key = public_bytes(requested_key(csr))
        if key == caller.key:
            raise InvalidRequestError("a renewal needs a key of its own: this one is that of the present certificate")
        async with self._one:
            record = self._registry.verify(caller.name, caller.serial, caller.issued_us)
            given = self._given(record, key, takes_trust=takes_trust)
            return given if given is not None else await self._give(record, caller, csr, peer, takes_trust=takes_trust)

    async def _give(self, record: HostRecord, caller: Caller, csr: bytes, peer: str, *, takes_trust: bool) -> bytes:
        """Stored before it is answered: what an agent holds must be known here after a restart."""
        host, now = record.name, self._clock.now()
        if not self._quotas.setdefault(host, Quota(MOST_RENEWALS, WINDOW)).take():
            raise LimitError(f"host {host} had {MOST_RENEWALS} certificates within an hour; wait, and look why")
        issued = self._trust.issue_host(csr, host, now, takes_trust=takes_trust)
        until = x509.load_der_x509_certificate(issued.certificate).not_valid_after_utc
        detail = f"certificate until {until:%Y-%m-%d %H:%M} UTC, asked for from {peer}; the old one holds until its use"
        if caller.until_us <= self._clock.now_us():
            ended = datetime.fromtimestamp(caller.until_us / 1e6, UTC)
            detail = (
                f"certificate until {until:%Y-%m-%d %H:%M} UTC, asked for from {peer} with the key of one that ended "
                f"{ended:%Y-%m-%d %H:%M} UTC"
            )
        entry = Entry(self._clock.now_us(), f"host {host}", "renew", f"host {host}", detail)
        give = self._db.store.set_certificate
        if not await self._db.call(give, host, record.serial, record.serial, issued.certificate, entry):
            raise UnauthenticatedError(f"host {host!r} was removed or enrolled anew meanwhile")
        current = self._registry.fleet.hosts.get(host)
        if current is not None and current.serial == record.serial:
            self._registry.fleet.hosts[host] = replace(current, renewal=issued.certificate)
        log.info("renewed host=%s until=%s peer=%s", host, until, peer)
        return issued.certificate

    def _given(self, record: HostRecord, key: bytes, *, takes_trust: bool) -> bytes | None:
        """The same answer again, while it is fresh: a request that comes late must not replace what was answered."""
        if not record.renewal:
            return None
        certificate = x509.load_der_x509_certificate(record.renewal)
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        fresh = certificate.not_valid_after_utc - self._clock.now() > life / 2
        of_this_ca = self._trust.cas.giver(serial_text(certificate)) is self._trust.signer(takes_trust=takes_trust)
        return record.renewal if fresh and of_this_ca and public_bytes(certificate.public_key()) == key else None
