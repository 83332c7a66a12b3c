"""Enrolment: a join token and a certificate request in, a certificate of this fleet out."""

# ruff: noqa: N802 - the service's methods are named by the protocol

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from ipaddress import IPv6Address, IPv6Network

from segctl.errors import EnrolmentError, SegctlError, StateError
from segctl.logs import Event, about
from segctl.model.inventory import Address
from segctl.proto.v1 import agent_pb2, agent_pb2_grpc

from segctl_controller.authority import Issued
from segctl_controller.clock import Clock
from segctl_controller.errors import AlreadyExistsError, InvalidRequestError, LimitError
from segctl_controller.names import checked_name
from segctl_controller.rpc import Context, Refusing, source_address
from segctl_controller.store.protocol import FindHost
from segctl_controller.store.records import Entry, HostRecord, TokenRecord
from segctl_controller.store_thread import StoreThread
from segctl_controller.trust import Trust

LONGEST_TOKEN = 64
LONGEST_REQUEST = 8192
FAILURES = 10
WINDOW = 60.0
RECORDED = 100
"""Refusals in a window that reach the audit log: a stranger with many addresses must not fill the disk."""
REMEMBERED_PEERS = 4096
UNUSABLE = (
    "this join token cannot be used: it is unknown, used up, expired or revoked; ask an administrator for a new one "
    "(segctl token create)"
)
"""One text for every reason, so that nobody learns which secrets exist."""
log = logging.getLogger(__name__)


class FailureLimit:
    """At most `most` failed attempts a peer in `WINDOW` seconds (monotonic), for a bounded number of peers."""

    def __init__(self, now: Callable[[], float] = time.monotonic, most: int = FAILURES) -> None:
        self._now = now
        self._most = most
        self._failures: OrderedDict[str, list[float]] = OrderedDict()

    def admit(self, peer: str) -> None:
        """Raises LimitError for a peer that failed too often."""
        recent = [t for t in self._failures.get(peer, ()) if t > self._now() - WINDOW]
        if len(recent) >= self._most:
            raise LimitError(
                f"too many failed attempts from {peer}; wait {WINDOW:.0f} seconds and use a valid token or certificate"
            )

    def failed(self, peer: str) -> None:
        recent = [t for t in self._failures.pop(peer, ()) if t > self._now() - WINDOW]
        self._failures[peer] = [*recent, self._now()][-self._most :]
        while len(self._failures) > REMEMBERED_PEERS:
            self._failures.popitem(last=False)


class Quota:
    """At most `most` a window of `seconds` (monotonic)."""

    def __init__(self, most: int, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._seconds = seconds
        self._now = now
        self._began = now()
        self._taken = 0

    def take(self) -> bool:
        now = self._now()
        if now - self._began >= self._seconds:
            self._began, self._taken = now, 0
        self._taken += 1
        return self._taken <= self._most


def peer_network(address: Address | None) -> str:
    """Who counts as one peer: an IPv4 address, or the /64 in which an IPv6 host picks its address freely."""
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, 64), strict=False))
    return str(address or "unknown")


class Enrolment(agent_pb2_grpc.EnrolmentServicer):
    """`on_enrolled` is called on the event loop with each host that joined or was replaced."""

    def __init__(
        self,
        trust: Trust,
        db: StoreThread,
        clock: Clock,
        on_enrolled: Callable[[HostRecord], None],
        reissue: Callable[[Context], Awaitable[None]],
    ) -> None:
        self._trust = trust
        self._db = db
        self._clock = clock
        self._on_enrolled = on_enrolled
        self._reissue = reissue
        self._limit = FailureLimit()
        self._recorded = Quota(RECORDED, WINDOW)

    async def Enrol(self, request: agent_pb2.EnrolRequest, context: Context) -> agent_pb2.EnrolReply:
        address = source_address(context)
        peer, network = str(address or "unknown"), peer_network(address)
        async with Refusing(context):
            self._limit.admit(network)
            try:
                host, certificate = await self._db.whole(self._enrol(request, peer))
            except SegctlError as error:
                self._limit.failed(network)
                await self._record_failure(peer, request.hostname, error)
                if isinstance(error, EnrolmentError):
                    raise EnrolmentError(UNUSABLE) from error
                raise
        told = about(Event.ENROLLED, host=host.name, peer=peer)
        log.info("enrolled host=%s tags=%s peer=%s", host.name, host.tags, peer, extra=told)
        cas = self._trust.cas
        return agent_pb2.EnrolReply(
            host=host.name, certificate=certificate, ca=cas.current.ca_der, fleet=self._trust.fleet, trust=cas.der
        )

    async def Reissue(self, request_iterator: object, context: Context) -> None:  # type: ignore[override]
        await self._reissue(context)

    async def _enrol(self, request: agent_pb2.EnrolRequest, peer: str) -> tuple[HostRecord, bytes]:
        if not 16 <= len(request.token) <= LONGEST_TOKEN:
            raise EnrolmentError("the secret has the wrong length")
        if len(request.csr) > LONGEST_REQUEST:
            raise InvalidRequestError(f"the certificate request is larger than {LONGEST_REQUEST} bytes")
        if len(request.agent_version) > 64 or len(request.hostname) > 255:
            raise InvalidRequestError("hostname or agent_version is too long")
        now, now_us = self._clock.now(), self._clock.now_us()
        issued: list[Issued] = []

        def admit(token: TokenRecord, find: FindHost) -> HostRecord:
            name = checked_name(token.host or request.hostname.lower(), "the host name")
            if find(name) is not None and not token.replace:
                raise AlreadyExistsError(
                    f"a host {name!r} is enrolled already; to reinstall it, ask for a token made with --replace, or "
                    f"have it removed: segctl host remove {name}"
                )
            issued.append(self._trust.issue_host(request.csr, name, now, takes_trust=request.takes_trust))
            return HostRecord(
                name=name,
                tags=token.tags,
                serial=issued[-1].serial,
                enrolled_us=now_us,
                networks=token.networks,
                agent_version=request.agent_version,
            )

        def entry(host: HostRecord) -> Entry:
            return Entry(now_us, f"peer {peer}", "enrol", f"host {host.name}", f"tags {host.tags}")

        digest = hashlib.sha256(request.token).digest()
        host = await self._db.call(self._db.store.enrol, digest, now_us, admit, entry)
        self._on_enrolled(host)
        return host, issued[-1].certificate

    async def _record_failure(self, peer: str, hostname: str, error: SegctlError) -> None:
        if not self._recorded.take():
            log.warning("enrolment refused and, one of many, not in the audit log: peer=%s", peer)
            return
        detail = f"{type(error).__name__}: {error}"[:400]
        entry = Entry(self._clock.now_us(), f"peer {peer}", "enrol-refused", f"host {hostname[:80]!r}", detail)
        try:
            await self._db.call(self._db.store.add_entry, entry)
        except StateError as full:
            log.error("enrolment refused and not in the audit log: peer=%s: %s", peer, full)
