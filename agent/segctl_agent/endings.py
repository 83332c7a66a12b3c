"""Why a session with a controller ended."""

from __future__ import annotations

import asyncio

import grpc
from segctl.errors import ControllerUnreachableError

from segctl_agent.conversation import ProtocolError


class SilentControllerError(ControllerUnreachableError):
    """It may be there, and says nothing."""


class RenewedError(Exception):
    """The session ends because there is a new identity for the next one."""


def said_nothing(error: Exception) -> bool:
    """The controller did not answer at all, as far as we or gRPC's pings noticed: those have no status of their own."""
    details = error.details() if isinstance(error, grpc.aio.AioRpcError) else ""
    return isinstance(error, SilentControllerError) or "timeout" in (details or "")


def reason_of(failures: list[BaseException]) -> BaseException:
    """The most telling of the errors that ended a session. A write on an ended call only says that it ended."""
    telling = (grpc.aio.AioRpcError, ProtocolError, ControllerUnreachableError)
    silent = asyncio.InvalidStateError
    unexpected = [e for e in failures if not isinstance(e, (*telling, silent))]
    return next(
        iter(unexpected + [e for e in failures if isinstance(e, telling)]), ControllerUnreachableError("it ended")
    )
