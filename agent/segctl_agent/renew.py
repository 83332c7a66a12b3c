"""Renews this host's certificate: a new key, made here, for a new certificate.

    renewal.key ── CSR ──▶ Agent.Renew ──▶ certificate ── checked ──▶ identity/, replaced as a whole ──▶ used

Killed at any step, the host has an identity that works. The key is on disk before anybody is asked, so that asking
again is the same question and gets the same answer; the old certificate is good until the new one is first used. Where
the old one has ended, TLS refuses it, and the new one is asked for on the enrolment address (reissue.py).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from segctl.errors import ControllerUnreachableError, EnrolmentError, StateError
from segctl.proto.v1 import agent_pb2 as pb
from segctl.proto.v1 import agent_pb2_grpc as rpc

from segctl_agent.certificate import pem_of, read_cas, read_certificate
from segctl_agent.channel import explained
from segctl_agent.credentials import Identity, acting_as_owner, load_identity, save_identity
from segctl_agent.durable import write_durably
from segctl_agent.enrol import Request, check_certificate, request_for
from segctl_agent.reissue import ask_by_key

KEY_FILE = "renewal.key"
TIMEOUT_SECONDS = 10.0

Ask = Callable[[Identity, bytes], pb.RenewReply]


def renew(state: Path, now: datetime, ask: Ask | None = None) -> Identity:
    """The new identity, stored. Raises EnrolmentError, StateError or ControllerUnreachableError; then the old one is
    untouched. `ask` is given the identity and the request (DER)."""
    with _alone(state):
        identity = load_identity(state)
        if identity is None:
            raise StateError(f"this host is not enrolled ({state} holds no identity): run `segctl-agent enrol`")
        ended = now >= identity.valid_until
        if not ended and (complaint := identity.complaint(now)):
            raise EnrolmentError(complaint)
        if ended and not identity.enrolment:
            raise EnrolmentError(identity.complaint(now))
        request = _request(state, identity)
        with acting_as_owner(state):
            answer = (ask or (ask_by_key if ended else ask_controllers))(identity, request.csr)
        renewed = accept(identity, request.key, answer, now)
        save_identity(state, renewed)
        with suppress(OSError):  # it is the key in use by now, and will be told from a new one
            (state / KEY_FILE).unlink(missing_ok=True)
    return renewed


def accept(identity: Identity, key: bytes, answer: pb.RenewReply, now: datetime) -> Identity:
    """Trusts the CAs that a controller names, whose own certificate was of one that this host trusts. Raises
    EnrolmentError."""
    kept = "the renewal was refused and the old certificate stays"
    try:
        certificate = read_certificate(answer.certificate)
        cas = read_cas(answer.trust) or tuple(x509.load_pem_x509_certificates(identity.ca))
    except ValueError as error:
        raise EnrolmentError(f"the controller answered with something that is no certificate: {kept}") from error
    if wrong := check_certificate(certificate, cas, key, identity.spiffe):
        raise EnrolmentError(f"{wrong}: {kept}")
    renewed = replace(
        identity,
        key=key,
        certificate=pem_of((certificate,)),
        ca=pem_of(cas),
        valid_from=certificate.not_valid_before_utc,
        valid_until=certificate.not_valid_after_utc,
        enrolled_as=identity.enrolment_id,
    )
    if complaint := renewed.complaint(now):
        raise EnrolmentError(f"of the new certificate: {complaint}: {kept}")
    return renewed


def ask_controllers(identity: Identity, csr: bytes) -> pb.RenewReply:
    """Asks each controller in turn. A refusal ends it: only an unreachable controller has a substitute. Where TLS alone
    refuses, which says nothing to a gRPC client, the enrolment address knows why, or gives the certificate."""
    try:
        return _ask_controllers(identity, csr)
    except ControllerUnreachableError:
        if not identity.enrolment:
            raise
        with suppress(ControllerUnreachableError):
            return ask_by_key(identity, csr)
        raise


def _ask_controllers(identity: Identity, csr: bytes) -> pb.RenewReply:
    credentials = grpc.ssl_channel_credentials(identity.ca, identity.key, identity.certificate)
    failures = []
    for address in identity.controllers:
        with grpc.secure_channel(address, credentials) as channel:
            try:
                request = pb.RenewRequest(csr=csr, takes_trust=True)
                return rpc.AgentStub(channel).Renew(request, timeout=TIMEOUT_SECONDS)
            except grpc.RpcError as error:
                code, details = error.code(), error.details() or error.code().name
                if code is grpc.StatusCode.UNIMPLEMENTED:
                    details = "it is of a version that cannot renew certificates: upgrade it"
                elif code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise EnrolmentError(
                        f"the controller {address} refused to renew the certificate: {details}"
                    ) from error
                failures.append(f"{address}: {explained(details)}")
    raise ControllerUnreachableError(f"the certificate cannot be renewed now: {'; '.join(failures)}")


def _request(state: Path, identity: Identity) -> Request:
    """For the key that was made before and never came into use, else for a new one."""
    path = state / KEY_FILE
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        key = None
    used = serialization.load_pem_private_key(identity.key, None).public_key()
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() != used:
        return request_for(key, identity.host)
    request = request_for(ec.generate_private_key(ec.SECP256R1()), identity.host)
    try:
        write_durably(path, request.key)
    except OSError as error:
        raise StateError(f"cannot write {path}: {error.strerror}. Make room, or make {state} writable") from error
    return request


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """One renewal at a time: two would each end what the other got. The lock ends with the process that has it."""
    path = state / "renewal.lock"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if os.geteuid() == 0:
            owner = state.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
    except OSError as error:
        raise StateError(f"cannot open {path}: {error.strerror}. Run it as root") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise StateError("the certificate is being renewed already: look again in a moment") from error
    finally:
        os.close(descriptor)
