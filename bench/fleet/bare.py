"""The least that a grpc.aio server can do for agents: over the same mutual TLS, the same bytes to all, an answer each.

What a controller costs above this is ours. It greets and pushes as one does, so that the same agents talk to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from segctl.proto.v1 import agent_pb2 as pb
from segctl.proto.v1 import hostpolicy_pb2 as hp
from segctl.wire import PROTOCOL_VERSION
from segctl_controller.authority import Authority
from segctl_controller.config import load_config
from segctl_controller.rpc import Context
from segctl_controller.server import MUTUAL_OPTIONS

from bench.fleet.agent import SESSION
from bench.fleet.orders import Orders, processes
from bench.fleet.process import NAME, free_port

PACE = 16
"""Streams that are woken in one turn of the loop."""


class BareServer:
    """Its coroutines are orders (orders.py)."""

    def __init__(self, state: Path, port: int) -> None:
        self._state, self._port = state, port
        self._slots: set[asyncio.Queue[bytes]] = set()
        self._server: grpc.aio.Server | None = None
        self._turn = 0

    async def start(self) -> None:
        authority = Authority.load(self._state, load_config(self._state).fleet)
        own = authority.issue_server((NAME,), datetime.now(UTC))
        credentials = grpc.ssl_server_credentials(
            [(own.key, own.certificate)], authority.ca_pem, require_client_auth=True
        )
        self._server = grpc.aio.server(options=MUTUAL_OPTIONS)
        self._server.add_secure_port(f"{NAME}:{self._port}", credentials)
        _, service, method = SESSION.split("/")
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(self._serve)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)

    async def push(self, size: int) -> None:
        """A policy of about `size` bytes, serialized once, to every agent; returns when all were woken."""
        self._turn += 1
        filler = hp.Group(name="filler", hosts4=bytes(size))
        policy = hp.HostPolicy(generation=self._turn, digest=f"bare-{self._turn}", groups=[filler])
        message = pb.ControllerMessage(policy=policy).SerializeToString()
        for number, slot in enumerate(self._slots, 1):
            slot.put_nowait(message)
            if number % PACE == 0:
                await asyncio.sleep(0)

    async def _serve(self, _requests: object, context: Context) -> None:
        slot: asyncio.Queue[bytes] = asyncio.Queue()
        await context.read()
        welcome = pb.Welcome(protocol=PROTOCOL_VERSION, heartbeat_seconds=60)
        await context.write(pb.ControllerMessage(welcome=welcome).SerializeToString())
        writing = asyncio.create_task(_write(slot, context))
        self._slots.add(slot)
        try:
            while await context.read() is not grpc.aio.EOF:
                pass
        except asyncio.CancelledError:
            return  # the agent hung up; grpc.aio would print a traceback for each
        finally:
            self._slots.discard(slot)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)


async def _write(slot: asyncio.Queue[bytes], context: Context) -> None:
    while True:
        await context.write(await slot.get())


@contextmanager
def bare_server(state: Path) -> Iterator[tuple[Orders, str]]:
    """With the CA of the controller in `state`; at an address of its own."""
    port = free_port()
    with processes(BareServer, [(state, port)]) as (server,):
        server.call("start")
        yield server, f"{NAME}:{port}"
        server.call("stop")
