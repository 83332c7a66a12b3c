"""What the controller refuses, and the one table from error to gRPC status."""

from __future__ import annotations

from grpc import StatusCode
from segctl.errors import EnrolmentError, PolicyError, SegctlError, StateError, WireError


class InvalidRequestError(SegctlError):
    """A field of a request is missing, malformed or out of bounds."""


class UnauthenticatedError(SegctlError):
    """Who speaks cannot be told, or is no longer known."""


class ForbiddenError(SegctlError):
    """Who speaks is known and may not do this."""


class NotFoundError(SegctlError):
    """The thing named does not exist."""


class AlreadyExistsError(SegctlError):
    """The name is taken."""


class ConflictError(SegctlError):
    """Something changed in between; look again and retry."""


class PreconditionError(SegctlError):
    """The system is not in a state that permits this."""


class ReplacedError(SegctlError):
    """A newer stream took the place of this one."""


class LimitError(SegctlError):
    """Too many, too large, or too often."""


class StoreFullError(StateError):
    """The disk of the database is full. Nothing was stored."""


class SilentPeerError(SegctlError):
    """A peer sent nothing within the time the protocol gives it."""


class ProviderError(SegctlError):
    """The OpenID provider cannot be asked."""


class StoppingError(SegctlError):
    """The controller stops; connect again in a moment."""


STATUS: tuple[tuple[type[SegctlError], StatusCode], ...] = (
    (InvalidRequestError, StatusCode.INVALID_ARGUMENT),
    (PolicyError, StatusCode.INVALID_ARGUMENT),
    (WireError, StatusCode.INVALID_ARGUMENT),
    (UnauthenticatedError, StatusCode.UNAUTHENTICATED),
    (EnrolmentError, StatusCode.UNAUTHENTICATED),
    (ForbiddenError, StatusCode.PERMISSION_DENIED),
    (NotFoundError, StatusCode.NOT_FOUND),
    (AlreadyExistsError, StatusCode.ALREADY_EXISTS),
    (ConflictError, StatusCode.ABORTED),
    (ReplacedError, StatusCode.ABORTED),
    (PreconditionError, StatusCode.FAILED_PRECONDITION),
    (LimitError, StatusCode.RESOURCE_EXHAUSTED),
    (StoreFullError, StatusCode.RESOURCE_EXHAUSTED),
    (SilentPeerError, StatusCode.DEADLINE_EXCEEDED),
    (StoppingError, StatusCode.UNAVAILABLE),
    (ProviderError, StatusCode.UNAVAILABLE),
    (StateError, StatusCode.UNAVAILABLE),
)
"""First match wins: a subclass stands before its base."""


def status_of(error: SegctlError) -> StatusCode:
    """The gRPC status of an error; INTERNAL for one that is not in the table."""
    return next((code for kind, code in STATUS if isinstance(error, kind)), StatusCode.INTERNAL)
