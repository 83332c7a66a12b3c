"""Several real controllers of one fleet in this process, on one PostgreSQL.

async with replicas(tmp_path, postgres) as (one, two):
    agent = await one.enrol("web1", {"role": "web"})
    async with at(two, agent).session(["10.0.0.1"]) as session: ...
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from segctl_controller.clock import Clock
from segctl_controller.config import CONFIG_FILE, DATABASE_FILE, load_config, save_config
from segctl_controller.server import open_controller
from segctl_controller.setup import add_operator, create_controller, open_store
from segctl_controller.store.conninfo import Conninfo
from segctl_controller.store.records import Role

from tests.controller_harness import NAME, ControllerLab, FakeAgent, write_client_address


def state_of_fleet(base: Path, where: Conninfo, heartbeat: int = 10) -> Path:
    """The state directory of a new fleet in that database, with the operator `root`."""
    state = base / "controller"
    create_controller(state, NAME, (NAME,), 0, 0, Clock(), heartbeat)
    (state / DATABASE_FILE).unlink()
    words = " ".join(f"{name}={where.parameters[name]}" for name in ("host", "user", "dbname"))
    save_config(state, replace(load_config(state), database=words))
    store = open_store(state)
    try:
        add_operator(state, store, "root", Role.ADMIN, base / "operators" / "root", Clock())
    finally:
        store.close()
    return state


@asynccontextmanager
async def controller_at(base: Path, state: Path, clock: Clock | None = None) -> AsyncIterator[ControllerLab]:
    controller = open_controller(state, load_config(state), open_store(state), clock)
    await controller.start()
    lab = ControllerLab(controller, state, base / "operators")
    write_client_address(lab.operators / "root", lab.address)
    try:
        yield lab
    finally:
        await lab.close_channels()
        await controller.stop()


@asynccontextmanager
async def replicas(
    base: Path, where: Conninfo, count: int = 2, heartbeat: int = 10, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[tuple[ControllerLab, ...]]:
    """`count` controllers, each with a state directory of its own. `settings`: more of their controller.json."""
    first = state_of_fleet(base, where, heartbeat)
    file = first / CONFIG_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    async with AsyncExitStack() as stack:
        labs = []
        for number in range(count):
            state = first if not number else Path(shutil.copytree(first, base / f"controller{number}"))
            labs.append(await stack.enter_async_context(controller_at(base, state, clock)))
        yield tuple(labs)


def at(lab: ControllerLab, agent: FakeAgent) -> FakeAgent:
    """The same host, as it talks to that controller."""
    return replace(agent, lab=lab)


async def kill(lab: ControllerLab) -> None:
    """As SIGKILL does: nothing is said or stored on the way out. What stopping it in the end does then, fails or does
    nothing."""
    controller = lab.controller
    for task in controller._tasks():
        task.cancel()
    await asyncio.gather(*controller._tasks(), return_exceptions=True)
    controller.replica.peers = None
    await controller.publisher.close()
    controller.db.post = _nothing  # type: ignore[method-assign,assignment]
    await asyncio.gather(*(server.stop(None) for server in controller._servers))


def _nothing(*_arguments: object, **_named: object) -> None: ...
