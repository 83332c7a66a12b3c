"""Enrolment: a join token becomes an identity. The key is made here and never leaves the host."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from segctl import __version__
from segctl.errors import ControllerUnreachableError, EnrolmentError, StateError
from segctl.proto.v1 import agent_pb2 as pb
from segctl.proto.v1 import agent_pb2_grpc as rpc

from segctl_agent.certificate import is_issued_by, pem_of, read_cas, read_certificate
from segctl_agent.credentials import Identity, acting_as_owner, load_identity, prepare_state, save_identity
from segctl_agent.jointoken import JoinToken
from segctl_agent.slots import Slots

_TIMEOUT_SECONDS = 10.0
_UNREACHABLE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


@dataclass(frozen=True, slots=True)
class Request:
    """What a controller is asked: the key stays in `key` (PEM), the CSR (DER) goes over the wire."""

    key: bytes
    csr: bytes
    hostname: str


Exchange = Callable[[JoinToken, Request], pb.EnrolReply]


def make_request(hostname: str) -> Request:
    return request_for(ec.generate_private_key(ec.SECP256R1()), hostname)


def request_for(key: ec.EllipticCurvePrivateKey, hostname: str) -> Request:
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname[:64] or "host")]))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Request(pem, csr.public_bytes(serialization.Encoding.DER), hostname)


def enrol(
    state: Path, token: JoinToken, hostname: str, replace: bool, now: datetime, exchange: Exchange | None = None
) -> Identity:
    """Makes this host a member of the fleet and stores its identity. Raises EnrolmentError, StateError or
    ControllerUnreachableError; the old identity, if any, is then untouched."""
    prepare_state(state)
    try:
        existing = load_identity(state)
    except StateError:
        if not replace:
            raise
        existing = None
    if existing is not None and not replace:
        raise EnrolmentError(
            f"this host is already enrolled as {existing.host} in the fleet {existing.fleet}; "
            "use --replace to give it a new identity"
        )
    _check_clock(token.ca_certificates()[0], "the fleet's CA certificate", now)
    request = make_request(hostname)
    with acting_as_owner(state):
        reply = (exchange or ask_controllers)(token, request)
    identity = accept_reply(token, request, reply, now)
    save_identity(state, identity)
    if existing is None or (existing.fleet, existing.host) != (identity.fleet, identity.host):
        Slots(state).clear()  # a generation of another host must never be put in force here
    return identity


def accept_reply(token: JoinToken, request: Request, reply: pb.EnrolReply, now: datetime) -> Identity:
    """Trusts the CAs of the token, and those that a controller with a certificate of them names. Raises
    EnrolmentError."""
    if reply.ca not in (token.ca, *token.cas):
        raise EnrolmentError(
            "the controller answered with another CA than the join token's: this is not your controller"
        )
    try:
        certificate = read_certificate(reply.certificate)
        cas = read_cas(reply.trust or [reply.ca])
    except ValueError as error:
        raise EnrolmentError("the controller answered with something that is no certificate") from error
    if not reply.host or not reply.fleet:
        raise EnrolmentError("the controller answered without a host name or fleet: versions that do not fit together?")
    wrong = check_certificate(certificate, cas, request.key, f"spiffe://{reply.fleet}/host/{reply.host}")
    if wrong:
        raise EnrolmentError(f"{wrong}: the answer was refused and nothing was stored")
    _check_clock(certificate, "the new certificate", now)
    return Identity(
        fleet=reply.fleet,
        host=reply.host,
        controllers=token.controllers,
        key=request.key,
        certificate=certificate.public_bytes(serialization.Encoding.PEM),
        ca=pem_of(cas),
        valid_from=certificate.not_valid_before_utc,
        valid_until=certificate.not_valid_after_utc,
        enrolment=token.enrolment,
    )


def check_certificate(certificate: x509.Certificate, cas: tuple[x509.Certificate, ...], key: bytes, spiffe: str) -> str:
    """What is wrong with a certificate for the PEM key `key` and the URI SAN `spiffe`; empty when nothing is."""
    if not is_issued_by(certificate, cas):
        return "the certificate was not issued by the fleet's CA"
    private = serialization.load_pem_private_key(key, password=None)
    encoding = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*encoding) != certificate.public_key().public_bytes(*encoding):
        return "the certificate is for another key"
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "the certificate names nobody"
    if spiffe not in names.get_values_for_type(x509.UniformResourceIdentifier):
        return f"the certificate does not name {spiffe}"
    return ""


def _check_clock(certificate: x509.Certificate, what: str, now: datetime) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if start <= now < end:
        return
    relation = f"only from {start:%Y-%m-%d %H:%M}" if now < start else f"only until {end:%Y-%m-%d %H:%M}"
    raise EnrolmentError(
        f"{what} is valid {relation} UTC, and this host's clock says {now:%Y-%m-%d %H:%M} UTC: set the clock (chrony, "
        "timedatectl) and enrol again"
    )


def ask_controllers(token: JoinToken, request: Request) -> pb.EnrolReply:
    """Asks each enrolment address in turn. A refusal ends it: only an unreachable controller has a substitute."""
    failures: list[str] = []
    roots = pem_of(token.ca_certificates())
    for address in token.enrolment:
        credentials = grpc.ssl_channel_credentials(root_certificates=roots)
        with grpc.secure_channel(address, credentials) as channel:
            try:
                return rpc.EnrolmentStub(channel).Enrol(
                    pb.EnrolRequest(
                        token=token.secret,
                        csr=request.csr,
                        hostname=request.hostname,
                        agent_version=__version__,
                        takes_trust=True,
                    ),
                    timeout=_TIMEOUT_SECONDS,
                )
            except grpc.RpcError as error:
                code, details = error.code(), error.details() or ""
                if code not in _UNREACHABLE:
                    raise EnrolmentError(_refusal(code, details, request.hostname)) from error
                failures.append(f"{address}: {diagnose(address, token.ca_certificates()) or details or code.name}")
    raise ControllerUnreachableError(
        "no enrolment address of the join token answers: "
        + "; ".join(failures)
        + ". Check that the controller runs and "
        "that no firewall is between"
    )


def _refusal(code: grpc.StatusCode, details: str, hostname: str) -> str:
    text = details or f"it gave no reason ({code.name})"
    if code is grpc.StatusCode.ALREADY_EXISTS:
        return (
            f"the name {hostname!r} is taken: {text}. Use --name, or a token made with --replace if this host takes "
            "the place of the other"
        )
    if code in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}:
        return f"the controller refused the join token: {text}. Make a new one with `segctl token create`"
    return f"the controller refused to enrol this host: {text}"


def diagnose(address: str, cas: tuple[x509.Certificate, ...], timeout: float = 3.0) -> str:
    """Why a TLS connection to HOST:PORT would fail; empty when it would not. gRPC does not tell. Nothing is sent over
    this connection, so it need not be trusted."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, int(port)), timeout=timeout) as link,
            context.wrap_socket(link, server_hostname=host) as tls,
        ):
            der = tls.getpeercert(binary_form=True)
    except socket.gaierror:
        return f"the name {host} does not resolve"
    except ssl.SSLError as error:
        return f"what listens there does not speak TLS ({error.reason or error})"
    except OSError as error:
        return f"cannot connect ({error.strerror or error})"
    if not der:
        return "what listens there shows no certificate"
    try:
        certificate = read_certificate(der)
    except ValueError:
        return "what it shows is no certificate that can be read"
    if not is_issued_by(certificate, cas):
        return "its certificate is not from the fleet's CA: this is not your controller, or its CA was made anew"
    now = datetime.now(UTC)
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        return (
            f"its certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} until "
            f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC and this host's clock says {now:%Y-%m-%d %H:%M}"
        )
    return ""
