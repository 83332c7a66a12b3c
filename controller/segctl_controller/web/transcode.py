"""`POST /api/v1/METHOD`: protobuf's JSON in and out of the Admin service's own handlers.

The gate, the roles and scopes, the limits and the texts of refusals are those of gRPC, because it is the same code.
What a handler streams leaves as server-sent events (HTML, 9.2): `data` is one message; `event: refused` is the end.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from segctl.proto.v1 import admin_pb2
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from segctl_controller.admin import Admin
from segctl_controller.limits import ADMIN, LIMITS, enter
from segctl_controller.web.call import RefusedError, WebCall
from segctl_controller.web.sessions import FRESH, Session

OFFERED = frozenset(
    {
        "WhoAmI",
        "Check",
        "Plan",
        "Status",
        "History",
        "GetGeneration",
        "DescribePolicy",
        "ListHosts",
        "Explain",
        "Denied",
        "Flows",
        "FlowMap",
        "TopTalkers",
        "DraftImpactFlows",
        "RuleUse",
        "RuleReport",
        "Readiness",
        "Suggest",
        "DecideSuggestion",
        "ListDecisions",
    }
)
WITHHELD = frozenset(
    {
        "Push",
        "Rollback",
        "SetTags",
        "RemoveHost",
        "CreateToken",
        "ListTokens",
        "RevokeToken",
        "Audit",
        "CreateApiToken",
        "ListApiTokens",
        "RevokeApiToken",
    }
)
"""Not in a browser: a session that is stolen changes no policy, host or tag, and makes no credential. A test holds that
every method of the service is in one of the two."""
WIDER = 2
"""JSON may have so many bytes for one of the wire: names, quotes, base64."""
LONG = 64 * 1024
"""Bytes of a body from which on it is parsed in a thread."""
ALIVE = 15.0
"""Seconds after which a quiet stream says that it is there."""
COMPRESSED = 4096


@dataclass(frozen=True, slots=True)
class Method:
    name: str
    request: type[Message]
    streams: bool


def _methods() -> MappingProxyType[str, Method]:
    service = admin_pb2.DESCRIPTOR.services_by_name["Admin"]
    return MappingProxyType(
        {
            m.name: Method(m.name, GetMessageClass(m.input_type), m.server_streaming)
            for m in service.methods
            if m.name in OFFERED
        }
    )


METHODS = _methods()


class Transcoder:
    """`admin` is the servicer. `touch` says that a session is in use, and keeps it so."""

    def __init__(self, admin: Admin, touch: Callable[[Session], Awaitable[None]]) -> None:
        self._admin = admin
        self._touch = touch

    async def answer(self, method: Method, request: Request, session: Session) -> Response:
        """Raises RefusedError."""
        client = (request.client.host, request.client.port) if request.client else None
        message, call = await self._read(method, request), WebCall(session, client)
        handler = getattr(self._admin, method.name)
        if method.streams:
            return EventStream(handler(message, call), lambda: self._touch(session))
        reply = await handler(message, call)
        compress = "gzip" in request.headers.get("accept-encoding", "")
        # In a thread: ten thousand rows take longer than the heartbeats of the fleet should wait.
        body, headers = await asyncio.to_thread(_encode, reply, compress)
        return Response(body, headers=headers, media_type="application/json")

    async def _read(self, method: Method, request: Request) -> Message:
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "the body must be application/json")
        limit = LIMITS[ADMIN + method.name].size * WIDER
        body = await read_body(request, limit)
        message = method.request()
        try:
            if len(body) > LONG:
                await asyncio.to_thread(json_format.Parse, body, message)
            else:
                json_format.Parse(body, message)
        except (json_format.ParseError, ValueError, RecursionError) as error:
            text = " ".join(str(error).split())[:300]
            raise RefusedError(
                grpc.StatusCode.INVALID_ARGUMENT, f"the body is no {method.name} request: {text}"
            ) from error
        enter(ADMIN + method.name, message.ByteSize())
        return message


async def read_body(request: Request, limit: int) -> bytes:
    """Raises RefusedError for one that is larger; the rest is not read."""
    found = bytearray()
    async for part in request.stream():
        found += part
        if len(found) > limit:
            raise RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, f"the body is larger than {limit} bytes")
    return bytes(found)


def _encode(reply: Message, compress: bool) -> tuple[bytes, dict[str, str]]:
    body = _json(reply)
    if compress and len(body) >= COMPRESSED:
        return gzip.compress(body, 1, mtime=0), {"content-encoding": "gzip", "vary": "accept-encoding"}
    return body, {"vary": "accept-encoding"}


def _json(message: Message) -> bytes:
    found = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()


def refusal(code: grpc.StatusCode, text: str, status: HTTPStatus) -> Response:
    return JSONResponse({"code": code.name, "message": text}, status)


class EventStream(Response):
    """Ends with the client, the handler, or the session: whichever is first."""

    media_type = "text/event-stream"

    def __init__(self, messages: AsyncIterator[Message], alive: Callable[[], Awaitable[None]]) -> None:
        super().__init__(headers={"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._messages = messages
        self._alive = alive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write(data: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        writing = asyncio.create_task(self._write(write, send), name="events")
        gone = asyncio.create_task(_gone(receive), name="gone")
        stopping = False
        try:
            await asyncio.wait((writing, gone), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            stopping = True  # the controller stops, and this task ends here
        finally:
            for task in (writing, gone):
                task.cancel()
            await asyncio.gather(writing, gone, return_exceptions=True)
        if stopping:
            await write(b"", more=False)
        elif not writing.cancelled():
            writing.result()

    async def _write(self, write: Callable[..., Any], send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await write(b": hello\n\n")
        try:
            async for data in self._events():
                await write(data)
        except RefusedError as error:
            told = json.dumps({"code": error.code.name, "message": str(error)}, ensure_ascii=False)
            await write(f"event: refused\ndata: {told}\n\n".encode())
        await write(b"", more=False)

    async def _events(self) -> AsyncIterator[bytes]:
        """Each message as an event; a comment where none came for a while."""
        pending, quiet, look = asyncio.ensure_future(anext(self._messages)), 0.0, min(FRESH, ALIVE)
        try:
            while True:
                await asyncio.wait((pending,), timeout=look)
                # Also a session that is too old, or was ended, is told by the gate, which finds no token.
                await self._alive()
                if not pending.done():
                    quiet += look
                    if quiet >= ALIVE:
                        quiet = 0.0
                        yield b": alive\n\n"
                    continue
                quiet = 0.0
                try:
                    message = pending.result()
                except StopAsyncIteration:
                    return
                yield b"data: " + _json(message) + b"\n\n"
                pending = asyncio.ensure_future(anext(self._messages))
        finally:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
            await self._messages.aclose()  # type: ignore[attr-defined]


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
