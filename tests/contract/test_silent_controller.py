"""An agent with two controllers, of which one is frozen: its kernel takes connections, and nobody answers on them."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from pathlib import Path

from segctl_agent.session import GREETING_ELSEWHERE_SECONDS, GREETING_SECONDS

from tests.contract.test_agent_and_controller import enrolled, running_agent, until
from tests.controller_harness import NAME, running_controller

REFUSALS = 3


async def test_a_silent_controller_is_left_soon_and_not_tried_again_soon(tmp_path: Path) -> None:
    """Also where the other one says no at first: that takes no time, and is no reason to wait for the silent one."""
    async with running_controller(tmp_path / "controller") as lab:
        identity = await enrolled(lab, tmp_path / "agent", "db-1")
        with socket.create_server((NAME, 0)) as frozen:
            frozen.setblocking(False)
            silent = f"{NAME}:{frozen.getsockname()[1]}"
            async with running_agent(tmp_path / "agent", "10.0.0.1") as real:
                await until(lambda: real.session.connected_to)
                asked: list[str] = []

                def closed() -> str:
                    asked.append(real.session.connected_to)
                    return "not now; go to another controller" if len(asked) <= REFUSALS else ""

                lab.controller.registry.closed = closed
                began = asyncio.get_running_loop().time()
                real.session.use(replace(identity, controllers=(silent, lab.address)))
                await until(lambda: len(asked) > REFUSALS and real.session.connected_to == lab.address)
                took = asyncio.get_running_loop().time() - began
            connection, _ = frozen.accept()
            connection.close()
            try:
                frozen.accept()
                raise AssertionError("the silent one was tried again")
            except BlockingIOError:
                pass
    assert GREETING_ELSEWHERE_SECONDS <= took < GREETING_SECONDS
