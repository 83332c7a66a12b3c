"""What every RPC may cost: a call of a method that is not listed here is refused, and so is a request that is larger.

docs/security.md has the table with the fields. The rates of agents' streams are by message, where those are read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import grpc

from segctl_controller.errors import LimitError
from segctl_controller.review import LARGEST_SOURCE

SMALL, MEDIUM, POLICY = 16 * 1024, 256 * 1024, LARGEST_SOURCE + 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limit:
    """`size` of a request in bytes; of each caller, after `burst` calls at once, `rate` calls a second, and at most
    `streams` open at a time (0: it is none, or is bounded elsewhere)."""

    size: int
    rate: float = 10.0
    burst: int = 100
    streams: int = 0


ADMIN = "/segctl.v1.Admin/"
AGENT = "/segctl.v1.Agent/"
READ, HEAVY, CHANGE = Limit(SMALL, 10.0, 100), Limit(SMALL, 2.0, 40), Limit(MEDIUM, 2.0, 40)
CHECK, FLEET = Limit(POLICY, 2.0, 40), Limit(MEDIUM, 200.0, 1000)

LIMITS = MappingProxyType(
    {
        f"{ADMIN}WhoAmI": READ,
        f"{ADMIN}Check": CHECK,
        f"{ADMIN}Plan": CHECK,
        f"{ADMIN}Status": READ,
        f"{ADMIN}History": READ,
        f"{ADMIN}GetGeneration": READ,
        f"{ADMIN}DescribePolicy": HEAVY,
        f"{ADMIN}ListHosts": READ,
        f"{ADMIN}Explain": READ,
        f"{ADMIN}Denied": Limit(SMALL, 2.0, 40, streams=8),
        f"{ADMIN}Flows": HEAVY,
        f"{ADMIN}RuleUse": HEAVY,
        f"{ADMIN}Readiness": HEAVY,
        f"{ADMIN}RuleReport": HEAVY,
        f"{ADMIN}FlowMap": HEAVY,
        f"{ADMIN}TopTalkers": HEAVY,
        f"{ADMIN}DraftImpactFlows": CHECK,
        f"{ADMIN}Push": Limit(POLICY, 2.0, 60, streams=8),
        f"{ADMIN}Rollback": Limit(MEDIUM, 2.0, 60, streams=8),
        f"{ADMIN}SetTags": FLEET,
        f"{ADMIN}RemoveHost": FLEET,
        f"{ADMIN}CreateToken": FLEET,
        f"{ADMIN}ListTokens": READ,
        f"{ADMIN}RevokeToken": FLEET,
        f"{ADMIN}Audit": Limit(SMALL, 20.0, 200),
        f"{ADMIN}CreateApiToken": CHANGE,
        f"{ADMIN}ListApiTokens": READ,
        f"{ADMIN}RevokeApiToken": CHANGE,
        f"{ADMIN}Suggest": Limit(SMALL, 0.5, 20),
        f"{ADMIN}DecideSuggestion": CHANGE,
        f"{ADMIN}ListDecisions": READ,
        "/segctl.v1.SignIn/Options": Limit(SMALL, 1.0, 20),
        # By host: Session by message and by stream, Report by denials and flows, the others by the hour.
        f"{AGENT}Session": Limit(POLICY, 0.0, 0, streams=1),
        f"{AGENT}Report": Limit(POLICY, 0.0, 0),
        f"{AGENT}Renew": Limit(SMALL, 12 / 3600, 12),
        f"{AGENT}Audit": Limit(MEDIUM, 60 / 3600, 60),
        # By source address: ten failures a minute; what succeeds uses up a token.
        "/segctl.v1.Enrolment/Enrol": Limit(SMALL, 10 / 60, 10),
        "/segctl.v1.Enrolment/Reissue": Limit(SMALL, 10 / 60, 10, streams=1),
    }
)
METHOD: ContextVar[str] = ContextVar("method", default="")
"""Of the call that runs, with its service."""
_SIZE: ContextVar[int] = ContextVar("size", default=0)

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]
    Continue = Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]


class Bounds(grpc.aio.ServerInterceptor):
    """Lets through what has a limit, and remembers what `check_size` looks at. A request that is too large is never
    parsed: who asks gets a status with words, which an exception here could not give."""

    async def intercept_service(
        self, continuation: Continue, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method not in LIMITS:
            return None  # which gRPC answers with UNIMPLEMENTED
        METHOD.set(method)
        if handler.request_streaming:
            return handler
        parse, limit = handler.request_deserializer, LIMITS[method].size

        def bounded(data: bytes) -> object:
            _SIZE.set(len(data))
            return parse(data if len(data) <= limit else b"") if parse else data

        return handler._replace(request_deserializer=bounded)  # type: ignore[attr-defined, no-any-return]


def enter(method: str, size: int) -> None:
    """The call that runs is of `method`, and its request has `size` bytes: for `check_size`, and the gate's paces."""
    METHOD.set(method)
    _SIZE.set(size)


def check_size() -> None:
    """Raises LimitError when the request of the call that runs was over its limit, and so was not read."""
    limit = LIMITS.get(METHOD.get())
    if limit is not None and _SIZE.get() > limit.size:
        name = METHOD.get().rpartition("/")[2]
        raise LimitError(f"the request of {_SIZE.get()} bytes is too large: {name} takes at most {limit.size}")
