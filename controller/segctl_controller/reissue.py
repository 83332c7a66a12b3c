"""Enrolment.Reissue: a host whose certificate ended while it, or the controller, was away proves that it has the key.

TLS refuses a certificate that ended, so this is done where only the server shows one. A fresh nonce makes what is
signed worth nothing a second time; everything else is a renewal: the host's record must name the certificate, and the
limits are those of Agent.Renew.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from segctl.errors import SegctlError
from segctl.proto.v1 import agent_pb2

from segctl_controller.clock import Clock
from segctl_controller.enrolment import LONGEST_REQUEST, FailureLimit, peer_network
from segctl_controller.errors import InvalidRequestError, LimitError, SilentPeerError, UnauthenticatedError
from segctl_controller.renewal import RenewalService
from segctl_controller.rpc import Caller, Context, Refusing, caller_by, source_address
from segctl_controller.trust import Trust

CONTEXT = b"segctl reissue v1\0"
"""In front of what is signed, so that no signature made for anything else fits."""
NONCE_BYTES = 32
SECONDS = 10.0
"""For the whole exchange."""
MOST_AT_ONCE, MOST_OF_ONE = 256, 16
"""Exchanges at once, and of them from one address: who opens many and says nothing must not keep the others out."""
LONGEST_SIGNATURE = 256
MEND = "enrol it again with a token (segctl token create --host NAME --replace; segctl-agent enrol --replace)"


def signed_bytes(nonce: bytes, csr: bytes) -> bytes:
    return CONTEXT + nonce + hashlib.sha256(csr).digest()


class ReissueService:
    def __init__(self, trust: Trust, renewal: RenewalService, clock: Clock) -> None:
        self._trust, self._renewal, self._clock = trust, renewal, clock
        self._limit = FailureLimit()
        self._open: Counter[str] = Counter()

    async def serve(self, context: Context) -> None:
        """The body of Enrolment.Reissue."""
        address = source_address(context)
        network = peer_network(address)
        async with Refusing(context):
            self._limit.admit(network)
            if self._open.total() >= MOST_AT_ONCE or self._open[network] >= MOST_OF_ONE:
                raise LimitError("too many hosts renew ended certificates at this moment; try again in a minute")
            self._open[network] += 1
            try:
                await self._timely(context, str(address or "unknown"))
            except SegctlError:
                self._limit.failed(network)
                raise
            finally:
                self._open[network] -= 1
                if not self._open[network]:
                    del self._open[network]

    async def _timely(self, context: Context, peer: str) -> None:
        try:
            async with asyncio.timeout(SECONDS):
                await self._exchange(context, peer)
        except TimeoutError as error:
            raise SilentPeerError(f"the exchange did not end within {SECONDS:.0f} seconds") from error

    async def _exchange(self, context: Context, peer: str) -> None:
        nonce = secrets.token_bytes(NONCE_BYTES)
        await context.write(agent_pb2.ReissueReply(nonce=nonce))
        request = await context.read()
        if not isinstance(request, agent_pb2.ReissueRequest):
            raise InvalidRequestError("the stream ended before the request came")
        trusted = (authority.certificate for authority in self._trust.cas.trusted)
        caller = who_proved(request, nonce, trusted, self._trust.fleet)
        self._check_end(caller)
        renewed = await self._renewal.renew(caller, request.csr, peer, takes_trust=request.takes_trust)
        await context.write(agent_pb2.ReissueReply(renewed=renewed))

    def _check_end(self, caller: Caller) -> None:
        end = datetime.fromtimestamp(caller.until_us / 1e6, UTC)
        if self._clock.now() >= end + self._trust.grace:
            days = self._trust.grace.total_seconds() / 86400
            raise UnauthenticatedError(
                f"the certificate of host {caller.name!r} ended {end:%Y-%m-%d %H:%M} UTC, more than {days:g} days ago; "
                f"{MEND}"
            )


def who_proved(request: agent_pb2.ReissueRequest, nonce: bytes, cas: Iterable[x509.Certificate], fleet: str) -> Caller:
    """Who has the key of a certificate that one of `cas` gave, whenever it ended. Pure.

    Raises InvalidRequestError, UnauthenticatedError, ForbiddenError.
    """
    if max(len(request.certificate), len(request.csr)) > LONGEST_REQUEST:
        raise InvalidRequestError(f"a certificate or request is larger than {LONGEST_REQUEST} bytes")
    if len(request.signature) > LONGEST_SIGNATURE:
        raise InvalidRequestError("the signature is too long")
    try:
        certificate = x509.load_der_x509_certificate(request.certificate)
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise InvalidRequestError("the certificate's key is not ECDSA")
        key.verify(request.signature, signed_bytes(nonce, request.csr), ec.ECDSA(hashes.SHA256()))
        given = any(_gave(ca, certificate) for ca in cas)
        caller = caller_by(certificate, fleet, "host")
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise InvalidRequestError(f"the certificate does not parse: {error}") from error
    except InvalidSignature as error:
        raise UnauthenticatedError("the request is not signed with the key of the certificate") from error
    if not given:
        raise UnauthenticatedError(
            f"the certificate of host {caller.name!r} is of a CA that was retired, or of none of this fleet; {MEND}"
        )
    return caller


def _gave(ca: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True
