"""A crowd of agents without kernels in one process, inside a lab host: they enrol, connect, prove what they are sent,
and connect again at once, all together, whenever the controller goes away.

    python -m tests.chaos.storm COUNT ADMIN-DIRECTORY ADDRESS      the join token on standard input

It prints `connected` each time that all of them are, at first and after each line of its input; at the end of the input
it removes their hosts again.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import grpc
from segctl.proto.v1 import admin_pb2, admin_pb2_grpc, agent_pb2

from tests.controller_harness import ControllerLab, FakeAgent, Identity

LIGHT, HEARTBEAT = "light", agent_pb2.Heartbeat()
AGAIN_SECONDS = 0.2


class Address(ControllerLab):
    """What FakeAgent needs of a controller that is somewhere else."""

    def __init__(self, address: str) -> None:
        self._where, self._channels = address, []

    @property
    def address(self) -> str:
        return self._where


class Crowd:
    def __init__(self, count: int, controller: Address) -> None:
        self.count, self.controller = count, controller
        self.agents: list[FakeAgent] = []
        self.connected: set[str] = set()
        self.all_connected = asyncio.Event()

    async def enrol(self, token: str) -> None:
        limit = asyncio.Semaphore(8)

        async def one(number: int) -> FakeAgent:
            async with limit:
                return await self.controller.enrol_with(token, f"{LIGHT}{number:03}")

        self.agents = list(await asyncio.gather(*map(one, range(self.count))))

    async def live(self, agent: FakeAgent) -> None:
        while True:
            with suppress(grpc.aio.AioRpcError, grpc.aio.UsageError, TimeoutError, asyncio.InvalidStateError):
                async with agent.session() as session:
                    await self._serve(agent, session)
            self._is(agent, connected=False)
            await asyncio.sleep(AGAIN_SECONDS)

    async def _serve(self, agent: FakeAgent, session: Any) -> None:
        while True:
            message = await session.call.read()
            if message is grpc.aio.EOF:
                return
            kind = message.WhichOneof("kind")
            if kind == "welcome":
                self._is(agent, connected=True)
            elif kind == "heartbeat":
                await session.send(heartbeat=HEARTBEAT)
            elif kind is not None and (policy := await session.taken(message)) is not None:
                await session.prove(policy)

    def _is(self, agent: FakeAgent, *, connected: bool) -> None:
        (self.connected.add if connected else self.connected.discard)(agent.name)
        if len(self.connected) == self.count:
            self.all_connected.set()
        else:
            self.all_connected.clear()

    async def leave(self, admin: Path) -> None:
        stub = cast("admin_pb2_grpc.AdminAsyncStub", self.controller.admin_as(Identity.read(admin)))
        for agent in self.agents:
            await stub.RemoveHost(admin_pb2.RemoveHostRequest(host=agent.name))


async def main() -> None:
    count, admin, address = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    loop = asyncio.get_running_loop()
    crowd = Crowd(count, Address(address))
    await crowd.enrol(sys.stdin.readline().strip())
    tasks = [asyncio.create_task(crowd.live(agent)) for agent in crowd.agents]
    while True:
        await crowd.all_connected.wait()
        print("connected", flush=True)
        if not await loop.run_in_executor(None, sys.stdin.readline):
            break
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await crowd.leave(admin)
    print("left", flush=True)
    await crowd.controller.close_channels()


if __name__ == "__main__":
    asyncio.run(main())
