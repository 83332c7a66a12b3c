"""Who calls, and how errors leave: shared by every servicer."""

from __future__ import annotations

import ipaddress
import logging
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeAlias
from urllib.parse import unquote

import grpc
from cryptography import x509
from segctl.errors import SegctlError
from segctl.logs import Event, about

from segctl_controller.authority import BACKDATED, public_bytes, serial_text
from segctl_controller.errors import ForbiddenError, UnauthenticatedError, status_of
from segctl_controller.limits import check_size

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
log = logging.getLogger(__name__)

LONGEST_DETAIL = 6000
"""Bytes of a status text: it travels in HTTP/2 metadata, which is limited to 8 KiB."""


@dataclass(frozen=True, slots=True)
class Caller:
    """What a client certificate of this fleet says: `kind` is host or admin, `serial` its number in hexadecimal, the
    times Unix microseconds of whole seconds."""

    kind: str
    name: str
    serial: str
    issued_us: int = 0
    until_us: int = 0
    certificate: x509.Certificate | None = field(default=None, repr=False)

    @property
    def key(self) -> bytes:
        """Its public key (DER). Only who renews asks for it, and it is a third of what a caller takes to read."""
        return public_bytes(self.certificate.public_key()) if self.certificate is not None else b""


def caller_of(context: Context, fleet: str, kind: str) -> Caller:
    """The caller by its certificate and nothing else.

    Raises UnauthenticatedError without a certificate of this fleet, ForbiddenError for one of another kind.
    """
    certificates = list(context.auth_context().get("x509_pem_cert", ()))
    if len(certificates) != 1:
        raise UnauthenticatedError("no client certificate with one SPIFFE name was shown; enrol, or get a new one")
    return caller_by(x509.load_pem_x509_certificate(bytes(certificates[0])), fleet, kind)


def caller_by(certificate: x509.Certificate, fleet: str, kind: str) -> Caller:
    """Whom a certificate names, whose chain and key are somebody else's to check. Raises like `caller_of`."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        uris = []
    if len(uris) != 1:
        raise UnauthenticatedError("no client certificate with one SPIFFE name was shown; enrol, or get a new one")
    parts = uris[0].split("/")
    if len(parts) != 5 or parts[:3] != ["spiffe:", "", fleet] or parts[3] not in ("host", "admin"):
        raise UnauthenticatedError(f"the certificate names {uris[0][:200]}, which is nobody of the fleet {fleet}")
    if parts[3] != kind:
        words = {"host": "agents on hosts", "admin": "operators"}
        raise ForbiddenError(
            f"this service is for {words[kind]}, and the certificate is for {words[parts[3]]} ({parts[4]}); "
            "use the certificate made for this"
        )
    return Caller(
        kind,
        parts[4],
        serial_text(certificate),
        int((certificate.not_valid_before_utc + BACKDATED).timestamp()) * 1_000_000,
        int(certificate.not_valid_after_utc.timestamp()) * 1_000_000,
        certificate,
    )


def source_address(context: Context) -> IPv4Address | IPv6Address | None:
    """The address the stream comes from; None where grpc does not tell it."""
    family, _, rest = unquote(context.peer()).partition(":")
    return address_of(rest.rpartition(":")[0].strip("[]")) if family in ("ipv4", "ipv6") else None


def address_of(text: str) -> IPv4Address | IPv6Address | None:
    """Without its zone, an IPv4-mapped one as IPv4; None for what is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


class Refusing:
    """`async with Refusing(context)`: a SegctlError raised inside, also inside a task group, leaves as its status."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def __aenter__(self) -> None:
        try:
            check_size()
        except SegctlError as error:
            await self.__aexit__(type(error), error, None)
            raise

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        refused = _first(error) if isinstance(error, BaseExceptionGroup) else error
        if not isinstance(refused, SegctlError):
            return
        code, text, peer = status_of(refused), str(refused), self._context.peer()
        if len(text) > LONGEST_DETAIL:
            text = text[:LONGEST_DETAIL] + " ... (cut; segctl check shows everything)"
        told = about(Event.REQUEST_REFUSED, peer=peer, status=code.name)
        log.info("refused peer=%s status=%s: %s", peer, code.name, text.splitlines()[0] if text else "", extra=told)
        await self._context.abort(code, text)


def clear_frames(error: BaseException | None) -> None:
    """Of a handler that failed. gRPC keeps what `abort` raised beside the call; its traceback, and that of the reason,
    would keep the session and the call in a cycle, for the collector to find."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _first(group: BaseExceptionGroup[BaseException]) -> SegctlError:
    """The first error made on purpose; a group that holds anything else is raised again whole."""
    leaves = list(_leaves(group))
    for leaf in leaves:
        if not isinstance(leaf, SegctlError):
            raise group
    return next(leaf for leaf in leaves if isinstance(leaf, SegctlError))


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
