"""A new certificate for one that ended: TLS refuses that one, so this host proves that it has its key on the enrolment
address, where only the controller shows a certificate.
"""

from __future__ import annotations

import hashlib
from queue import SimpleQueue

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from segctl.errors import ControllerUnreachableError, EnrolmentError, StateError
from segctl.proto.v1 import agent_pb2 as pb
from segctl.proto.v1 import agent_pb2_grpc as rpc

from segctl_agent.channel import explained
from segctl_agent.credentials import Identity

CONTEXT = b"segctl reissue v1\0"
"""In front of what is signed (agent.proto, ReissueRequest): no signature that is made for anything else fits."""
NONCE_BYTES = 32
TIMEOUT_SECONDS = 10.0
_UNREACHABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)


def ask_by_key(identity: Identity, csr: bytes) -> pb.RenewReply:
    """Asks each enrolment address in turn. Raises EnrolmentError for a refusal, ControllerUnreachableError."""
    credentials = grpc.ssl_channel_credentials(identity.ca)
    failures = []
    for address in identity.enrolment:
        with grpc.secure_channel(address, credentials) as channel:
            try:
                return _exchange(channel, identity, csr)
            except grpc.RpcError as error:
                code, details = error.code(), error.details() or error.code().name
                if code is grpc.StatusCode.UNIMPLEMENTED:
                    details = "it is of a version that exchanges no ended certificates: upgrade it"
                elif code not in _UNREACHABLE:
                    raise EnrolmentError(
                        f"the controller {address} gives no certificate for one that ended: {details}"
                    ) from error
                failures.append(f"{address}: {explained(details)}")
    raise ControllerUnreachableError(f"the ended certificate cannot be exchanged now: {'; '.join(failures)}")


def _exchange(channel: grpc.Channel, identity: Identity, csr: bytes) -> pb.RenewReply:
    """Raises grpc.RpcError, or EnrolmentError for what is no answer of a controller."""
    requests: SimpleQueue[pb.ReissueRequest | None] = SimpleQueue()
    call = rpc.EnrolmentStub(channel).Reissue(iter(requests.get, None), timeout=TIMEOUT_SECONDS)
    try:
        nonce = next(call).nonce
        if len(nonce) != NONCE_BYTES:
            raise EnrolmentError(f"the controller sent a nonce of {len(nonce)} bytes: versions that do not fit?")
        requests.put(signed_request(identity, nonce, csr))
        return next(call).renewed
    except StopIteration as error:
        raise EnrolmentError("the controller ended the exchange without a certificate") from error
    finally:
        requests.put(None)
        call.cancel()


def signed_request(identity: Identity, nonce: bytes, csr: bytes) -> pb.ReissueRequest:
    """Raises StateError."""
    key = serialization.load_pem_private_key(identity.key, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise StateError("the key of this host's identity is not ECDSA")
    signature = key.sign(CONTEXT + nonce + hashlib.sha256(csr).digest(), ec.ECDSA(hashes.SHA256()))
    certificate = x509.load_pem_x509_certificate(identity.certificate).public_bytes(serialization.Encoding.DER)
    return pb.ReissueRequest(certificate=certificate, csr=csr, signature=signature, takes_trust=True)
